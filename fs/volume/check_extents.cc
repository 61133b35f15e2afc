#include "fs/volume/check_extents.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/volume/allocator.h"
#include "fs/volume/check_context.h"
#include "fs/volume/check_tree.h"
#include "fs/volume/format.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using core::Transaction;

// Copied in one change: a quarter of a megabyte of log.
constexpr uint64_t kBlocksPerChange = 64;

absl::Status PutExtent(CheckContext& context, Transaction& tx, uint64_t ino, uint64_t file_block, BlockRange home) {
  if (home.count == 0) return absl::OkStatus();
  char bytes[kExtentBytes];
  EncodeExtent({.home = home.first, .count = static_cast<uint32_t>(home.count)}, bytes);
  return context.tree().Put(tx, ExtentKey(ino, file_block), absl::string_view(bytes, sizeof(bytes)));
}

absl::Status DropStart(CheckContext& context, Transaction& tx, const BadExtent& bad) {
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, context.tree().Find(tx, bad.key));
  if (!value.has_value()) return absl::NotFoundError("the extent is gone");
  const absl::StatusOr<Extent> extent = DecodeExtent(*value);
  RETURN_IF_ERROR(context.EraseItem(tx, bad.key));
  if (!extent.ok() || bad.drop_blocks >= extent->count) return absl::OkStatus();
  const uint64_t rest_at = bad.key.offset + bad.drop_blocks;
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> taken,
                   context.tree().Find(tx, ExtentKey(bad.key.ino, rest_at)));
  if (taken.has_value()) return absl::OkStatus();
  return PutExtent(context, tx, bad.key.ino, rest_at,
                   {extent->home + bad.drop_blocks, extent->count - bad.drop_blocks});
}

// One change of Unshare().
class Step {
 public:
  Step(CheckContext& context, Transaction& tx, uint64_t ino, BlockRange shared)
      : context_(context), tx_(tx), ino_(ino), shared_(shared) {}

  // `file_block` of the inode lies in `shared.first`: gives it, and some that follow, other blocks. Returns how many.
  // `hole`: without content, since there is no space for it.
  absl::StatusOr<uint64_t> Run(uint64_t file_block, bool hole) {
    ASSIGN_OR_RETURN(const std::optional<BTree::Item> item,
                     context_.tree().AtOrBefore(tx_, ExtentKey(ino_, file_block)));
    if (!item.has_value() || item->key.ino != ino_ || item->key.kind != kKindExtent) {
      return absl::NotFoundError("the extent is gone");
    }
    const Key key = item->key;
    ASSIGN_OR_RETURN(const Extent extent, DecodeExtent(item->value));
    const uint64_t before = file_block - key.offset;
    if (before >= extent.count || extent.home + before != shared_.first) {
      return absl::NotFoundError("the extent has changed");
    }
    const uint64_t most = std::min({shared_.count, extent.count - before, kBlocksPerChange});
    ASSIGN_OR_RETURN(const uint64_t readable, hole ? 0 : CountReadable(most));
    BlockRange fresh = {0, 0};
    uint64_t count = hole ? most : 1;
    if (readable > 0) {
      ASSIGN_OR_RETURN(fresh, context_.AllocateData(tx_, readable));
      RETURN_IF_ERROR(Copy(fresh));
      count = fresh.count;
    }
    RETURN_IF_ERROR(context_.EraseItem(tx_, key));
    RETURN_IF_ERROR(PutExtent(context_, tx_, ino_, key.offset, {extent.home, before}));
    RETURN_IF_ERROR(PutExtent(context_, tx_, ino_, file_block, fresh));
    RETURN_IF_ERROR(PutExtent(context_, tx_, ino_, file_block + count,
                              {extent.home + before + count, extent.count - before - count}));
    return count;
  }

 private:
  // How many blocks from the first on hold content that can be copied.
  absl::StatusOr<uint64_t> CountReadable(uint64_t most) {
    for (uint64_t i = 0; i < most; ++i) tx_.Prefetch(shared_.first + i);
    for (uint64_t i = 0; i < most; ++i) {
      const absl::StatusOr<const std::byte*> bytes = tx_.Read(shared_.first + i);
      if (absl::IsDataLoss(bytes.status())) return i;
      RETURN_IF_ERROR(bytes.status());
      if (IsNodeOf(*bytes, shared_.first + i, context_.header().hash_seed)) return i;
    }
    return most;
  }
  absl::Status Copy(BlockRange fresh) {
    for (uint64_t i = 0; i < fresh.count; ++i) {
      ASSIGN_OR_RETURN(std::byte* to, tx_.Fresh(fresh.first + i));
      ASSIGN_OR_RETURN(const std::byte* from, tx_.Read(shared_.first + i));
      std::memcpy(to, from, kBlockBytes);
    }
    return absl::OkStatus();
  }

  CheckContext& context_;
  Transaction& tx_;
  const uint64_t ino_;
  const BlockRange shared_;
};

// Gives the inode's blocks from `file_block` on, which lie in `shared`, blocks of their own, step by step: cut
// anywhere, the rest is still shared, and found again.
absl::Status Unshare(CheckContext& context, uint64_t ino, uint64_t file_block, BlockRange shared) {
  while (shared.count > 0) {
    uint64_t done = 0;
    absl::Status status;
    for (const bool hole : {false, true}) {
      status = context.Run([&](Transaction& tx) -> absl::Status {
        ASSIGN_OR_RETURN(done, Step(context, tx, ino, shared).Run(file_block, hole));
        return absl::OkStatus();
      });
      if (!absl::IsResourceExhausted(status)) break;
    }
    if (absl::IsFailedPrecondition(status)) return status;
    if (!status.ok()) return absl::OkStatus();  // the next round finds what is left
    context.CountFix();
    file_block += done;
    shared = {shared.first + done, shared.count - done};
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MendExtent(CheckContext& context, const BadExtent& bad) {
  if (bad.drop_blocks > 0) return context.Fix([&](Transaction& tx) { return DropStart(context, tx, bad); });
  ASSIGN_OR_RETURN(const std::optional<std::string> value, context.Find(bad.key));
  if (!value.has_value()) return absl::OkStatus();
  const absl::StatusOr<Extent> extent = DecodeExtent(*value);
  if (!extent.ok()) return absl::OkStatus();
  for (const BlockRange& shared : bad.shared) {
    RETURN_IF_ERROR(Unshare(context, bad.key.ino, bad.key.offset + (shared.first - extent->home), shared));
  }
  return absl::OkStatus();
}

}  // namespace stagefs::volume

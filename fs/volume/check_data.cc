// The part of a check that reads the content of files, so that the engine verifies every checksum.

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/check_context.h"
#include "fs/volume/check_reader.h"
#include "fs/volume/format.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::BlockRange;
using core::kBlockBytes;

class DataCheck {
 public:
  explicit DataCheck(CheckContext& context) : context_(context) {}

  absl::Status Run() {
    context_.SetStep(0.9, 1.0);
    return context_.WalkItems(Key{1, 0, 0}, Key{~uint64_t{0}, 0xff, ~uint64_t{0}},
                              [&](const Key& key, absl::string_view value) -> absl::StatusOr<bool> {
      if (key.kind == kKindInode) inode_ = DecodeInode(value).value_or(Inode());
      if (key.kind != kKindExtent) return true;
      const absl::StatusOr<Extent> extent = DecodeExtent(value);
      if (!extent.ok() || !context_.layout().IsUsable({extent->home, extent->count})) return true;
      RETURN_IF_ERROR(ReadExtent(key, *extent));
      const uint64_t in_use = context_.report().used_blocks;
      context_.Progress(static_cast<double>(blocks_read_) / static_cast<double>(std::max<uint64_t>(1, in_use)));
      return true;
    });
  }

 private:
  absl::Status ReadExtent(const Key& key, const Extent& extent) {
    for (uint64_t at = 0; at < extent.count; at += BlockReader::kMaxBlocks) {
      const BlockRange part{extent.home + at, std::min(BlockReader::kMaxBlocks, extent.count - at)};
      blocks_read_ += part.count;
      if (reader_.Read(context_.engine(), part).ok()) {
        RETURN_IF_ERROR(LookBehindEnd(key, key.offset + at, part));
        continue;
      }
      // Which blocks is it?
      for (uint64_t i = 0; i < part.count; ++i) {
        const BlockRange one{part.first + i, 1};
        const absl::Status status = reader_.Read(context_.engine(), one);
        if (status.ok()) {
          RETURN_IF_ERROR(LookBehindEnd(key, key.offset + at + i, one));
          continue;
        }
        if (!absl::IsDataLoss(status)) return status;
        context_.Report(ProblemKind::kData, absl::StrCat("inode ", key.ino),
                        absl::StrCat("block ", key.offset + at + i, " of its content, home block ", one.first,
                                     ", cannot be read: ", status.message()));
      }
    }
    return absl::OkStatus();
  }

  // Bytes behind the end of a file are zero, so that it can grow. `range` was just read.
  absl::Status LookBehindEnd(const Key& key, uint64_t file_block, BlockRange range) {
    if ((inode_.flags & kInodeTruncatePending) != 0) return absl::OkStatus();
    const uint64_t start = file_block * kBlockBytes, bytes = range.count * kBlockBytes;
    if (inode_.size_bytes >= start + bytes) return absl::OkStatus();
    const uint64_t end = inode_.size_bytes > start ? inode_.size_bytes - start : 0;
    const std::byte* content = reader_.block(0);
    if (std::all_of(content + end, content + bytes, [](std::byte b) { return b == std::byte{0}; })) {
      return absl::OkStatus();
    }
    context_.Report(ProblemKind::kData, absl::StrCat("inode ", key.ino),
                    absl::StrCat("bytes behind its end, in home blocks from ", range.first, " on, are not zero"));
    if (!context_.may_fix_items()) return absl::OkStatus();
    return context_.Fix(
        [&](core::Transaction& tx) { return tx.Zero(range.first * kBlockBytes + end, bytes - end); });
  }

  CheckContext& context_;
  BlockReader reader_;
  Inode inode_;  // whose extents come now
  uint64_t blocks_read_ = 0;
};

}  // namespace

absl::Status CheckData(CheckContext& context) { return DataCheck(context).Run(); }

}  // namespace stagefs::volume

#include "fs/volume/file_content.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/volume/errno.h"
#include "fs/volume/file_map.h"
#include "fs/volume/orphans.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::kBlockBytes;

constexpr uint64_t kAllRuns = ~uint64_t{0};
// Runs of fewer blocks are not worth an extent when free space is scattered.
constexpr uint64_t kSmallestExtentBlocks = 4;

uint64_t BlockOf(uint64_t offset) { return offset / kBlockBytes; }
uint64_t BlocksFor(uint64_t bytes) { return bytes / kBlockBytes + (bytes % kBlockBytes != 0 ? 1 : 0); }

absl::StatusOr<absl::string_view> FindInline(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode) {
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, state.tree().Find(tx, InlineKey(ino)));
  if (!value.has_value() || value->size() != inode.size_bytes) {
    return absl::DataLossError(absl::StrCat("Inode ", ino, " says ", inode.size_bytes, " bytes inline, there are ",
                                            value.has_value() ? value->size() : 0));
  }
  return *value;
}

// Changes content that is or becomes inline: `size_bytes` is the size from then on, at most kMaxInlineFileBytes.
absl::Status WriteInline(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, uint64_t size_bytes,
                         uint64_t offset, absl::Span<const std::byte> bytes) {
  char content[kMaxInlineFileBytes] = {};
  if ((inode->flags & kInodeInline) != 0) {
    ASSIGN_OR_RETURN(const absl::string_view old, FindInline(state, tx, ino, *inode));
    std::memcpy(content, old.data(), std::min<uint64_t>(old.size(), size_bytes));
  }
  if (!bytes.empty()) std::memcpy(content + offset, bytes.data(), bytes.size());
  inode->size_bytes = size_bytes;
  if (size_bytes == 0) {
    if ((inode->flags & kInodeInline) != 0) RETURN_IF_ERROR(state.Erase(tx, InlineKey(ino)));
    inode->flags &= ~kInodeInline;
    return absl::OkStatus();
  }
  inode->flags |= kInodeInline;
  return state.tree().Put(tx, InlineKey(ino), absl::string_view(content, size_bytes));
}

// Writes bytes in place, logged; holes get fresh blocks.
absl::Status WriteLogged(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, uint64_t offset,
                         absl::Span<const std::byte> bytes) {
  if (bytes.empty()) return absl::OkStatus();
  const uint64_t first = BlockOf(offset);
  const uint64_t last_end = BlocksFor(offset + bytes.size());
  ASSIGN_OR_RETURN(FileRuns runs, MapRange(state, tx, ino, first, last_end, kAllRuns));
  bool filled = false;
  for (const FileRun& run : runs) {
    if (run.mapped()) continue;
    ASSIGN_OR_RETURN(const uint64_t done,
                     FillHole(state, tx, ino, inode, run.file_block, run.count, /*max_runs=*/kAllRuns));
    if (done < run.end()) return ErrnoStatus(ENOSPC);
    filled = true;
  }
  if (filled) {
    ASSIGN_OR_RETURN(runs, MapRange(state, tx, ino, first, last_end, kAllRuns));
  }
  // Blocks written in part need their old content: ask for both ends at once.
  if (offset % kBlockBytes != 0) tx.Prefetch(runs.front().home);
  if ((offset + bytes.size()) % kBlockBytes != 0) tx.Prefetch(runs.back().home + runs.back().count - 1);
  for (const FileRun& run : runs) {
    const uint64_t from = std::max(offset, run.file_block * kBlockBytes);
    const uint64_t to = std::min(offset + bytes.size(), run.end() * kBlockBytes);
    RETURN_IF_ERROR(tx.Write(run.home * kBlockBytes + (from - run.file_block * kBlockBytes),
                             bytes.subspan(from - offset, to - from)));
  }
  return absl::OkStatus();
}

// Writes whole blocks to fresh extents, and what finds none in place, as far as one change can log it.
absl::Status WriteExtents(VolumeState& state, Change& change, Ino ino, Inode* inode, const StagedBlocks& staged,
                          absl::Span<const std::byte> bytes) {
  core::Transaction& tx = change.tx;
  RemovalBudget unlimited = {.items = kAllRuns - 1, .blocks = kAllRuns};
  uint64_t done = 0;
  while (done < staged.count) {
    const uint64_t at = staged.first_file_block + done;
    const uint64_t left = staged.count - done;
    ASSIGN_OR_RETURN(const core::Block goal, GoalFor(state, tx, ino, at));
    const absl::StatusOr<core::BlockRange> range =
        state.allocator().Allocate(tx, left, std::min(left, kSmallestExtentBlocks), goal, SpaceUse::kData);
    if (absl::IsResourceExhausted(range.status())) {
      change.logged_instead_bytes += left * kBlockBytes;
      if (change.logged_instead_bytes > Change::kMostLoggedInsteadBytes) return range.status();
      return WriteLogged(state, tx, ino, inode, at * kBlockBytes, bytes.subspan(done * kBlockBytes));
    }
    RETURN_IF_ERROR(range.status());
    RETURN_IF_ERROR(tx.WriteExtent(*range, staged.data, done));
    RETURN_IF_ERROR(Unmap(state, tx, ino, inode, at, at + range->count, &unlimited).status());
    RETURN_IF_ERROR(MapHole(state, tx, ino, inode, at, *range));
    done += range->count;
  }
  return absl::OkStatus();
}

}  // namespace

StagedBlocks StagedBlocks::Plan(uint64_t offset, uint64_t length) {
  StagedBlocks plan;
  plan.first_file_block = BlocksFor(offset);
  const uint64_t end = BlockOf(offset + length);
  if (end > plan.first_file_block &&
      (end - plan.first_file_block) * kBlockBytes >= VolumeState::kExtentThresholdBytes) {
    plan.count = end - plan.first_file_block;
  }
  return plan;
}

absl::StatusOr<size_t> ReadContent(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode,
                                   uint64_t offset, absl::Span<std::byte> destination) {
  if (offset >= inode.size_bytes || destination.empty()) return 0;
  const uint64_t length = std::min<uint64_t>(destination.size(), inode.size_bytes - offset);
  if ((inode.flags & kInodeInline) != 0) {
    ASSIGN_OR_RETURN(const absl::string_view content, FindInline(state, tx, ino, inode));
    std::memcpy(destination.data(), content.data() + offset, length);
    return length;
  }
  ASSIGN_OR_RETURN(const FileRuns runs,
                   MapRange(state, tx, ino, BlockOf(offset), BlocksFor(offset + length), kAllRuns));
  for (const FileRun& run : runs) {
    const uint64_t from = std::max(offset, run.file_block * kBlockBytes);
    const uint64_t to = std::min(offset + length, run.end() * kBlockBytes);
    std::byte* const piece = destination.data() + (from - offset);
    if (run.mapped()) {
      tx.ReadInto(run.home * kBlockBytes + (from - run.file_block * kBlockBytes), to - from, piece);
    } else {
      std::memset(piece, 0, to - from);
    }
  }
  return length;
}

absl::Status ReadNow(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode, uint64_t offset,
                     absl::Span<std::byte> destination) {
  std::memset(destination.data(), 0, destination.size());
  if (offset >= inode.size_bytes) return absl::OkStatus();
  const uint64_t length = std::min<uint64_t>(destination.size(), inode.size_bytes - offset);
  if ((inode.flags & kInodeInline) != 0) {
    ASSIGN_OR_RETURN(const absl::string_view content, FindInline(state, tx, ino, inode));
    std::memcpy(destination.data(), content.data() + offset, length);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const FileRuns runs, MapRange(state, tx, ino, BlockOf(offset), BlockOf(offset) + 1, 1));
  if (runs.empty() || !runs.front().mapped()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::byte* const block, tx.Read(runs.front().home));
  std::memcpy(destination.data(), block + offset % kBlockBytes, length);
  return absl::OkStatus();
}

absl::Status WriteContent(VolumeState& state, Change& change, Ino ino, Inode* inode, uint64_t offset,
                          absl::Span<const std::byte> bytes, const StagedBlocks& staged) {
  core::Transaction& tx = change.tx;
  const uint64_t end = offset + bytes.size();
  const uint64_t size_bytes = std::max(inode->size_bytes, end);
  const bool pending = (inode->flags & kInodeTruncatePending) != 0;
  if (pending && end > inode->size_bytes) return change.FinishRemovalFirst(ino);
  const bool inlined = (inode->flags & kInodeInline) != 0;
  if (size_bytes <= kMaxInlineFileBytes && (inlined || (inode->blocks == 0 && !pending))) {
    return WriteInline(state, tx, ino, inode, size_bytes, offset, bytes);
  }
  RETURN_IF_ERROR(MoveInlineToBlocks(state, change, ino, inode));
  if (staged.count == 0) {
    RETURN_IF_ERROR(WriteLogged(state, tx, ino, inode, offset, bytes));
  } else {
    const uint64_t head = staged.first_file_block * kBlockBytes - offset;
    const uint64_t body = staged.count * kBlockBytes;
    RETURN_IF_ERROR(WriteLogged(state, tx, ino, inode, offset, bytes.first(head)));
    RETURN_IF_ERROR(WriteExtents(state, change, ino, inode, staged, bytes.subspan(head, body)));
    RETURN_IF_ERROR(WriteLogged(state, tx, ino, inode, offset + head + body, bytes.subspan(head + body)));
  }
  inode->size_bytes = size_bytes;
  return absl::OkStatus();
}

absl::Status SetSize(VolumeState& state, Change& change, Ino ino, Inode* inode, uint64_t size_bytes) {
  core::Transaction& tx = change.tx;
  if (size_bytes > kMaxFileBytes) return ErrnoStatus(EFBIG);
  const bool pending = (inode->flags & kInodeTruncatePending) != 0;
  if ((inode->flags & kInodeInline) != 0) {
    if (size_bytes <= kMaxInlineFileBytes) return WriteInline(state, tx, ino, inode, size_bytes, 0, {});
    RETURN_IF_ERROR(MoveInlineToBlocks(state, change, ino, inode));
    inode->size_bytes = size_bytes;
    return absl::OkStatus();
  }
  if (size_bytes > inode->size_bytes) {
    if (pending) return change.FinishRemovalFirst(ino);
    inode->size_bytes = size_bytes;
    return absl::OkStatus();
  }
  const uint64_t block_end = BlocksFor(size_bytes) * kBlockBytes;
  if (size_bytes % kBlockBytes != 0 && size_bytes < inode->size_bytes) {
    RETURN_IF_ERROR(ZeroWithinBlock(state, tx, ino, size_bytes, std::min(block_end, inode->size_bytes)));
  }
  inode->size_bytes = size_bytes;
  const uint64_t from_block = BlocksFor(size_bytes);
  if (pending) return PutOrphan(state, tx, ino, *inode, from_block);
  RemovalBudget budget;
  ASSIGN_OR_RETURN(const uint64_t done, Unmap(state, tx, ino, inode, from_block, kEndOfFileBlocks, &budget));
  if (done == kEndOfFileBlocks) return absl::OkStatus();
  inode->flags |= kInodeTruncatePending;
  RETURN_IF_ERROR(PutOrphan(state, tx, ino, *inode, from_block));
  tx.OnAccept([&state, ino](core::Lsn) { state.QueueRemoval(ino); });
  return absl::OkStatus();
}

absl::Status MoveInlineToBlocks(VolumeState& state, Change& change, Ino ino, Inode* inode) {
  if ((inode->flags & kInodeInline) == 0) return absl::OkStatus();
  core::Transaction& tx = change.tx;
  ASSIGN_OR_RETURN(const absl::string_view content, FindInline(state, tx, ino, *inode));
  const std::string copy(content);
  RETURN_IF_ERROR(state.Erase(tx, InlineKey(ino)));
  inode->flags &= ~kInodeInline;
  return WriteLogged(state, tx, ino, inode, 0,
                     absl::MakeConstSpan(reinterpret_cast<const std::byte*>(copy.data()), copy.size()));
}

absl::Status WriteBlocks(VolumeState& state, Change& change, absl::Span<const BlockOfFile> blocks,
                         const std::shared_ptr<const core::StagedData>& data, uint64_t first_in_data,
                         absl::Span<const std::byte> bytes) {
  core::Transaction& tx = change.tx;
  RemovalBudget unlimited = {.items = kAllRuns - 1, .blocks = kAllRuns};
  for (uint64_t done = 0; done < blocks.size();) {
    const BlockOfFile& first = blocks[done];
    const uint64_t left = blocks.size() - done;
    ASSIGN_OR_RETURN(const core::Block goal, GoalFor(state, tx, first.ino, first.file_block));
    const absl::StatusOr<core::BlockRange> range =
        state.allocator().Allocate(tx, left, std::min(left, kSmallestExtentBlocks), goal, SpaceUse::kData);
    if (absl::IsResourceExhausted(range.status())) {
      change.logged_instead_bytes += left * kBlockBytes;
      if (change.logged_instead_bytes > Change::kMostLoggedInsteadBytes) return range.status();
      for (; done < blocks.size(); ++done) {
        RETURN_IF_ERROR(WriteLogged(state, tx, blocks[done].ino, blocks[done].inode,
                                    blocks[done].file_block * kBlockBytes,
                                    bytes.subspan(done * kBlockBytes, kBlockBytes)));
      }
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(range.status());
    RETURN_IF_ERROR(tx.WriteExtent(*range, data, first_in_data + done));
    for (uint64_t at = 0; at < range->count;) {
      const BlockOfFile& block = blocks[done + at];
      uint64_t count = 1;  // of blocks that lie one behind the other in the file, too
      while (at + count < range->count && blocks[done + at + count].ino == block.ino &&
             blocks[done + at + count].file_block == block.file_block + count) {
        ++count;
      }
      const uint64_t end = block.file_block + count;
      RETURN_IF_ERROR(Unmap(state, tx, block.ino, block.inode, block.file_block, end, &unlimited).status());
      RETURN_IF_ERROR(MapHole(state, tx, block.ino, block.inode, block.file_block, {range->first + at, count}));
      at += count;
    }
    done += range->count;
  }
  return absl::OkStatus();
}

absl::Status ZeroWithinBlock(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t offset, uint64_t end) {
  if (offset >= end) return absl::OkStatus();
  ASSIGN_OR_RETURN(const FileRuns runs, MapRange(state, tx, ino, BlockOf(offset), BlockOf(offset) + 1, 1));
  if (runs.empty() || !runs.front().mapped()) return absl::OkStatus();
  return tx.Zero(runs.front().home * kBlockBytes + offset % kBlockBytes, end - offset);
}

}  // namespace stagefs::volume

#include "fs/volume/file_space.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

#include "fs/volume/errno.h"
#include "fs/volume/file_content.h"
#include "fs/volume/file_map.h"
#include "fs/volume/inode.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::kBlockBytes;

constexpr uint64_t kMaxRunsPerChange = 64;
constexpr uint64_t kMaxBlocksPerChange = core::Transaction::kMaxZeroBlocks / 2;

uint64_t BlocksFor(uint64_t bytes) { return bytes / kBlockBytes + (bytes % kBlockBytes != 0 ? 1 : 0); }

absl::Status ZeroInline(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t offset, uint64_t end) {
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, state.tree().Find(tx, InlineKey(ino)));
  if (!value.has_value() || offset >= value->size()) return absl::OkStatus();
  std::string content(*value);
  std::memset(content.data() + offset, 0, std::min<uint64_t>(end, content.size()) - offset);
  return state.tree().Put(tx, InlineKey(ino), content);
}

absl::Status PunchStep(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, uint64_t offset, uint64_t end,
                       uint64_t* next) {
  *next = end;
  if ((inode->flags & kInodeInline) != 0) return ZeroInline(state, tx, ino, offset, end);
  const uint64_t first = BlocksFor(offset);
  const uint64_t last = end / kBlockBytes;
  if (first > last) return ZeroWithinBlock(state, tx, ino, offset, end);
  RETURN_IF_ERROR(ZeroWithinBlock(state, tx, ino, offset, first * kBlockBytes));
  RemovalBudget budget;
  ASSIGN_OR_RETURN(const uint64_t done, Unmap(state, tx, ino, inode, first, last, &budget));
  if (done < last) {
    *next = done * kBlockBytes;
    return absl::OkStatus();
  }
  return ZeroWithinBlock(state, tx, ino, last * kBlockBytes, end);
}

// Fills holes, and with `zero` makes the rest zero.
absl::Status FillStep(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, bool zero, uint64_t offset,
                      uint64_t end, uint64_t* next) {
  const uint64_t first = offset / kBlockBytes;
  const uint64_t last = std::min(BlocksFor(end), first + kMaxBlocksPerChange);
  ASSIGN_OR_RETURN(const FileRuns runs, MapRange(state, tx, ino, first, last, kMaxRunsPerChange));
  uint64_t done = first;
  for (const FileRun& run : runs) {
    if (run.mapped()) {
      if (zero) {
        const uint64_t from = std::max(offset, run.file_block * kBlockBytes);
        const uint64_t to = std::min(end, run.end() * kBlockBytes);
        RETURN_IF_ERROR(tx.Zero(run.home * kBlockBytes + (from - run.file_block * kBlockBytes), to - from));
      }
      done = run.end();
      continue;
    }
    const absl::StatusOr<uint64_t> filled =
        FillHole(state, tx, ino, inode, run.file_block, run.count, kMaxRunsPerChange);
    if (absl::IsResourceExhausted(filled.status()) && done > first) break;
    RETURN_IF_ERROR(filled.status());
    done = *filled;
    if (done < run.end()) break;
  }
  *next = std::min(end, done * kBlockBytes);
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckAllocate(int mode, uint64_t offset, uint64_t length) {
  switch (mode) {
    case 0:
    case FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_ZERO_RANGE:
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
      break;
    default:
      return ErrnoStatus(EOPNOTSUPP);
  }
  if (length == 0) return ErrnoStatus(EINVAL, "Nothing to allocate");
  if (offset > kMaxFileBytes || length > kMaxFileBytes - offset) return ErrnoStatus(EFBIG);
  return absl::OkStatus();
}

absl::Status AllocateStep(VolumeState& state, Change& change, Ino ino, int mode, uint64_t offset, uint64_t end,
                          uint64_t* next) {
  core::Transaction& tx = change.tx;
  ASSIGN_OR_RETURN(Inode inode, GetFile(state, tx, ino));
  if ((inode.flags & kInodeTruncatePending) != 0 && end > inode.size_bytes) return change.FinishRemovalFirst(ino);
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) {
    state.SetNodeUse(SpaceUse::kFreeing);
    RETURN_IF_ERROR(PunchStep(state, tx, ino, &inode, offset, end, next));
  } else {
    RETURN_IF_ERROR(MoveInlineToBlocks(state, change, ino, &inode));
    RETURN_IF_ERROR(FillStep(state, tx, ino, &inode, (mode & FALLOC_FL_ZERO_RANGE) != 0, offset, end, next));
    if ((mode & FALLOC_FL_KEEP_SIZE) == 0) inode.size_bytes = std::max(inode.size_bytes, *next);
  }
  ClearSetIdBits(&inode);
  TouchContent(change, &inode);
  return PutInode(state, tx, ino, inode);
}

absl::Status SeekContent(VolumeState& state, Change& change, Ino ino, uint64_t offset, int whence, uint64_t* result) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return ErrnoStatus(EINVAL);
  core::Transaction& tx = change.tx;
  ASSIGN_OR_RETURN(const Inode inode, GetFile(state, tx, ino));
  if (offset >= inode.size_bytes) return ErrnoStatus(ENXIO);
  const bool data = whence == SEEK_DATA;
  if ((inode.flags & kInodeInline) != 0) {
    *result = data ? offset : inode.size_bytes;
    return absl::OkStatus();
  }
  uint64_t at = offset / kBlockBytes;
  const uint64_t end = BlocksFor(inode.size_bytes);
  while (at < end) {
    ASSIGN_OR_RETURN(const FileRuns runs, MapRange(state, tx, ino, at, end, kMaxRunsPerChange));
    for (const FileRun& run : runs) {
      if (run.mapped() == data) {
        *result = std::max(offset, run.file_block * kBlockBytes);
        return absl::OkStatus();
      }
      at = run.end();
    }
  }
  if (data) return ErrnoStatus(ENXIO);
  *result = inode.size_bytes;
  return absl::OkStatus();
}

}  // namespace stagefs::volume

// The extent map of a file: which home blocks hold which of its blocks. What is not mapped is a hole.
//
// Invariants:
//   * Extents of one file do not overlap, and no two files share a home block.
//   * Inode::blocks is the number of home blocks mapped. (The caller holds the inode and puts it back.)
//
// Everything here runs inside transaction bodies and passes on misses.

#ifndef STAGEFS_FS_VOLUME_FILE_MAP_H_
#define STAGEFS_FS_VOLUME_FILE_MAP_H_

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/transaction.h"
#include "core/types.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

// Behind every block that a file can have.
inline constexpr uint64_t kEndOfFileBlocks = uint64_t{1} << 52;

// Blocks [file_block, end()) of a file, one behind the other at `home`, or a hole.
struct FileRun {
  uint64_t file_block = 0;
  core::Block home = 0;  // 0: a hole
  uint64_t count = 0;

  bool mapped() const { return home != 0; }
  uint64_t end() const { return file_block + count; }
  bool Holds(uint64_t block) const { return block >= file_block && block < end(); }
};
using FileRuns = absl::InlinedVector<FileRun, 4>;

// How much one change may remove, so that it stays bounded.
struct RemovalBudget {
  uint64_t items = 64;
  uint64_t blocks = 32768;
};

// The runs of [first, end), mapped ones and holes in turn, in order, without gaps; cut short after about `max_runs`.
absl::StatusOr<FileRuns> MapRange(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t first, uint64_t end,
                                  uint64_t max_runs);
// The extent that holds `file_block`, whole; count 0 if it lies in a hole.
absl::StatusOr<FileRun> ExtentAt(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t file_block);
// Where the block before `file_block` would like its successor; 0: anywhere.
absl::StatusOr<core::Block> GoalFor(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t file_block);
// Maps a hole; joins neighbours that lie together.
absl::Status MapHole(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, uint64_t file_block,
                     core::BlockRange home);
// Unmaps and frees what is mapped in [first, end), ascending, as far as `budget` goes, which it uses up. Returns the
// block up to which it is done; `end` when all of it is.
absl::StatusOr<uint64_t> Unmap(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, uint64_t first,
                               uint64_t end, RemovalBudget* budget);
// Fills the hole [first, first + count) with fresh blocks that read as zeros, in at most `max_runs` pieces. Returns how
// far it came. ResourceExhausted only if it came nowhere.
absl::StatusOr<uint64_t> FillHole(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, uint64_t first,
                                  uint64_t count, uint64_t max_runs);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_FILE_MAP_H_

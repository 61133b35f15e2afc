// The content of regular files: reading, writing, and setting the size.
//
// Invariant: bytes of a mapped block behind the file's end are zero, so a file grows by changing its size alone.
//
// Everything here runs inside transaction bodies and passes on misses. Functions that take an Inode* change it; the
// caller puts it back.

#ifndef STAGEFS_FS_VOLUME_FILE_CONTENT_H_
#define STAGEFS_FS_VOLUME_FILE_CONTENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/engine.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

// The whole blocks of a write, copied and sealed before the change began.
struct StagedBlocks {
  std::shared_ptr<const core::StagedData> data;  // null: none
  uint64_t first_file_block = 0;
  uint64_t count = 0;

  // What of a write of `length` bytes at `offset` is to be staged: first_file_block and count; 0 if it is too little.
  static StagedBlocks Plan(uint64_t offset, uint64_t length);
};

// Plans the read of [offset, offset + destination.size()) or up to the end of the file; returns how many bytes.
absl::StatusOr<size_t> ReadContent(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode,
                                   uint64_t offset, absl::Span<std::byte> destination);

// Reads [offset, offset + destination.size()), within one block, in the body itself. What lies in holes or behind the
// end of the file reads as zeros.
absl::Status ReadNow(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode, uint64_t offset,
                     absl::Span<std::byte> destination);

// Writes `bytes` at `offset`, growing the file if it must; `staged` is Plan(offset, bytes.size()), filled.
absl::Status WriteContent(VolumeState& state, Change& change, Ino ino, Inode* inode, uint64_t offset,
                          absl::Span<const std::byte> bytes, const StagedBlocks& staged);

// A whole block of a file whose content is not inline.
struct BlockOfFile {
  Ino ino = 0;
  Inode* inode = nullptr;
  uint64_t file_block = 0;
};
// Writes `blocks`, ascending within each file, of which `data` holds the content from `first_in_data` on, one behind the
// other, and so does `bytes`. To fresh extents, or in place as far as there are none and one change can log it. The
// caller sees to the files' sizes.
absl::Status WriteBlocks(VolumeState& state, Change& change, absl::Span<const BlockOfFile> blocks,
                         const std::shared_ptr<const core::StagedData>& data, uint64_t first_in_data,
                         absl::Span<const std::byte> bytes);

// Truncates or extends. What cannot be freed within one change is left to the remover.
absl::Status SetSize(VolumeState& state, Change& change, Ino ino, Inode* inode, uint64_t size_bytes);

// Sees to it that the file's content, if it is inline, lies in a block.
absl::Status MoveInlineToBlocks(VolumeState& state, Change& change, Ino ino, Inode* inode);

// Makes bytes [offset, end) zero where they are mapped; they lie within one block.
absl::Status ZeroWithinBlock(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t offset, uint64_t end);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_FILE_CONTENT_H_

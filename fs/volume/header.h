// The volume's header, in block 1, and its copy, which takes over when block 1 decays.
//
// Invariant: the copy tells the same as the header but for the counts. Its next_ino is an upper bound of the header's
// (HeaderCopyOf()), so that it changes once in 65536 new inodes; its inode_count is as of the last time it was written.
//
// Everything here runs inside transaction bodies: header and copy change together, in one change. A copy that cannot be
// read is written anew, since it is replaced whole.
//
// Format: docs/format-volume.md#the-header-block-1.

#ifndef STAGEFS_FS_VOLUME_HEADER_H_
#define STAGEFS_FS_VOLUME_HEADER_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/transaction.h"
#include "core/types.h"
#include "fs/volume/format.h"

namespace stagefs::volume {

// Where a volume of `capacity_blocks` has its copy.
core::Block HeaderCopyBlock(uint64_t capacity_blocks);
// What the copy of `header` says.
VolumeHeader HeaderCopyOf(const VolumeHeader& header);

// The header in `block`: kHeaderBlock or the copy's. Errors: those of DecodeHeader(), Unavailable, DataLoss.
absl::StatusOr<VolumeHeader> ReadHeader(core::Transaction& tx, core::Block block = kHeaderBlock);
// Changes the header, and the copy with it if that has to change.
absl::Status UpdateHeader(core::Transaction& tx, absl::FunctionRef<void(VolumeHeader&)> update);
// Makes block 1, whatever it holds, a header that counts `free_blocks`, and writes the copy.
absl::Status RewriteHeader(core::Transaction& tx, const VolumeHeader& header, uint64_t free_blocks);
absl::Status RewriteHeaderCopy(core::Transaction& tx, const VolumeHeader& header);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_HEADER_H_

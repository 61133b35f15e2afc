// What a check does about extents that are wrong. Nobody loses more than what cannot be told: an extent that begins
// inside the one before it keeps the rest of it, and of two that claim a block the later one (by inode and offset) gets
// a copy of it in fresh space, so that both files can be read. Only where there is no space for the copy, or the block
// belongs to the tree or cannot be read, it gets a hole.

#ifndef STAGEFS_FS_VOLUME_CHECK_EXTENTS_H_
#define STAGEFS_FS_VOLUME_CHECK_EXTENTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "core/types.h"
#include "fs/volume/btree.h"

namespace stagefs::volume {

class CheckContext;

struct BadExtent {
  Key key;
  // Blocks at its start that the extent before it covers, too; all of it if it makes no sense.
  uint64_t drop_blocks = 0;
  // Home blocks that something else claims.
  std::vector<core::BlockRange> shared = {};
};

// Errors: only that the engine accepts no more changes.
absl::Status MendExtent(CheckContext& context, const BadExtent& bad);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_CHECK_EXTENTS_H_

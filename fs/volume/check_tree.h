// How a check mends the tree.
//
// A damaged node is taken out of it. What can be read of a damaged leaf is put back item by item in the same change. If
// an inner node goes (or a pointer led to what is no node of this volume), the leaves below it are whole but hang
// nowhere: the same change sets `gathering` in the volume header. In a round that begins with it set, every block that
// the bitmaps say is in use, but nothing in the tree claims, is looked at; leaves of this volume (IsNodeOf()) are hung
// into the tree again, or, where their keys overlap others', poured into it. Then `gathering` ends. Meanwhile nothing
// in use is given free.
//
// Power may fail on any line: while `gathering` is set the volume is not mounted, and the next repair begins the search
// anew. A freed node is zeros, so what is found is no stale copy.
//
// Memory: that of the map of used blocks, whatever the size of the tree. Time: the blocks in use that the rest of the
// tree does not claim are read once.

#ifndef STAGEFS_FS_VOLUME_CHECK_TREE_H_
#define STAGEFS_FS_VOLUME_CHECK_TREE_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "core/types.h"
#include "fs/volume/check_walk.h"

namespace stagefs::volume {

class CheckContext;

// Whether `bytes`, read from `block`, name themselves a node of the volume with this seed in this very place.
bool IsNodeOf(const std::byte* bytes, core::Block block, uint64_t volume);

// Takes the node out of the tree, or only mends it. Errors: only that the engine accepts no more changes.
absl::Status MendNode(CheckContext& context, const WalkBatch::BadNode& bad);

// Puts back what hangs nowhere, and ends `gathering`. The bitmaps have been mended. Errors: the engine's.
absl::Status GatherLeaves(CheckContext& context);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_CHECK_TREE_H_

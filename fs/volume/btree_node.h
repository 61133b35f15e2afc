// Nodes of the tree: a slotted page in one block.
//
//   header | slots, in key order, growing up | free | cells, in any order, growing down
//
// Bytes from disk can be anything: NodeView checks the header when it is opened, and the bounds of each cell that is
// touched. What does not make sense is DataLoss that names the block. Small changes touch few bytes, because the engine
// logs the bytes that differ.
//
// Format: docs/format-volume.md#the-tree.

#ifndef STAGEFS_FS_VOLUME_BTREE_NODE_H_
#define STAGEFS_FS_VOLUME_BTREE_NODE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/types.h"
#include "fs/volume/btree.h"

namespace stagefs::volume {

inline constexpr uint32_t kNodeMagic = 0x45455254;  // "TREE"

// Byte offsets of the header's fields. The reserved ones are zero.
inline constexpr uint64_t kNodeMagicOffset = 0;       // u32
inline constexpr uint64_t kNodeLevelOffset = 4;       // u16; 0: a leaf
inline constexpr uint64_t kNodeCountOffset = 6;       // u16; items
inline constexpr uint64_t kNodeHeapOffset = 8;        // u16; no cell begins below it; kBlockBytes: there is none
inline constexpr uint64_t kNodeGarbageOffset = 10;    // u16; bytes behind it that belong to no cell
inline constexpr uint64_t kNodeReserved1Offset = 12;  // u32
inline constexpr uint64_t kNodeBlockOffset = 16;      // u64; the node's own block
inline constexpr uint64_t kNodeVolumeOffset = 24;     // u64; the hash_seed of the volume it belongs to
inline constexpr uint64_t kNodeHeaderBytes = 32;

inline constexpr uint64_t kSlotBytes = 2;         // u16; where the cell begins
inline constexpr uint64_t kCellHeaderBytes = 19;  // u64 ino, u8 kind, u64 offset, u16 length of the value
inline constexpr uint64_t kChildBytes = 8;        // the value of an inner node's cell: u64 block
inline constexpr uint64_t kNodeRoomBytes = core::kBlockBytes - kNodeHeaderBytes;
inline constexpr uint32_t kMaxNodeItems = kNodeRoomBytes / (kSlotBytes + kCellHeaderBytes);

static_assert(kNodeVolumeOffset + 8 == kNodeHeaderBytes);
static_assert(3 * (kSlotBytes + kCellHeaderBytes + BTree::kMaxValueBytes) <= kNodeRoomBytes);

// What an item of `value_bytes` takes of a node's room.
inline uint64_t ItemBytes(uint64_t value_bytes) { return kSlotBytes + kCellHeaderBytes + value_bytes; }

// Reads a node; refers to its bytes.
class NodeView {
 public:
  // Checks the header: `bytes` are node `block` at `level`. Errors: DataLoss.
  static absl::StatusOr<NodeView> Open(const std::byte* bytes, core::Block block, uint32_t level);

  core::Block block() const { return block_; }
  uint64_t volume() const;
  uint32_t level() const { return level_; }
  uint32_t count() const { return count_; }
  // Room that items take, if the header is right.
  uint64_t live_bytes() const { return core::kBlockBytes - heap_ - garbage_ + kSlotBytes * count_; }

  // The first item whose key is >= `key`; count() if there is none. Errors: DataLoss.
  absl::StatusOr<uint32_t> LowerBound(const Key& key) const;
  // Inner nodes: the child that `key` belongs to, the last one whose key is <= `key`; the first one if there is none.
  absl::StatusOr<uint32_t> ChildFor(const Key& key) const;

  // `index` < count(). Errors: DataLoss.
  absl::StatusOr<Key> KeyAt(uint32_t index) const;
  absl::StatusOr<BTree::Item> ItemAt(uint32_t index) const;
  absl::StatusOr<core::Block> ChildAt(uint32_t index) const;

  // Checks everything but volume(): cells in bounds, apart from each other and accounted for, keys ascending, reserved
  // bytes zero.
  absl::Status CheckAll() const;

 protected:
  NodeView(const std::byte* bytes, core::Block block) : bytes_(bytes), block_(block) {}

  absl::Status Corrupt(absl::string_view what) const;
  void LoadHeader();
  // Null if the slot points out of bounds.
  const std::byte* CellAt(uint32_t index) const;
  // Whether the cell's value ends in bounds and has a length that its kind of node allows.
  bool ValueInBounds(const std::byte* cell) const;

  const std::byte* bytes_;
  core::Block block_;
  uint32_t level_ = 0;
  uint32_t count_ = 0;
  uint32_t heap_ = 0;
  uint32_t garbage_ = 0;
};

// Changes a node in place.
class NodeEditor : public NodeView {
 public:
  // Errors: DataLoss.
  static absl::StatusOr<NodeEditor> Open(std::byte* bytes, core::Block block, uint32_t level);
  // Makes `bytes`, whatever they hold, an empty node.
  static NodeEditor Format(std::byte* bytes, core::Block block, uint32_t level, uint64_t volume);

  // Whether an item of this size can be inserted.
  bool HasRoomFor(uint64_t value_bytes) const { return live_bytes() + ItemBytes(value_bytes) <= kNodeRoomBytes; }
  // Puts an item before item `index`. Moves cells only if it must. HasRoomFor() it. `value` lies elsewhere.
  absl::Status Insert(uint32_t index, const Key& key, absl::string_view value);
  absl::Status Remove(uint32_t index);
  // Replaces the value by one that is not longer.
  absl::Status ReplaceInPlace(uint32_t index, absl::string_view value);
  // Gives item `index` another key, which must keep the order.
  absl::Status SetKey(uint32_t index, const Key& key);
  void SetVolume(uint64_t volume);
  // Drops the items from `count` on.
  absl::Status Truncate(uint32_t count);

 private:
  NodeEditor(std::byte* bytes, core::Block block) : NodeView(bytes, block), mutable_bytes_(bytes) {}
  void StoreHeader();
  absl::Status Compact();

  std::byte* mutable_bytes_;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_BTREE_NODE_H_

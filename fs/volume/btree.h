// BTree: the one tree that holds the structure of a volume: inodes, directory entries, extents, attributes, orphans.
//
// Items are (Key, value) in key order; a node is one block, a slotted page, changed in place. Every method runs inside
// a transaction body and passes on its misses (Unavailable). Values are 0 to kMaxValueBytes bytes.
//
// Invariants:
//   * All leaves are at the same level; keys in a node are strictly ascending.
//   * The key of an inner node's item is at most every key below it, and above every key below the items before it.
//   * No node but the root is empty. An inner node that is the root has two children or more.
//
// What the blocks hold may be anything: what does not make sense is DataLoss that names the block, and every walk ends.
//
// Format: docs/format-volume.md#the-tree. Not thread-safe: the engine's sequencer lock serialises bodies.

#ifndef STAGEFS_FS_VOLUME_BTREE_H_
#define STAGEFS_FS_VOLUME_BTREE_H_

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/transaction.h"

namespace stagefs::volume {

// Orders everything that belongs to one inode together: first by inode, then by kind, then by what the kind counts by
// (hash of a name, block offset in a file). Kinds are in fs/volume/format.h.
struct Key {
  uint64_t ino = 0;
  uint8_t kind = 0;
  uint64_t offset = 0;

  friend auto operator<=>(const Key&, const Key&) = default;
};

class NodeEditor;
class NodeView;

// Where the tree finds and keeps its root, and its blocks. The allocator implements it.
class BTreeStorage {
 public:
  virtual ~BTreeStorage() = default;
  struct Root {
    core::Block block = 0;
    uint32_t height = 0;  // levels; 1: the root is a leaf
  };
  virtual absl::StatusOr<Root> GetRoot(core::Transaction& tx) = 0;
  virtual absl::Status SetRoot(core::Transaction& tx, Root root) = 0;
  // What stands in every node, so that fsck knows this volume's when it looks for lost ones.
  virtual uint64_t NodeVolume() const { return 0; }
  // A free block for a node; the caller makes it Fresh(). Errors: ResourceExhausted, Unavailable.
  virtual absl::StatusOr<core::Block> AllocateNode(core::Transaction& tx, core::Block near) = 0;
  // Frees `block` and makes it zeros.
  virtual absl::Status FreeNode(core::Transaction& tx, core::Block block) = 0;
};

class BTree {
 public:
  static constexpr uint64_t kMaxValueBytes = 1200;  // at least three items fit a node
  static constexpr uint32_t kMaxHeight = 16;        // more than any capacity needs

  struct Item {
    Key key;
    absl::string_view value;  // in the node: valid until the transaction changes the tree or its body returns
  };

  // `storage` must outlive the tree. A node or child said to lie beyond `capacity_blocks` is DataLoss, not looked at.
  explicit BTree(BTreeStorage* storage, uint64_t capacity_blocks = ~uint64_t{0})
      : storage_(storage), capacity_blocks_(capacity_blocks) {}

  // Makes `block` (already allocated) the empty root.
  absl::Status Format(core::Transaction& tx, core::Block block);

  absl::StatusOr<std::optional<absl::string_view>> Find(core::Transaction& tx, const Key& key);
  // The item with the smallest key >= `key`, or with the largest key <= `key`.
  absl::StatusOr<std::optional<Item>> AtOrAfter(core::Transaction& tx, const Key& key);
  absl::StatusOr<std::optional<Item>> AtOrBefore(core::Transaction& tx, const Key& key);
  // Calls `visit` for each item with `first` <= key <= `last`, ascending, until it returns false. `visit` must not
  // change the tree.
  absl::Status Scan(core::Transaction& tx, const Key& first, const Key& last,
                    absl::FunctionRef<bool(const Item&)> visit);

  // Inserts, or replaces the value of, `key`. `value` may lie in the tree. A value that is not longer than the one
  // before is changed in place.
  absl::Status Put(core::Transaction& tx, const Key& key, absl::string_view value);
  // Removes `key`; NotFound if it is not there. Empty nodes are freed, thin neighbours joined.
  absl::Status Erase(core::Transaction& tx, const Key& key);

  // --- For fsck ---

  // The leaf that `key` belongs to. Errors: DataLoss, Unavailable.
  absl::StatusOr<core::Block> LeafFor(core::Transaction& tx, const Key& key);

  // Hangs `leaf`, a good node of level 0 with items that is not in the tree, into it. AlreadyExists: keys of the tree
  // lie between its first and its last, or its place spans two nodes.
  absl::Status AttachLeaf(core::Transaction& tx, core::Block leaf);
  // Takes node `block` of `level`, which `key` leads to, out of the tree as it is, with the inner nodes that have no
  // other child; it is not read. A root is replaced by an empty one. NotFound: another node is there.
  absl::Status Detach(core::Transaction& tx, const Key& key, core::Block block, uint32_t level);

 private:
  // The way from the root to a leaf; steps[level] for each level.
  struct Step {
    core::Block block = 0;
    uint32_t index = 0;  // inner levels: the child that was taken; level 0: the item
  };
  struct Path {
    uint32_t height = 0;
    std::array<Step, kMaxHeight> steps;
  };

  absl::StatusOr<BTreeStorage::Root> GetRoot(core::Transaction& tx);
  absl::StatusOr<NodeView> ReadNode(core::Transaction& tx, core::Block block, uint32_t level);
  absl::StatusOr<NodeEditor> ModifyNode(core::Transaction& tx, core::Block block, uint32_t level);
  // From node `path->steps[level]` down to the leaf for `key`.
  absl::StatusOr<NodeView> Descend(core::Transaction& tx, const Key& key, Path* path, uint32_t level);
  absl::StatusOr<NodeView> DescendFromRoot(core::Transaction& tx, const Key& key, Path* path);
  // The leaf behind or before `path`'s, with the path to its first or last item; nothing at the end. Prefetches up to
  // `prefetch` leaves behind it that may hold keys <= `last`.
  absl::StatusOr<std::optional<NodeView>> NextLeaf(core::Transaction& tx, Path* path, uint32_t prefetch,
                                                   const Key& last);
  absl::StatusOr<std::optional<NodeView>> PreviousLeaf(core::Transaction& tx, Path* path);

  // Inserts an item into node `path.steps[level]` before the step's index; splits as far up as it takes.
  absl::Status InsertAt(core::Transaction& tx, Path& path, uint32_t level, const Key& key, absl::string_view value);
  // Moves the upper part of `node` to a new node and inserts the item. Returns the new node and its first key.
  absl::StatusOr<std::pair<Key, core::Block>> Split(core::Transaction& tx, NodeEditor& node, uint32_t index,
                                                    const Key& key, absl::string_view value);
  absl::Status GrowRoot(core::Transaction& tx, const Path& path, const Key& separator, core::Block right);
  // After a removal from node `path.steps[level]`: frees it if empty, joins it if thin, and so on upwards.
  absl::Status Rebalance(core::Transaction& tx, const Path& path, uint32_t level);
  // Joins node `path.steps[level]` with a neighbour if both fit into one with some slack. False: they do not.
  absl::StatusOr<bool> Join(core::Transaction& tx, const Path& path, uint32_t level);
  absl::Status RemoveChild(core::Transaction& tx, core::Block parent, uint32_t level, uint32_t index);
  absl::Status ShrinkRoot(core::Transaction& tx);

  BTreeStorage* const storage_;
  const uint64_t capacity_blocks_;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_BTREE_H_

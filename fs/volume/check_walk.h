// A walk over the tree that goes on behind damaged nodes, a batch of leaves at a time.

#ifndef STAGEFS_FS_VOLUME_CHECK_WALK_H_
#define STAGEFS_FS_VOLUME_CHECK_WALK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/transaction.h"
#include "fs/volume/allocator.h"
#include "fs/volume/btree.h"
#include "fs/volume/btree_node.h"

namespace stagefs::volume {

// What one transaction body read: the leaves below one inner node, copied.
class WalkBatch {
 public:
  struct Node {
    core::Block block;
    uint32_t level;
  };
  struct BadNode {
    core::Block block;
    uint32_t level;
    Key low;  // leads to it
    std::string what;
    bool usable;  // only the volume it names is wrong: its items were taken
  };

  // `layout` must outlive the batch. `volume`: what all nodes name.
  WalkBatch(const AllocationLayout& layout, uint64_t volume) : layout_(layout), volume_(volume) {}

  // Reads what follows `cursor`. Errors: only Unavailable, and what is no DataLoss.
  absl::Status Read(core::Transaction& tx, BTreeStorage::Root root, const Key& cursor);

  size_t item_count() const { return items_.size(); }
  const Key& key(size_t index) const { return items_[index].key; }
  absl::string_view value(size_t index) const {
    return absl::string_view(bytes_).substr(items_[index].offset, items_[index].length);
  }
  // Nodes seen for the first time in a walk from the start.
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<BadNode>& bad_nodes() const { return bad_nodes_; }
  // Where to go on; nothing at the end.
  const std::optional<Key>& next() const { return next_; }

 private:
  struct Item {
    Key key;
    size_t offset;
    size_t length;
  };
  // Where a node hangs.
  struct Place {
    core::Block block;
    uint32_t level;
    bool root;
    Key covers;               // keys from here on belong to it
    Key low;                  // no key in it is below this
    std::optional<Key> high;  // all keys in it are below this
  };

  // Checks the node wholly. Damage goes to bad_nodes_, and gives nothing.
  absl::StatusOr<std::optional<NodeView>> ReadNode(core::Transaction& tx, const Place& place);
  absl::StatusOr<NodeView> Look(core::Transaction& tx, const Place& place) const;
  static absl::StatusOr<Place> ChildPlace(const NodeView& node, const Place& parent, uint32_t index);
  absl::Status TakeItems(const NodeView& leaf);

  const AllocationLayout& layout_;
  const uint64_t volume_;
  std::string bytes_;
  std::vector<Item> items_;
  std::vector<Node> nodes_;
  std::vector<BadNode> bad_nodes_;
  std::optional<Key> next_;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_CHECK_WALK_H_

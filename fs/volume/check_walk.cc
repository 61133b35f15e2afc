#include "fs/volume/check_walk.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"

namespace stagefs::volume {

absl::StatusOr<NodeView> WalkBatch::Look(core::Transaction& tx, const Place& place) const {
  if (!layout_.IsUsable({place.block, 1})) return absl::DataLossError("no node can be in this block");
  ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(place.block));
  ASSIGN_OR_RETURN(const NodeView node, NodeView::Open(bytes, place.block, place.level));
  RETURN_IF_ERROR(node.CheckAll());
  if (node.count() == 0 && (!place.root || place.level > 0)) return absl::DataLossError("it is empty");
  if (place.root && place.level > 0 && node.count() == 1) return absl::DataLossError("a root with a single child");
  if (node.count() > 0) {
    ASSIGN_OR_RETURN(const Key first, node.KeyAt(0));
    ASSIGN_OR_RETURN(const Key last, node.KeyAt(node.count() - 1));
    if (first < place.low || (place.high.has_value() && last >= *place.high)) {
      return absl::DataLossError("it holds keys that belong elsewhere");
    }
  }
  return node;
}

absl::StatusOr<std::optional<NodeView>> WalkBatch::ReadNode(core::Transaction& tx, const Place& place) {
  const absl::StatusOr<NodeView> node = Look(tx, place);
  if (!node.ok() && !absl::IsDataLoss(node.status())) return node.status();
  if (!node.ok()) {
    bad_nodes_.push_back({place.block, place.level, place.covers, std::string(node.status().message()), false});
    return std::nullopt;
  }
  if (node->volume() != volume_) {
    bad_nodes_.push_back({place.block, place.level, place.covers,
                          absl::StrCat("it names volume ", absl::Hex(node->volume()), ", not ", absl::Hex(volume_)),
                          true});
  }
  return *node;
}

absl::StatusOr<WalkBatch::Place> WalkBatch::ChildPlace(const NodeView& node, const Place& parent, uint32_t index) {
  Place place = parent;
  place.level = parent.level - 1;
  place.root = false;
  ASSIGN_OR_RETURN(place.block, node.ChildAt(index));
  ASSIGN_OR_RETURN(place.low, node.KeyAt(index));
  if (index > 0) place.covers = place.low;
  if (index + 1 < node.count()) {
    ASSIGN_OR_RETURN(place.high, node.KeyAt(index + 1));
  }
  return place;
}

absl::Status WalkBatch::TakeItems(const NodeView& leaf) {
  for (uint32_t i = 0; i < leaf.count(); ++i) {
    ASSIGN_OR_RETURN(const BTree::Item item, leaf.ItemAt(i));
    items_.push_back({item.key, bytes_.size(), item.value.size()});
    bytes_.append(item.value.data(), item.value.size());
  }
  return absl::OkStatus();
}

absl::Status WalkBatch::Read(core::Transaction& tx, BTreeStorage::Root root, const Key& cursor) {
  bytes_.clear();
  items_.clear();
  nodes_.clear();
  bad_nodes_.clear();
  next_ = std::nullopt;
  if (root.height < 1 || root.height > BTree::kMaxHeight) {
    bad_nodes_.push_back(
        {root.block, root.height - 1, Key{}, absl::StrCat("the tree's height is ", root.height), false});
    return absl::OkStatus();
  }
  Place place = {
      .block = root.block, .level = root.height - 1, .root = true, .covers = {}, .low = {}, .high = std::nullopt};
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<NodeView> node, ReadNode(tx, place));
    next_ = place.high;
    if (!node.has_value()) return absl::OkStatus();
    if (place.covers == cursor) nodes_.push_back({place.block, place.level});
    if (place.level == 0) return TakeItems(*node);
    ASSIGN_OR_RETURN(const uint32_t index, node->ChildFor(cursor));
    if (place.level > 1) {
      ASSIGN_OR_RETURN(place, ChildPlace(*node, place, index));
      continue;
    }
    for (uint32_t i = index; i < node->count(); ++i) {
      ASSIGN_OR_RETURN(const core::Block child, node->ChildAt(i));
      if (layout_.IsUsable({child, 1})) tx.Prefetch(child);
    }
    for (uint32_t i = index; i < node->count(); ++i) {
      ASSIGN_OR_RETURN(const Place leaf_place, ChildPlace(*node, place, i));
      ASSIGN_OR_RETURN(const std::optional<NodeView> leaf, ReadNode(tx, leaf_place));
      if (!leaf.has_value()) continue;
      if (leaf_place.covers >= cursor) nodes_.push_back({leaf_place.block, 0});
      RETURN_IF_ERROR(TakeItems(*leaf));
    }
    return absl::OkStatus();
  }
}

}  // namespace stagefs::volume

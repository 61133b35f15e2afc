#include "fs/volume/btree.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/btree_node.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::volume {

using core::Block;
using core::Transaction;

namespace {

// A node with less than this is joined with a neighbour if the two then fill no more than the second figure.
constexpr uint64_t kThinBytes = kNodeRoomBytes / 4;
constexpr uint64_t kJoinedBytes = kNodeRoomBytes * 3 / 4;
constexpr uint32_t kMaxPrefetch = 16;

absl::string_view ChildValue(const Block& block) { return {reinterpret_cast<const char*>(&block), kChildBytes}; }

}  // namespace

absl::Status BTree::Format(Transaction& tx, Block block) {
  ASSIGN_OR_RETURN(std::byte* bytes, tx.Fresh(block));
  NodeEditor::Format(bytes, block, 0, storage_->NodeVolume());
  return storage_->SetRoot(tx, {block, 1});
}

absl::StatusOr<BTreeStorage::Root> BTree::GetRoot(Transaction& tx) {
  ASSIGN_OR_RETURN(const BTreeStorage::Root root, storage_->GetRoot(tx));
  if (root.height < 1 || root.height > kMaxHeight) {
    return absl::DataLossError(absl::StrCat("tree: its height is said to be ", root.height));
  }
  return root;
}

absl::StatusOr<NodeView> BTree::ReadNode(Transaction& tx, Block block, uint32_t level) {
  if (block >= capacity_blocks_) {
    return absl::DataLossError(absl::StrCat("tree: a node is said to be in block ", block, ", beyond the capacity"));
  }
  ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(block));
  return NodeView::Open(bytes, block, level);
}

absl::StatusOr<NodeEditor> BTree::ModifyNode(Transaction& tx, Block block, uint32_t level) {
  RETURN_IF_ERROR(ReadNode(tx, block, level).status());
  ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(block));
  return NodeEditor::Open(bytes, block, level);
}

absl::StatusOr<NodeView> BTree::Descend(Transaction& tx, const Key& key, Path* path, uint32_t level) {
  ASSIGN_OR_RETURN(NodeView node, ReadNode(tx, path->steps[level].block, level));
  for (; level > 0; --level) {
    ASSIGN_OR_RETURN(path->steps[level].index, node.ChildFor(key));
    ASSIGN_OR_RETURN(path->steps[level - 1].block, node.ChildAt(path->steps[level].index));
    ASSIGN_OR_RETURN(node, ReadNode(tx, path->steps[level - 1].block, level - 1));
  }
  return node;
}

absl::StatusOr<NodeView> BTree::DescendFromRoot(Transaction& tx, const Key& key, Path* path) {
  ASSIGN_OR_RETURN(const BTreeStorage::Root root, GetRoot(tx));
  path->height = root.height;
  path->steps[root.height - 1].block = root.block;
  return Descend(tx, key, path, root.height - 1);
}

absl::StatusOr<std::optional<NodeView>> BTree::NextLeaf(Transaction& tx, Path* path, uint32_t prefetch,
                                                        const Key& last) {
  for (uint32_t level = 1; level < path->height; ++level) {
    Step& step = path->steps[level];
    ASSIGN_OR_RETURN(NodeView node, ReadNode(tx, step.block, level));
    if (step.index + 1 >= node.count()) continue;
    ++step.index;
    // Only the lowest inner level knows leaves.
    for (uint32_t i = 0; level == 1 && i < prefetch && step.index + 1 + i < node.count(); ++i) {
      ASSIGN_OR_RETURN(const Key key, node.KeyAt(step.index + 1 + i));
      if (key > last) break;
      ASSIGN_OR_RETURN(const Block block, node.ChildAt(step.index + 1 + i));
      if (block < capacity_blocks_) tx.Prefetch(block);
    }
    while (level > 0) {
      ASSIGN_OR_RETURN(path->steps[level - 1].block, node.ChildAt(path->steps[level].index));
      --level;
      ASSIGN_OR_RETURN(node, ReadNode(tx, path->steps[level].block, level));
      path->steps[level].index = 0;
      if (node.count() == 0) return absl::DataLossError(absl::StrCat("tree: node ", node.block(), " is empty"));
    }
    return node;
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<NodeView>> BTree::PreviousLeaf(Transaction& tx, Path* path) {
  for (uint32_t level = 1; level < path->height; ++level) {
    Step& step = path->steps[level];
    if (step.index == 0) continue;
    --step.index;
    ASSIGN_OR_RETURN(NodeView node, ReadNode(tx, step.block, level));
    while (level > 0) {
      ASSIGN_OR_RETURN(path->steps[level - 1].block, node.ChildAt(path->steps[level].index));
      --level;
      ASSIGN_OR_RETURN(node, ReadNode(tx, path->steps[level].block, level));
      if (node.count() == 0) return absl::DataLossError(absl::StrCat("tree: node ", node.block(), " is empty"));
      path->steps[level].index = node.count() - 1;
    }
    return node;
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<absl::string_view>> BTree::Find(Transaction& tx, const Key& key) {
  Path path;
  ASSIGN_OR_RETURN(const NodeView leaf, DescendFromRoot(tx, key, &path));
  ASSIGN_OR_RETURN(const uint32_t index, leaf.LowerBound(key));
  if (index == leaf.count()) return std::nullopt;
  ASSIGN_OR_RETURN(const Item item, leaf.ItemAt(index));
  if (item.key != key) return std::nullopt;
  return item.value;
}

absl::StatusOr<std::optional<BTree::Item>> BTree::AtOrAfter(Transaction& tx, const Key& key) {
  Path path;
  ASSIGN_OR_RETURN(NodeView leaf, DescendFromRoot(tx, key, &path));
  ASSIGN_OR_RETURN(uint32_t index, leaf.LowerBound(key));
  if (index == leaf.count()) {
    ASSIGN_OR_RETURN(const std::optional<NodeView> next, NextLeaf(tx, &path, 0, key));
    if (!next.has_value()) return std::nullopt;
    leaf = *next;
    index = 0;
  }
  ASSIGN_OR_RETURN(const Item item, leaf.ItemAt(index));
  // Callers go on from what they got: an item out of order must not make them go round in circles.
  if (item.key < key) {
    return absl::DataLossError(absl::StrCat("tree: node ", leaf.block(), " holds keys of the nodes before it"));
  }
  return item;
}

absl::StatusOr<std::optional<BTree::Item>> BTree::AtOrBefore(Transaction& tx, const Key& key) {
  Path path;
  ASSIGN_OR_RETURN(NodeView leaf, DescendFromRoot(tx, key, &path));
  ASSIGN_OR_RETURN(uint32_t index, leaf.LowerBound(key));
  if (index < leaf.count()) {
    ASSIGN_OR_RETURN(const Item item, leaf.ItemAt(index));
    if (item.key == key) return item;
  }
  if (index == 0) {
    ASSIGN_OR_RETURN(const std::optional<NodeView> previous, PreviousLeaf(tx, &path));
    if (!previous.has_value()) return std::nullopt;
    leaf = *previous;
    index = leaf.count();
  }
  ASSIGN_OR_RETURN(const Item item, leaf.ItemAt(index - 1));
  if (item.key > key) {
    return absl::DataLossError(absl::StrCat("tree: node ", leaf.block(), " holds keys of the nodes behind it"));
  }
  return item;
}

absl::Status BTree::Scan(Transaction& tx, const Key& first, const Key& last,
                         absl::FunctionRef<bool(const Item&)> visit) {
  Path path;
  ASSIGN_OR_RETURN(NodeView leaf, DescendFromRoot(tx, first, &path));
  ASSIGN_OR_RETURN(uint32_t index, leaf.LowerBound(first));
  std::optional<Key> previous;
  uint32_t prefetch = 1;
  while (true) {
    for (; index < leaf.count(); ++index) {
      ASSIGN_OR_RETURN(const Item item, leaf.ItemAt(index));
      if (item.key < first || (previous.has_value() && item.key <= *previous)) {
        return absl::DataLossError(absl::StrCat("tree: the keys of node ", leaf.block(), " do not ascend"));
      }
      if (item.key > last) return absl::OkStatus();
      previous = item.key;
      if (!visit(item)) return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const std::optional<NodeView> next, NextLeaf(tx, &path, prefetch, last));
    if (!next.has_value()) return absl::OkStatus();
    leaf = *next;
    index = 0;
    // Long scans look further ahead than short ones.
    prefetch = std::min(2 * prefetch, kMaxPrefetch);
  }
}

absl::Status BTree::Put(Transaction& tx, const Key& key, absl::string_view value) {
  STAGEFS_CHECK(value.size() <= kMaxValueBytes);
  Path path;
  ASSIGN_OR_RETURN(const NodeView leaf, DescendFromRoot(tx, key, &path));
  ASSIGN_OR_RETURN(const uint32_t index, leaf.LowerBound(key));
  path.steps[0].index = index;
  if (index < leaf.count()) {
    ASSIGN_OR_RETURN(const Item item, leaf.ItemAt(index));
    if (item.key == key) {
      if (item.value == value) return absl::OkStatus();
      ASSIGN_OR_RETURN(NodeEditor node, ModifyNode(tx, path.steps[0].block, 0));
      if (value.size() <= item.value.size()) return node.ReplaceInPlace(index, value);
      const std::string copy(value);  // it may lie in the node that is about to change
      RETURN_IF_ERROR(node.Remove(index));
      return InsertAt(tx, path, 0, key, copy);
    }
  }
  // Below a first item with a larger key, which then has to be lowered, so that no key below it is smaller.
  for (uint32_t level = path.height - 1; level > 0; --level) {
    ASSIGN_OR_RETURN(const NodeView node, ReadNode(tx, path.steps[level].block, level));
    ASSIGN_OR_RETURN(const Key low, node.KeyAt(path.steps[level].index));
    if (key >= low) continue;
    ASSIGN_OR_RETURN(NodeEditor editor, ModifyNode(tx, path.steps[level].block, level));
    RETURN_IF_ERROR(editor.SetKey(path.steps[level].index, key));
  }
  const std::string copy(value);
  return InsertAt(tx, path, 0, key, copy);
}

absl::Status BTree::InsertAt(Transaction& tx, Path& path, uint32_t level, const Key& key, absl::string_view value) {
  Step& step = path.steps[level];
  ASSIGN_OR_RETURN(NodeEditor node, ModifyNode(tx, step.block, level));
  if (node.HasRoomFor(value.size())) return node.Insert(step.index, key, value);
  std::pair<Key, Block> right;
  ASSIGN_OR_RETURN(right, Split(tx, node, step.index, key, value));
  if (level + 1 == path.height) return GrowRoot(tx, path, right.first, right.second);
  ++path.steps[level + 1].index;
  return InsertAt(tx, path, level + 1, right.first, ChildValue(right.second));
}

absl::StatusOr<std::pair<Key, Block>> BTree::Split(Transaction& tx, NodeEditor& node, uint32_t index, const Key& key,
                                                   absl::string_view value) {
  RETURN_IF_ERROR(node.CheckAll());
  if (node.HasRoomFor(value.size())) return absl::InternalError("a node is split that has room");
  ASSIGN_OR_RETURN(const Block block, storage_->AllocateNode(tx, node.block()));
  ASSIGN_OR_RETURN(std::byte* bytes, tx.Fresh(block));
  NodeEditor right = NodeEditor::Format(bytes, block, node.level(), storage_->NodeVolume());

  // `keep` items stay; the new one goes to the right of them if `index` >= keep and `new_goes_right`.
  uint32_t keep = node.count();
  bool new_goes_right = true;
  if (index < node.count()) {
    // Item by item, with the new one in its place: the cut that comes nearest to the middle.
    const uint64_t total = node.live_bytes() + ItemBytes(value.size());
    uint64_t left = 0;
    uint64_t best = ~uint64_t{0};
    for (uint32_t i = 0; i < node.count(); ++i) {
      if (i == index) left += ItemBytes(value.size());
      // Cut before item i: the new one has gone left if it comes before it.
      for (const bool goes_right : {true, false}) {
        if (goes_right ? i > index : i < index) continue;
        const uint64_t left_bytes = i == index && goes_right ? left - ItemBytes(value.size()) : left;
        if (left_bytes == 0 || left_bytes > kNodeRoomBytes || total - left_bytes > kNodeRoomBytes) continue;
        const uint64_t distance = std::max(left_bytes, total - left_bytes);
        if (distance >= best) continue;
        best = distance;
        keep = i;
        new_goes_right = goes_right;
      }
      ASSIGN_OR_RETURN(const Item item, node.ItemAt(i));
      left += ItemBytes(item.value.size());
    }
    STAGEFS_CHECK(best != ~uint64_t{0});
  }
  // Behind the last item the old node stays full: keys that come in order leave full nodes behind.
  for (uint32_t i = keep; i < node.count(); ++i) {
    ASSIGN_OR_RETURN(const Item item, node.ItemAt(i));
    RETURN_IF_ERROR(right.Insert(right.count(), item.key, item.value));
  }
  RETURN_IF_ERROR(node.Truncate(keep));
  RETURN_IF_ERROR(new_goes_right ? right.Insert(index - keep, key, value) : node.Insert(index, key, value));
  ASSIGN_OR_RETURN(const Key separator, right.KeyAt(0));
  return std::make_pair(separator, block);
}

absl::Status BTree::GrowRoot(Transaction& tx, const Path& path, const Key& separator, Block right) {
  const Block left = path.steps[path.height - 1].block;
  if (path.height == kMaxHeight) return absl::DataLossError("tree: it would grow too high");
  ASSIGN_OR_RETURN(const Block block, storage_->AllocateNode(tx, left));
  ASSIGN_OR_RETURN(std::byte* bytes, tx.Fresh(block));
  NodeEditor root = NodeEditor::Format(bytes, block, path.height, storage_->NodeVolume());
  RETURN_IF_ERROR(root.Insert(0, Key{}, ChildValue(left)));
  RETURN_IF_ERROR(root.Insert(1, separator, ChildValue(right)));
  return storage_->SetRoot(tx, {block, path.height + 1});
}

absl::Status BTree::Erase(Transaction& tx, const Key& key) {
  Path path;
  ASSIGN_OR_RETURN(const NodeView leaf, DescendFromRoot(tx, key, &path));
  ASSIGN_OR_RETURN(const uint32_t index, leaf.LowerBound(key));
  if (index == leaf.count()) return absl::NotFoundError("no such key");
  ASSIGN_OR_RETURN(const Key found, leaf.KeyAt(index));
  if (found != key) return absl::NotFoundError("no such key");
  ASSIGN_OR_RETURN(NodeEditor node, ModifyNode(tx, path.steps[0].block, 0));
  RETURN_IF_ERROR(node.Remove(index));
  return Rebalance(tx, path, 0);
}

absl::Status BTree::Rebalance(Transaction& tx, const Path& path, uint32_t level) {
  for (; level + 1 < path.height; ++level) {
    const Block block = path.steps[level].block;
    ASSIGN_OR_RETURN(const NodeView node, ReadNode(tx, block, level));
    if (node.count() == 0) {
      RETURN_IF_ERROR(storage_->FreeNode(tx, block));
      RETURN_IF_ERROR(RemoveChild(tx, path.steps[level + 1].block, level + 1, path.steps[level + 1].index));
    } else {
      if (node.live_bytes() >= kThinBytes) return absl::OkStatus();
      ASSIGN_OR_RETURN(const bool joined, Join(tx, path, level));
      if (!joined) return absl::OkStatus();
    }
  }
  return ShrinkRoot(tx);
}

absl::StatusOr<bool> BTree::Join(Transaction& tx, const Path& path, uint32_t level) {
  const Step& parent_step = path.steps[level + 1];
  ASSIGN_OR_RETURN(const NodeView parent, ReadNode(tx, parent_step.block, level + 1));
  ASSIGN_OR_RETURN(const NodeView node, ReadNode(tx, path.steps[level].block, level));
  std::array<std::optional<Block>, 2> neighbours;  // behind, before
  if (parent_step.index + 1 < parent.count()) {
    ASSIGN_OR_RETURN(neighbours[0], parent.ChildAt(parent_step.index + 1));
  }
  if (parent_step.index > 0) {
    ASSIGN_OR_RETURN(neighbours[1], parent.ChildAt(parent_step.index - 1));
  }
  if (neighbours[1].has_value() && *neighbours[1] < capacity_blocks_) tx.Prefetch(*neighbours[1]);
  for (const bool before : {false, true}) {
    if (!neighbours[before].has_value()) continue;
    ASSIGN_OR_RETURN(const NodeView neighbour, ReadNode(tx, *neighbours[before], level));
    if (neighbour.block() == node.block()) {
      return absl::DataLossError(absl::StrCat("tree: node ", node.block(), " has a parent twice"));
    }
    if (node.live_bytes() + neighbour.live_bytes() > kJoinedBytes) continue;
    const NodeView& from = before ? node : neighbour;
    ASSIGN_OR_RETURN(NodeEditor to, ModifyNode(tx, before ? neighbour.block() : node.block(), level));
    RETURN_IF_ERROR(from.CheckAll());
    RETURN_IF_ERROR(to.CheckAll());
    for (uint32_t i = 0; i < from.count(); ++i) {
      ASSIGN_OR_RETURN(const Item item, from.ItemAt(i));
      RETURN_IF_ERROR(to.Insert(to.count(), item.key, item.value));
    }
    RETURN_IF_ERROR(storage_->FreeNode(tx, from.block()));
    RETURN_IF_ERROR(RemoveChild(tx, parent_step.block, level + 1, parent_step.index + (before ? 0 : 1)));
    return true;
  }
  return false;
}

absl::Status BTree::RemoveChild(Transaction& tx, Block parent, uint32_t level, uint32_t index) {
  ASSIGN_OR_RETURN(NodeEditor node, ModifyNode(tx, parent, level));
  if (index > 0 || node.count() == 1) return node.Remove(index);
  // The first item's key stays: the second child takes over what belonged to the first.
  ASSIGN_OR_RETURN(const Block second, node.ChildAt(1));
  RETURN_IF_ERROR(node.ReplaceInPlace(0, ChildValue(second)));
  return node.Remove(1);
}

absl::StatusOr<Block> BTree::LeafFor(Transaction& tx, const Key& key) {
  Path path;
  ASSIGN_OR_RETURN(const NodeView leaf, DescendFromRoot(tx, key, &path));
  return leaf.block();
}

absl::Status BTree::AttachLeaf(Transaction& tx, Block block) {
  ASSIGN_OR_RETURN(const NodeView leaf, ReadNode(tx, block, 0));
  if (leaf.count() == 0) return absl::InvalidArgumentError("the leaf is empty");
  ASSIGN_OR_RETURN(const Key first, leaf.KeyAt(0));
  ASSIGN_OR_RETURN(const Key last, leaf.KeyAt(leaf.count() - 1));
  const absl::Status taken = absl::AlreadyExistsError(absl::StrCat("keys of leaf ", block, " overlap others"));
  ASSIGN_OR_RETURN(const BTreeStorage::Root root, GetRoot(tx));
  Path path;
  path.height = root.height;
  path.steps[root.height - 1].block = root.block;
  std::optional<Key> high;  // what belongs to the leaf where `first` belongs is below it
  for (uint32_t level = root.height - 1; level > 0; --level) {
    ASSIGN_OR_RETURN(const NodeView node, ReadNode(tx, path.steps[level].block, level));
    ASSIGN_OR_RETURN(const uint32_t index, node.ChildFor(first));
    if (index + 1 < node.count()) {
      ASSIGN_OR_RETURN(high, node.KeyAt(index + 1));
    }
    path.steps[level].index = index;
    ASSIGN_OR_RETURN(path.steps[level - 1].block, node.ChildAt(index));
  }
  if (path.steps[0].block == block) return taken;
  ASSIGN_OR_RETURN(const NodeView neighbour, ReadNode(tx, path.steps[0].block, 0));
  if (neighbour.count() == 0) {  // an empty root
    RETURN_IF_ERROR(storage_->FreeNode(tx, neighbour.block()));
    return storage_->SetRoot(tx, {block, 1});
  }
  ASSIGN_OR_RETURN(const Key neighbour_first, neighbour.KeyAt(0));
  ASSIGN_OR_RETURN(const Key neighbour_last, neighbour.KeyAt(neighbour.count() - 1));
  const bool behind = neighbour_last < first;
  if (!behind && last >= neighbour_first) return taken;
  if (high.has_value() && last >= *high) return taken;
  if (root.height == 1) {
    if (behind) return GrowRoot(tx, path, first, block);
    path.steps[0].block = block;
    return GrowRoot(tx, path, neighbour_first, root.block);
  }
  for (uint32_t level = root.height - 1; level > 0; --level) {
    ASSIGN_OR_RETURN(NodeEditor node, ModifyNode(tx, path.steps[level].block, level));
    ASSIGN_OR_RETURN(const Key low, node.KeyAt(path.steps[level].index));
    if (first < low) RETURN_IF_ERROR(node.SetKey(path.steps[level].index, first));
  }
  Step& parent = path.steps[1];
  if (behind) {
    ++parent.index;
    return InsertAt(tx, path, 1, first, ChildValue(block));
  }
  // It takes the place of the neighbour, which begins where its own keys do from now on.
  ASSIGN_OR_RETURN(NodeEditor node, ModifyNode(tx, parent.block, 1));
  RETURN_IF_ERROR(node.ReplaceInPlace(parent.index, ChildValue(block)));
  ++parent.index;
  return InsertAt(tx, path, 1, neighbour_first, ChildValue(neighbour.block()));
}

absl::Status BTree::Detach(Transaction& tx, const Key& key, Block block, uint32_t level) {
  ASSIGN_OR_RETURN(const BTreeStorage::Root root, storage_->GetRoot(tx));
  if (root.block == block && root.height == level + 1) {
    ASSIGN_OR_RETURN(const Block fresh, storage_->AllocateNode(tx, 0));
    return Format(tx, fresh);
  }
  if (root.height < 1 || root.height > kMaxHeight || level + 1 >= root.height) {
    return absl::NotFoundError(absl::StrCat("the tree has no node ", block, " of level ", level));
  }
  // The lowest node above it that keeps something, and the nodes between.
  Step keeper;
  uint32_t keeper_level = root.height - 1;
  std::vector<Block> single;
  Block at = root.block;
  for (uint32_t height = root.height - 1; height > level; --height) {
    ASSIGN_OR_RETURN(const NodeView node, ReadNode(tx, at, height));
    ASSIGN_OR_RETURN(const uint32_t index, node.ChildFor(key));
    if (node.count() > 1 || height == root.height - 1) {
      keeper = {at, index};
      keeper_level = height;
      single.clear();
    } else {
      single.push_back(at);
    }
    ASSIGN_OR_RETURN(at, node.ChildAt(index));
  }
  if (at != block) return absl::NotFoundError(absl::StrCat("node ", block, " hangs elsewhere by now"));
  for (const Block node : single) RETURN_IF_ERROR(storage_->FreeNode(tx, node));
  RETURN_IF_ERROR(RemoveChild(tx, keeper.block, keeper_level, keeper.index));
  const absl::Status shrunk = ShrinkRoot(tx);
  // The child that became the root may be damaged, too: that shows when the tree is read again.
  return absl::IsDataLoss(shrunk) ? absl::OkStatus() : shrunk;
}

absl::Status BTree::ShrinkRoot(Transaction& tx) {
  ASSIGN_OR_RETURN(BTreeStorage::Root root, GetRoot(tx));
  while (root.height > 1) {
    ASSIGN_OR_RETURN(const NodeView node, ReadNode(tx, root.block, root.height - 1));
    if (node.count() > 1) return absl::OkStatus();
    if (node.count() == 0) {
      ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(root.block));
      NodeEditor::Format(bytes, root.block, 0, storage_->NodeVolume());
      return storage_->SetRoot(tx, {root.block, 1});
    }
    ASSIGN_OR_RETURN(const Block child, node.ChildAt(0));
    RETURN_IF_ERROR(storage_->FreeNode(tx, root.block));
    root = {child, root.height - 1};
    RETURN_IF_ERROR(storage_->SetRoot(tx, root));
  }
  return absl::OkStatus();
}

}  // namespace stagefs::volume

// Fuzzes nodes of the tree. An input makes a node out of items, or of nothing, damages it, and then reads and changes
// it. No node, however damaged, makes anything read or write beyond its block; a node that CheckAll() takes stays good
// under changes and holds what a map would.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fs/volume/btree_node.h"
#include "sal/check.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/require.h"

namespace stagefs::volume {
namespace {

constexpr core::Block kBlock = 7;

Key AnyKey(fuzz::Input& input) { return {input.Byte(), static_cast<uint8_t>(input.Byte() % 4), input.Byte()}; }

std::string AnyValue(fuzz::Input& input, uint32_t level) {
  const uint8_t how = input.Byte();
  if (level > 0) return std::string(kChildBytes, static_cast<char>(how));
  return std::string(how < 250 ? how : BTree::kMaxValueBytes, static_cast<char>(how));
}

// The items of a good node.
std::map<Key, std::string> ItemsOf(const NodeView& node) {
  std::map<Key, std::string> items;
  for (uint32_t i = 0; i < node.count(); ++i) {
    const absl::StatusOr<BTree::Item> item = node.ItemAt(i);
    fuzz::RequireOk(item.status(), "reading an item of a good node");
    items.emplace(item->key, std::string(item->value));
  }
  return items;
}

// Reads all that can be asked for. Errors are fine, except where `good`.
void ReadAll(const NodeView& node, const Key& key, bool good) {
  STAGEFS_CHECK(node.count() <= kMaxNodeItems);
  const absl::StatusOr<uint32_t> bound = node.LowerBound(key);
  STAGEFS_CHECK(!bound.ok() || *bound <= node.count());
  const absl::StatusOr<uint32_t> child = node.ChildFor(key);
  STAGEFS_CHECK(!child.ok() || *child < node.count());
  std::vector<absl::Status> results = {bound.status()};
  for (uint32_t i = 0; i < node.count(); ++i) {
    results.push_back(node.KeyAt(i).status());
    const absl::StatusOr<BTree::Item> item = node.ItemAt(i);
    results.push_back(item.status());
    // So that the sanitizer sees each byte.
    if (item.ok()) STAGEFS_CHECK(std::string(item->value).size() <= BTree::kMaxValueBytes);
    if (node.level() > 0) results.push_back(node.ChildAt(i).status());
  }
  for (const absl::Status& result : results) STAGEFS_CHECK(result.ok() || (!good && absl::IsDataLoss(result)));
}

// One change, to the node and, if that is good, to what it should hold. False: the node said DataLoss.
bool Change(fuzz::Input& input, NodeEditor& node, std::map<Key, std::string>* model) {
  const uint8_t what = input.Byte() % 5;
  const Key key = AnyKey(input);
  const uint32_t index = node.count() == 0 ? 0 : static_cast<uint32_t>(input.Below(node.count()));
  if (what == 0) {
    const std::string value = AnyValue(input, node.level());
    const absl::StatusOr<uint32_t> place = node.LowerBound(key);
    if (!place.ok()) return false;
    if (!node.HasRoomFor(value.size()) || (model != nullptr && model->contains(key))) return true;
    if (!node.Insert(*place, key, value).ok()) return false;
    if (model != nullptr) model->emplace(key, value);
    return true;
  }
  if (index >= node.count()) return true;
  const absl::StatusOr<BTree::Item> item = node.ItemAt(index);
  if (!item.ok()) return false;
  const Key old_key = item->key;
  if (what == 1) {
    if (!node.Remove(index).ok()) return false;
    if (model != nullptr) model->erase(old_key);
  } else if (what == 2) {
    const size_t size = node.level() > 0 ? kChildBytes : input.Below(item->value.size() + 1);
    const std::string value(size, static_cast<char>(input.Byte()));
    if (!node.ReplaceInPlace(index, value).ok()) return false;
    if (model != nullptr) (*model)[old_key] = value;
  } else if (what == 3 && index == 0 && key < old_key) {
    if (!node.SetKey(index, key).ok()) return false;
    if (model != nullptr) {
      auto moved = model->extract(old_key);
      moved.key() = key;
      model->insert(std::move(moved));
    }
  } else if (what == 4) {
    if (!node.Truncate(index).ok()) return false;
    if (model != nullptr) model->erase(model->lower_bound(old_key), model->end());
  }
  return true;
}

void Fuzz(fuzz::Input input) {
  // On the heap and of exactly a block, so that the sanitizer sees what leaves it.
  const auto bytes = std::make_unique<std::byte[]>(core::kBlockBytes);
  const uint32_t level = input.Byte() % 3;
  NodeEditor made = NodeEditor::Format(bytes.get(), kBlock, level, /*volume=*/1);
  std::map<Key, std::string> model;
  for (int items = input.Byte() % 64; items > 0; --items) Change(input, made, &model);
  fuzz::RequireOk(made.CheckAll(), "the check of a node that was made by changes");
  STAGEFS_CHECK(ItemsOf(made) == model);
  for (int patches = input.Byte() % 8; patches > 0; --patches) {
    fuzz::Patch(input, absl::MakeSpan(bytes.get(), core::kBlockBytes));
  }

  absl::StatusOr<NodeEditor> node = NodeEditor::Open(bytes.get(), kBlock, level);
  STAGEFS_CHECK(node.ok() || absl::IsDataLoss(node.status()));
  if (!node.ok()) return;
  const bool good = node->CheckAll().ok();
  if (good) model = ItemsOf(*node);
  ReadAll(*node, AnyKey(input), good);
  while (!input.empty()) {
    const bool changed = Change(input, *node, good ? &model : nullptr);
    STAGEFS_CHECK(changed || !good);
    if (!changed) break;
  }
  if (good) {
    fuzz::RequireOk(node->CheckAll(), "the check of a good node after changes");
    STAGEFS_CHECK(ItemsOf(*node) == model);
  }
  ReadAll(*node, AnyKey(input), good);
}

}  // namespace
}  // namespace stagefs::volume

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::volume::Fuzz({data, size});
  return 0;
}

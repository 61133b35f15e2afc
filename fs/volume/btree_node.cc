#include "fs/volume/btree_node.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/bytes.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::volume {

namespace {

using core::kBlockBytes;
using core::Load;
using core::Store;

Key LoadKey(const std::byte* cell) {
  return {Load<uint64_t>(cell), Load<uint8_t>(cell + 8), Load<uint64_t>(cell + 9)};
}

void StoreKey(std::byte* cell, const Key& key) {
  Store<uint64_t>(cell, key.ino);
  Store<uint8_t>(cell + 8, key.kind);
  Store<uint64_t>(cell + 9, key.offset);
}

uint64_t ValueBytes(const std::byte* cell) { return Load<uint16_t>(cell + 17); }

absl::string_view ValueOf(const std::byte* cell) {
  return {reinterpret_cast<const char*>(cell) + kCellHeaderBytes, ValueBytes(cell)};
}

}  // namespace

absl::Status NodeView::Corrupt(absl::string_view what) const {
  return absl::DataLossError(absl::StrCat("tree node in block ", block_, ": ", what));
}

uint64_t NodeView::volume() const { return Load<uint64_t>(bytes_ + kNodeVolumeOffset); }

void NodeView::LoadHeader() {
  level_ = Load<uint16_t>(bytes_ + kNodeLevelOffset);
  count_ = Load<uint16_t>(bytes_ + kNodeCountOffset);
  heap_ = Load<uint16_t>(bytes_ + kNodeHeapOffset);
  garbage_ = Load<uint16_t>(bytes_ + kNodeGarbageOffset);
}

absl::StatusOr<NodeView> NodeView::Open(const std::byte* bytes, core::Block block, uint32_t level) {
  NodeView node(bytes, block);
  const auto magic = Load<uint32_t>(bytes + kNodeMagicOffset);
  if (magic != kNodeMagic) return node.Corrupt(absl::StrCat("magic is ", absl::Hex(magic)));
  const auto own_block = Load<uint64_t>(bytes + kNodeBlockOffset);
  if (own_block != block) return node.Corrupt(absl::StrCat("it says that it is block ", own_block));
  node.LoadHeader();
  if (node.level_ != level) return node.Corrupt(absl::StrCat("level is ", node.level_, ", not ", level));
  if (node.count_ > kMaxNodeItems) return node.Corrupt(absl::StrCat("it counts ", node.count_, " items"));
  if (node.heap_ < kNodeHeaderBytes + kSlotBytes * node.count_ || node.heap_ > kBlockBytes) {
    return node.Corrupt(absl::StrCat("cells begin at ", node.heap_, " with ", node.count_, " items"));
  }
  if (node.garbage_ + (kCellHeaderBytes * node.count_) > kBlockBytes - node.heap_) {
    return node.Corrupt(absl::StrCat("it counts ", node.garbage_, " unused bytes"));
  }
  return node;
}

const std::byte* NodeView::CellAt(uint32_t index) const {
  const uint32_t offset = Load<uint16_t>(bytes_ + kNodeHeaderBytes + kSlotBytes * index);
  if (offset < heap_ || offset > kBlockBytes - kCellHeaderBytes) return nullptr;
  return bytes_ + offset;
}

bool NodeView::ValueInBounds(const std::byte* cell) const {
  const uint64_t value_bytes = ValueBytes(cell);
  if (level_ > 0 ? value_bytes != kChildBytes : value_bytes > BTree::kMaxValueBytes) return false;
  return static_cast<uint64_t>(cell - bytes_) + kCellHeaderBytes + value_bytes <= kBlockBytes;
}

absl::StatusOr<uint32_t> NodeView::LowerBound(const Key& key) const {
  uint32_t low = 0, high = count_;
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    const std::byte* cell = CellAt(middle);
    if (cell == nullptr) return Corrupt(absl::StrCat("item ", middle, " is out of bounds"));
    if (LoadKey(cell) < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

absl::StatusOr<uint32_t> NodeView::ChildFor(const Key& key) const {
  uint32_t low = 0, high = count_;
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    const std::byte* cell = CellAt(middle);
    if (cell == nullptr) return Corrupt(absl::StrCat("item ", middle, " is out of bounds"));
    if (LoadKey(cell) <= key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (count_ == 0) return Corrupt("an inner node without children");
  return low == 0 ? 0 : low - 1;
}

absl::StatusOr<Key> NodeView::KeyAt(uint32_t index) const {
  const std::byte* cell = CellAt(index);
  if (cell == nullptr) return Corrupt(absl::StrCat("item ", index, " is out of bounds"));
  return LoadKey(cell);
}

absl::StatusOr<BTree::Item> NodeView::ItemAt(uint32_t index) const {
  const std::byte* cell = CellAt(index);
  if (cell == nullptr || !ValueInBounds(cell)) return Corrupt(absl::StrCat("item ", index, " is out of bounds"));
  return BTree::Item{LoadKey(cell), ValueOf(cell)};
}

absl::StatusOr<core::Block> NodeView::ChildAt(uint32_t index) const {
  const std::byte* cell = CellAt(index);
  if (cell == nullptr || !ValueInBounds(cell)) return Corrupt(absl::StrCat("item ", index, " is out of bounds"));
  return Load<uint64_t>(cell + kCellHeaderBytes);
}

absl::Status NodeView::CheckAll() const {
  if (Load<uint32_t>(bytes_ + kNodeReserved1Offset) != 0) return Corrupt("reserved bytes are not zero");
  uint64_t cell_bytes = 0;
  std::vector<std::pair<uint32_t, uint32_t>> places;  // offset, end
  places.reserve(count_);
  Key previous;
  for (uint32_t i = 0; i < count_; ++i) {
    ASSIGN_OR_RETURN(const BTree::Item item, ItemAt(i));
    if (i > 0 && item.key <= previous) return Corrupt(absl::StrCat("the key of item ", i, " does not ascend"));
    previous = item.key;
    const auto offset = static_cast<uint32_t>(CellAt(i) - bytes_);
    const auto length = static_cast<uint32_t>(kCellHeaderBytes + item.value.size());
    places.emplace_back(offset, offset + length);
    cell_bytes += length;
  }
  if (cell_bytes + garbage_ + heap_ != kBlockBytes) {
    return Corrupt(absl::StrCat(cell_bytes, " bytes of cells, ", garbage_, " unused, beginning at ", heap_));
  }
  std::sort(places.begin(), places.end());
  for (size_t i = 1; i < places.size(); ++i) {
    if (places[i].first < places[i - 1].second) return Corrupt("cells overlap");
  }
  return absl::OkStatus();
}

absl::StatusOr<NodeEditor> NodeEditor::Open(std::byte* bytes, core::Block block, uint32_t level) {
  RETURN_IF_ERROR(NodeView::Open(bytes, block, level).status());
  NodeEditor node(bytes, block);
  node.LoadHeader();
  return node;
}

NodeEditor NodeEditor::Format(std::byte* bytes, core::Block block, uint32_t level, uint64_t volume) {
  std::memset(bytes, 0, kBlockBytes);
  Store<uint32_t>(bytes + kNodeMagicOffset, kNodeMagic);
  Store<uint16_t>(bytes + kNodeLevelOffset, static_cast<uint16_t>(level));
  Store<uint16_t>(bytes + kNodeHeapOffset, kBlockBytes);
  Store<uint64_t>(bytes + kNodeBlockOffset, block);
  Store<uint64_t>(bytes + kNodeVolumeOffset, volume);
  NodeEditor node(bytes, block);
  node.LoadHeader();
  return node;
}

void NodeEditor::SetVolume(uint64_t volume) { Store<uint64_t>(mutable_bytes_ + kNodeVolumeOffset, volume); }

void NodeEditor::StoreHeader() {
  Store<uint16_t>(mutable_bytes_ + kNodeCountOffset, static_cast<uint16_t>(count_));
  Store<uint16_t>(mutable_bytes_ + kNodeHeapOffset, static_cast<uint16_t>(heap_));
  Store<uint16_t>(mutable_bytes_ + kNodeGarbageOffset, static_cast<uint16_t>(garbage_));
}

absl::Status NodeEditor::Compact() {
  RETURN_IF_ERROR(CheckAll());
  std::array<std::byte, kBlockBytes> old;
  std::memcpy(old.data(), bytes_, kBlockBytes);
  heap_ = kBlockBytes;
  for (uint32_t i = 0; i < count_; ++i) {
    std::byte* slot = mutable_bytes_ + kNodeHeaderBytes + kSlotBytes * i;
    const std::byte* cell = old.data() + Load<uint16_t>(slot);
    const uint64_t cell_bytes = kCellHeaderBytes + ValueBytes(cell);
    heap_ -= cell_bytes;
    std::memcpy(mutable_bytes_ + heap_, cell, cell_bytes);
    Store<uint16_t>(slot, static_cast<uint16_t>(heap_));
  }
  garbage_ = 0;
  StoreHeader();
  return absl::OkStatus();
}

absl::Status NodeEditor::Insert(uint32_t index, const Key& key, absl::string_view value) {
  STAGEFS_CHECK(index <= count_ && HasRoomFor(value.size()));
  const uint64_t cell_bytes = kCellHeaderBytes + value.size();
  if (kNodeHeaderBytes + kSlotBytes * (count_ + 1) + cell_bytes > heap_) RETURN_IF_ERROR(Compact());
  heap_ -= cell_bytes;
  std::byte* cell = mutable_bytes_ + heap_;
  StoreKey(cell, key);
  Store<uint16_t>(cell + 17, static_cast<uint16_t>(value.size()));
  if (!value.empty()) std::memcpy(cell + kCellHeaderBytes, value.data(), value.size());
  std::byte* slot = mutable_bytes_ + kNodeHeaderBytes + kSlotBytes * index;
  std::memmove(slot + kSlotBytes, slot, kSlotBytes * (count_ - index));
  Store<uint16_t>(slot, static_cast<uint16_t>(heap_));
  ++count_;
  StoreHeader();
  return absl::OkStatus();
}

absl::Status NodeEditor::Remove(uint32_t index) {
  STAGEFS_CHECK(index < count_);
  ASSIGN_OR_RETURN(const BTree::Item item, ItemAt(index));
  const uint64_t cell_bytes = kCellHeaderBytes + item.value.size();
  if (garbage_ + cell_bytes > kBlockBytes - heap_) return Corrupt("it counts too many unused bytes");
  if (CellAt(index) == bytes_ + heap_) {
    heap_ += cell_bytes;
  } else {
    garbage_ += cell_bytes;
  }
  std::byte* slot = mutable_bytes_ + kNodeHeaderBytes + kSlotBytes * index;
  std::memmove(slot, slot + kSlotBytes, kSlotBytes * (count_ - index - 1));
  --count_;
  if (count_ == 0) {
    heap_ = kBlockBytes;
    garbage_ = 0;
  }
  StoreHeader();
  return absl::OkStatus();
}

absl::Status NodeEditor::ReplaceInPlace(uint32_t index, absl::string_view value) {
  ASSIGN_OR_RETURN(const BTree::Item item, ItemAt(index));
  STAGEFS_CHECK(value.size() <= item.value.size());
  std::byte* cell = mutable_bytes_ + (CellAt(index) - bytes_);
  const uint64_t spare = item.value.size() - value.size();
  if (!value.empty()) std::memmove(cell + kCellHeaderBytes, value.data(), value.size());
  if (spare > 0) {
    if (garbage_ + spare > kBlockBytes - heap_) return Corrupt("it counts too many unused bytes");
    Store<uint16_t>(cell + 17, static_cast<uint16_t>(value.size()));
    garbage_ += spare;
    StoreHeader();
  }
  return absl::OkStatus();
}

absl::Status NodeEditor::SetKey(uint32_t index, const Key& key) {
  RETURN_IF_ERROR(KeyAt(index).status());
  StoreKey(mutable_bytes_ + (CellAt(index) - bytes_), key);
  return absl::OkStatus();
}

absl::Status NodeEditor::Truncate(uint32_t count) {
  STAGEFS_CHECK(count <= count_);
  // From the end, so that no slots move.
  while (count_ > count) RETURN_IF_ERROR(Remove(count_ - 1));
  return absl::OkStatus();
}

}  // namespace stagefs::volume

#include "fs/volume/check_tree.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/bytes.h"
#include "fs/volume/allocator.h"
#include "fs/volume/btree_node.h"
#include "fs/volume/check_context.h"
#include "fs/volume/check_reader.h"
#include "fs/volume/check_used.h"
#include "fs/volume/format.h"
#include "fs/volume/header.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using core::Load;
using core::Transaction;

constexpr uint64_t kGroupBlocks = AllocationLayout::kGroupBlocks;

struct Salvaged {
  Key key;
  std::string value;
};

// The item in slot `index` of a leaf whose header may be wrong.
std::optional<Salvaged> SalvageItem(const std::byte* bytes, uint64_t index) {
  const uint64_t slot = kNodeHeaderBytes + kSlotBytes * index;
  const uint64_t at = Load<uint16_t>(bytes + slot);
  if (at < slot + kSlotBytes || at > kBlockBytes - kCellHeaderBytes) return std::nullopt;
  const std::byte* cell = bytes + at;
  const uint64_t value_bytes = Load<uint16_t>(cell + 17);
  if (value_bytes > BTree::kMaxValueBytes || at + kCellHeaderBytes + value_bytes > kBlockBytes) return std::nullopt;
  return Salvaged{{Load<uint64_t>(cell), Load<uint8_t>(cell + 8), Load<uint64_t>(cell + 9)},
                  std::string(reinterpret_cast<const char*>(cell) + kCellHeaderBytes, value_bytes)};
}

// How many items a damaged leaf has. Its count may be what is wrong: if the bytes of another number of items add up
// with the other fields, it is that.
uint64_t SalvageCount(const std::byte* bytes) {
  const uint64_t counted = std::min<uint64_t>(Load<uint16_t>(bytes + kNodeCountOffset), kMaxNodeItems);
  const uint64_t rest = uint64_t{Load<uint16_t>(bytes + kNodeHeapOffset)} + Load<uint16_t>(bytes + kNodeGarbageOffset);
  uint64_t sum = rest;
  uint64_t fitting = rest == kBlockBytes ? 0 : kMaxNodeItems + 1;
  for (uint64_t i = 0; i < kMaxNodeItems; ++i) {
    const std::optional<Salvaged> item = SalvageItem(bytes, i);
    if (!item.has_value()) break;
    sum += kCellHeaderBytes + item->value.size();
    if (sum == kBlockBytes && (fitting > kMaxNodeItems || i + 1 == counted)) fitting = i + 1;
  }
  return fitting <= kMaxNodeItems ? fitting : counted;
}

// What can be told of the items of a leaf: those in bounds whose keys ascend.
std::vector<Salvaged> SalvageItems(const std::byte* bytes) {
  std::vector<Salvaged> all;
  for (uint64_t i = 0, count = SalvageCount(bytes); i < count; ++i) {
    if (std::optional<Salvaged> item = SalvageItem(bytes, i)) all.push_back(*std::move(item));
  }
  std::vector<Salvaged> good;
  for (size_t i = 0; i < all.size(); ++i) {
    const auto follows = [&](const Salvaged& item) { return good.empty() || good.back().key < item.key; };
    // One key that is too high must not cost all those behind it.
    const bool too_high = i + 1 < all.size() && all[i + 1].key <= all[i].key && follows(all[i + 1]);
    if (follows(all[i]) && !too_high) good.push_back(std::move(all[i]));
  }
  return good;
}

bool IsLeafOf(const std::byte* bytes, Block block, uint64_t volume) {
  return IsNodeOf(bytes, block, volume) && Load<uint16_t>(bytes + kNodeLevelOffset) == 0;
}

// Whether a damaged block that a parent of leaves leads to is its leaf: one field that names it may be wrong. What has
// values of eight bytes only is an inner node.
bool IsDamagedLeaf(const std::byte* bytes, Block block, uint64_t volume, const std::vector<Salvaged>& items) {
  const int fitting = (Load<uint32_t>(bytes + kNodeMagicOffset) == kNodeMagic ? 1 : 0) +
                      (Load<uint64_t>(bytes + kNodeBlockOffset) == block ? 1 : 0) +
                      (Load<uint64_t>(bytes + kNodeVolumeOffset) == volume ? 1 : 0) +
                      (Load<uint16_t>(bytes + kNodeLevelOffset) == 0 ? 1 : 0);
  return fitting >= 3 && std::any_of(items.begin(), items.end(),
                                     [](const Salvaged& item) { return item.value.size() != kChildBytes; });
}

// Puts items into the tree whose keys it does not have.
absl::Status Pour(CheckContext& context, Transaction& tx, const std::vector<Salvaged>& items) {
  for (const Salvaged& item : items) {
    ASSIGN_OR_RETURN(const std::optional<absl::string_view> found, context.tree().Find(tx, item.key));
    if (!found.has_value()) RETURN_IF_ERROR(context.tree().Put(tx, item.key, item.value));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> HangsInTree(CheckContext& context, Transaction& tx, const Key& key, Block leaf) {
  const absl::StatusOr<Block> found = context.tree().LeafFor(tx, key);
  if (absl::IsDataLoss(found.status())) return false;
  RETURN_IF_ERROR(found.status());
  return *found == leaf;
}

absl::Status SetGathering(Transaction& tx, bool gathering) {
  return UpdateHeader(tx, [&](VolumeHeader& header) {
    header.flags = gathering ? header.flags | kHeaderGathering : header.flags & ~kHeaderGathering;
  });
}

absl::Status TakeOut(CheckContext& context, Transaction& tx, const WalkBatch::BadNode& bad) {
  const bool may_be_node = context.layout().IsUsable({bad.block, 1});
  std::vector<Salvaged> items;
  bool leaf = false;  // what is lost, is lost with this block alone
  if (may_be_node && bad.level == 0) {
    const absl::StatusOr<const std::byte*> bytes = tx.Read(bad.block);
    if (!bytes.ok() && !absl::IsDataLoss(bytes.status())) return bytes.status();
    if (bytes.ok()) items = SalvageItems(*bytes);
    leaf = !bytes.ok() || IsDamagedLeaf(*bytes, bad.block, context.header().hash_seed, items);
  }
  RETURN_IF_ERROR(context.tree().Detach(tx, bad.low, bad.block, bad.level));
  if (!leaf) return SetGathering(tx, true);  // the pointer may be what is wrong
  if (items.empty()) return absl::OkStatus();
  // A second pointer may lead to a good leaf: then the one that belongs here hangs nowhere.
  ASSIGN_OR_RETURN(const bool hangs, HangsInTree(context, tx, items.front().key, bad.block));
  if (hangs) return SetGathering(tx, true);
  RETURN_IF_ERROR(Pour(context, tx, items));
  return context.FreeNodeIfInUse(tx, bad.block);
}

absl::Status NameVolume(CheckContext& context, Transaction& tx, const WalkBatch::BadNode& bad) {
  ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(bad.block));
  ASSIGN_OR_RETURN(NodeEditor node, NodeEditor::Open(bytes, bad.block, bad.level));
  node.SetVolume(context.header().hash_seed);
  return absl::OkStatus();
}

class Gatherer {
 public:
  explicit Gatherer(CheckContext& context) : context_(context) {}

  absl::Status Run() {
    context_.SetStep(0.1, 0.4);
    const uint64_t groups = context_.layout().group_count();
    for (uint64_t group = 0; group < groups; group += context_.window_groups()) {
      UsedMap used(group, std::min(context_.window_groups(), groups - group));
      RETURN_IF_ERROR(Claim(used));
      for (uint64_t i = used.first_group(); i < used.end_group(); ++i) {
        RETURN_IF_ERROR(LookAtGroup(used, i));
        context_.Progress(static_cast<double>(i) / static_cast<double>(groups));
      }
    }
    if (failed_) return absl::OkStatus();  // the next repair goes on
    return context_.Fix([](Transaction& tx) { return SetGathering(tx, false); });
  }

 private:
  absl::Status Claim(UsedMap& used) {
    return context_.WalkBatches(Key{}, [&](const WalkBatch& batch) -> absl::StatusOr<bool> {
      for (const WalkBatch::Node& node : batch.nodes()) used.Take({node.block, 1});
      for (size_t i = 0; i < batch.item_count(); ++i) {
        if (batch.key(i).kind != kKindExtent || batch.key(i).ino == 0) continue;
        const absl::StatusOr<Extent> extent = DecodeExtent(batch.value(i));
        if (extent.ok()) used.Take({extent->home, extent->count});
      }
      return true;
    });
  }

  absl::Status LookAtGroup(const UsedMap& used, uint64_t group) {
    std::vector<uint64_t> bits(UsedMap::kWordsPerGroup);
    RETURN_IF_ERROR(context_.Run([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(AllocationLayout::BitmapBlock(group)));
      std::memcpy(bits.data(), bytes, kBlockBytes);
      return absl::OkStatus();
    }));
    for (uint64_t i = 0; i < bits.size(); ++i) bits[i] &= ~used.GroupWords(group)[i];
    const auto unclaimed = [&](uint64_t i) { return (bits[i / 64] >> (i % 64) & 1) != 0; };
    const uint64_t blocks = context_.layout().BlocksIn(group);
    for (uint64_t i = 0; i < blocks;) {
      if (bits[i / 64] == 0) {
        i = (i / 64 + 1) * 64;
        continue;
      }
      uint64_t end = i;
      while (end < blocks && end - i < BlockReader::kMaxBlocks && unclaimed(end)) ++end;
      if (end > i) RETURN_IF_ERROR(LookAt({group * kGroupBlocks + i, end - i}));
      i = std::max(end, i + 1);
    }
    return absl::OkStatus();
  }

  absl::Status LookAt(BlockRange range) {
    const absl::Status status = reader_.Read(context_.engine(), range);
    if (absl::IsDataLoss(status) && range.count > 1) {
      for (uint64_t i = 0; i < range.count; ++i) RETURN_IF_ERROR(LookAt({range.first + i, 1}));
      return absl::OkStatus();
    }
    if (absl::IsDataLoss(status)) return absl::OkStatus();
    RETURN_IF_ERROR(status);
    for (uint64_t i = 0; i < range.count; ++i) {
      if (!IsLeafOf(reader_.block(i), range.first + i, context_.header().hash_seed)) continue;
      RETURN_IF_ERROR(PutBack(range.first + i));
    }
    return absl::OkStatus();
  }

  absl::Status PutBack(Block block) {
    const absl::Status status = context_.Run([&](Transaction& tx) { return PutBackIn(tx, block); });
    if (absl::IsFailedPrecondition(status)) return status;
    if (status.ok()) context_.CountFix();
    failed_ = failed_ || !status.ok();
    return absl::OkStatus();
  }

  absl::Status PutBackIn(Transaction& tx, Block block) {
    ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(block));
    if (!IsLeafOf(bytes, block, context_.header().hash_seed)) return absl::OkStatus();
    const std::vector<Salvaged> items = SalvageItems(bytes);
    if (items.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const bool hangs, HangsInTree(context_, tx, items.front().key, block));
    if (hangs) return absl::OkStatus();
    const absl::StatusOr<NodeView> node = NodeView::Open(bytes, block, 0);
    if (node.ok() && node->CheckAll().ok()) {
      const absl::Status attached = context_.tree().AttachLeaf(tx, block);
      if (!absl::IsAlreadyExists(attached)) return attached;
    }
    RETURN_IF_ERROR(Pour(context_, tx, items));
    return context_.FreeNodeIfInUse(tx, block);
  }

  CheckContext& context_;
  BlockReader reader_;
  bool failed_ = false;  // some leaf could not be put back
};

}  // namespace

bool IsNodeOf(const std::byte* bytes, Block block, uint64_t volume) {
  return Load<uint32_t>(bytes + kNodeMagicOffset) == kNodeMagic && Load<uint64_t>(bytes + kNodeBlockOffset) == block &&
         Load<uint64_t>(bytes + kNodeVolumeOffset) == volume;
}

absl::Status MendNode(CheckContext& context, const WalkBatch::BadNode& bad) {
  return context.Fix([&](Transaction& tx) {
    return bad.usable ? NameVolume(context, tx, bad) : TakeOut(context, tx, bad);
  });
}

absl::Status GatherLeaves(CheckContext& context) { return Gatherer(context).Run(); }

}  // namespace stagefs::volume

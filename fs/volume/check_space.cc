// The part of a check that looks at blocks: nodes, extents, bitmaps, summaries, the free count.

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/allocator_bitmap.h"
#include "fs/volume/check_context.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using core::Transaction;

constexpr uint64_t kGroupBlocks = AllocationLayout::kGroupBlocks;
constexpr uint64_t kWordsPerGroup = kGroupBlocks / 64;
constexpr uint64_t kGroupsPerBody = 64;
// How many extents one round drops; the next one goes on.
constexpr size_t kMaxDrops = 4096;
constexpr uint64_t kMaxFileBlocks = uint64_t{1} << 51;

// Which blocks of a window of whole groups are used.
class UsedMap {
 public:
  UsedMap(uint64_t first_group, uint64_t group_count)
      : first_(first_group * kGroupBlocks), words_(group_count * kWordsPerGroup) {}

  BlockRange window() const { return {first_, words_.size() * 64}; }
  // The part of `range` in the window.
  BlockRange Clip(BlockRange range) const {
    const Block begin = std::max(range.first, first_);
    const Block end = std::min(range.end(), window().end());
    return {begin, end > begin ? end - begin : 0};
  }
  // Marks `range`, clipped. False, and nothing marked, if some of it is marked already.
  bool Take(BlockRange range) {
    const BlockRange part = Clip(range);
    for (Block block = part.first; block < part.end(); ++block) {
      if ((Word(block) >> (block % 64) & 1) != 0) return false;
    }
    for (Block block = part.first; block < part.end(); ++block) Word(block) |= uint64_t{1} << (block % 64);
    return true;
  }
  const uint64_t* GroupWords(uint64_t group) const { return &words_[(group * kGroupBlocks - first_) / 64]; }

 private:
  uint64_t& Word(Block block) { return words_[(block - first_) / 64]; }

  Block first_;
  std::vector<uint64_t> words_;
};

using GroupBits = std::vector<uint64_t>;

// A group's bitmap as it lies on the device.
struct GroupOnDisk {
  GroupBits bits;
  uint64_t summary = 0;
  std::string damage;  // the bitmap cannot be read
};

class SpaceCheck {
 public:
  explicit SpaceCheck(CheckContext& context) : context_(context), layout_(context.layout()) {}

  absl::StatusOr<bool> Run() {
    const uint64_t window_groups = std::max<uint64_t>(1, context_.options().window_blocks / kGroupBlocks);
    const uint64_t groups = layout_.group_count();
    for (uint64_t group = 0; group < groups; group += window_groups) {
      const auto part = [&](uint64_t at) { return static_cast<double>(at) / static_cast<double>(groups); };
      context_.SetStep(0.4 * part(group), 0.4 * part(std::min(groups, group + window_groups)));
      UsedMap used(group, std::min(window_groups, groups - group));
      RETURN_IF_ERROR(MarkNodes(used, group == 0));
      RETURN_IF_ERROR(MarkExtents(used, group == 0));
      RETURN_IF_ERROR(CompareGroups(used));
    }
    RETURN_IF_ERROR(CheckFreeCount());
    return MendTree();
  }

 private:
  absl::Status MarkNodes(UsedMap& used, bool first_window) {
    return context_.WalkBatches(Key{}, [&](const WalkBatch& batch) -> absl::StatusOr<bool> {
      for (const WalkBatch::Node& node : batch.nodes()) {
        if (first_window) ++context_.report().nodes;
        if (used.Take({node.block, 1})) continue;
        context_.Report(ProblemKind::kNode, absl::StrCat("block ", node.block), "the tree uses this node twice");
        context_.TreeIsNotWhole();
      }
      if (!first_window) return true;
      for (const WalkBatch::BadNode& bad : batch.bad_nodes()) {
        context_.Report(ProblemKind::kNode, absl::StrCat("block ", bad.block),
                        absl::StrCat("tree node of level ", bad.level, ": ", bad.what));
        bad_nodes_.push_back(bad);
        context_.TreeIsNotWhole();
      }
      return true;
    });
  }

  absl::Status MarkExtents(UsedMap& used, bool first_window) {
    uint64_t ino = 0, end = 0;
    return context_.WalkItems(Key{1, 0, 0}, Key{~uint64_t{0}, 0xff, ~uint64_t{0}},
                              [&](const Key& key, absl::string_view value) -> absl::StatusOr<bool> {
      if (key.kind != kKindExtent) return true;
      if (first_window) {
        ++context_.report().extents;
        context_.Progress(static_cast<double>(key.ino) / static_cast<double>(context_.header().next_ino));
      }
      if (key.ino != ino) end = 0;
      ino = key.ino;
      const absl::StatusOr<Extent> extent = DecodeExtent(value);
      if (!extent.ok()) {
        if (first_window) Drop(key, extent.status().message());
        return true;
      }
      const BlockRange home{extent->home, extent->count};
      if (!layout_.IsUsable(home)) {
        if (first_window) Drop(key, absl::StrCat("home blocks ", home.first, " +", home.count, " are not for files"));
      } else if (key.offset < end || key.offset > kMaxFileBlocks) {
        if (first_window) Drop(key, "it overlaps the extent before it, or lies beyond the largest file");
      } else if (!used.Take(home)) {
        Drop(key, absl::StrCat("home blocks ", home.first, " +", home.count, " are used by something else, too"));
      } else {
        end = key.offset + extent->count;
      }
      return true;
    });
  }

  void Drop(const Key& key, absl::string_view why) {
    context_.Report(ProblemKind::kExtent, absl::StrCat("inode ", key.ino),
                    absl::StrCat("the extent at its block ", key.offset, " is wrong: ", why));
    if (drops_.size() < kMaxDrops) drops_.push_back(key);
  }

  absl::Status ReadGroups(uint64_t first, uint64_t count, std::vector<GroupOnDisk>* groups) {
    return context_.Run([&, first, count](Transaction& tx) -> absl::Status {
      groups->assign(count, {});
      for (uint64_t i = 0; i < count; ++i) {
        tx.Prefetch(AllocationLayout::BitmapBlock(first + i));
        tx.Prefetch(AllocationLayout::SummaryBlock(first + i));
      }
      for (uint64_t i = 0; i < count; ++i) {
        GroupOnDisk& group = (*groups)[i];
        const auto bits = tx.Read(AllocationLayout::BitmapBlock(first + i));
        const auto summary = tx.Read(AllocationLayout::SummaryBlock(first + i));
        for (const absl::Status& status : {bits.status(), summary.status()}) {
          if (absl::IsDataLoss(status)) {
            group.damage = std::string(status.message());
          } else {
            RETURN_IF_ERROR(status);
          }
        }
        group.bits.resize(kWordsPerGroup);
        if (bits.ok()) std::memcpy(group.bits.data(), *bits, kBlockBytes);
        uint16_t in_use = 0;
        if (summary.ok()) std::memcpy(&in_use, *summary + AllocationLayout::SummaryOffset(first + i), sizeof(in_use));
        group.summary = in_use;
      }
      return absl::OkStatus();
    });
  }

  absl::Status CompareGroups(const UsedMap& used) {
    const uint64_t first = used.window().first / kGroupBlocks;
    const uint64_t end = std::min(layout_.group_count(), used.window().end() / kGroupBlocks);
    std::vector<GroupOnDisk> groups;
    for (uint64_t at = first; at < end; at += kGroupsPerBody) {
      const uint64_t count = std::min(kGroupsPerBody, end - at);
      RETURN_IF_ERROR(ReadGroups(at, count, &groups));
      for (uint64_t i = 0; i < count; ++i) RETURN_IF_ERROR(CompareGroup(at + i, used, groups[i]));
    }
    return absl::OkStatus();
  }

  absl::Status CompareGroup(uint64_t group, const UsedMap& used, const GroupOnDisk& on_disk) {
    const uint64_t* expected = used.GroupWords(group);
    const uint64_t blocks = layout_.BlocksIn(group);
    GroupBits target(kWordsPerGroup);
    uint64_t missing = 0, leaked = 0, in_use = 0, stray = 0;
    // While some of the tree is unknown, so is what it uses: nothing is said to be free that was not.
    const uint64_t keep = context_.tree_whole() ? 0 : ~uint64_t{0};
    for (uint64_t i = 0; i < kWordsPerGroup; ++i) {
      const uint64_t valid = blocks >= 64 * (i + 1) ? ~uint64_t{0}
                             : blocks <= 64 * i     ? 0
                                                    : (uint64_t{1} << (blocks % 64)) - 1;
      const uint64_t bits = on_disk.bits[i] & valid;
      stray += static_cast<uint64_t>(std::popcount(on_disk.bits[i] & ~valid));
      target[i] = expected[i] | (bits & keep);
      missing += static_cast<uint64_t>(std::popcount(target[i] & ~bits));
      leaked += static_cast<uint64_t>(std::popcount(bits & ~target[i]));
      in_use += static_cast<uint64_t>(std::popcount(target[i]));
    }
    used_blocks_ += in_use;
    const bool damaged = !on_disk.damage.empty();
    if (!damaged && missing == 0 && leaked == 0 && stray == 0 && on_disk.summary == in_use) return absl::OkStatus();
    context_.Report(ProblemKind::kSpace, absl::StrCat("group ", group),
                    damaged ? absl::StrCat("its bitmap or its summary cannot be read: ", on_disk.damage)
                            : absl::StrCat(missing, " used blocks are marked free, ", leaked,
                                           " free ones in use, the summary counts ", on_disk.summary, " of ", in_use));
    // Without the bitmap nobody knows what the unknown part of the tree uses.
    if (!context_.may_fix() || (damaged && !context_.tree_whole())) return absl::OkStatus();
    return context_.Fix([&, group, in_use](Transaction& tx) { return MendGroup(tx, group, on_disk, target, in_use); });
  }

  absl::Status MendGroup(Transaction& tx, uint64_t group, const GroupOnDisk& on_disk, const GroupBits& target,
                         uint64_t in_use) {
    const Block bitmap_block = AllocationLayout::BitmapBlock(group);
    const Block summary_block = AllocationLayout::SummaryBlock(group);
    // A damaged block is good again when all of it was overwritten. Of a summary this loses the counts of its other
    // groups, which this round and the next mend.
    for (const Block block : {bitmap_block, summary_block}) {
      if (on_disk.damage.empty() || !absl::IsDataLoss(tx.Read(block).status())) continue;
      RETURN_IF_ERROR(tx.Zero(block * kBlockBytes, kBlockBytes));
    }
    ASSIGN_OR_RETURN(std::byte* bitmap, tx.Modify(bitmap_block));
    std::memcpy(bitmap, target.data(), kBlockBytes);
    ASSIGN_OR_RETURN(std::byte* summary, tx.Modify(summary_block));
    const auto count = static_cast<uint16_t>(in_use);
    std::memcpy(summary + AllocationLayout::SummaryOffset(group), &count, sizeof(count));
    // What was marked in use for nobody is let go the way everything is: the engine may still know it.
    const auto leaked = [&](uint64_t i) { return (on_disk.bits[i / 64] & ~target[i / 64]) >> (i % 64) & 1; };
    const uint64_t blocks = layout_.BlocksIn(group);
    for (uint64_t i = 0; i < blocks;) {
      if (i % 64 == 0 && (on_disk.bits[i / 64] & ~target[i / 64]) == 0) {
        i += 64;
        continue;
      }
      if (leaked(i) == 0 || AllocationLayout::IsReserved(group, i)) {
        ++i;
        continue;
      }
      uint64_t end = i + 1;
      while (end < blocks && leaked(end) != 0 && !AllocationLayout::IsReserved(group, end)) ++end;
      const BlockRange range{group * kGroupBlocks + i, end - i};
      RETURN_IF_ERROR(tx.Zero(range.first * kBlockBytes, range.count * kBlockBytes));
      tx.Release(range);
      i = end;
    }
    return absl::OkStatus();
  }

  absl::Status CheckFreeCount() {
    constexpr Block kBlock = AllocationLayout::kFreeCountAddress / kBlockBytes;
    constexpr uint64_t kOffset = AllocationLayout::kFreeCountAddress % kBlockBytes;
    const uint64_t usable = layout_.usable_blocks();
    const uint64_t free = usable - std::min(usable, used_blocks_);
    context_.report().free_blocks = free;
    context_.report().used_blocks = layout_.capacity_blocks() - free;
    uint64_t counted = 0;
    RETURN_IF_ERROR(context_.Run([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(kBlock));
      std::memcpy(&counted, bytes + kOffset, sizeof(counted));
      return absl::OkStatus();
    }));
    if (counted == free) return absl::OkStatus();
    context_.Report(ProblemKind::kSpace, "volume",
                    absl::StrCat("it counts ", counted, " free blocks, there are ", free));
    if (!context_.may_fix()) return absl::OkStatus();
    return context_.Fix([free](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(kBlock));
      std::memcpy(bytes + kOffset, &free, sizeof(free));
      return absl::OkStatus();
    });
  }

  // Drops what makes no sense. The bitmaps fit what is used now, so the tree may allocate and free; what the dropped
  // pieces used becomes free in the next round. True: something was dropped.
  absl::StatusOr<bool> MendTree() {
    if (!context_.may_fix()) return false;
    const uint64_t before = context_.fixes();
    for (const WalkBatch::BadNode& bad : bad_nodes_) {
      if (bad.level == 0) RETURN_IF_ERROR(context_.Fix([&](Transaction& tx) { return context_.tree().Detach(tx, bad.low, bad.block, 0); }));
    }
    for (const Key& key : drops_) {
      RETURN_IF_ERROR(context_.Fix([&](Transaction& tx) { return context_.EraseItem(tx, key); }));
    }
    return context_.fixes() > before;
  }

  CheckContext& context_;
  const AllocationLayout& layout_;
  uint64_t used_blocks_ = 0;
  std::vector<Key> drops_;
  std::vector<WalkBatch::BadNode> bad_nodes_;
};

}  // namespace

absl::StatusOr<bool> CheckSpace(CheckContext& context) { return SpaceCheck(context).Run(); }

}  // namespace stagefs::volume

// The part of a check that looks at blocks: nodes, extents, bitmaps, summaries, the free count.

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "fs/volume/allocator_bitmap.h"
#include "fs/volume/check_context.h"
#include "fs/volume/check_extents.h"
#include "fs/volume/check_tree.h"
#include "fs/volume/check_used.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using core::Transaction;

constexpr uint64_t kGroupBlocks = AllocationLayout::kGroupBlocks;
constexpr uint64_t kWordsPerGroup = UsedMap::kWordsPerGroup;
constexpr uint64_t kGroupsPerBody = 64;
// How many damaged nodes and extents one round remembers and mends; the next one goes on.
constexpr size_t kMaxRemembered = 16384;
constexpr uint64_t kMaxFileBlocks = uint64_t{1} << 51;

using GroupBits = std::vector<uint64_t>;

// What lies on the device of a group.
struct GroupOnDisk {
  GroupBits bits;
  uint64_t summary = 0;
  std::string bitmap_damage, summary_damage;  // why it cannot be read
};

std::string ToString(BlockRange range) {
  return range.count == 1 ? absl::StrCat("home block ", range.first)
                          : absl::StrCat("home blocks ", range.first, " to ", range.end() - 1);
}

class SpaceCheck {
 public:
  explicit SpaceCheck(CheckContext& context) : context_(context), layout_(context.layout()) {}

  // True: the tree was mended.
  absl::StatusOr<bool> Run() {
    if ((context_.header().flags & kHeaderGathering) != 0) {
      context_.Report(ProblemKind::kNode, "volume", "a repair that puts the tree together from its leaves is not over");
      context_.TreeIsNotWhole();
    }
    const uint64_t groups = layout_.group_count();
    for (uint64_t group = 0; group < groups; group += context_.window_groups()) {
      const auto part = [&](uint64_t at) { return static_cast<double>(at) / static_cast<double>(groups); };
      UsedMap used(group, std::min(context_.window_groups(), groups - group));
      context_.SetStep(0.4 * part(used.first_group()), 0.4 * part(used.end_group()));
      RETURN_IF_ERROR(MarkNodes(used));
      RETURN_IF_ERROR(MarkExtents(used));
      RETURN_IF_ERROR(CompareGroups(used));
    }
    RETURN_IF_ERROR(CheckFreeCount());
    return MendTree();
  }

 private:
  static bool IsFirst(const UsedMap& used) { return used.first_group() == 0; }

  absl::Status MarkNodes(UsedMap& used) {
    const bool first = IsFirst(used);
    return context_.WalkBatches(Key{}, [&](const WalkBatch& batch) -> absl::StatusOr<bool> {
      for (const WalkBatch::Node& node : batch.nodes()) {
        if (first) ++context_.report().nodes;
        if (used.Take({node.block, 1}).empty()) continue;
        context_.Report(ProblemKind::kNode, absl::StrCat("block ", node.block), "the tree uses this node twice");
        context_.TreeIsNotWhole();
      }
      if (!first) return true;
      for (const WalkBatch::BadNode& bad : batch.bad_nodes()) {
        context_.Report(ProblemKind::kNode, absl::StrCat("block ", bad.block),
                        absl::StrCat("tree node of level ", bad.level, ": ", bad.what));
        if (bad_nodes_.size() < kMaxRemembered) bad_nodes_.push_back(bad);
        if (!bad.usable) context_.TreeIsNotWhole();
      }
      return true;
    });
  }

  absl::Status MarkExtents(UsedMap& used) {
    const bool first = IsFirst(used);
    uint64_t ino = 0, end = 0;
    return context_.WalkItems(Key{1, 0, 0}, Key{~uint64_t{0}, 0xff, ~uint64_t{0}},
                              [&](const Key& key, absl::string_view value) -> absl::StatusOr<bool> {
      if (key.kind != kKindExtent) return true;
      if (first) {
        ++context_.report().extents;
        context_.Progress(static_cast<double>(key.ino) / static_cast<double>(context_.header().next_ino));
      }
      if (key.ino != ino) end = 0;
      ino = key.ino;
      const absl::StatusOr<Extent> extent = DecodeExtent(value);
      if (!extent.ok()) {
        if (first) Bad({.key = key, .drop_blocks = ~uint64_t{0}}, extent.status().message());
        return true;
      }
      const BlockRange home{extent->home, extent->count};
      if (!layout_.IsUsable(home)) {
        if (first) Bad({.key = key, .drop_blocks = ~uint64_t{0}}, absl::StrCat(ToString(home), " are not for files"));
        return true;
      }
      if (key.offset > kMaxFileBlocks - extent->count) {
        if (first) Bad({.key = key, .drop_blocks = ~uint64_t{0}}, "it lies beyond the largest file");
        return true;
      }
      const uint64_t overlap = key.offset < end ? end - key.offset : 0;
      end = std::max(end, key.offset + extent->count);
      if (overlap > 0) {
        if (first) {
          Bad({.key = key, .drop_blocks = overlap}, absl::StrCat("the one before it ends at ", key.offset + overlap));
        }
        if (overlap < extent->count) used.Take({home.first + overlap, home.count - overlap});
        return true;
      }
      std::vector<BlockRange> shared = used.Take(home);
      if (shared.empty()) return true;
      std::string which = ToString(shared.front());
      if (shared.size() > 1) absl::StrAppend(&which, " and ", shared.size() - 1, " more runs");
      Bad({.key = key, .drop_blocks = 0, .shared = std::move(shared)},
          absl::StrCat("its ", which, shared.size() > 1 ? " are" : " is", " used by something else, too"));
      return true;
    });
  }

  void Bad(BadExtent bad, absl::string_view why) {
    context_.Report(ProblemKind::kExtent, absl::StrCat("inode ", bad.key.ino),
                    absl::StrCat("the extent at its block ", bad.key.offset, " is wrong: ", why));
    if (bad_extents_.size() < kMaxRemembered) bad_extents_.push_back(std::move(bad));
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
        if (!bits.ok() && !absl::IsDataLoss(bits.status())) return bits.status();
        if (!summary.ok() && !absl::IsDataLoss(summary.status())) return summary.status();
        group.bits.resize(kWordsPerGroup);
        uint16_t in_use = 0;
        if (bits.ok()) {
          std::memcpy(group.bits.data(), *bits, kBlockBytes);
        } else {
          group.bitmap_damage = std::string(bits.status().message());
        }
        if (summary.ok()) {
          std::memcpy(&in_use, *summary + AllocationLayout::SummaryOffset(first + i), sizeof(in_use));
        } else {
          group.summary_damage = std::string(summary.status().message());
        }
        group.summary = in_use;
      }
      return absl::OkStatus();
    });
  }

  absl::Status CompareGroups(const UsedMap& used) {
    const uint64_t end = std::min(layout_.group_count(), used.end_group());
    std::vector<GroupOnDisk> groups;
    for (uint64_t at = used.first_group(); at < end; at += kGroupsPerBody) {
      const uint64_t count = std::min(kGroupsPerBody, end - at);
      RETURN_IF_ERROR(ReadGroups(at, count, &groups));
      for (uint64_t i = 0; i < count; ++i) RETURN_IF_ERROR(CompareGroup(at + i, used, groups[i]));
    }
    return absl::OkStatus();
  }

  // A summary that cannot be read is said once, not for each of its groups.
  void ReportDamage(uint64_t group, const GroupOnDisk& on_disk) {
    const Block summary = AllocationLayout::SummaryBlock(group);
    if (!on_disk.summary_damage.empty() && summary != damaged_summary_) {
      damaged_summary_ = summary;
      context_.Report(ProblemKind::kSpace, absl::StrCat("block ", summary),
                      absl::StrCat("the summary of the groups from ", group, " on cannot be read: ",
                                   on_disk.summary_damage));
    }
    if (!on_disk.bitmap_damage.empty()) {
      context_.Report(ProblemKind::kSpace, absl::StrCat("group ", group),
                      absl::StrCat("its bitmap cannot be read: ", on_disk.bitmap_damage));
    }
  }

  absl::Status CompareGroup(uint64_t group, const UsedMap& used, const GroupOnDisk& on_disk) {
    const uint64_t* expected = used.GroupWords(group);
    const uint64_t blocks = layout_.BlocksIn(group);
    GroupBits target(kWordsPerGroup);
    uint64_t missing = 0, leaked = 0, in_use = 0, stray = 0;
    // While some of the tree is unknown, so is what it uses: nothing is said to be free that was not. Where the bitmap
    // is lost, too, all may be in use.
    const uint64_t keep = context_.tree_whole() ? 0 : ~uint64_t{0};
    const bool no_bitmap = !on_disk.bitmap_damage.empty();
    for (uint64_t i = 0; i < kWordsPerGroup; ++i) {
      uint64_t valid = blocks >= 64 * (i + 1) ? ~uint64_t{0}
                       : blocks <= 64 * i     ? 0
                                              : (uint64_t{1} << (blocks % 64)) - 1;
      for (uint64_t k = 0; i == 0 && k < AllocationLayout::kMaxReserved; ++k) {
        if (AllocationLayout::IsReserved(group, k)) valid &= ~(uint64_t{1} << k);
      }
      const uint64_t bits = (no_bitmap ? ~uint64_t{0} : on_disk.bits[i]) & valid;
      if (!no_bitmap) stray += static_cast<uint64_t>(std::popcount(on_disk.bits[i] & ~valid));
      target[i] = expected[i] | (bits & keep);
      missing += static_cast<uint64_t>(std::popcount(target[i] & ~bits));
      leaked += no_bitmap ? 0 : static_cast<uint64_t>(std::popcount(bits & ~target[i]));
      in_use += static_cast<uint64_t>(std::popcount(target[i]));
    }
    used_blocks_ += in_use;
    ReportDamage(group, on_disk);
    const bool no_summary = !on_disk.summary_damage.empty();
    const bool wrong = missing > 0 || leaked > 0 || stray > 0 || (!no_summary && on_disk.summary != in_use);
    if (!wrong && !no_bitmap && !no_summary) return absl::OkStatus();
    if (wrong && !no_bitmap) {
      std::vector<std::string> what;
      if (missing > 0) what.push_back(absl::StrCat(missing, " used blocks are marked free"));
      if (leaked > 0) what.push_back(absl::StrCat(leaked, " free blocks are marked in use"));
      if (stray > 0) what.push_back(absl::StrCat(stray, " bits are set that stand for no block"));
      if (!no_summary && on_disk.summary != in_use) {
        what.push_back(absl::StrCat("the summary counts ", on_disk.summary, " blocks in use, there are ", in_use));
      }
      context_.Report(ProblemKind::kSpace, absl::StrCat("group ", group), absl::StrJoin(what, ", "));
    }
    if (!context_.may_fix()) return absl::OkStatus();
    return context_.Fix([&, group, in_use](Transaction& tx) { return MendGroup(tx, group, on_disk, target, in_use); });
  }

  absl::Status MendGroup(Transaction& tx, uint64_t group, const GroupOnDisk& on_disk, const GroupBits& target,
                         uint64_t in_use) {
    const Block bitmap_block = AllocationLayout::BitmapBlock(group);
    const Block summary_block = AllocationLayout::SummaryBlock(group);
    // A damaged block is good again when all of it was overwritten. Of a summary this loses the counts of its other
    // groups, which this round and the next mend.
    for (const Block block : {bitmap_block, summary_block}) {
      if (on_disk.bitmap_damage.empty() && on_disk.summary_damage.empty()) break;
      const absl::Status status = tx.Read(block).status();
      if (status.ok()) continue;
      if (!absl::IsDataLoss(status)) return status;
      RETURN_IF_ERROR(tx.Zero(block * kBlockBytes, kBlockBytes));
    }
    ASSIGN_OR_RETURN(std::byte* bitmap, tx.Modify(bitmap_block));
    std::memcpy(bitmap, target.data(), kBlockBytes);
    ASSIGN_OR_RETURN(std::byte* summary, tx.Modify(summary_block));
    const auto count = static_cast<uint16_t>(in_use);
    std::memcpy(summary + AllocationLayout::SummaryOffset(group), &count, sizeof(count));
    // What somebody turned out to use is taken the way everything is, unless it has content that must stay.
    for (uint64_t i = 0; i < layout_.BlocksIn(group); ++i) {
      if (i % 64 == 0 && (target[i / 64] & ~on_disk.bits[i / 64]) == 0) {
        i += 63;
        continue;
      }
      if (((target[i / 64] & ~on_disk.bits[i / 64]) >> (i % 64) & 1) == 0) continue;
      const Block block = group * kGroupBlocks + i;
      ASSIGN_OR_RETURN(const bool never_written, tx.NeverWritten(block));
      if (never_written && !tx.Quarantined({block, 1}).has_value()) {
        RETURN_IF_ERROR(tx.Zero(block * kBlockBytes, kBlockBytes));
      }
    }
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
    if (context_.header_block() != kHeaderBlock) return absl::OkStatus();  // reported with the header
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

  // The bitmaps fit what is used now, so the tree may allocate and free; what the dropped pieces used becomes free in a
  // later round. True: something was mended.
  absl::StatusOr<bool> MendTree() {
    const uint64_t before = context_.fixes();
    if (!context_.may_fix()) return false;
    for (const WalkBatch::BadNode& bad : bad_nodes_) RETURN_IF_ERROR(MendNode(context_, bad));
    if (context_.fixes() > before) return true;
    if ((context_.header().flags & kHeaderGathering) != 0) RETURN_IF_ERROR(GatherLeaves(context_));
    if (!context_.may_fix_items()) return context_.fixes() > before;
    for (const BadExtent& bad : bad_extents_) RETURN_IF_ERROR(MendExtent(context_, bad));
    return context_.fixes() > before;
  }

  CheckContext& context_;
  const AllocationLayout& layout_;
  uint64_t used_blocks_ = 0;
  Block damaged_summary_ = 0;
  std::vector<BadExtent> bad_extents_;
  std::vector<WalkBatch::BadNode> bad_nodes_;
};

}  // namespace

absl::StatusOr<bool> CheckSpace(CheckContext& context) { return SpaceCheck(context).Run(); }

}  // namespace stagefs::volume

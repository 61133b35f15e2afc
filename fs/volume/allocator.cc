#include "fs/volume/allocator.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/bytes.h"
#include "fs/volume/allocator_bitmap.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::volume {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using core::Load;
using core::Store;
using core::Transaction;

namespace {

// How many bitmaps are loaded along with one that is missed.
constexpr uint64_t kPrefetchGroups = 8;
// A piece at the goal is taken rather than a longer one elsewhere from this length on.
constexpr uint64_t kWorthwhileBlocks = 16;

constexpr uint64_t kFreeCountOffset = AllocationLayout::kFreeCountAddress % kBlockBytes;

std::string ToString(BlockRange range) { return absl::StrCat("blocks ", range.first, " to ", range.end() - 1); }

}  // namespace

AllocationLayout::AllocationLayout(uint64_t capacity_blocks)
    : capacity_blocks_(capacity_blocks),
      group_count_(capacity_blocks / kGroupBlocks + (capacity_blocks % kGroupBlocks >= kMaxReserved ? 1 : 0)) {}

uint64_t AllocationLayout::BlocksIn(uint64_t group) const {
  return std::min(kGroupBlocks, capacity_blocks_ - group * kGroupBlocks);
}

uint64_t AllocationLayout::usable_blocks() const {
  if (group_count_ == 0) return 0;
  const uint64_t blocks = (group_count_ - 1) * kGroupBlocks + BlocksIn(group_count_ - 1);
  const uint64_t summaries = (group_count_ - 1) / kSummaryGroups + 1;
  // The header, and both places of its copy.
  const uint64_t headers = group_count_ > 1 ? 3 : 2;
  return blocks - group_count_ - summaries - headers;
}

bool AllocationLayout::IsUsable(BlockRange range) const {
  if (range.count == 0 || range.count > capacity_blocks_ || range.first > capacity_blocks_ - range.count) return false;
  const uint64_t last_group = GroupOf(range.end() - 1);
  if (last_group >= group_count_) return false;
  for (uint64_t group = GroupOf(range.first); group <= last_group; ++group) {
    for (const uint64_t index : {kBitmapIndex, kHeaderIndex, kSummaryIndex, kNearCopyIndex}) {
      const Block block = group * kGroupBlocks + index;
      if (block >= range.first && block < range.end() && IsReserved(group, index)) return false;
    }
  }
  return true;
}

Allocator::Allocator(uint64_t capacity_blocks, Block count_block)
    : layout_(capacity_blocks),
      count_block_(count_block),
      // In the smallest volumes data and metadata share a group: data begins a little behind.
      data_rotor_(layout_.group_count() > 1 ? kGroupBlocks : capacity_blocks / 8) {}

uint64_t Allocator::reserve_blocks() const {
  const uint64_t capacity = layout_.capacity_blocks();
  return std::min(std::clamp<uint64_t>(capacity / 100, 256, 16384), capacity / 8);
}

absl::Status Allocator::Format(Transaction& tx) {
  if (layout_.capacity_blocks() < kMinCapacityBlocks) {
    return absl::InvalidArgumentError(absl::StrCat("a volume of ", layout_.capacity_blocks(), " blocks is too small"));
  }
  ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(count_block_));
  Store<uint64_t>(bytes + kFreeCountOffset, layout_.usable_blocks());
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Allocator::FreeBlocks(Transaction& tx) {
  ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(count_block_));
  const auto count = Load<uint64_t>(bytes + kFreeCountOffset);
  if (count > layout_.usable_blocks()) {
    return absl::DataLossError(absl::StrCat("the volume counts ", count, " free blocks, more than it has"));
  }
  return count;
}

absl::StatusOr<uint64_t> Allocator::CountFreeBlocks(Transaction& tx) const {
  uint64_t free = 0;
  for (uint64_t group = 0; group < layout_.group_count(); ++group) {
    ASSIGN_OR_RETURN(const std::byte* summary, tx.Read(AllocationLayout::SummaryBlock(group)));
    free += FreeBySummary(summary, group);
  }
  return free;
}

absl::Status Allocator::AddToFreeCount(Transaction& tx, int64_t delta) {
  ASSIGN_OR_RETURN(const uint64_t count, FreeBlocks(tx));
  const uint64_t sum = count + static_cast<uint64_t>(delta);
  if ((delta < 0 && sum > count) || sum > layout_.usable_blocks()) {
    return absl::DataLossError(absl::StrCat("the volume counts ", count, " free blocks, which does not fit ", delta));
  }
  ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(count_block_));
  Store<uint64_t>(bytes + kFreeCountOffset, sum);
  return absl::OkStatus();
}

uint64_t Allocator::FreeBySummary(const std::byte* summary, uint64_t group) const {
  const uint64_t used = Load<uint16_t>(summary + AllocationLayout::SummaryOffset(group));
  const uint64_t usable = layout_.UsableIn(group);
  return used < usable ? usable - used : 0;
}

bool Allocator::Search::Over() const {
  if (best.count >= wanted) return true;
  return groups_seen >= (best.count > 0 ? kGroupsForWanted : kGroupsForMinimum);
}

absl::Status Allocator::SearchAt(Transaction& tx, Block goal, Search* search) {
  const uint64_t group = AllocationLayout::GroupOf(goal);
  const uint64_t index = goal % kGroupBlocks;
  ASSIGN_OR_RETURN(const std::byte* bits, tx.Read(AllocationLayout::BitmapBlock(group)));
  const AllocatorBitmap bitmap(bits, group, layout_.BlocksIn(group));
  if (bitmap.NextFree(index) != index) return absl::OkStatus();
  BlockRange piece{goal, std::min(bitmap.NextInUse(index) - index, search->wanted)};
  const std::optional<BlockRange> quarantined = tx.Quarantined(piece);
  if (quarantined.has_value()) piece.count = quarantined->first - piece.first;
  if (piece.count < std::max(search->minimum, std::min(search->wanted, kWorthwhileBlocks))) return absl::OkStatus();
  search->best = piece;
  search->wanted = piece.count;
  return absl::OkStatus();
}

absl::Status Allocator::SearchGroup(Transaction& tx, uint64_t group, uint64_t from, Search* search) {
  ++search->groups_seen;
  ASSIGN_OR_RETURN(const std::byte* bits, tx.Read(AllocationLayout::BitmapBlock(group)));
  const AllocatorBitmap bitmap(bits, group, layout_.BlocksIn(group));
  const std::array<std::pair<uint64_t, uint64_t>, 2> parts = {{{from, layout_.BlocksIn(group)}, {0, from}}};
  for (const auto& [begin, end] : parts) {
    uint64_t index = begin;
    while (true) {
      index = bitmap.NextFree(index);
      if (index >= end) break;
      const uint64_t run_end = bitmap.NextInUse(index);
      BlockRange run{group * kGroupBlocks + index, run_end - index};
      // A run that is no better than what we have is not worth asking about.
      while (run.count >= search->minimum && run.count > search->best.count) {
        const std::optional<BlockRange> quarantined = tx.Quarantined(run);
        const uint64_t good = quarantined.has_value() ? quarantined->first - run.first : run.count;
        if (good >= search->minimum && good > search->best.count) {
          search->best = {run.first, std::min(good, search->wanted)};
          if (search->best.count == search->wanted) return absl::OkStatus();
        }
        if (!quarantined.has_value()) break;
        run = {quarantined->end(), run.end() - quarantined->end()};
      }
      index = run_end;
    }
  }
  return absl::OkStatus();
}

absl::Status Allocator::SearchGroups(Transaction& tx, uint64_t start, bool metadata_groups, Search* search) {
  const uint64_t count = layout_.group_count();
  // Nothing is changed meanwhile, so a summary has to be asked for only once in a row.
  Block summary_block = 0;
  const std::byte* summary = nullptr;
  const auto is_candidate = [&](uint64_t group) -> absl::StatusOr<bool> {
    if (IsMetadataGroup(group) != metadata_groups || group == search->first_group) return false;
    if (AllocationLayout::SummaryBlock(group) != summary_block) {
      ASSIGN_OR_RETURN(summary, tx.Read(AllocationLayout::SummaryBlock(group)));
      summary_block = AllocationLayout::SummaryBlock(group);
    }
    const uint64_t free = FreeBySummary(summary, group);
    return free >= search->minimum && free > search->best.count;
  };
  uint64_t prefetched = 0;  // steps before it need no prefetch
  for (uint64_t step = 0; step < count && !search->Over(); ++step) {
    const uint64_t group = (start + step) % count;
    ASSIGN_OR_RETURN(const bool candidate, is_candidate(group));
    if (!candidate) continue;
    // The groups that come next, if this one has nothing: loaded together.
    if (prefetched <= step) {
      uint64_t found = 0;
      for (prefetched = step + 1; prefetched < count && found < kPrefetchGroups; ++prefetched) {
        const uint64_t next = (start + prefetched) % count;
        if (AllocationLayout::SummaryBlock(next) != summary_block) break;
        ASSIGN_OR_RETURN(const bool next_candidate, is_candidate(next));
        if (!next_candidate) continue;
        tx.Prefetch(AllocationLayout::BitmapBlock(next));
        ++found;
      }
    }
    RETURN_IF_ERROR(SearchGroup(tx, group, 0, search));
  }
  return absl::OkStatus();
}

absl::StatusOr<BlockRange> Allocator::Allocate(Transaction& tx, uint64_t wanted, uint64_t minimum, Block goal,
                                               SpaceUse use) {
  STAGEFS_CHECK(minimum >= 1 && minimum <= wanted);
  const uint64_t reserve = reserve_blocks();
  const uint64_t kept_back = use == SpaceUse::kData ? reserve : use == SpaceUse::kMetadata ? reserve / 2 : 0;
  ASSIGN_OR_RETURN(const uint64_t free, FreeBlocks(tx));
  if (free < kept_back + minimum) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no space: ", free, " blocks are free, ", kept_back, " kept back"));
  }
  Search search = {.wanted = std::min({wanted, free - kept_back, kGroupBlocks}), .minimum = minimum};
  const bool data = use == SpaceUse::kData;
  const bool has_goal = goal != 0 && AllocationLayout::GroupOf(goal) < layout_.group_count() &&
                        goal < layout_.capacity_blocks();
  const Block from = has_goal ? goal : data ? data_rotor_ : 0;
  const uint64_t group = AllocationLayout::GroupOf(from);
  tx.Prefetch(AllocationLayout::BitmapBlock(group));
  ASSIGN_OR_RETURN(const std::byte* summary, tx.Read(AllocationLayout::SummaryBlock(group)));
  if (FreeBySummary(summary, group) >= minimum) {
    if (has_goal) RETURN_IF_ERROR(SearchAt(tx, goal, &search));
    // The rotor never leads data to metadata's groups; a goal may.
    const bool may_share = has_goal || !data || !IsMetadataGroup(group) || layout_.group_count() == 1;
    if (!search.Over() && may_share) {
      search.first_group = group;
      RETURN_IF_ERROR(SearchGroup(tx, group, from % kGroupBlocks, &search));
    }
  }
  if (!search.Over()) RETURN_IF_ERROR(SearchGroups(tx, group, /*metadata_groups=*/!data, &search));
  // The other kind's groups only for want of anything else.
  if (search.best.count == 0) RETURN_IF_ERROR(SearchGroups(tx, group, /*metadata_groups=*/data, &search));
  if (search.best.count == 0) {
    return absl::ResourceExhaustedError(absl::StrCat("no space: no ", minimum, " free blocks in one piece were found"));
  }
  RETURN_IF_ERROR(Mark(tx, search.best, /*in_use=*/true));
  RETURN_IF_ERROR(AddToFreeCount(tx, -static_cast<int64_t>(search.best.count)));
  if (data && search.best.first != goal) {
    const Block next = search.best.end() < layout_.capacity_blocks() ? search.best.end() : 0;
    tx.OnAccept([this, next](core::Lsn) {
      data_rotor_ = AllocationLayout::GroupOf(next) < layout_.group_count() ? next : 0;
    });
  }
  return search.best;
}

absl::Status Allocator::Mark(Transaction& tx, BlockRange range, bool in_use) {
  const uint64_t group = AllocationLayout::GroupOf(range.first);
  const uint64_t first = range.first % kGroupBlocks;
  ASSIGN_OR_RETURN(std::byte* summary, tx.Modify(AllocationLayout::SummaryBlock(group)));
  std::byte* count = summary + AllocationLayout::SummaryOffset(group);
  const uint64_t before = Load<uint16_t>(count);
  const uint64_t after = in_use ? before + range.count : before - range.count;
  if (after > layout_.UsableIn(group)) {
    return absl::DataLossError(absl::StrCat("group ", group, " counts ", before, " blocks in use, which does not fit ",
                                            ToString(range)));
  }
  ASSIGN_OR_RETURN(std::byte* bits, tx.Modify(AllocationLayout::BitmapBlock(group)));
  AllocatorBitmap::Set(bits, in_use, first, first + range.count);
  Store<uint16_t>(count, static_cast<uint16_t>(after));
  return absl::OkStatus();
}

absl::Status Allocator::Take(Transaction& tx, BlockRange range) {
  if (!layout_.IsUsable(range) ||
      AllocationLayout::GroupOf(range.first) != AllocationLayout::GroupOf(range.end() - 1)) {
    return absl::FailedPreconditionError(absl::StrCat(ToString(range), " cannot be taken"));
  }
  const uint64_t group = AllocationLayout::GroupOf(range.first);
  ASSIGN_OR_RETURN(const std::byte* bits, tx.Read(AllocationLayout::BitmapBlock(group)));
  const uint64_t first = range.first % kGroupBlocks;
  if (!AllocatorBitmap(bits, group, layout_.BlocksIn(group)).AllAre(false, first, first + range.count)) {
    return absl::FailedPreconditionError(absl::StrCat(ToString(range), " are not all free"));
  }
  if (tx.Quarantined(range).has_value()) {
    return absl::ResourceExhaustedError(absl::StrCat(ToString(range), " cannot be used yet"));
  }
  RETURN_IF_ERROR(Mark(tx, range, /*in_use=*/true));
  return AddToFreeCount(tx, -static_cast<int64_t>(range.count));
}

absl::Status Allocator::Free(Transaction& tx, BlockRange range) {
  if (!layout_.IsUsable(range)) {
    return absl::DataLossError(absl::StrCat(ToString(range), " are freed, but not for files or nodes to have"));
  }
  for (uint64_t group = AllocationLayout::GroupOf(range.first); group <= AllocationLayout::GroupOf(range.end() - 1);
       ++group) {
    tx.Prefetch(AllocationLayout::SummaryBlock(group));
    tx.Prefetch(AllocationLayout::BitmapBlock(group));
  }
  for (Block at = range.first; at < range.end();) {
    const uint64_t group = AllocationLayout::GroupOf(at);
    const BlockRange part{at, std::min(range.end(), (group + 1) * kGroupBlocks) - at};
    ASSIGN_OR_RETURN(const std::byte* bits, tx.Read(AllocationLayout::BitmapBlock(group)));
    const uint64_t first = at % kGroupBlocks;
    if (!AllocatorBitmap(bits, group, layout_.BlocksIn(group)).AllAre(true, first, first + part.count)) {
      return absl::DataLossError(absl::StrCat(ToString(part), " are freed, but not all in use"));
    }
    RETURN_IF_ERROR(Mark(tx, part, /*in_use=*/false));
    at = part.end();
  }
  RETURN_IF_ERROR(AddToFreeCount(tx, static_cast<int64_t>(range.count)));
  tx.Release(range);
  return absl::OkStatus();
}

}  // namespace stagefs::volume

#include "fs/volume/file_map.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

constexpr uint64_t kAllRuns = ~uint64_t{0};

// The extents of `ino` that overlap [first, end), whole, ascending; at most `max_extents` of them.
absl::StatusOr<FileRuns> ExtentsIn(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t first, uint64_t end,
                                   uint64_t max_extents) {
  FileRuns extents;
  absl::Status status;
  const auto take = [&](const BTree::Item& item) {
    const absl::StatusOr<Extent> extent = DecodeExtent(item.value);
    if (!extent.ok()) {
      status = extent.status();
      return false;
    }
    const FileRun run = {.file_block = item.key.offset, .home = extent->home, .count = extent->count};
    if (run.home + run.count > state.capacity_blocks()) {
      status = absl::DataLossError(absl::StrCat("An extent of inode ", ino, " ends at home block ",
                                                run.home + run.count, " of ", state.capacity_blocks()));
      return false;
    }
    if (run.end() > first) extents.push_back(run);
    return extents.size() < max_extents && run.end() < end;
  };
  bool more = true;
  ASSIGN_OR_RETURN(const std::optional<BTree::Item> before, state.tree().AtOrBefore(tx, ExtentKey(ino, first)));
  if (before.has_value() && before->key.ino == ino && before->key.kind == kKindExtent) more = take(*before);
  if (more && first + 1 < end) {
    RETURN_IF_ERROR(state.tree().Scan(tx, ExtentKey(ino, first + 1), ExtentKey(ino, end - 1), take));
  }
  RETURN_IF_ERROR(status);
  return extents;
}

absl::Status PutExtent(VolumeState& state, core::Transaction& tx, Ino ino, const FileRun& run) {
  char bytes[kExtentBytes];
  EncodeExtent({.home = run.home, .count = static_cast<uint32_t>(run.count)}, bytes);
  return state.tree().Put(tx, ExtentKey(ino, run.file_block), absl::string_view(bytes, sizeof(bytes)));
}

}  // namespace

absl::StatusOr<FileRuns> MapRange(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t first, uint64_t end,
                                  uint64_t max_runs) {
  FileRuns runs;
  if (first >= end) return runs;
  ASSIGN_OR_RETURN(const FileRuns extents, ExtentsIn(state, tx, ino, first, end, max_runs));
  uint64_t at = first;
  for (const FileRun& extent : extents) {
    if (extent.file_block > at) runs.push_back({.file_block = at, .home = 0, .count = extent.file_block - at});
    const uint64_t from = std::max(at, extent.file_block);
    const uint64_t to = std::min(end, extent.end());
    runs.push_back({.file_block = from, .home = extent.home + (from - extent.file_block), .count = to - from});
    at = to;
  }
  if (at < end && extents.size() < max_runs) runs.push_back({.file_block = at, .home = 0, .count = end - at});
  return runs;
}

absl::StatusOr<FileRun> ExtentAt(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t file_block) {
  ASSIGN_OR_RETURN(const FileRuns extents, ExtentsIn(state, tx, ino, file_block, file_block + 1, 1));
  return extents.empty() ? FileRun() : extents.front();
}

absl::StatusOr<core::Block> GoalFor(VolumeState& state, core::Transaction& tx, Ino ino, uint64_t file_block) {
  if (file_block == 0) return 0;
  ASSIGN_OR_RETURN(const std::optional<BTree::Item> before,
                   state.tree().AtOrBefore(tx, ExtentKey(ino, file_block - 1)));
  if (!before.has_value() || before->key.ino != ino || before->key.kind != kKindExtent) return 0;
  ASSIGN_OR_RETURN(const Extent extent, DecodeExtent(before->value));
  return extent.home + std::min<uint64_t>(extent.count, file_block - before->key.offset);
}

absl::Status MapHole(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, uint64_t file_block,
                     core::BlockRange home) {
  FileRun run = {.file_block = file_block, .home = home.first, .count = home.count};
  ASSIGN_OR_RETURN(const FileRuns neighbours,
                   ExtentsIn(state, tx, ino, file_block == 0 ? 0 : file_block - 1, run.end() + 1, kAllRuns));
  inode->blocks += home.count;
  for (const FileRun& other : neighbours) {
    if (other.file_block < run.end() && run.file_block < other.end()) {
      return absl::DataLossError(absl::StrCat("Block ", file_block, " of inode ", ino, " is mapped twice"));
    }
    if (other.count + run.count > kMaxExtentBlocks) continue;
    if (other.end() == run.file_block && other.home + other.count == run.home) {
      run = {.file_block = other.file_block, .home = other.home, .count = other.count + run.count};
    } else if (run.end() == other.file_block && run.home + run.count == other.home) {
      RETURN_IF_ERROR(state.Erase(tx, ExtentKey(ino, other.file_block)));
      run.count += other.count;
    }
  }
  return PutExtent(state, tx, ino, run);
}

absl::StatusOr<uint64_t> Unmap(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, uint64_t first,
                               uint64_t end, RemovalBudget* budget) {
  if (first >= end || inode->blocks == 0) return end;
  ASSIGN_OR_RETURN(const FileRuns extents, ExtentsIn(state, tx, ino, first, end, budget->items + 1));
  // Each piece may need another group's bitmap: ask for all of them at once.
  for (const FileRun& extent : extents) {
    tx.Prefetch(AllocationLayout::BitmapBlock(AllocationLayout::GroupOf(extent.home)));
  }
  for (const FileRun& extent : extents) {
    const uint64_t from = std::max(first, extent.file_block);
    if (budget->items == 0 || budget->blocks == 0) return from;
    const uint64_t to = from + std::min(std::min(end, extent.end()) - from, budget->blocks);
    if (from > extent.file_block) {
      RETURN_IF_ERROR(PutExtent(state, tx, ino, {extent.file_block, extent.home, from - extent.file_block}));
    } else {
      RETURN_IF_ERROR(state.Erase(tx, ExtentKey(ino, extent.file_block)));
    }
    const core::Block home = extent.home + (from - extent.file_block);
    if (to < extent.end()) {
      RETURN_IF_ERROR(PutExtent(state, tx, ino, {to, home + (to - from), extent.end() - to}));
    }
    RETURN_IF_ERROR(state.allocator().Free(tx, {.first = home, .count = to - from}));
    if (inode->blocks < to - from) {
      return absl::DataLossError(absl::StrCat("Inode ", ino, " has more extents than blocks"));
    }
    inode->blocks -= to - from;
    budget->items -= 1;
    budget->blocks -= to - from;
    if (to < std::min(end, extent.end())) return to;
  }
  return end;
}

absl::StatusOr<uint64_t> FillHole(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode, uint64_t first,
                                  uint64_t count, uint64_t max_runs) {
  uint64_t at = first;
  for (uint64_t runs = 0; at < first + count && runs < max_runs; ++runs) {
    ASSIGN_OR_RETURN(const core::Block goal, GoalFor(state, tx, ino, at));
    const absl::StatusOr<core::BlockRange> range =
        state.allocator().Allocate(tx, first + count - at, 1, goal, SpaceUse::kData);
    if (absl::IsResourceExhausted(range.status()) && at > first) break;
    RETURN_IF_ERROR(range.status());
    RETURN_IF_ERROR(tx.Zero(range->first * core::kBlockBytes, range->count * core::kBlockBytes));
    RETURN_IF_ERROR(MapHole(state, tx, ino, inode, at, *range));
    at += range->count;
  }
  return at;
}

}  // namespace stagefs::volume

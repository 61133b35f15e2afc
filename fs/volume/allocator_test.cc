#include "fs/volume/allocator.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/allocator_bitmap.h"
#include "fs/volume/testing/memory_engine.h"
#include "gtest/gtest.h"
#include "sal/random.h"
#include "sal/simulated_environment.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using core::Transaction;
using testing::MemoryEngine;

constexpr uint64_t kGroup = AllocationLayout::kGroupBlocks;

class AllocatorTest : public ::testing::Test {
 protected:
  void Start(MemoryEngine::Options options) {
    engine_ = std::make_unique<MemoryEngine>(environment_, options);
    allocator_ = std::make_unique<Allocator>(options.capacity_blocks);
    used_.assign(options.capacity_blocks, false);
    ASSERT_TRUE(Run([this](Transaction& tx) { return allocator_->Format(tx); }).ok());
  }
  absl::Status Run(core::Engine::Body body) { return engine_->RunAndWait(std::move(body)).status(); }

  // Allocates and makes the blocks somebody's; checks that nobody had them.
  absl::StatusOr<BlockRange> Allocate(uint64_t wanted, uint64_t minimum = 1, Block goal = 0,
                                      SpaceUse use = SpaceUse::kData) {
    BlockRange range;
    RETURN_IF_ERROR(Run([&](Transaction& tx) {
      ASSIGN_OR_RETURN(range, allocator_->Allocate(tx, wanted, minimum, goal, use));
      return tx.Zero(range.first * kBlockBytes, range.count * kBlockBytes);
    }));
    EXPECT_GE(range.count, minimum);
    EXPECT_LE(range.count, wanted);
    EXPECT_TRUE(allocator_->layout().IsUsable(range));
    for (Block block = range.first; block < range.end(); ++block) {
      EXPECT_FALSE(used_[block]) << "block " << block << " was given twice";
      used_[block] = true;
    }
    return range;
  }
  absl::Status Free(BlockRange range) {
    RETURN_IF_ERROR(Run([&](Transaction& tx) { return allocator_->Free(tx, range); }));
    std::fill(used_.begin() + static_cast<int64_t>(range.first), used_.begin() + static_cast<int64_t>(range.end()),
              false);
    return absl::OkStatus();
  }
  uint64_t FreeBlocks() {
    uint64_t count = 0;
    EXPECT_TRUE(Run([&](Transaction& tx) {
                  ASSIGN_OR_RETURN(count, allocator_->FreeBlocks(tx));
                  return absl::OkStatus();
                }).ok());
    return count;
  }
  // Bitmaps, summaries and the free count say what the model says.
  void Verify() {
    const AllocationLayout& layout = allocator_->layout();
    const absl::Status status = Run([&](Transaction& tx) {
      uint64_t free = layout.usable_blocks();
      for (uint64_t group = 0; group < layout.group_count(); ++group) {
        ASSIGN_OR_RETURN(const std::byte* bits, tx.Read(AllocationLayout::BitmapBlock(group)));
        const AllocatorBitmap bitmap(bits, group, layout.BlocksIn(group));
        for (uint64_t i = 0; i < layout.BlocksIn(group); ++i) {
          if (bitmap.Bit(i) != used_[group * kGroup + i]) {
            return absl::InternalError(absl::StrCat("bit ", i, " of group ", group, " is wrong"));
          }
        }
        ASSIGN_OR_RETURN(const std::byte* summary, tx.Read(AllocationLayout::SummaryBlock(group)));
        uint16_t count;
        std::memcpy(&count, summary + AllocationLayout::SummaryOffset(group), 2);
        if (count != bitmap.Count()) return absl::InternalError(absl::StrCat("summary of group ", group, " is wrong"));
        free -= count;
      }
      ASSIGN_OR_RETURN(const uint64_t counted, allocator_->FreeBlocks(tx));
      if (counted != free) return absl::InternalError(absl::StrCat(counted, " free counted, not ", free));
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
  }
  // Takes everything in pieces of up to `wanted`, for `use`.
  std::vector<BlockRange> Fill(uint64_t wanted, SpaceUse use) {
    std::vector<BlockRange> ranges;
    while (true) {
      const absl::StatusOr<BlockRange> range = Allocate(wanted, 1, 0, use);
      if (!range.ok()) {
        EXPECT_TRUE(absl::IsResourceExhausted(range.status())) << range.status();
        return ranges;
      }
      ranges.push_back(*range);
    }
  }

  sal::SimulatedEnvironment environment_{1};
  std::unique_ptr<MemoryEngine> engine_;
  std::unique_ptr<Allocator> allocator_;
  std::vector<bool> used_;
};

TEST_F(AllocatorTest, NoBlockIsGivenTwiceUnderRandomChanges) {
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    sal::Random64 random(seed);
    const uint64_t capacities[] = {64, 700, 8192, kGroup + 2, kGroup + 3, 2 * kGroup + 5000};
    Start({.capacity_blocks = capacities[seed % 6],
           .seed = seed,
           .miss_probability = seed % 4 == 0 ? 0.4 : 0.0,
           .rerun_probability = 0.1,
           .durability = seed % 2 == 0 ? MemoryEngine::Durability::kAtOnce : MemoryEngine::Durability::kWhenAsked});
    std::vector<BlockRange> taken;
    for (int i = 0; i < 1500; ++i) {
      if (!taken.empty() && random.Below(100) < (i / 300 % 2 == 0 ? 30u : 70u)) {
        std::swap(taken[random.Below(taken.size())], taken.back());
        BlockRange range = taken.back();
        taken.pop_back();
        if (range.count > 1 && random.OneIn(2)) {  // a part of it
          const uint64_t part = random.Between(1, range.count - 1);
          taken.push_back({range.first + part, range.count - part});
          range.count = part;
        }
        ASSERT_TRUE(Free(range).ok());
      } else {
        const uint64_t wanted = random.OneIn(4) ? random.Between(1, 5000) : random.Between(1, 20);
        const Block goal = random.OneIn(3) ? 0 : taken.empty() ? random.Below(1 << 20) : taken.back().end();
        const auto range = Allocate(wanted, random.Between(1, std::min<uint64_t>(wanted, 16)), goal,
                                    static_cast<SpaceUse>(random.Below(3)));
        if (range.ok()) {
          taken.push_back(*range);
        } else {
          ASSERT_TRUE(absl::IsResourceExhausted(range.status())) << range.status();
        }
      }
      if (i % 300 == 299) Verify();
    }
    for (const BlockRange& range : taken) ASSERT_TRUE(Free(range).ok());
    Verify();
    EXPECT_EQ(FreeBlocks(), allocator_->layout().usable_blocks());
  }
}

TEST_F(AllocatorTest, TheReserveIsKeptForMetadataAndItsLastPartForFreeing) {
  for (const uint64_t capacity : {512ul, 8192ul, 3 * kGroup + 1000}) {
    Start({.capacity_blocks = capacity, .miss_probability = 0.1});
    const uint64_t reserve = allocator_->reserve_blocks();
    EXPECT_LE(reserve, capacity / 8);
    Fill(200, SpaceUse::kData);
    EXPECT_EQ(FreeBlocks(), reserve);
    Fill(1, SpaceUse::kMetadata);
    EXPECT_EQ(FreeBlocks(), reserve / 2);
    Fill(7, SpaceUse::kFreeing);
    EXPECT_EQ(FreeBlocks(), 0u);
    Verify();
  }
}

TEST_F(AllocatorTest, FullVolumesFillAgainAfterDeletion) {
  Start({.capacity_blocks = 8192, .durability = MemoryEngine::Durability::kWhenAsked});
  for (int round = 0; round < 3; ++round) {
    const std::vector<BlockRange> ranges = Fill(64, SpaceUse::kData);
    EXPECT_EQ(FreeBlocks(), allocator_->reserve_blocks());
    for (const BlockRange& range : ranges) ASSERT_TRUE(Free(range).ok());
  }
  Verify();
}

TEST_F(AllocatorTest, ReservedBlocksAndTheTailAreNeverGiven) {
  // The last group has 63 blocks, too few for what a group may have to keep there.
  const uint64_t capacity = kGroup + 63;
  Start({.capacity_blocks = capacity});
  EXPECT_EQ(allocator_->layout().usable_blocks(), kGroup - 4);
  Fill(1000, SpaceUse::kFreeing);
  EXPECT_EQ(FreeBlocks(), 0u);
  for (const Block block : {Block{0}, Block{1}, Block{2}, Block{63}, Block{kGroup}, Block{kGroup + 62}}) {
    EXPECT_FALSE(used_[block]);
  }
  Verify();
}

TEST_F(AllocatorTest, LargeVolumesAreFormattedWithoutTouchingTheirGroups) {
  constexpr uint64_t kCapacity = uint64_t{1} << 31;  // 8 TiB
  MemoryEngine engine(environment_, {.capacity_blocks = kCapacity});
  Allocator allocator(kCapacity);
  ASSERT_TRUE(engine.RunAndWait([&](Transaction& tx) { return allocator.Format(tx); }).ok());
  EXPECT_EQ(engine.Snapshot().size(), 1u);
  BlockRange range;
  ASSERT_TRUE(engine.RunAndWait([&](Transaction& tx) {
                      ASSIGN_OR_RETURN(range, allocator.Allocate(tx, 256, 256, kCapacity - 300, SpaceUse::kData));
                      return absl::OkStatus();
                    }).ok());
  EXPECT_EQ(range.first, kCapacity - 300);
  // The first group of a later summary has a summary block.
  const Block later = AllocationLayout::kSummaryGroups * kGroup;
  EXPECT_FALSE(allocator.layout().IsUsable({later + 2, 1}));
  EXPECT_TRUE(allocator.layout().IsUsable({later + 3, 1}));
  EXPECT_TRUE(allocator.layout().IsUsable({later + kGroup + 1, 1}));
  // The header's copy.
  EXPECT_FALSE(allocator.layout().IsUsable({kGroup + 1, 1}));
  EXPECT_TRUE(allocator.layout().IsUsable({2 * kGroup + 1, 1}));
  EXPECT_EQ(allocator.layout().usable_blocks(), kCapacity - 65536 - 32 - 3);
}

TEST_F(AllocatorTest, QuarantinedBlocksAreNotGivenUntilDurable) {
  Start({.capacity_blocks = 8192, .durability = MemoryEngine::Durability::kHeld});
  const auto range = Allocate(100, 100, 4000);
  ASSERT_TRUE(range.ok());
  ASSERT_EQ(range->first, 4000u);
  ASSERT_TRUE(Free({4010, 50}).ok());
  const auto elsewhere = Allocate(50, 50, 4010);
  ASSERT_TRUE(elsewhere.ok());
  EXPECT_FALSE(elsewhere->Overlaps({4010, 50}));
  absl::Status taken;
  EXPECT_TRUE(absl::IsNotFound(Run([&](Transaction& tx) {
    taken = allocator_->Take(tx, {4010, 50});
    return absl::NotFoundError("not to be accepted");
  })));
  EXPECT_TRUE(absl::IsResourceExhausted(taken)) << taken;
  engine_->MakeDurable();
  const auto again = Allocate(50, 50, 4010);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->first, 4010u);
}

TEST_F(AllocatorTest, RunsGoOnAtTheirGoal) {
  Start({.capacity_blocks = 4 * kGroup});
  auto range = Allocate(64);
  ASSERT_TRUE(range.ok());
  for (int i = 0; i < 100; ++i) {
    const auto next = Allocate(64, 1, range->end());
    ASSERT_TRUE(next.ok());
    EXPECT_EQ(next->first, range->end());
    EXPECT_EQ(next->count, 64u);
    range = next;
  }
}

TEST_F(AllocatorTest, FragmentsAreFoundAndMinimumsKept) {
  Start({.capacity_blocks = 8192});
  Fill(8189, SpaceUse::kFreeing);
  ASSERT_EQ(FreeBlocks(), 0u);
  uint64_t pieces = 0;
  for (Block block = 1000; block < 7000; block += 10, ++pieces) ASSERT_TRUE(Free({block, 1 + pieces % 3}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Allocate(100, 4, 0, SpaceUse::kFreeing).status()));
  const auto longest = Allocate(100, 2, 0, SpaceUse::kFreeing);
  ASSERT_TRUE(longest.ok());
  EXPECT_EQ(longest->count, 3u);
  Verify();
}

TEST_F(AllocatorTest, MetadataAndDataKeepApart) {
  Start({.capacity_blocks = 20 * kGroup});
  for (int i = 0; i < 50; ++i) {
    const auto node = Allocate(1, 1, i == 0 ? 1 : 3, SpaceUse::kMetadata);
    const auto data = Allocate(100);
    ASSERT_TRUE(node.ok() && data.ok());
    EXPECT_EQ(AllocationLayout::GroupOf(node->first), 0u);
    EXPECT_EQ(AllocationLayout::GroupOf(data->first), 1u);
  }
}

TEST_F(AllocatorTest, TheLastFreeBlockOfALargeVolumeIsFoundInFewRestarts) {
  constexpr uint64_t kGroups = 300;
  Start({.capacity_blocks = kGroups * kGroup});
  ASSERT_TRUE(Run([&](Transaction& tx) {
                // All groups but one are full.
                for (uint64_t group = 0; group < kGroups; ++group) {
                  if (group == 200) continue;
                  const Block first = group * kGroup + (group == 0 ? 64 : AllocationLayout::ReservedIn(group));
                  RETURN_IF_ERROR(allocator_->Take(tx, {first, (group + 1) * kGroup - first}));
                  if (group == 0) RETURN_IF_ERROR(allocator_->Take(tx, {3, 60}));
                }
                return absl::OkStatus();
              }).ok());
  MemoryEngine cold(environment_, {.capacity_blocks = kGroups * kGroup, .miss_probability = 1}, engine_->Snapshot());
  Allocator fresh(kGroups * kGroup);
  BlockRange range;
  ASSERT_TRUE(cold.RunAndWait([&](Transaction& tx) {
                    ASSIGN_OR_RETURN(range, fresh.Allocate(tx, 10, 10, 0, SpaceUse::kData));
                    return absl::OkStatus();
                  }).ok());
  EXPECT_EQ(AllocationLayout::GroupOf(range.first), 200u);
  EXPECT_LT(cold.body_runs(), 6u);
}

TEST_F(AllocatorTest, FreeingWhatIsNotInUseIsDataLoss) {
  Start({.capacity_blocks = 8192});
  const auto range = Allocate(10, 10, 100);
  ASSERT_TRUE(range.ok());
  EXPECT_TRUE(absl::IsDataLoss(Free({range->first, 11})));
  EXPECT_TRUE(absl::IsDataLoss(Free({0, 1})));
  EXPECT_TRUE(absl::IsDataLoss(Free({8190, 3})));
  EXPECT_TRUE(absl::IsDataLoss(Free({~uint64_t{0} - 1, 3})));
  core::Engine::Body take = [&](Transaction& tx) { return allocator_->Take(tx, {range->first, 1}); };
  EXPECT_TRUE(absl::IsFailedPrecondition(Run(std::move(take))));
  EXPECT_TRUE(Free(*range).ok());
  Verify();
}

TEST_F(AllocatorTest, RangesThatSpanGroupsAreFreedWhole) {
  Start({.capacity_blocks = 3 * kGroup});
  // Only a damaged volume has such an extent across a bitmap, which is DataLoss; adjacent groups are freed one by one.
  const auto range = Allocate(100, 100, 2 * kGroup - 100);
  ASSERT_TRUE(range.ok());
  EXPECT_EQ(range->end(), 2 * kGroup);
  EXPECT_TRUE(absl::IsDataLoss(Free({range->first, 101})));
  EXPECT_TRUE(Free(*range).ok());
  Verify();
}

TEST_F(AllocatorTest, TooSmallACapacityIsRefused) {
  MemoryEngine engine(environment_, {.capacity_blocks = 63});
  Allocator allocator(63);
  EXPECT_TRUE(absl::IsInvalidArgument(
      engine.RunAndWait([&](Transaction& tx) { return allocator.Format(tx); }).status()));
}

}  // namespace
}  // namespace stagefs::volume

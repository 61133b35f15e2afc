#include "core/staging.h"

#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::core {
namespace {

constexpr uint64_t kSlabBlocks = StagingMemory::kSlabBytes / kBlockBytes;
constexpr uint64_t kUnitBlocks = StagingMemory::kUnitBytes / kBlockBytes;

TEST(StagingTest, AllOfTheAreaCanBeUsedInAnySize) {
  for (const uint64_t blocks : {uint64_t{1}, kUnitBlocks, kUnitBlocks + 1, kSlabBlocks / 2, kSlabBlocks}) {
    const auto memory = std::make_shared<StagingMemory>(3 * StagingMemory::kSlabBytes + 5);
    std::vector<std::shared_ptr<StagedBuffer>> buffers;
    while (auto buffer = memory->Allocate(blocks)) buffers.push_back(std::move(buffer));
    EXPECT_EQ(memory->used_bytes(), 3 * StagingMemory::kSlabBytes) << blocks;
    buffers.clear();
    EXPECT_EQ(memory->used_bytes(), 0);
  }
}

TEST(StagingTest, BuffersInUseNeverOverlap) {
  std::mt19937_64 random(7);
  const auto memory = std::make_shared<StagingMemory>(4 * StagingMemory::kSlabBytes);
  struct Held {
    std::shared_ptr<StagedBuffer> buffer;
    std::byte mark;
  };
  std::vector<Held> held;
  for (int round = 0; round < 2000; ++round) {
    if (auto buffer = memory->Allocate(1 + random() % (random() % 4 == 0 ? kSlabBlocks : 2 * kUnitBlocks))) {
      held.push_back({std::move(buffer), static_cast<std::byte>(round)});
      held.back().buffer->bytes().front() = held.back().buffer->bytes().back() = held.back().mark;
    }
    if (held.empty() || random() % 2 == 0) continue;
    std::swap(held[random() % held.size()], held.back());
    EXPECT_EQ(held.back().buffer->bytes().front(), held.back().mark);
    EXPECT_EQ(held.back().buffer->bytes().back(), held.back().mark);
    held.pop_back();
  }
}

TEST(StagingTest, WhoWaitsIsCalledWhenABufferComesBack) {
  const auto memory = std::make_shared<StagingMemory>(StagingMemory::kSlabBytes);
  auto first = memory->Allocate(kSlabBlocks / 2), second = memory->Allocate(kSlabBlocks / 2);
  ASSERT_EQ(memory->Allocate(1), nullptr);
  bool called = false;
  memory->WhenAvailable([&] { called = true; });
  EXPECT_FALSE(called);
  first.reset();
  EXPECT_TRUE(called);
  EXPECT_NE(memory->Allocate(kSlabBlocks / 2), nullptr);
}

TEST(StagingTest, NobodyWaitsForWhatMayNeverComeBack) {
  const auto memory = std::make_shared<StagingMemory>(StagingMemory::kSlabBytes);
  const auto all = memory->Allocate(kSlabBlocks);
  bool before = false, after = false;
  memory->WhenAvailable([&] { before = true; });
  memory->StopWaiting();
  EXPECT_TRUE(before);
  memory->WhenAvailable([&] { after = true; });
  EXPECT_TRUE(after);
}

}  // namespace
}  // namespace stagefs::core

#include "core/first_touch.h"

#include <sys/mman.h>

#include <vector>

#include "gtest/gtest.h"
#include "sal/mapped_memory.h"

namespace stagefs::core {
namespace {

constexpr size_t kMiB = 1 << 20;
constexpr size_t kAreaBytes = 64 * kMiB;

class FirstTouchTest : public ::testing::Test {
 protected:
  ~FirstTouchTest() override { sal::UnmapMemory(memory_, kAreaBytes); }

  // How many MiB are resident from `mib` on, as far as `mib_end`.
  size_t ResidentMiB(size_t mib, size_t mib_end) const {
    std::vector<unsigned char> pages((mib_end - mib) * kMiB / 4096);
    EXPECT_EQ(mincore(memory_ + mib * kMiB, (mib_end - mib) * kMiB, pages.data()), 0);
    size_t resident = 0;
    for (const unsigned char page : pages) resident += page & 1;
    return resident * 4096 / kMiB;
  }

  void GoAhead() {
    while (first_touch_.GoAhead()) {
    }
  }

  std::byte* const memory_ = sal::MapMemory(kAreaBytes);
  FirstTouch first_touch_{absl::MakeSpan(memory_, kAreaBytes)};
};

TEST_F(FirstTouchTest, ASmallLoadTouchesNothingAhead) {
  first_touch_.Uses(FirstTouch::kSmallBytes);
  EXPECT_FALSE(first_touch_.IsDue());
  EXPECT_EQ(ResidentMiB(0, 64), 0u);
}

TEST_F(FirstTouchTest, WhatComesNextIsResident) {
  first_touch_.Uses(2 * kMiB);
  ASSERT_TRUE(first_touch_.IsDue());
  GoAhead();
  EXPECT_EQ(ResidentMiB(2, 10), 8u);
  EXPECT_EQ(ResidentMiB(10, 64), 0u);
}

TEST_F(FirstTouchTest, ItIsAskedForOnceAndThenWhenHalfOfItIsUsed) {
  first_touch_.Uses(2 * kMiB);
  ASSERT_TRUE(first_touch_.IsDue());
  EXPECT_FALSE(first_touch_.IsDue());
  GoAhead();
  EXPECT_FALSE(first_touch_.IsDue());
  first_touch_.Uses(6 * kMiB);
  EXPECT_FALSE(first_touch_.IsDue());
  first_touch_.Uses(6 * kMiB + 1);
  EXPECT_TRUE(first_touch_.IsDue());
  GoAhead();
  EXPECT_EQ(first_touch_.ready_bytes(), 14 * kMiB + 1);
}

TEST_F(FirstTouchTest, AStepIsOneHugePage) {
  first_touch_.Uses(3 * kMiB);
  ASSERT_TRUE(first_touch_.IsDue());
  EXPECT_TRUE(first_touch_.GoAhead());
  EXPECT_EQ(first_touch_.ready_bytes(), 4 * kMiB);
  EXPECT_FALSE(first_touch_.IsDue());
  GoAhead();
  EXPECT_EQ(first_touch_.ready_bytes(), 11 * kMiB);
}

TEST_F(FirstTouchTest, TheContentStays) {
  for (size_t i = 0; i < 4; ++i) memory_[i * kMiB] = std::byte{0x5a};
  first_touch_.Uses(2 * kMiB);
  GoAhead();
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(memory_[i * kMiB], std::byte{0x5a}) << i;
}

TEST_F(FirstTouchTest, ItEndsWithTheArea) {
  first_touch_.Uses(kAreaBytes - kMiB);
  ASSERT_TRUE(first_touch_.IsDue());
  GoAhead();
  EXPECT_EQ(first_touch_.ready_bytes(), kAreaBytes);
  first_touch_.Uses(kAreaBytes);
  EXPECT_FALSE(first_touch_.IsDue());
}

}  // namespace
}  // namespace stagefs::core

#include "fs/fuse/cpu_chooser.h"

#include "gtest/gtest.h"

namespace stagefs::fuse {
namespace {

constexpr int kHome = 0, kStore = 1;
constexpr uint64_t kMs = 1'000'000;

class CpuChooserTest : public ::testing::Test {
 protected:
  // A request that waits for the store, until it wakes the thread on `cpu`. Returns where the thread slept.
  int WaitingRequest(int cpu = kStore) {
    chooser_.Arrived(/*is_large=*/false, now_ns_);
    const int slept_on = chooser_.CpuToSleepOn(/*waits=*/true, now_ns_);
    now_ns_ += kMs / 10;
    chooser_.WokenByStore(slept_on == CpuChooser::kAnyCpu ? cpu : slept_on);
    return slept_on;
  }
  // Requests that are answered at once. Returns where the thread slept after the last.
  int QuickRequests(uint32_t count, bool are_large = false) {
    int slept_on = CpuChooser::kAnyCpu;
    for (uint32_t i = 0; i < count; ++i) {
      chooser_.Arrived(are_large, now_ns_);
      slept_on = chooser_.CpuToSleepOn(/*waits=*/false, now_ns_);
      now_ns_ += kMs / 100;
    }
    return slept_on;
  }
  void Learn(int cpu = kStore) {
    for (uint32_t i = 0; i < CpuChooser::kLessons; ++i) EXPECT_EQ(WaitingRequest(cpu), CpuChooser::kAnyCpu);
  }
  void Pause(uint64_t ms) { now_ns_ += ms * kMs; }

  uint64_t now_ns_ = 5'000 * kMs;
  CpuChooser chooser_{kHome};
};

TEST_F(CpuChooserTest, WhatWaitsForNothingIsServedAtHome) { EXPECT_EQ(QuickRequests(1000), kHome); }

TEST_F(CpuChooserTest, WaitingIsDoneWhereTheStoreInterrupts) {
  Learn();
  EXPECT_EQ(WaitingRequest(), kStore);
}

TEST_F(CpuChooserTest, WhatInterruptsAtHomeIsWaitedForAtHome) {
  Learn(kHome);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(WaitingRequest(kHome), kHome);
}

TEST_F(CpuChooserTest, StrayWakeUpsTeachNothingElse) {
  WaitingRequest(kHome);
  WaitingRequest(kHome);
  for (uint32_t i = 2; i < CpuChooser::kLessons; ++i) WaitingRequest(kStore);
  EXPECT_EQ(WaitingRequest(), kStore);
}

TEST_F(CpuChooserTest, WithoutAMajorityItStaysAtHome) {
  for (uint32_t i = 0; i < CpuChooser::kLessons; ++i) WaitingRequest(i % 3 == 0 ? kHome : kStore);  // three of eight
  EXPECT_EQ(WaitingRequest(), kHome);
}

TEST_F(CpuChooserTest, InterruptsThatMoveAreFollowed) {
  Learn();
  EXPECT_EQ(WaitingRequest(), kStore);
  Pause(10'001);
  Learn(2);
  EXPECT_EQ(WaitingRequest(), 2);
}

TEST_F(CpuChooserTest, ItReturnsWhenNothingWaitsAnyMore) {
  Learn();
  WaitingRequest();
  EXPECT_EQ(QuickRequests(CpuChooser::kSmallBeforeReturn - 1), kStore);
  EXPECT_EQ(QuickRequests(1), kHome);
}

TEST_F(CpuChooserTest, AClientThatDoesNotFollowIsServedAtHomeAgain) {
  Learn();
  uint32_t away = 0;
  while (WaitingRequest() == kStore) ++away;
  EXPECT_NEAR(away, CpuChooser::kPatience, 1);
  EXPECT_EQ(WaitingRequest(), kHome);
  Pause(100);
  EXPECT_EQ(WaitingRequest(), kStore);
}

TEST_F(CpuChooserTest, AndIsLuredLessAndLess) {
  uint32_t away = 0;
  constexpr uint32_t kMinute = 600'000;  // requests
  for (uint32_t i = 0; i < kMinute; ++i) away += WaitingRequest() == kStore ? 1 : 0;
  EXPECT_GT(away, 5 * CpuChooser::kPatience);
  EXPECT_LT(away, kMinute / 100);
}

TEST_F(CpuChooserTest, OneThatFollowsNowAndThenIsNotGivenUp) {
  Learn();
  for (int visit = 0; visit < 1000; ++visit) {
    for (int i = 0; i < 20; ++i) WaitingRequest();
    Pause(11);  // the client is with the other queue
  }
  EXPECT_EQ(WaitingRequest(), kStore);
}

TEST_F(CpuChooserTest, LargeRequestsAreServedAnywhere) {
  EXPECT_EQ(QuickRequests(1, /*are_large=*/true), CpuChooser::kAnyCpu);
  EXPECT_EQ(QuickRequests(CpuChooser::kSmallBeforeReturn - 1), CpuChooser::kAnyCpu);
  EXPECT_EQ(QuickRequests(1), kHome);
}

}  // namespace
}  // namespace stagefs::fuse

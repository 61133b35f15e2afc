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

TEST_F(CpuChooserTest, ToBeWokenAtHomeNowAndThenSaysLittle) {
  for (uint32_t i = 0; i < CpuChooser::kLessons; ++i) WaitingRequest(i < CpuChooser::kTelling ? kStore : kHome);
  EXPECT_EQ(WaitingRequest(), kStore);
}

TEST_F(CpuChooserTest, StrayWakeUpsTeachNothing) {
  for (uint32_t i = 0; i < CpuChooser::kLessons; ++i) WaitingRequest(i + 1 < CpuChooser::kTelling ? kStore : kHome);
  EXPECT_EQ(WaitingRequest(), kHome);
}

TEST_F(CpuChooserTest, InterruptsOnEveryCpuTeachNothing) {
  for (uint32_t i = 0; i < CpuChooser::kLessons; ++i) WaitingRequest(static_cast<int>(i));
  EXPECT_EQ(WaitingRequest(), kHome);
}

TEST_F(CpuChooserTest, AWakeUpIsOneLessonHoweverMuchHasEnded) {
  WaitingRequest(kStore);
  for (uint32_t i = 0; i < CpuChooser::kLessons; ++i) chooser_.WokenByStore(kStore);
  EXPECT_EQ(WaitingRequest(kHome), CpuChooser::kAnyCpu);
  for (uint32_t i = 2; i < CpuChooser::kLessons; ++i) WaitingRequest(kHome);
  EXPECT_EQ(WaitingRequest(), kHome);
}

TEST_F(CpuChooserTest, WakeUpsWhereItHadToBeTeachNothing) {
  for (int i = 0; i < 100; ++i) {
    QuickRequests(1);
    chooser_.WokenByStore(kHome);  // of a write that nobody waits for
  }
  EXPECT_EQ(WaitingRequest(), kHome);  // after all these
  Learn();
  EXPECT_EQ(WaitingRequest(), kStore);
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
  EXPECT_EQ(QuickRequests(CpuChooser::kQuickBetweenWaits), kStore);
  EXPECT_EQ(QuickRequests(1), kHome);
}

TEST_F(CpuChooserTest, AMixtureIsServedAtHome) {
  Learn();
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(QuickRequests(CpuChooser::kQuickBetweenWaits + 1), kHome);
    EXPECT_EQ(WaitingRequest(), kHome);
  }
}

TEST_F(CpuChooserTest, PatienceSpansVisits) {
  Learn();
  uint32_t served_away = 0;
  for (uint32_t i = 0; WaitingRequest() == kStore || i % 10 == 0; ++i) {
    ++served_away;
    if (i % 10 == 9) QuickRequests(CpuChooser::kQuickBetweenWaits + 1);  // and home
  }
  EXPECT_LE(served_away, CpuChooser::kPatience + CpuChooser::kPatience / 10 + 1);
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
  constexpr uint32_t kFiveMinutes = 3'000'000;  // requests
  for (uint32_t i = 0; i < kFiveMinutes; ++i) away += WaitingRequest() == kStore ? 1 : 0;
  EXPECT_GT(away, 5 * CpuChooser::kPatience);
  EXPECT_LT(away, kFiveMinutes / 40);
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

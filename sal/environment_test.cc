#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "sal/real_environment.h"
#include "sal/simulated_environment.h"

namespace stagefs::sal {
namespace {

TEST(RealEnvironmentTest, TheDestructorRunsWhatWasPostedAndDropsTimers) {
  std::atomic<int> ran{0};
  bool timer_ran = false;
  auto held = std::make_shared<int>(1);
  {
    RealEnvironment environment(2);
    for (int i = 0; i < 100; ++i) {
      environment.Post([&] {
        ++ran;
        environment.Post([&] { ++ran; });
      });
    }
    environment.PostAfter(3'600'000'000'000, [&timer_ran, held] { timer_ran = true; });
  }
  EXPECT_EQ(ran, 200);
  EXPECT_FALSE(timer_ran);
  EXPECT_EQ(held.use_count(), 1);
}

TEST(RealEnvironmentTest, TimersRunInOrderAndNotEarly) {
  RealEnvironment environment(1);
  const uint64_t start_ns = environment.NowNs();
  const auto first = environment.NewEvent(), second = environment.NewEvent();
  uint64_t first_ns = 0, second_ns = 0;
  environment.PostAfter(20'000'000, [&] {
    second_ns = environment.NowNs();
    second->Set();
  });
  environment.PostAfter(5'000'000, [&] {
    first_ns = environment.NowNs();
    first->Set();
  });
  second->Wait();
  first->Wait();
  EXPECT_GE(first_ns - start_ns, 5'000'000u);
  EXPECT_GE(second_ns - start_ns, 20'000'000u);
  EXPECT_LT(first_ns, second_ns);
}

TEST(RealEnvironmentTest, RandomNumbersDiffer) {
  RealEnvironment environment(1);
  EXPECT_NE(environment.Random(), environment.Random());
}

TEST(SimulatedEnvironmentTest, PostedTasksRunInAnOrderThatTheSeedDecides) {
  const auto order = [](uint64_t seed) {
    SimulatedEnvironment environment(seed);
    std::vector<int> ran;
    for (int i = 0; i < 20; ++i) environment.Post([&ran, i] { ran.push_back(i); });
    EXPECT_TRUE(ran.empty());
    environment.RunUntilIdle();
    EXPECT_EQ(ran.size(), 20u);
    return ran;
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
}

TEST(SimulatedEnvironmentTest, OthersRunWhenATaskGivesWay) {
  SimulatedEnvironment environment(1);
  bool other_ran = false;
  int times = 0;
  environment.Post([&] {
    environment.PostAfter(1'000, [&] { other_ran = true; });
    for (; !other_ran && times < 100; ++times) environment.GiveWay();
  });
  environment.RunUntilIdle();
  EXPECT_TRUE(other_ran);
  EXPECT_GE(environment.NowNs(), 1'000u);
}

TEST(SimulatedEnvironmentTest, WaitRunsTheLoopUntilSet) {
  SimulatedEnvironment environment(1);
  const auto event = environment.NewEvent();
  const uint64_t start_ns = environment.NowNs();
  environment.PostAfter(1'000'000'000, [&] { environment.Post([&] { event->Set(); }); });
  event->Wait();
  EXPECT_GE(environment.NowNs() - start_ns, 1'000'000'000u);
  event->Wait();  // stays set
}

TEST(SimulatedEnvironmentTest, WaitingForNothingIsADeadlock) {
  SimulatedEnvironment environment(1);
  const auto event = environment.NewEvent();
  EXPECT_DEATH(event->Wait(), "nothing is left to run");
}

TEST(SimulatedEnvironmentTest, WaitingBesideARepeatingTimerIsADeadlock) {
  SimulatedEnvironment environment(1);
  const auto event = environment.NewEvent();
  std::function<void()> repeat = [&] { environment.PostAfter(1'000'000'000, repeat); };
  repeat();
  EXPECT_DEATH(event->Wait(), "an hour of virtual time");
}

TEST(SimulatedEnvironmentTest, IdleMeansThatOnlyTimersAreLeft) {
  SimulatedEnvironment environment(1);
  int timers = 0, tasks = 0;
  std::function<void()> repeat = [&] {
    ++timers;
    environment.PostAfter(1'000'000'000, repeat);
  };
  repeat();
  environment.Schedule(2'500'000'000, [&] { ++tasks; });
  environment.RunUntilIdle();
  EXPECT_EQ(tasks, 1);
  EXPECT_EQ(timers, 3);
  const uint64_t now_ns = environment.NowNs();
  environment.RunFor(10'000'000'000);
  EXPECT_EQ(environment.NowNs(), now_ns + 10'000'000'000);
  EXPECT_EQ(timers, 13);
}

TEST(SimulatedEnvironmentTest, LogLinesAreCollected) {
  SimulatedEnvironment environment(1);
  environment.Log("one");
  environment.Log("two");
  EXPECT_EQ(environment.log(), (std::vector<std::string>{"one", "two"}));
}

}  // namespace
}  // namespace stagefs::sal

#include "fs/dsa/event_loop.h"

#include <sys/socket.h>

#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

class Recorder : public EventLoop::Watcher {
 public:
  void Ready(uint32_t events) override { ready(events); }
  void Due() override { due(); }

  std::function<void(uint32_t)> ready = [](uint32_t) { ADD_FAILURE() << "not expected"; };
  std::function<void()> due = [] { ADD_FAILURE() << "not expected"; };
};

class EventLoopTest : public testing::Test {
 protected:
  EventLoopTest() : loop_(*EventLoop::Create()) {}

  std::pair<OwnedFd, OwnedFd> Pair() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    return {OwnedFd(ends[0]), OwnedFd(ends[1])};
  }

  const std::unique_ptr<EventLoop> loop_;
};

TEST_F(EventLoopTest, TasksOfOtherThreadsRunInTheOrderOfTheirPosting) {
  constexpr int kTasks = 10000;
  std::vector<int> ran;
  std::thread poster([&] {
    for (int i = 0; i < kTasks; ++i) loop_->Post([&ran, i] { ran.push_back(i); });
    loop_->Post([this] { loop_->End(); });
  });
  loop_->Run();
  poster.join();
  ASSERT_EQ(ran.size(), size_t{kTasks});
  for (int i = 0; i < kTasks; ++i) EXPECT_EQ(ran[i], i);
}

TEST_F(EventLoopTest, ATaskThatIsPostedByATaskRunsToo) {
  loop_->Post([this] { loop_->Post([this] { loop_->End(); }); });
  loop_->Run();
}

TEST_F(EventLoopTest, WhatBecomesReadableIsTold) {
  const auto [here, there] = Pair();
  Recorder recorder;
  recorder.ready = [&](uint32_t events) {
    EXPECT_EQ(events, uint32_t{EPOLLIN});
    loop_->End();
  };
  const uint64_t watch = loop_->Watch(here.get(), EPOLLIN, &recorder);
  ASSERT_EQ(write(there.get(), "x", 1), 1);
  loop_->Run();
  loop_->Unwatch(watch);
}

// Both are ready at once; whoever comes first takes the other away.
TEST_F(EventLoopTest, NothingIsToldOfWhatIsNoLongerWatched) {
  const auto [here, there] = Pair();
  const auto [here2, there2] = Pair();
  Recorder first, second;
  const uint64_t watch = loop_->Watch(here.get(), EPOLLIN, &first);
  const uint64_t watch2 = loop_->Watch(here2.get(), EPOLLIN, &second);
  int told = 0;
  const auto take_away = [&](uint64_t mine, uint64_t others) {
    return [this, &told, mine, others](uint32_t) {
      ++told;
      loop_->Unwatch(mine);
      loop_->Unwatch(others);
      loop_->Post([this] { loop_->End(); });
    };
  };
  first.ready = take_away(watch, watch2);
  second.ready = take_away(watch2, watch);
  ASSERT_EQ(write(there.get(), "x", 1), 1);
  ASSERT_EQ(write(there2.get(), "x", 1), 1);
  loop_->Run();
  EXPECT_EQ(told, 1);
}

TEST_F(EventLoopTest, ATimeComesOnceUnlessItIsTakenBack) {
  const auto [here, there] = Pair();
  Recorder recorder, never;
  int due = 0;
  const auto now = EventLoop::Clock::now();
  const uint64_t watch = loop_->Watch(here.get(), EPOLLIN, &recorder);
  const uint64_t other = loop_->Watch(there.get(), EPOLLIN, &never);
  recorder.due = [&] {
    EXPECT_GE(EventLoop::Clock::now(), now + std::chrono::milliseconds(20));
    if (++due == 1) return loop_->SetDue(watch, EventLoop::Clock::now() + std::chrono::milliseconds(1));
    loop_->End();
  };
  loop_->SetDue(watch, now + std::chrono::milliseconds(20));
  loop_->SetDue(other, now + std::chrono::milliseconds(5));
  loop_->SetDue(other, std::nullopt);
  loop_->Run();
  EXPECT_EQ(due, 2);
  loop_->Unwatch(watch);
  loop_->Unwatch(other);
}

}  // namespace
}  // namespace stagefs::dsa

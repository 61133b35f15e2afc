#include "sal/client_cpus.h"

#include <initializer_list>

#include "gtest/gtest.h"

namespace stagefs::sal {
namespace {

constexpr uint64_t kMs = 1'000'000;

class ClientCpusTest : public ::testing::Test {
 protected:
  ClientCpusTest() { allowed_ = Set({0, 1, 2}); }

  static cpu_set_t Set(std::initializer_list<int> cpus) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : cpus) CPU_SET(cpu, &set);
    return set;
  }
  void Serve(std::initializer_list<int> cpus) {
    for (const int cpu : cpus) clients_.Note(cpu, now_ns_);
  }
  // The thread begins with something on `here`. Returns whether it may then be on exactly `expected`.
  bool MayBe(int here, std::initializer_list<int> expected) {
    allowed_ = place_.Choose(clients_, here, allowed_, now_ns_).value_or(allowed_);
    const cpu_set_t set = Set(expected);
    return CPU_EQUAL(&allowed_, &set);
  }
  void Wait(uint64_t ms) { now_ns_ += ms * kMs; }

  uint64_t now_ns_ = 5'000 * kMs;
  ClientCpus clients_;
  BackgroundPlace place_;
  cpu_set_t allowed_;
};

TEST_F(ClientCpusTest, WhereAClientIsServedIsLeft) {
  Serve({1});
  EXPECT_TRUE(MayBe(1, {0, 2}));
}

TEST_F(ClientCpusTest, WhereNobodyIsServedTheThreadStays) {
  Serve({1});
  EXPECT_TRUE(MayBe(0, {0, 1, 2}));
}

TEST_F(ClientCpusTest, WhoWasServedLongAgoIsGone) {
  Serve({1});
  Wait(8);
  EXPECT_TRUE(MayBe(1, {0, 1, 2}));
}

TEST_F(ClientCpusTest, ClientsThatMoveAreLeftAgain) {
  Serve({1});
  EXPECT_TRUE(MayBe(1, {0, 2}));
  Wait(20);
  Serve({0});
  EXPECT_TRUE(MayBe(0, {1, 2}));
}

TEST_F(ClientCpusTest, WhenClientsAreEverywhereSoIsTheThread) {
  Serve({1});
  EXPECT_TRUE(MayBe(1, {0, 2}));
  Serve({0, 1, 2});
  EXPECT_TRUE(MayBe(0, {0, 1, 2}));
}

TEST_F(ClientCpusTest, ItIsNotSentOffForEver) {
  Serve({1});
  EXPECT_TRUE(MayBe(1, {0, 2}));
  Wait(200);
  EXPECT_TRUE(MayBe(0, {0, 2}));
  Wait(1);
  EXPECT_TRUE(MayBe(0, {0, 1, 2}));
}

TEST_F(ClientCpusTest, ItStaysWithinWhatItMightUse) {
  allowed_ = Set({1, 2});
  Serve({1});
  EXPECT_TRUE(MayBe(1, {2}));
  Serve({1, 2});
  EXPECT_TRUE(MayBe(2, {1, 2}));
  EXPECT_TRUE(MayBe(1, {1, 2}));
}

// Of this thread, wherever it happens to run: that it can be called.
TEST_F(ClientCpusTest, TheThreadsOwn) {
  cpu_set_t before, after;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  NoteClient();
  KeepOffClients();
  ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_LE(CPU_COUNT(&before) - CPU_COUNT(&after), 1);
  EXPECT_GT(CPU_COUNT(&after), 0);
}

}  // namespace
}  // namespace stagefs::sal

#include "fs/fuse/scheduling.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace stagefs::fuse {
namespace {

class SchedulingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = ::testing::TempDir() + "/scheduling";
    std::filesystem::remove_all(root_);
    Write("/proc/sys/kernel/sched_autogroup_enabled", "1");
    std::filesystem::create_directories(root_ + "/proc/self/ns");
    Namespace("cgroup:[4026531835]");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& content) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << content << "\n";
  }
  void Namespace(const std::string& name) {
    std::filesystem::remove(root_ + "/proc/self/ns/cgroup");
    std::filesystem::create_symlink(name, root_ + "/proc/self/ns/cgroup");
  }
  void InVersion1(const std::string& path) { Write("/proc/self/cgroup", "4:memory:/a\n1:cpu,cpuacct:" + path + "\n0::/"); }
  void InVersion2(const std::string& path) {
    Write("/proc/self/cgroup", "0::" + path);
    Write("/sys/fs/cgroup" + path + "/cgroup.procs", "1");
  }
  bool IsGroupedBySession() { return fuse::IsGroupedBySession(root_); }

  std::string root_;
};

TEST_F(SchedulingTest, SessionsAreGroupsInTheRootOfVersion1) {
  InVersion1("/");
  EXPECT_TRUE(IsGroupedBySession());
  Write("/proc/sys/kernel/sched_autogroup_enabled", "0");
  EXPECT_FALSE(IsGroupedBySession());
}

TEST_F(SchedulingTest, ACgroupOfVersion1TakesTheirPlace) {
  InVersion1("/system.slice");
  EXPECT_FALSE(IsGroupedBySession());
}

TEST_F(SchedulingTest, AContainerThatCallsItsCgroupTheRootIsNotTrusted) {
  InVersion1("/");
  Namespace("cgroup:[4026532000]");
  EXPECT_FALSE(IsGroupedBySession());
}

TEST_F(SchedulingTest, ACgroupOfVersion2TakesTheirPlaceIfItSharesTheCpu) {
  InVersion2("/user.slice/session.scope");
  EXPECT_TRUE(IsGroupedBySession());
  Write("/sys/fs/cgroup/user.slice/session.scope/cpu.weight", "100");
  EXPECT_FALSE(IsGroupedBySession());
}

TEST_F(SchedulingTest, WhatCannotBeSeenIsNotTrusted) {
  EXPECT_FALSE(IsGroupedBySession());  // no cgroups, as far as one can see
  Write("/proc/self/cgroup", "0::/hidden");
  EXPECT_FALSE(IsGroupedBySession());
  Write("/proc/self/cgroup", "nonsense");
  EXPECT_FALSE(IsGroupedBySession());
}

constexpr uint64_t kMs = 1'000'000;

class PolicyChooserTest : public ::testing::Test {
 protected:
  // The next look: `elapsed_ms` later, after 10 waits of `wait_ms` each.
  bool IsIdleAfter(uint64_t elapsed_ms, uint64_t wait_ms) {
    now_ns_ += elapsed_ms * kMs;
    waits_.total_ns += 10 * wait_ms * kMs;
    waits_.count += 10;
    return chooser_.Look(waits_, now_ns_);
  }

  uint64_t now_ns_ = 5'000 * kMs;
  CpuWaits waits_;
  PolicyChooser chooser_;
};

TEST_F(PolicyChooserTest, ShortWaitsAreNothingToGiveUpFor) {
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(IsIdleAfter(10, 0));
}

TEST_F(PolicyChooserTest, LongWaitsEndIt) { EXPECT_FALSE(IsIdleAfter(10, 3)); }

TEST_F(PolicyChooserTest, AfterAPauseItIsTriedAgain) {
  IsIdleAfter(10, 3);
  EXPECT_FALSE(IsIdleAfter(200, 0));
  EXPECT_TRUE(IsIdleAfter(60, 0));
  EXPECT_TRUE(IsIdleAfter(10, 0));
}

TEST_F(PolicyChooserTest, ThePausesGrowWhileNothingChanges) {
  uint64_t tries = 0;
  for (int i = 0; i < 6000; ++i) tries += IsIdleAfter(10, 3) ? 1 : 0;  // a minute
  EXPECT_GE(tries, 6);
  EXPECT_LE(tries, 12);
}

TEST_F(PolicyChooserTest, AndAreShortAgainAfterAGoodTime) {
  for (int i = 0; i < 6000; ++i) IsIdleAfter(10, 3);
  for (int i = 0; i < 6000; ++i) IsIdleAfter(10, 0);
  EXPECT_FALSE(IsIdleAfter(10, 3));
  EXPECT_TRUE(IsIdleAfter(300, 0));
}

}  // namespace
}  // namespace stagefs::fuse

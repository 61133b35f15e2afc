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

}  // namespace
}  // namespace stagefs::fuse

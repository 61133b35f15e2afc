#include "tools/bench_directory.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

using ::testing::HasSubstr;

class BenchDirectoryTest : public ::testing::Test {
 protected:
  BenchDirectoryTest() : parent_(::testing::TempDir() + "/bench_directory.XXXXXX") {
    EXPECT_NE(mkdtemp(parent_.data()), nullptr);
  }
  ~BenchDirectoryTest() override { std::filesystem::remove_all(parent_); }

  std::string parent_;
};

TEST_F(BenchDirectoryTest, NothingIsLeftAtTheEnd) {
  std::ofstream(parent_ + "/mine") << "untouched";
  {
    const auto directory = BenchDirectory::Make(parent_);
    ASSERT_TRUE(directory.ok()) << directory.status();
    std::filesystem::create_directories((*directory)->path() + "/a/b");
    std::ofstream((*directory)->path() + "/a/b/file") << "text";
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(parent_), {}), 1);
  EXPECT_TRUE(std::filesystem::exists(parent_ + "/mine"));
}

TEST_F(BenchDirectoryTest, TwoInOneDirectoryAreDifferent) {
  const auto one = BenchDirectory::Make(parent_), other = BenchDirectory::Make(parent_ + "/");
  EXPECT_NE((*one)->path(), (*other)->path());
  EXPECT_EQ((*one)->device(), (*other)->device());
  EXPECT_EQ((*one)->Remove(), absl::OkStatus());
  EXPECT_TRUE(std::filesystem::is_directory((*other)->path()));
}

TEST_F(BenchDirectoryTest, WhatIsNoDirectoryIsRefused) {
  const absl::Status missing = BenchDirectory::Make(parent_ + "/missing").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(missing.message(), parent_ + "/missing does not exist");
  std::ofstream(parent_ + "/file") << "text";
  const absl::Status file = BenchDirectory::Make(parent_ + "/file").status();
  EXPECT_EQ(file.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(file.message(), parent_ + "/file is not a directory");
}

TEST_F(BenchDirectoryTest, AReadOnlyDirectoryIsRefused) {
  constexpr int kRefused = 0, kAccepted = 1, kMayNotMount = 2;
  // In a process with mounts of its own.
  const pid_t child = fork();
  if (child == 0) {
    const int spaces = CLONE_NEWNS | (geteuid() == 0 ? 0 : CLONE_NEWUSER);
    if (unshare(spaces) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("none", parent_.c_str(), "tmpfs", MS_RDONLY, nullptr) != 0) {
      _exit(kMayNotMount);
    }
    const absl::Status status = BenchDirectory::Make(parent_).status();
    _exit(absl::IsFailedPrecondition(status) && status.message() == parent_ + " is read-only" ? kRefused : kAccepted);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kMayNotMount) GTEST_SKIP() << "may not mount";
  EXPECT_EQ(WEXITSTATUS(status), kRefused);
}

TEST_F(BenchDirectoryTest, DirectoriesOfOneFileSystemShareItsRoom) {
  std::vector<std::unique_ptr<BenchDirectory>> directories;
  directories.push_back(*BenchDirectory::Make(parent_));
  const Room room = *directories[0]->FreeRoom();
  constexpr uint64_t kMiB = 1 << 20;
  if (room.bytes < 100 * kMiB || room.bytes > (uint64_t{1} << 60)) GTEST_SKIP() << "no room that could be shared";
  const BenchScale wanted = {.size_bytes = room.bytes / 6 / kMiB * kMiB, .files = 1};
  EXPECT_EQ(ScaleThatFits(wanted, directories)->size_bytes, wanted.size_bytes);
  directories.push_back(*BenchDirectory::Make(parent_));
  EXPECT_LT(ScaleThatFits(wanted, directories)->size_bytes, wanted.size_bytes);
}

constexpr uint64_t kMany = std::numeric_limits<uint64_t>::max();

TEST(ScaleThatFitsTest, WhatFitsIsLeftAsItIs) {
  const auto scale = ScaleThatFits({.size_bytes = 256 << 20, .files = 10000}, Room{.bytes = 1 << 30, .files = 20000});
  EXPECT_EQ(scale->size_bytes, 256u << 20);
  EXPECT_EQ(scale->files, 10000u);
}

TEST(ScaleThatFitsTest, AQuarterOfTheRoomIsUsedInWholeMebibytes) {
  const auto scale = ScaleThatFits({}, Room{.bytes = 99 << 20, .files = 3000});
  EXPECT_EQ(scale->size_bytes, 24u << 20);
  EXPECT_EQ(scale->files, 1500u);
}

TEST(ScaleThatFitsTest, SmallFilesTakeAQuarterOfTheRoomAtMost) {
  EXPECT_EQ(ScaleThatFits({}, Room{.bytes = 16 << 20, .files = kMany})->files, 1024u);
}

TEST(ScaleThatFitsTest, AFullFileSystemIsRefused) {
  const absl::Status bytes = ScaleThatFits({}, Room{.bytes = (4 << 20) - 1, .files = kMany}).status();
  EXPECT_EQ(bytes.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(bytes.message()), HasSubstr("is full: 4095 KiB are free"));
  const absl::Status files = ScaleThatFits({}, Room{.bytes = kMany, .files = 199}).status();
  EXPECT_EQ(files.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(files.message()), HasSubstr("room for 199 more files"));
}

}  // namespace
}  // namespace stagefs::tools

// The server itself: what it refuses to mount, the cache modes, failures, and how it ends.

#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/mount.h"
#include "fs/fuse/testing/memory_volume.h"
#include "fs/fuse/testing/mounted_test.h"
#include "sal/mutex.h"

namespace stagefs::fuse::testing {
namespace {

absl::StatusCode MountCode(const std::string& directory) {
  MemoryVolume volume;
  return FuseServer::Mount(volume, "test", directory, MountOptions()).status().code();
}

std::string FreshDirectory() {
  const char* base = getenv("TEST_TMPDIR");
  std::string pattern = absl::StrCat(base != nullptr ? base : "/tmp", "/server-XXXXXX");
  EXPECT_NE(mkdtemp(pattern.data()), nullptr);
  return pattern;
}

// Answers no write before LetGo().
class HoldingVolume final : public MemoryVolume {
 public:
  void Write(volume::Ino ino, uint64_t offset, absl::Span<const std::byte> bytes, bool append,
             volume::Callback<size_t> done) override {
    auto go_on = [=, this, done = std::move(done)]() mutable {
      MemoryVolume::Write(ino, offset, bytes, append, std::move(done));
    };
    {
      MutexLock lock(&mutex_);
      if (holding_) {
        held_.push_back(std::move(go_on));
        return held_more_.SignalAll();
      }
    }
    go_on();
  }

  // As soon as `count` writes wait.
  void LetGo(size_t count) {
    std::vector<absl::AnyInvocable<void()>> held;
    {
      MutexLock lock(&mutex_);
      while (held_.size() < count) held_more_.Wait(&mutex_);
      holding_ = false;
      held.swap(held_);
    }
    for (auto& go_on : held) go_on();
  }

 private:
  Mutex mutex_;
  CondVar held_more_;
  bool holding_ ABSL_GUARDED_BY(mutex_) = true;
  std::vector<absl::AnyInvocable<void()>> held_ ABSL_GUARDED_BY(mutex_);
};

class HoldingHolder final : public VolumeHolder {
 public:
  explicit HoldingHolder(size_t count) : count_(count) {}
  volume::Volume& volume() override { return volume_; }
  void Fail() override { volume_.LetGo(count_); }

 private:
  const size_t count_;
  HoldingVolume volume_;
};

// MakeItFail() lets the writes go as soon as `count` of them wait.
std::function<std::unique_ptr<VolumeHolder>()> HoldUntilThereAre(size_t count) {
  return [count] { return std::make_unique<HoldingHolder>(count); };
}

// `count` threads, each with one write of `size` bytes to a file of its own.
std::vector<std::thread> StartWriters(const ServedMount& mounted, const std::string& prefix, int count, size_t size) {
  std::vector<std::thread> writers;
  for (int i = 0; i < count; ++i) {
    writers.emplace_back([path = mounted.Path(absl::StrCat(prefix, i)), size, i] {
      WriteFile(path, Pattern(size, static_cast<unsigned>(i)));
    });
  }
  return writers;
}

uint64_t WriteRequests(const ServedMount& mounted) {
  char text[65536] = {};
  EXPECT_GT(getxattr(mounted.directory().c_str(), kStatisticsXattr, text, sizeof(text) - 1), 0) << errno;
  const char* at = strstr(text, "\"write\": ");
  return at == nullptr ? 0 : strtoull(at + 9, nullptr, 10);
}

TEST(MountServerTest, RequestsThatWaitHoldNoThread) {
  ServedMount mounted(HoldUntilThereAre(48), "threads=1");
  ASSERT_TRUE(mounted.ok());
  std::vector<std::thread> large = StartWriters(mounted, "large", 8, 1 << 20);
  std::vector<std::thread> small = StartWriters(mounted, "small", 40, 4096);
  while (WriteRequests(mounted) < 48) sched_yield();
  EXPECT_EQ(mkdir(mounted.Path("meanwhile").c_str(), 0755), 0) << errno;
  mounted.MakeItFail();
  for (std::thread& writer : large) writer.join();
  for (std::thread& writer : small) writer.join();
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(ReadFile(mounted.Path(absl::StrCat("large", i))) == Pattern(1 << 20, static_cast<unsigned>(i)));
  }
}

TEST(MountServerTest, WhenTheBuffersAreUsedUpRequestsWaitAndNothingIsLost) {
  constexpr int kWriters = 60;
  static_assert(kWriters > Transport::kLargeBuffers);
  ServedMount mounted(HoldUntilThereAre(Transport::kLargeBuffers), "threads=2");
  ASSERT_TRUE(mounted.ok());
  std::vector<std::thread> writers = StartWriters(mounted, "f", kWriters, 1 << 20);
  mounted.MakeItFail();
  for (std::thread& writer : writers) writer.join();
  for (int i = 0; i < kWriters; ++i) {
    EXPECT_TRUE(ReadFile(mounted.Path(absl::StrCat("f", i))) == Pattern(1 << 20, static_cast<unsigned>(i)));
  }
}

TEST(MountServerTest, AMountPointThatIsMissingOrNoDirectoryIsRefused) {
  const std::string directory = FreshDirectory(), file = directory + "/file";
  EXPECT_EQ(MountCode(directory + "/missing"), absl::StatusCode::kNotFound);
  WriteFile(file, "x");
  EXPECT_EQ(MountCode(file), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(unlink(file.c_str()), 0);
  EXPECT_EQ(rmdir(directory.c_str()), 0);
}

TEST(MountServerTest, AMountPointInUseIsRefused) {
  ServedMount mounted(OpenTestVolume, "");
  ASSERT_TRUE(mounted.ok());
  EXPECT_EQ(MountCode(mounted.directory()), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(mounted.Unmount(), 0);
}

TEST(MountServerTest, ADeadMountIsTakenAwayByTheNextOne) {
  const std::string directory = FreshDirectory();
  const MountWatchdog watchdog(directory, 30);
  const auto serve_until_killed = [&directory] {
    const pid_t pid = fork();
    if (pid == 0) {
      MemoryVolume volume;
      auto server = FuseServer::Mount(volume, "test", directory, MountOptions());
      if (!server.ok()) _exit(1);
      raise(SIGKILL);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  };
  ASSERT_TRUE(serve_until_killed());
  EXPECT_TRUE(IsDeadMount(directory));
  EXPECT_TRUE(serve_until_killed());
  EXPECT_TRUE(UnmountKernel(directory, /*detach=*/true).ok());
  EXPECT_FALSE(IsDeadMount(directory));
  EXPECT_EQ(rmdir(directory.c_str()), 0);
}

TEST(MountServerTest, ASignalUnmountsAndEndsTheServer) {
  ServedMount mounted(OpenTestVolume, "");
  ASSERT_TRUE(mounted.ok());
  WriteFile(mounted.Path("f"), "x");
  ASSERT_EQ(kill(mounted.server_pid(), SIGTERM), 0);
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, mounted.server_pid(), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(info.si_code, CLD_EXITED);
  EXPECT_EQ(info.si_status, 0);
  EXPECT_FALSE(IsDeadMount(mounted.directory()));
  EXPECT_EQ(Errno(access(mounted.Path("f").c_str(), F_OK)), ENOENT);
}

TEST(MountServerTest, ABusyMountIsServedUntilItsLastUserHasClosed) {
  ServedMount mounted(OpenTestVolume, "");
  ASSERT_TRUE(mounted.ok());
  File file(mounted.Path("f"), O_RDWR | O_CREAT);
  ASSERT_EQ(kill(mounted.server_pid(), SIGTERM), 0);
  while (access(mounted.Path("f").c_str(), F_OK) == 0) sched_yield();
  EXPECT_EQ(write(file.fd(), "still", 5), 5);
  EXPECT_EQ(fsync(file.fd()), 0);
  file.Close();
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, mounted.server_pid(), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(info.si_status, 0);
}

TEST(MountServerTest, AnAbortedConnectionEndsTheServerAndLeavesNoMount) {
  ServedMount mounted(OpenTestVolume, "");
  ASSERT_TRUE(mounted.ok());
  File file(mounted.Path("f"), O_RDWR | O_CREAT);
  EXPECT_EQ(Errno(umount2(mounted.directory().c_str(), MNT_FORCE)), EBUSY);
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, mounted.server_pid(), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(info.si_status, 0);
  EXPECT_FALSE(IsDeadMount(mounted.directory()));
}

TEST(MountServerTest, AReadOnlyMountRefusesChanges) {
  ServedMount mounted(OpenTestVolume, "ro");
  ASSERT_TRUE(mounted.ok());
  EXPECT_EQ(Errno(open(mounted.Path("f").c_str(), O_CREAT | O_WRONLY, 0644)), EROFS);
  EXPECT_EQ(mounted.Unmount(), 0);
}

TEST(MountServerTest, AfterAFailureChangesAreRefusedFsyncSaysEioAndUnmountingWorks) {
  ServedMount mounted(OpenTestVolume, "");
  ASSERT_TRUE(mounted.ok());
  WriteFile(mounted.Path("f"), "before");
  File file(mounted.Path("f"), O_RDWR);
  mounted.MakeItFail();
  EXPECT_EQ(Errno(static_cast<int>(write(file.fd(), "x", 1))), EROFS);
  EXPECT_EQ(Errno(fsync(file.fd())), EIO);
  EXPECT_EQ(Errno(fsync(file.fd())), EIO);
  EXPECT_EQ(Errno(open(mounted.Path("g").c_str(), O_CREAT | O_WRONLY, 0644)), EROFS);
  EXPECT_EQ(Errno(unlink(mounted.Path("f").c_str())), EROFS);
  EXPECT_EQ(ReadFile(mounted.Path("f")), "before");
  file.Close();
  EXPECT_EQ(mounted.Unmount(), 0);
}

TEST(MountServerTest, OnABlockDeviceSyncReachesTheServerAndUnmountingWaitsForIt) {
  const std::string directory = FreshDirectory(), image = directory + "/image", name = directory + "/name";
  WriteFile(image, std::string(1 << 20, '\0'));
  ASSERT_EQ(Shell(absl::StrCat("losetup -f --show ", image, " > ", name)), 0);
  std::string device = ReadFile(name);
  device.pop_back();
  {
    ServedMount mounted(OpenTestVolume, "", device);
    // The mount keeps the device; without it, it goes by itself.
    ASSERT_EQ(Shell(absl::StrCat("losetup -d ", device)), 0);
    ASSERT_TRUE(mounted.ok());
    EXPECT_EQ(Shell(absl::StrCat("grep -q ' ", mounted.directory(), " fuseblk.stagefs ' /proc/mounts")), 0);
    WriteFile(mounted.Path("f"), "x");
    const File file(mounted.Path("f"), O_RDONLY);
    ASSERT_EQ(syncfs(file.fd()), 0);
    char text[65536] = {};
    EXPECT_GT(getxattr(mounted.directory().c_str(), kStatisticsXattr, text, sizeof(text) - 1), 0);
    EXPECT_NE(strstr(text, "\"syncfs\": 1"), nullptr) << text;
  }
  EXPECT_EQ(unlink(image.c_str()), 0);
  EXPECT_EQ(unlink(name.c_str()), 0);
  EXPECT_EQ(rmdir(directory.c_str()), 0);
}

TEST(MountServerTest, WithoutACacheOneUnalignedWriteIsOneRequestAndMappingsWork) {
  ServedMount mounted(OpenTestVolume, "cache=none,threads=3");
  ASSERT_TRUE(mounted.ok());
  const std::string content = Pattern(500000);
  const File file(mounted.Path("f"), O_RDWR | O_CREAT | O_DSYNC);
  ASSERT_EQ(pwrite(file.fd(), content.data(), content.size(), 100), static_cast<ssize_t>(content.size()));
  EXPECT_EQ(WriteRequests(mounted), 1u);
  void* area = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
  ASSERT_NE(area, MAP_FAILED) << errno;
  EXPECT_TRUE(std::string(static_cast<char*>(area) + 100, 8092) == content.substr(0, 8092));
  static_cast<char*>(area)[0] = 'm';
  EXPECT_EQ(msync(area, 8192, MS_SYNC), 0);
  EXPECT_EQ(munmap(area, 8192), 0);
  EXPECT_TRUE(ReadFile(mounted.Path("f")) == "m" + std::string(99, '\0') + content);
}

TEST(MountServerTest, WithWritebackTheFileIsTheSame) {
  ServedMount mounted(OpenTestVolume, "cache=writeback");
  ASSERT_TRUE(mounted.ok());
  const std::string content = Pattern(3000001);
  WriteFile(mounted.Path("f"), content);
  const File file(mounted.Path("f"), O_RDWR);
  EXPECT_EQ(fsync(file.fd()), 0);
  EXPECT_EQ(posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  EXPECT_TRUE(ReadFile(mounted.Path("f")) == content);
  const timespec times[] = {{7, 8}, {9, 10}};
  EXPECT_EQ(futimens(file.fd(), times), 0);
  EXPECT_EQ(Stat(mounted.Path("f")).st_mtim.tv_nsec, 10);
}

}  // namespace
}  // namespace stagefs::fuse::testing

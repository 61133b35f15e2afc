// The server itself: what it refuses to mount, the cache modes, failures, and how it ends.

#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/mount.h"
#include "fs/fuse/testing/memory_volume.h"
#include "fs/fuse/testing/mounted_test.h"
#include "fs/fuse/testing/test_transport.h"
#include "fs/volume/sharing.h"
#include "sal/check.h"
#include "sal/mutex.h"

namespace stagefs::fuse::testing {
namespace {

MountOptions TestOptions() { return *ParseMountOptions(TestTransportOption()); }

absl::StatusCode MountCode(const std::string& directory) {
  MemoryVolume volume;
  return FuseServer::Mount(volume, "test", directory, TestOptions()).status().code();
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

// A direct writer opens each new file before its creator hears of it.
class RacingHolder final : public VolumeHolder {
 public:
  volume::Volume& volume() override { return volume_; }
  volume::Sharing* sharing() override { return &volume_.sharing_; }

 private:
  class RacingVolume final : public MemoryVolume {
   public:
    void Create(volume::Ino directory, absl::string_view name, const volume::NewFile& file, bool open,
                volume::Callback<volume::Attributes> done) override {
      MemoryVolume::Create(directory, name, file, open,
                           [this, done = std::move(done)](absl::StatusOr<volume::Attributes> made) mutable {
                             STAGEFS_CHECK(sharing_.Open(made->ino, {volume::Sharing::Door::kDirect, true}).ok());
                             std::move(done)(std::move(made));
                           });
    }
    volume::Sharing sharing_;
  };

  RacingVolume volume_;
};

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

std::string Statistics(const ServedMount& mounted) {
  char text[65536] = {};
  EXPECT_GT(getxattr(mounted.directory().c_str(), kStatisticsXattr, text, sizeof(text) - 1), 0) << errno;
  return text;
}

uint64_t WriteRequests(const ServedMount& mounted) {
  const std::string text = Statistics(mounted);
  const size_t at = text.find("\"write\": ");
  return at == std::string::npos ? 0 : strtoull(text.c_str() + at + 9, nullptr, 10);
}

bool KernelHasUring() { return access("/sys/module/fuse/parameters/enable_uring", F_OK) == 0; }

bool IsOverUring() { return KernelHasUring() && absl::string_view(TestTransportOption()) != "transport=dev"; }

// How many writes of 1 MiB can wait for the volume at once, wherever they come from.
size_t LargeWritesThatCanWait() {
  return IsOverUring() ? UringTransport::DepthOf(std::thread::hardware_concurrency()) : Transport::kLargeBuffers;
}

TEST(MountServerTest, TheStatisticsNameTheTransport) {
  ServedMount mounted(OpenTestVolume, "");
  ASSERT_TRUE(mounted.ok());
  const char* expected = IsOverUring() ? "\"transport\": \"io_uring\"" : "\"transport\": \"dev\"";
  EXPECT_NE(Statistics(mounted).find(expected), std::string::npos) << Statistics(mounted);
}

// From now on `system_call` fails in this process, as in a container that does not allow it.
void Forbid(unsigned system_call) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, system_call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter = {4, program};
  STAGEFS_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  STAGEFS_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

// Without io_uring_setup(2) it is known before the mount that io_uring cannot be used; without io_uring_register(2) the
// kernel has been told already that it would be, and all requests wait for queues that never come.
TEST(MountServerTest, WithoutIoUringRequestsComeByTheDevice) {
  for (const unsigned forbidden : {SYS_io_uring_setup, SYS_io_uring_register}) {
    const auto open_without = [forbidden] {
      Forbid(forbidden);
      return OpenTestVolume();
    };
    ServedMount mounted(open_without, "");
    ASSERT_TRUE(mounted.ok()) << forbidden;
    EXPECT_NE(Statistics(mounted).find("\"transport\": \"dev\""), std::string::npos) << Statistics(mounted);
    WriteFile(mounted.Path("f"), Pattern(100000));
    EXPECT_TRUE(ReadFile(mounted.Path("f")) == Pattern(100000));
    EXPECT_EQ(mounted.Unmount(), 0);
  }
}

TEST(MountServerTest, AMountThatInsistsOnIoUringFailsWithoutIt) {
  for (const unsigned forbidden : {SYS_io_uring_setup, SYS_io_uring_register}) {
    const auto open_without = [forbidden] {
      Forbid(forbidden);
      return OpenTestVolume();
    };
    const ServedMount mounted(open_without, "transport=uring");
    EXPECT_FALSE(mounted.ok()) << forbidden;
    EXPECT_FALSE(IsDeadMount(mounted.directory()));
  }
}

TEST(MountServerTest, RequestsThatWaitHoldNoThread) {
  const int places = static_cast<int>(LargeWritesThatCanWait());
  const int large_count = std::clamp(places / 4, 1, 8);
  // One place is left for what comes meanwhile.
  const int small_count = IsOverUring() ? places - large_count - 1 : 40;
  ServedMount mounted(HoldUntilThereAre(large_count + small_count), "threads=1");
  ASSERT_TRUE(mounted.ok());
  std::vector<std::thread> large = StartWriters(mounted, "large", large_count, 1 << 20);
  std::vector<std::thread> small = StartWriters(mounted, "small", small_count, 4096);
  while (WriteRequests(mounted) < static_cast<uint64_t>(large_count + small_count)) sched_yield();
  EXPECT_EQ(mkdir(mounted.Path("meanwhile").c_str(), 0755), 0) << errno;
  mounted.MakeItFail();
  for (std::thread& writer : large) writer.join();
  for (std::thread& writer : small) writer.join();
  for (int i = 0; i < large_count; ++i) {
    EXPECT_TRUE(ReadFile(mounted.Path(absl::StrCat("large", i))) == Pattern(1 << 20, static_cast<unsigned>(i)));
  }
}

TEST(MountServerTest, WhenTheBuffersAreUsedUpRequestsWaitAndNothingIsLost) {
  constexpr int kWriters = 60;
  ASSERT_LT(LargeWritesThatCanWait(), size_t{kWriters});
  ServedMount mounted(HoldUntilThereAre(LargeWritesThatCanWait()), "threads=2");
  ASSERT_TRUE(mounted.ok());
  std::vector<std::thread> writers = StartWriters(mounted, "f", kWriters, 1 << 20);
  mounted.MakeItFail();
  for (std::thread& writer : writers) writer.join();
  for (int i = 0; i < kWriters; ++i) {
    EXPECT_TRUE(ReadFile(mounted.Path(absl::StrCat("f", i))) == Pattern(1 << 20, static_cast<unsigned>(i)));
  }
}

TEST(MountServerTest, ANewFileThatADirectWriterWasFasterToOpenIsThereAndBusy) {
  ServedMount mounted([] { return std::make_unique<RacingHolder>(); }, "");
  ASSERT_TRUE(mounted.ok());
  EXPECT_EQ(Errno(access(mounted.Path("f").c_str(), F_OK)), ENOENT);
  EXPECT_EQ(Errno(open(mounted.Path("f").c_str(), O_WRONLY | O_CREAT, 0644)), EBUSY);
  // The kernel hears so a moment later.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (access(mounted.Path("f").c_str(), F_OK) != 0) ASSERT_LT(std::chrono::steady_clock::now(), deadline);
  EXPECT_EQ(ReadFile(mounted.Path("f")), "");
  EXPECT_EQ(Errno(open(mounted.Path("f").c_str(), O_WRONLY)), EBUSY);
  EXPECT_EQ(mounted.Unmount(), 0);
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
      auto server = FuseServer::Mount(volume, "test", directory, TestOptions());
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

// Threads that create, write, read and remove files until a call fails, which must be because the mount has ended.
std::vector<std::thread> StartLoad(const ServedMount& mounted, int count) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    // By a descriptor, since the path leads to the bare mount point once the mount is gone.
    const int directory = open(mounted.directory().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    EXPECT_GE(directory, 0) << errno;
    threads.emplace_back([directory, name = absl::StrCat("load", i), i] {
      std::string bytes(i % 2 == 0 ? 1 << 20 : 4096, 'x');
      bool ended = false;
      while (!ended) {
        const int fd = openat(directory, name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        ended = fd < 0 || pwrite(fd, bytes.data(), bytes.size(), 0) < 0 || fsync(fd) != 0 ||
                posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0 || pread(fd, bytes.data(), bytes.size(), 0) < 0 ||
                unlinkat(directory, name.c_str(), 0) != 0;
        const int error = errno;
        if (ended) {
          // The latter three, over io_uring: it reached the server while that was dying.
          EXPECT_TRUE(error == ENOTCONN || error == ECONNABORTED || error == ECANCELED || error == EINTR ||
                      error == EIO)
              << error;
        }
        if (fd >= 0) close(fd);
      }
      close(directory);
    });
  }
  return threads;
}

void WaitForWrites(const ServedMount& mounted, uint64_t count) {
  while (WriteRequests(mounted) < count) sched_yield();
}

TEST(MountServerTest, AServerKilledUnderLoadLetsGoOfItsClients) {
  ServedMount mounted(OpenTestVolume, "");
  ASSERT_TRUE(mounted.ok());
  std::vector<std::thread> load = StartLoad(mounted, 8);
  WaitForWrites(mounted, 200);
  ASSERT_EQ(kill(mounted.server_pid(), SIGKILL), 0);
  for (std::thread& thread : load) thread.join();
  EXPECT_TRUE(IsDeadMount(mounted.directory()));
  mounted.Unmount();
  EXPECT_FALSE(IsDeadMount(mounted.directory()));
}

TEST(MountServerTest, AnAbortUnderLoadEndsClientsAndServer) {
  ServedMount mounted(OpenTestVolume, "");
  ASSERT_TRUE(mounted.ok());
  std::vector<std::thread> load = StartLoad(mounted, 8);
  WaitForWrites(mounted, 200);
  umount2(mounted.directory().c_str(), MNT_FORCE);  // EBUSY or not: it aborts
  for (std::thread& thread : load) thread.join();
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, mounted.server_pid(), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(info.si_code, CLD_EXITED);
  EXPECT_EQ(info.si_status, 0);
}

TEST(MountServerTest, AnAbortWhileRequestsWaitEndsTheServerOnceTheyAreAnswered) {
  const int count = static_cast<int>(std::min<size_t>(LargeWritesThatCanWait() / 2, 8));
  ServedMount mounted(HoldUntilThereAre(count), "");
  ASSERT_TRUE(mounted.ok());
  std::vector<std::thread> writers;
  for (int i = 0; i < count; ++i) {
    writers.emplace_back([path = mounted.Path(absl::StrCat("f", i))] {
      const File file(path, O_WRONLY | O_CREAT);
      EXPECT_LT(write(file.fd(), std::string(200000, 'x').data(), 200000), 0);
    });
  }
  WaitForWrites(mounted, count);
  umount2(mounted.directory().c_str(), MNT_FORCE);
  for (std::thread& writer : writers) writer.join();
  mounted.MakeItFail();  // lets the held writes go: their replies find nobody
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, mounted.server_pid(), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(info.si_code, CLD_EXITED);
  EXPECT_EQ(info.si_status, 0);
}

TEST(MountServerTest, KilledClientsLeaveNothingBehind) {
  ServedMount mounted(OpenTestVolume, "");
  ASSERT_TRUE(mounted.ok());
  for (int round = 0; round < 20; ++round) {
    const pid_t client = fork();
    if (client == 0) {
      const std::string path = mounted.Path("f"), bytes(300000, 'x');
      while (true) {
        const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        (void)!pwrite(fd, bytes.data(), bytes.size(), 0);
        fsync(fd);
        close(fd);
      }
    }
    WaitForWrites(mounted, WriteRequests(mounted) + 3);
    ASSERT_EQ(kill(client, SIGKILL), 0);
    ASSERT_EQ(waitpid(client, nullptr, 0), client);
  }
  EXPECT_EQ(ReadFile(mounted.Path("f")).size(), 300000u);
  // RELEASE comes some time after the close; then nothing but this very question is in flight.
  while (Statistics(mounted).find("\"in_flight\": 0}") == std::string::npos) sched_yield();
  EXPECT_EQ(mounted.Unmount(), 0);
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
    EXPECT_NE(Statistics(mounted).find("\"syncfs\": 1"), std::string::npos) << Statistics(mounted);
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

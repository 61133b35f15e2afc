#include "fs/fuse/testing/served_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/mount.h"
#include "fs/fuse/options.h"
#include "fs/fuse/testing/test_transport.h"
#include "sal/check.h"

namespace stagefs::fuse::testing {
namespace {

void Log(absl::string_view line) { fprintf(stderr, "server: %.*s\n", static_cast<int>(line.size()), line.data()); }

}  // namespace

ServedMount::ServedMount(std::function<std::unique_ptr<VolumeHolder>()> open, absl::string_view options,
                         absl::string_view source, int timeout_seconds) {
  // Not in TEST_TMPDIR: that may lie below a home directory which other users, whose rights are tested, cannot enter.
  std::string pattern = "/tmp/stagefs-mount-XXXXXX";
  STAGEFS_CHECK(mkdtemp(pattern.data()) != nullptr);
  directory_ = pattern;
  watchdog_ = std::make_unique<MountWatchdog>(directory_, timeout_seconds);
  int fds[2];
  STAGEFS_CHECK(pipe2(fds, O_CLOEXEC) == 0);
  pid_ = fork();
  STAGEFS_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    close(fds[0]);
    Serve(open, options, source, fds[1]);
  }
  close(fds[1]);
  ready_fd_ = fds[0];
  char byte;
  ok_ = read(ready_fd_, &byte, 1) == 1;
}

ServedMount::~ServedMount() {
  if (pid_ > 0) Unmount();
  close(ready_fd_);
  watchdog_.reset();
  rmdir(directory_.c_str());
}

void ServedMount::Serve(const std::function<std::unique_ptr<VolumeHolder>()>& open, absl::string_view options,
                        absl::string_view source, int ready_fd) {
  PrepareServerProcess(Log);
  sigset_t failure;
  sigemptyset(&failure);
  sigaddset(&failure, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &failure, nullptr);
  absl::StatusOr<MountOptions> parsed = ParseMountOptions(absl::StrCat(TestTransportOption(), ",", options));
  if (!parsed.ok()) {
    Log(parsed.status().ToString());
    _exit(2);
  }
  parsed->log = Log;
  parsed->statistics = [](const FuseStats& stats) { return FuseStatsJson(stats); };
  const std::unique_ptr<VolumeHolder> holder = open();
  absl::StatusOr<std::unique_ptr<FuseServer>> server =
      FuseServer::Mount(holder->volume(), std::string(source), directory_, *parsed, holder->sharing());
  if (!server.ok()) {
    Log(server.status().ToString());
    _exit(3);
  }
  std::thread failer([&failure, &holder, ready_fd] {
    int signal;
    while (sigwait(&failure, &signal) == 0) {
      holder->Fail();
      STAGEFS_CHECK(write(ready_fd, "f", 1) == 1);
    }
  });
  failer.detach();
  STAGEFS_CHECK(write(ready_fd, "m", 1) == 1);
  (*server)->Run();
  server->reset();
  holder->volume().Close();
  _exit(0);  // the rest belongs to the test's process
}

std::string ServedMount::Path(absl::string_view name) const { return absl::StrCat(directory_, "/", name); }

void ServedMount::MakeItFail() {
  kill(pid_, SIGUSR1);
  char byte;
  STAGEFS_CHECK(read(ready_fd_, &byte, 1) == 1);
}

int ServedMount::Unmount() {
  const int failed = ok_ && umount2(directory_.c_str(), UMOUNT_NOFOLLOW) != 0 ? errno : 0;
  if (failed != 0) {
    fprintf(stderr, "umount %s: %s\n", directory_.c_str(), strerror(failed));
    AbortMount(directory_);
  }
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  return failed != 0 ? failed : status;
}

}  // namespace stagefs::fuse::testing

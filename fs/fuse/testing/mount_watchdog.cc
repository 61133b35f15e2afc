#include "fs/fuse/testing/mount_watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sal/check.h"

namespace stagefs::fuse::testing {
namespace {

// In the watchdog's process.
[[noreturn]] void Watch(int pipe_fd, const std::string& directory, int timeout_seconds) {
  setsid();  // outlive a signal to the test's process group
  // Hold nothing of the test's open: neither its output, whose end its runner waits for, nor /dev/fuse.
  for (int fd = 0; fd < 1024; ++fd) {
    if (fd != pipe_fd) close(fd);
  }
  pollfd waiting = {pipe_fd, POLLIN, 0};
  const bool heard = poll(&waiting, 1, timeout_seconds * 1000) > 0;
  char byte;
  if (heard && read(pipe_fd, &byte, 1) == 1) _exit(0);
  AbortMount(directory);
  _exit(1);
}

}  // namespace

void AbortMount(const std::string& directory) {
  // MNT_FORCE aborts the connection, as writing to /sys/fs/fuse/connections/N/abort does, but needs no fusectl mount
  // and no look at the mount itself. It fails with EBUSY when files are open, after it has aborted.
  for (int i = 0; i < 8; ++i) {
    if (umount2(directory.c_str(), MNT_FORCE | UMOUNT_NOFOLLOW) != 0 && errno != EBUSY) return;
    if (umount2(directory.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0) return;
  }
}

MountWatchdog::MountWatchdog(absl::string_view directory, int timeout_seconds) : directory_(directory) {
  int fds[2];
  STAGEFS_CHECK(pipe2(fds, O_CLOEXEC) == 0);
  pid_ = fork();
  STAGEFS_CHECK(pid_ >= 0);
  if (pid_ == 0) Watch(fds[0], directory_, timeout_seconds);
  close(fds[0]);
  pipe_fd_ = fds[1];
}

MountWatchdog::~MountWatchdog() {
  const char byte = 1;
  // It may have barked already, and be gone: then its end of the pipe is closed.
  if (write(pipe_fd_, &byte, 1) != 1) fprintf(stderr, "the watchdog has aborted the mount on %s\n", directory_.c_str());
  close(pipe_fd_);
  waitpid(pid_, nullptr, 0);
  AbortMount(directory_);
}

}  // namespace stagefs::fuse::testing

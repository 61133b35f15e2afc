// MountWatchdog: sees to it that a test which mounts neither hangs nor leaves a mount behind, whatever becomes of it.

#ifndef STAGEFS_FS_FUSE_TESTING_MOUNT_WATCHDOG_H_
#define STAGEFS_FS_FUSE_TESTING_MOUNT_WATCHDOG_H_

#include <sys/types.h>

#include <string>

#include "absl/strings/string_view.h"

namespace stagefs::fuse::testing {

// Aborts the FUSE connection behind `directory` (all that waits for it gets ECONNABORTED) and takes the mount away.
// Harmless when nothing is mounted there.
void AbortMount(const std::string& directory);

// A process of its own that waits. When the test's process ends without destroying this object, or after
// `timeout_seconds`, it aborts the mount on `directory`; after the timeout the test then goes on to fail with I/O
// errors instead of hanging. Make it before anything is mounted and before any thread is started.
class MountWatchdog {
 public:
  MountWatchdog(absl::string_view directory, int timeout_seconds);
  // Calls it off, and aborts the mount if there still is one.
  ~MountWatchdog();
  MountWatchdog(const MountWatchdog&) = delete;
  MountWatchdog& operator=(const MountWatchdog&) = delete;

 private:
  const std::string directory_;
  int pipe_fd_ = -1;  // a byte means that all is well, the end of the file that we are dead
  pid_t pid_ = -1;
};

}  // namespace stagefs::fuse::testing

#endif  // STAGEFS_FS_FUSE_TESTING_MOUNT_WATCHDOG_H_

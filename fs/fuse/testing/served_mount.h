// ServedMount: a volume served in a process of its own and mounted on a fresh directory, for tests.
//
// The server must not share the address space of a client that maps files: munmap() of a dirty mapping waits for WRITEs
// with the address space locked, and a server thread that then allocates memory would wait for it, for ever.

#ifndef STAGEFS_FS_FUSE_TESTING_SERVED_MOUNT_H_
#define STAGEFS_FS_FUSE_TESTING_SERVED_MOUNT_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "fs/fuse/testing/mount_watchdog.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"

namespace stagefs::fuse::testing {

// Keeps a volume and what lies under it. Destroyed after the mount has gone.
class VolumeHolder {
 public:
  virtual ~VolumeHolder() = default;
  virtual volume::Volume& volume() = 0;
  // If the mount is to be one door of several.
  virtual volume::Sharing* sharing() { return nullptr; }
  // Called on SIGUSR1 (see ServedMount::MakeItFail).
  virtual void Fail() {}
};

class ServedMount {
 public:
  // `open` runs in the server's process. `options` as after -o, behind that of fs/fuse/testing/test_transport.h; `source`
  // as for FuseServer::Mount().
  // Start it before the test's process starts threads. On failure ok() is false.
  ServedMount(std::function<std::unique_ptr<VolumeHolder>()> open, absl::string_view options,
              absl::string_view source = "served-mount", int timeout_seconds = 50);
  // Unmounts, waits for the server to end, and removes the directory.
  ~ServedMount();
  ServedMount(const ServedMount&) = delete;
  ServedMount& operator=(const ServedMount&) = delete;

  bool ok() const { return ok_; }
  const std::string& directory() const { return directory_; }
  std::string Path(absl::string_view name) const;
  pid_t server_pid() const { return pid_; }
  // Makes the volume fail as VolumeHolder::Fail() does; returns when that has happened.
  void MakeItFail();
  // Unmounts as umount(8) does and waits for the server. 0: all went well.
  int Unmount();

 private:
  [[noreturn]] void Serve(const std::function<std::unique_ptr<VolumeHolder>()>& open, absl::string_view options,
                          absl::string_view source, int ready_fd);

  std::string directory_;
  std::unique_ptr<MountWatchdog> watchdog_;
  int ready_fd_ = -1;  // from the server: a byte when mounted, one more when failed
  pid_t pid_ = -1;
  bool ok_ = false;
};

}  // namespace stagefs::fuse::testing

#endif  // STAGEFS_FS_FUSE_TESTING_SERVED_MOUNT_H_

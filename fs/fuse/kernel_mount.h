// What the front end asks of the host: the mount itself, its /dev/fuse descriptors, and settings in /sys.

#ifndef STAGEFS_FS_FUSE_KERNEL_MOUNT_H_
#define STAGEFS_FS_FUSE_KERNEL_MOUNT_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fs/fuse/options.h"

namespace stagefs::fuse {

struct KernelMount {
  int device_fd = -1;     // the connection; owned by who gets this
  std::string directory;  // absolute, without symbolic links
  bool is_fuseblk = false;
};

// Mounts. The kernel's first request (INIT) then waits on device_fd. As root by mount(2), else through fusermount3.
// A dead mount (its server was killed) on `directory` is taken away first.
// Errors: NotFound (no such directory, no /dev/fuse), FailedPrecondition (not a directory, already a mount point),
// PermissionDenied, Internal.
absl::StatusOr<KernelMount> MountKernel(const std::string& source, const std::string& directory,
                                        const MountOptions& options);

// Sees to it that the kernel offers FUSE over io_uring to mounts made from now on: as root it switches that on for the
// host, and tells `options.log` of it. Errors: FailedPrecondition (this kernel has none; it is off, and this is not root).
absl::Status EnableUring(const MountOptions& options);

// Another descriptor for the same connection, with a queue of replies of its own. FailedPrecondition where the kernel
// or the permissions of /dev/fuse do not allow it.
absl::StatusOr<int> CloneDevice(int device_fd);

// umount2(2) for root, fusermount3 else. `detach`: take the mount out of sight now, and end it when nobody uses it.
// Errors: FailedPrecondition (busy), Internal.
absl::Status UnmountKernel(const std::string& directory, bool detach);

// Whether `directory` is a mount whose server is gone.
bool IsDeadMount(const std::string& directory);

// Sets read-ahead and the share of dirty memory for `mount`, and tells `options.log` of each. The mount must be
// serving: this looks at its root directory.
void TuneHost(const KernelMount& mount, const MountOptions& options);

// For the process that will serve, before it starts any thread: chdir to /, so that it holds no directory busy;
// PR_SET_IO_FLUSHER, so that the kernel never asks it to write back to itself while it allocates memory; SIGINT,
// SIGTERM and SIGHUP blocked, for FuseServer to take. Needs no privilege, does what it may.
void PrepareServerProcess(absl::FunctionRef<void(absl::string_view)> log);

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_KERNEL_MOUNT_H_

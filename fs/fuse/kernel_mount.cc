#include "fs/fuse/kernel_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <linux/fuse.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "fs/fuse/transport.h"
#include "sal/status_macros.h"

namespace stagefs::fuse {
namespace {

constexpr char kDevice[] = "/dev/fuse";
constexpr char kEnableUring[] = "/sys/module/fuse/parameters/enable_uring";

bool IsBlockDevice(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISBLK(status.st_mode);
}

absl::Status MountError(int error, absl::string_view what) {
  const std::string message = absl::StrCat(what, ": ", strerror(error));
  if (error == EPERM || error == EACCES) {
    return absl::PermissionDeniedError(absl::StrCat(message, ". Mounting needs root, or fusermount3 for other users"));
  }
  if (error == ENOENT || error == ENODEV || error == ENXIO) return absl::NotFoundError(message);
  if (error == EBUSY || error == ENOTDIR) return absl::FailedPreconditionError(message);
  return absl::InternalError(message);
}

// The directory that something is mounted on has another device than its parent.
bool IsMountPoint(const std::string& directory, const struct stat& status) {
  struct stat parent;
  if (stat((directory + "/..").c_str(), &parent) != 0) return false;
  return parent.st_dev != status.st_dev || parent.st_ino == status.st_ino;
}

absl::StatusOr<std::string> CheckMountPoint(const std::string& directory, const MountOptions& options) {
  if (IsDeadMount(directory)) {
    if (options.log) options.log(absl::StrCat("taking away the dead mount on ", directory));
    RETURN_IF_ERROR(UnmountKernel(directory, true));
  }
  char* resolved = realpath(directory.c_str(), nullptr);
  if (resolved == nullptr) return MountError(errno, absl::StrCat("mount point ", directory));
  std::string path = resolved;
  free(resolved);
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return MountError(errno, absl::StrCat("mount point ", path));
  if (!S_ISDIR(status.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("mount point ", path, " is not a directory"));
  }
  if (IsMountPoint(path, status)) {
    return absl::FailedPreconditionError(
        absl::StrCat("mount point ", path, " is busy: something is mounted on it already"));
  }
  return path;
}

// For users without the right to mount: libfuse runs fusermount3, which hands back the descriptor.
absl::StatusOr<int> MountByFusermount(const std::string& source, const std::string& directory,
                                      const MountOptions& options) {
  std::string name;
  for (const char c : source) {
    if (c == ',' || c == '\\') name += '\\';
    name += c;
  }
  std::string text = absl::StrCat("subtype=stagefs,fsname=", name, ",max_read=", kMaxRequestBytes);
  if (options.default_permissions.value_or(true)) text += ",default_permissions";
  if (options.allow_other.value_or(false)) text += ",allow_other";
  if (options.read_only) text += ",ro";
  if (options.mount_flags & MS_NOEXEC) text += ",noexec";
  const int fd = fuse_open_channel(directory.c_str(), text.c_str());
  if (fd < 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot mount ", directory, " as this user: fusermount3 refused, or is not installed"));
  }
  return fd;
}

absl::Status MountBySyscall(const std::string& source, const MountOptions& options, KernelMount* mounted) {
  struct stat root;
  if (stat(mounted->directory.c_str(), &root) != 0) return MountError(errno, mounted->directory);
  std::string data = absl::StrFormat("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d", mounted->device_fd,
                                     root.st_mode & S_IFMT, getuid(), getgid(), kMaxRequestBytes);
  if (options.default_permissions.value_or(true)) data += ",default_permissions";
  if (options.allow_other.value_or(true)) data += ",allow_other";
  if (options.fuseblk && IsBlockDevice(source)) {
    if (mount(source.c_str(), mounted->directory.c_str(), "fuseblk.stagefs", options.mount_flags,
              (data + ",blksize=4096").c_str()) == 0) {
      mounted->is_fuseblk = true;
      return absl::OkStatus();
    }
    if (options.log) {
      options.log(absl::StrFormat("mount type fuseblk on %s: %s; using fuse, which hears nothing of sync(2)", source,
                                  strerror(errno)));
    }
  }
  if (mount(source.c_str(), mounted->directory.c_str(), "fuse.stagefs", options.mount_flags, data.c_str()) != 0) {
    return MountError(errno, absl::StrCat("mounting on ", mounted->directory));
  }
  return absl::OkStatus();
}

absl::Status WriteSetting(const std::string& path, absl::string_view value) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return MountError(errno, path);
  const ssize_t written = write(fd, value.data(), value.size());
  const int error = errno;
  close(fd);
  return written == static_cast<ssize_t>(value.size()) ? absl::OkStatus() : MountError(error, path);
}

void Set(const std::string& path, absl::string_view value, const MountOptions& options) {
  const absl::Status status = WriteSetting(path, value);
  if (absl::IsNotFound(status) || !options.log) return;  // another kernel: it has no such setting
  options.log(status.ok() ? absl::StrCat("set ", path, " to ", value)
                          : absl::StrCat("could not set ", path, " to ", value, ": ", status.message()));
}

}  // namespace

bool IsDeadMount(const std::string& directory) {
  // Not stat(): the kernel may remember the attributes of the root directory, but it asks for these each time.
  struct statfs numbers;
  // ECANCELED and EINTR: the question came while the server, which used io_uring, was dying.
  int result;
  while ((result = statfs(directory.c_str(), &numbers)) != 0 && errno == EINTR) continue;
  if (result == 0) return false;
  return errno == ENOTCONN || errno == ECONNABORTED || errno == ECANCELED;
}

absl::StatusOr<KernelMount> MountKernel(const std::string& source, const std::string& directory,
                                        const MountOptions& options) {
  KernelMount mounted;
  ASSIGN_OR_RETURN(mounted.directory, CheckMountPoint(directory, options));
  if (geteuid() != 0) {
    ASSIGN_OR_RETURN(mounted.device_fd, MountByFusermount(source, mounted.directory, options));
    return mounted;
  }
  mounted.device_fd = open(kDevice, O_RDWR | O_CLOEXEC);
  if (mounted.device_fd < 0) {
    const int error = errno;
    return MountError(error, absl::StrCat("opening ", kDevice, " (is the kernel module loaded? modprobe fuse)"));
  }
  const absl::Status status = MountBySyscall(source, options, &mounted);
  if (!status.ok()) {
    close(mounted.device_fd);
    return status;
  }
  return mounted;
}

absl::Status EnableUring(const MountOptions& options) {
  // Opening the device loads the kernel module.
  const int device_fd = open(kDevice, O_RDWR | O_CLOEXEC);
  if (device_fd >= 0) close(device_fd);
  const int fd = open(kEnableUring, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the kernel has no FUSE over io_uring (Linux 6.14 and later do): ", kEnableUring, ": ",
                     strerror(errno)));
  }
  char value = 'N';
  const ssize_t size = read(fd, &value, 1);
  close(fd);
  if (size == 1 && value == 'Y') return absl::OkStatus();
  const absl::Status status = WriteSetting(kEnableUring, "Y");
  if (!status.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("it is switched off, and cannot be switched on: ",
                                                      status.message(), " (as root: echo Y > ", kEnableUring, ")"));
  }
  if (options.log) options.log(absl::StrCat("set ", kEnableUring, " to Y"));
  return absl::OkStatus();
}

absl::StatusOr<int> CloneDevice(int device_fd) {
  const int fd = open(kDevice, O_RDWR | O_CLOEXEC);
  uint32_t from = static_cast<uint32_t>(device_fd);
  if (fd >= 0 && ioctl(fd, FUSE_DEV_IOC_CLONE, &from) == 0) return fd;
  const int error = errno;
  if (fd >= 0) close(fd);
  return absl::FailedPreconditionError(absl::StrCat("cloning ", kDevice, ": ", strerror(error)));
}

absl::Status UnmountKernel(const std::string& directory, bool detach) {
  if (geteuid() == 0) {
    if (umount2(directory.c_str(), UMOUNT_NOFOLLOW | (detach ? MNT_DETACH : 0)) == 0) return absl::OkStatus();
    return MountError(errno, absl::StrCat("unmounting ", directory));
  }
  std::string flag = detach ? "-uzq" : "-uq";
  std::string path = directory;
  char program[] = "fusermount3", separator[] = "--";
  char* const arguments[] = {program, flag.data(), separator, path.data(), nullptr};
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, program, nullptr, nullptr, arguments, environ);
  if (error != 0) return MountError(error, "running fusermount3");
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("fusermount3 ", flag, " ", directory, " failed: is it busy?"));
}

void TuneHost(const KernelMount& mount, const MountOptions& options) {
  struct stat status;
  if (geteuid() != 0 || stat(mount.directory.c_str(), &status) != 0) return;
  const std::string bdi = absl::StrFormat("/sys/class/bdi/%d:%d%s/", major(status.st_dev), minor(status.st_dev),
                                          mount.is_fuseblk ? "-fuseblk" : "");
  Set(bdi + "read_ahead_kb", absl::StrCat(options.read_ahead_kb), options);
  // FUSE mounts may have 1 % of the dirty memory by default, which makes writers through mmap wait early.
  Set(bdi + "max_ratio", "50", options);
}

void PrepareServerProcess(absl::FunctionRef<void(absl::string_view)> log) {
  if (chdir("/") != 0) log(absl::StrCat("chdir /: ", strerror(errno)));
#ifdef PR_SET_IO_FLUSHER
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0) {
    log("set PR_SET_IO_FLUSHER for this process");
  } else {
    log(absl::StrCat("could not set PR_SET_IO_FLUSHER (", strerror(errno),
                     "): under memory pressure, writers through mmap may have to wait for each other"));
  }
#endif
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

}  // namespace stagefs::fuse

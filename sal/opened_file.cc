#include "sal/opened_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"

namespace stagefs::sal {

namespace {

constexpr uint32_t kLargestBlock = 4096;
constexpr uint32_t kSmallestBlock = 512;

absl::Status ErrnoStatus(const std::string& name, absl::string_view what, int error) {
  const std::string message = absl::StrCat(name, ": ", what, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(absl::StrCat(message, "; run as a user who may, or change its permissions"));
    case EBUSY:
      return absl::FailedPreconditionError(
          absl::StrCat(message, ": it is mounted or used by another program; unmount it first (see lsblk, mount)"));
    case ENOSPC:
      return absl::ResourceExhaustedError(message);
    case ELOOP:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EFBIG:
      return absl::InvalidArgumentError(message);
    default:
      return absl::InternalError(message);
  }
}

// The new file's name must survive a power cut as the volume in it does.
absl::Status FlushDirectoryOf(const std::string& name, const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(name, absl::StrCat("cannot open its directory ", directory), errno);
  const int result = fsync(fd);
  const int error = errno;
  close(fd);
  // Some file systems know no fsync of directories; that is their promise, not ours.
  if (result != 0 && error != EINVAL) return ErrnoStatus(name, absl::StrCat("cannot flush ", directory), error);
  return absl::OkStatus();
}

using Deadline = std::chrono::steady_clock::time_point;

// Waits a little and returns true, or returns false once `deadline` has passed. What ends another server's lock or
// claim is its last I/O, which nothing announces: so this polls.
bool WaitALittle(Deadline deadline) {
  const auto now = std::chrono::steady_clock::now();
  if (now >= deadline) return false;
  std::this_thread::sleep_for(
      std::min<std::chrono::steady_clock::duration>(std::chrono::milliseconds(20), deadline - now));
  return true;
}

absl::Status Lock(const std::string& name, int fd, const OpenStoreOptions& options, Deadline deadline) {
  while (flock(fd, (options.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return ErrnoStatus(name, "cannot lock it", errno);
    if (!WaitALittle(deadline)) {
      return absl::FailedPreconditionError(
          absl::StrCat(name, ": in use: another stagefs server or tool has it locked (waited ",
                       options.lock_wait_ms / 1000, " s); unmount that volume or wait for the tool (see lslocks)"));
    }
  }
  return absl::OkStatus();
}

bool DeviceDiscards(dev_t device) {
  // A partition has no queue of its own; its disk's is one directory up.
  for (const char* queue : {"queue", "../queue"}) {
    const std::string path =
        absl::StrCat("/sys/dev/block/", major(device), ":", minor(device), "/", queue, "/discard_max_bytes");
    std::FILE* file = std::fopen(path.c_str(), "re");
    if (file == nullptr) continue;
    unsigned long long bytes = 0;
    const bool read = std::fscanf(file, "%llu", &bytes) == 1;
    std::fclose(file);
    return read && bytes > 0;
  }
  return false;
}

// Opens with O_DIRECT where the file system can; `direct` says whether it could.
absl::StatusOr<int> OpenDescriptor(const std::string& name, const std::string& path, int flags, Deadline deadline,
                                   bool* direct) {
  *direct = true;
  while (true) {
    const int fd = open(path.c_str(), flags | (*direct ? O_DIRECT : 0) | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    const int error = errno;
    if (error == EINVAL && *direct) {
      *direct = false;
    } else if (error != EINTR && !(error == EBUSY && WaitALittle(deadline))) {
      return ErrnoStatus(name, "cannot open it", error);
    }
  }
}

absl::Status InspectDevice(const std::string& name, dev_t device, OpenedFile& file) {
  uint64_t size_bytes = 0;
  int block_bytes = 0;
  if (ioctl(file.fd, BLKGETSIZE64, &size_bytes) != 0) return ErrnoStatus(name, "cannot tell its size", errno);
  if (ioctl(file.fd, BLKSSZGET, &block_bytes) != 0) return ErrnoStatus(name, "cannot tell its block size", errno);
  file.geometry.size_bytes = size_bytes;
  file.geometry.block_size_bytes = static_cast<uint32_t>(block_bytes);
  file.geometry.atomic_write_bytes = std::max<uint32_t>(block_bytes, kSmallestBlock);
  file.geometry.discard = DeviceDiscards(device);
  return absl::OkStatus();
}

absl::Status InspectImage(const std::string& name, const OpenStoreOptions& options, OpenedFile& file, bool* direct) {
  struct stat status;
  if (fstat(file.fd, &status) != 0) return ErrnoStatus(name, "cannot tell its size", errno);
  uint64_t size_bytes = static_cast<uint64_t>(status.st_size);
  if (size_bytes < options.create_bytes) {
    if (ftruncate(file.fd, static_cast<off_t>(options.create_bytes)) != 0) {
      return ErrnoStatus(name, absl::StrCat("cannot make it ", options.create_bytes, " bytes large"), errno);
    }
    size_bytes = options.create_bytes;
  }
  file.geometry.size_bytes = size_bytes;
  file.geometry.discard = true;
  file.geometry.block_size_bytes = *direct ? kLargestBlock : kSmallestBlock;
#ifdef STATX_DIOALIGN
  struct statx extended;
  if (*direct && statx(file.fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
      (extended.stx_mask & STATX_DIOALIGN) != 0) {
    const uint32_t align = std::max(extended.stx_dio_mem_align, extended.stx_dio_offset_align);
    if (extended.stx_dio_offset_align == 0 || align > kLargestBlock) {
      // The file itself (encrypted, data-journalled, ...) does no direct I/O, though its file system does.
      if (fcntl(file.fd, F_SETFL, fcntl(file.fd, F_GETFL) & ~O_DIRECT) != 0) {
        return ErrnoStatus(name, "cannot turn off direct I/O", errno);
      }
      *direct = false;
      file.geometry.block_size_bytes = kSmallestBlock;
    } else {
      file.geometry.block_size_bytes = std::max(align, kSmallestBlock);
    }
  }
#endif
  return absl::OkStatus();
}

}  // namespace

OpenedFile::OpenedFile(OpenedFile&& other) noexcept
    : fd(std::exchange(other.fd, -1)),
      geometry(other.geometry),
      block_device(other.block_device),
      read_only(other.read_only),
      note(std::move(other.note)) {}

OpenedFile::~OpenedFile() {
  if (fd >= 0) close(fd);
}

absl::StatusOr<OpenedFile> OpenFile(const std::string& name, const std::string& path, const OpenStoreOptions& options) {
  if (path.empty()) return absl::InvalidArgumentError(absl::StrCat("\"", name, "\": a store needs a path"));
  if (options.read_only && options.create_bytes > 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": cannot create it read-only"));
  }
  OpenedFile file;
  file.read_only = options.read_only;

  struct stat status;
  bool created = false;
  if (stat(path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": is a directory; name an image file or a block device, such as ", name, "/volume.img"));
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": is neither a regular file nor a block device"));
    }
    file.block_device = S_ISBLK(status.st_mode);
  } else if (errno == ENOENT && options.create_bytes > 0) {
    created = true;
  } else if (errno == ENOENT) {
    return absl::NotFoundError(absl::StrCat(name, ": does not exist; make it with: stagefs mkfs --size SIZE ", name));
  } else {
    return ErrnoStatus(name, "cannot look at it", errno);
  }

  const Deadline deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(options.lock_wait_ms);
  bool direct = true;
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  const bool check_claim = file.block_device && !options.read_only && !options.no_lock;
  const bool keep_claim = check_claim && options.claim_device;
  OpenedFile claim;  // closed on return
  if (check_claim && !keep_claim) {
    ASSIGN_OR_RETURN(claim.fd, OpenDescriptor(name, path, access | O_EXCL, deadline, &direct));
  }
  ASSIGN_OR_RETURN(file.fd, OpenDescriptor(name, path, access | (keep_claim ? O_EXCL : 0) | (created ? O_CREAT : 0),
                                           deadline, &direct));
  if (!options.no_lock) RETURN_IF_ERROR(Lock(name, file.fd, options, deadline));
  if (file.block_device) {
    RETURN_IF_ERROR(InspectDevice(name, status.st_rdev, file));
  } else {
    RETURN_IF_ERROR(InspectImage(name, options, file, &direct));
  }
  if (created) RETURN_IF_ERROR(FlushDirectoryOf(name, path));

  if (file.geometry.block_size_bytes > kLargestBlock) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": has blocks of ", file.geometry.block_size_bytes,
                                                   " bytes; the largest that can be used is ", kLargestBlock));
  }
  file.geometry.size_bytes -= file.geometry.size_bytes % kLargestBlock;
  if (file.geometry.size_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": is empty", file.block_device ? " (no medium?)" : "; give mkfs a --size"));
  }
  file.geometry.fua = true;
  if (!direct) {
    file.note = absl::StrCat(name, ": its file system has no direct I/O; using the page cache, which costs memory and "
                                   "speed, not durability");
  }
  return file;
}

}  // namespace stagefs::sal

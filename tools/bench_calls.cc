#include "tools/bench_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"

namespace stagefs::tools {

namespace {

constexpr char kDropCachesPath[] = "/proc/sys/vm/drop_caches";

}  // namespace

const char* Noise(uint64_t variant) {
  // A variant begins this much later than the one before.
  constexpr uint64_t kStep = 64;
  static const auto* noise = [] {
    auto* bytes = new std::vector<char>(2 * kMostWritten);
    std::mt19937_64 random(1);
    std::generate(bytes->begin(), bytes->end(), [&] { return static_cast<char>(random()); });
    return bytes;
  }();
  return noise->data() + variant * kStep % kMostWritten;
}

absl::Status Failed(absl::string_view call) { return absl::ErrnoToStatus(errno, call); }

absl::StatusOr<OwnedFd> Open(const std::string& path, int flags) {
  OwnedFd fd(open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (fd.get() < 0) return Failed("open");
  return fd;
}

absl::Status WriteAt(const OwnedFd& fd, uint64_t offset, size_t length, uint64_t variant) {
  const ssize_t written = pwrite(fd.get(), Noise(variant), length, offset);
  if (written < 0) return Failed("write");
  // Only a full file system cuts a write short.
  if (static_cast<size_t>(written) != length) return absl::ErrnoToStatus(ENOSPC, "write");
  return absl::OkStatus();
}

absl::Status ReadAt(const OwnedFd& fd, uint64_t offset, char* buffer, size_t length) {
  const ssize_t found = pread(fd.get(), buffer, length, offset);
  if (found < 0) return Failed("read");
  if (static_cast<size_t>(found) != length) return absl::DataLossError("read: the file is shorter than written");
  return absl::OkStatus();
}

absl::Status Fsync(const OwnedFd& fd) { return fsync(fd.get()) == 0 ? absl::OkStatus() : Failed("fsync"); }

absl::Status RemoveAll(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  return error ? absl::ErrnoToStatus(error.value(), "remove") : absl::OkStatus();
}

absl::Status MakeDirectory(const std::string& path) {
  return mkdir(path.c_str(), 0700) == 0 || errno == EEXIST ? absl::OkStatus() : Failed("mkdir");
}

absl::Status DropCaches(const OwnedFd& fd) {
  RETURN_IF_ERROR(Fsync(fd));
  ASSIGN_OR_RETURN(const OwnedFd control, Open(kDropCachesPath, O_WRONLY));
  return write(control.get(), "3", 1) == 1 ? absl::OkStatus() : Failed(kDropCachesPath);
}

absl::Status MayDropCaches() {
  if (access(kDropCachesPath, W_OK) == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("it takes root to drop the page cache by ", kDropCachesPath));
}

}  // namespace stagefs::tools

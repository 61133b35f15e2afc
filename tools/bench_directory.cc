#include "tools/bench_directory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"

namespace stagefs::tools {

namespace {

constexpr uint64_t kMiB = 1 << 20;
// Files in use at a time add up to less than 2.5 times the size: bench_work.cc.
constexpr uint64_t kRoomForSize = 4;
constexpr uint64_t kRoomForFiles = 2;
// A small file may take a block, and all of them a quarter of the room.
constexpr uint64_t kBytesForFile = 16 << 10;
constexpr uint64_t kLeastFiles = 100;

absl::Status CannotMake(const std::string& parent, int error) {
  switch (error) {
    case EROFS:
      return absl::FailedPreconditionError(absl::StrCat(parent, " is read-only"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(absl::StrCat("you may not make a directory in ", parent));
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(absl::StrCat(parent, " is full"));
    default:
      return absl::ErrnoToStatus(error, absl::StrCat("making a directory in ", parent));
  }
}

}  // namespace

BenchDirectory::BenchDirectory(std::string parent, std::string path, dev_t device)
    : parent_(std::move(parent)), path_(std::move(path)), device_(device) {}

BenchDirectory::~BenchDirectory() { Remove().IgnoreError(); }

absl::StatusOr<std::unique_ptr<BenchDirectory>> BenchDirectory::Make(const std::string& parent) {
  struct stat attributes = {};
  if (stat(parent.c_str(), &attributes) != 0) {
    if (errno == ENOENT) return absl::NotFoundError(absl::StrCat(parent, " does not exist"));
    return absl::ErrnoToStatus(errno, parent);
  }
  if (!S_ISDIR(attributes.st_mode)) return absl::FailedPreconditionError(absl::StrCat(parent, " is not a directory"));
  std::string path = absl::StrCat(parent, parent.ends_with('/') ? "" : "/", "stagefs-bench.XXXXXX");
  if (mkdtemp(path.data()) == nullptr) return CannotMake(parent, errno);
  return std::unique_ptr<BenchDirectory>(new BenchDirectory(parent, path, attributes.st_dev));
}

absl::Status BenchDirectory::Remove() {
  if (std::exchange(removed_, true)) return absl::OkStatus();
  std::error_code error;
  std::filesystem::remove_all(path_, error);
  if (!error) return absl::OkStatus();
  return absl::ErrnoToStatus(error.value(), absl::StrCat(path_, " could not be removed"));
}

absl::StatusOr<Room> BenchDirectory::FreeRoom() const {
  struct statvfs numbers = {};
  if (statvfs(path_.c_str(), &numbers) != 0) return absl::ErrnoToStatus(errno, path_);
  constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();
  Room room;
  room.bytes = numbers.f_blocks == 0 ? kUnknown : numbers.f_bavail * numbers.f_frsize;
  room.files = numbers.f_files == 0 ? kUnknown : numbers.f_favail;
  return room;
}

absl::StatusOr<BenchScale> ScaleThatFits(const BenchScale& wanted, const Room& room) {
  BenchScale scale;
  scale.size_bytes = std::min(wanted.size_bytes, room.bytes / kRoomForSize) / kMiB * kMiB;
  scale.files = std::min({wanted.files, room.files / kRoomForFiles, room.bytes / kBytesForFile});
  if (scale.size_bytes == 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("is full: ", room.bytes >> 10, " KiB are free, at least ", kRoomForSize << 10, " KiB are needed"));
  }
  if (scale.files < std::min(wanted.files, kLeastFiles)) {
    return absl::ResourceExhaustedError(absl::StrCat("is full: there is room for ", room.files,
                                                     " more files, at least ", kRoomForFiles * kLeastFiles,
                                                     " are needed"));
  }
  return scale;
}

absl::StatusOr<BenchScale> ScaleThatFits(const BenchScale& wanted,
                                         const std::vector<std::unique_ptr<BenchDirectory>>& directories) {
  BenchScale scale = wanted;
  for (const auto& directory : directories) {
    ASSIGN_OR_RETURN(Room room, directory->FreeRoom());
    const uint64_t sharers = std::count_if(directories.begin(), directories.end(), [&](const auto& other) {
      return other->device() == directory->device();
    });
    room.bytes /= sharers;
    room.files /= sharers;
    const absl::StatusOr<BenchScale> fits = ScaleThatFits(scale, room);
    if (!fits.ok()) {
      return absl::Status(fits.status().code(), absl::StrCat(directory->parent(), " ", fits.status().message()));
    }
    scale = *fits;
  }
  return scale;
}

}  // namespace stagefs::tools

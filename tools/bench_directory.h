// BenchDirectory: a fresh directory below the one to be measured. All that a measurement makes lies in it.
//
// Invariant: nothing that was there before is touched; when this object has ended, the directory is gone.
//
// Not thread-safe.

#ifndef STAGEFS_TOOLS_BENCH_DIRECTORY_H_
#define STAGEFS_TOOLS_BENCH_DIRECTORY_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace stagefs::tools {

// What a file system has left, for users without privileges; the highest number if it does not say.
struct Room {
  uint64_t bytes = 0;
  uint64_t files = 0;
};

// How much a measurement puts into a directory: files of `size_bytes`, and `files` small ones at a time.
struct BenchScale {
  uint64_t size_bytes = 256 << 20;
  uint64_t files = 10000;
};

class BenchDirectory {
 public:
  // Errors say what is wrong with `parent`: NotFound, FailedPrecondition (not a directory, read-only),
  // PermissionDenied, ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<BenchDirectory>> Make(const std::string& parent);
  ~BenchDirectory();
  BenchDirectory(const BenchDirectory&) = delete;
  BenchDirectory& operator=(const BenchDirectory&) = delete;

  // Removes the directory and all that is in it. After that, only parent() may be called.
  absl::Status Remove();

  const std::string& parent() const { return parent_; }
  const std::string& path() const { return path_; }
  dev_t device() const { return device_; }
  absl::StatusOr<Room> FreeRoom() const;

 private:
  BenchDirectory(std::string parent, std::string path, dev_t device);

  // Constant after construction.
  const std::string parent_;
  const std::string path_;
  const dev_t device_;

  bool removed_ = false;
};

// The scale that fits into all of the directories at once: `wanted`, or less, with room to spare for a file system that
// keeps old data for a while. Errors: ResourceExhausted, naming the directory, if there is hardly any room.
absl::StatusOr<BenchScale> ScaleThatFits(const BenchScale& wanted,
                                         const std::vector<std::unique_ptr<BenchDirectory>>& directories);
// The same for one directory that has `room` to itself. The size is a multiple of 1 MiB.
absl::StatusOr<BenchScale> ScaleThatFits(const BenchScale& wanted, const Room& room);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_BENCH_DIRECTORY_H_

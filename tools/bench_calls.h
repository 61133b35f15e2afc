// The system calls of `stagefs bench`, with their errors as a Status. What is written is noise: no file system can
// compress it or leave it out.
//
// Thread-safe.

#ifndef STAGEFS_TOOLS_BENCH_CALLS_H_
#define STAGEFS_TOOLS_BENCH_CALLS_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sal/owned_fd.h"

namespace stagefs::tools {

// The most bytes that one call writes.
inline constexpr size_t kMostWritten = 1 << 20;
// At least kMostWritten bytes; others for each `variant`, so that what is written again is not what was there.
const char* Noise(uint64_t variant);

// errno as a Status that names the call.
absl::Status Failed(absl::string_view call);

absl::StatusOr<OwnedFd> Open(const std::string& path, int flags);
// Writes `length` bytes of Noise(variant); ResourceExhausted if not all of them.
absl::Status WriteAt(const OwnedFd& fd, uint64_t offset, size_t length, uint64_t variant);
absl::Status ReadAt(const OwnedFd& fd, uint64_t offset, char* buffer, size_t length);
absl::Status Fsync(const OwnedFd& fd);

absl::Status MakeDirectory(const std::string& path);  // fine if there is one
absl::Status RemoveAll(const std::string& path);      // fine if there is nothing

// The page cache of the whole machine, and what it knows of names. `fd` is fsynced first: only what is clean can be
// dropped.
absl::Status DropCaches(const OwnedFd& fd);
// PermissionDenied unless the caller may do that.
absl::Status MayDropCaches();

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_BENCH_CALLS_H_

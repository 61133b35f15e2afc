// Check: fsck as a library. Looks at everything a volume holds, says what is wrong, and mends it without losing what is
// not damaged. docs/fsck.md lists what is checked, and what becomes of each kind of damage.
//
// Repairs go on in rounds, since one may bring up others, until a round has nothing to do; what that one still finds
// was not repaired: content that decayed, a header lost together with its copy, what there is no space for. Power may fail
// at any moment of a repair: the next one goes on.
//
// Memory: a bit per block of a window of the device (CheckOptions::window_blocks), 32 bytes per inode of a window of
// inodes, a bit per inode number (at most 64 MiB), and what an inode's attributes take. More windows take more time.

#ifndef STAGEFS_FS_VOLUME_CHECK_H_
#define STAGEFS_FS_VOLUME_CHECK_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/engine.h"

namespace stagefs::volume {

enum class ProblemKind : uint8_t {
  kHeader,
  kNode,
  kItem,
  kExtent,
  kSpace,
  kInode,
  kEntry,
  kLinks,
  kOrphan,
  kXattr,
  kData,
};

absl::string_view ProblemKindName(ProblemKind kind);

struct Problem {
  ProblemKind kind = ProblemKind::kHeader;
  std::string object;   // "inode 5", "block 77", "group 3"
  std::string message;  // what is wrong with it
  bool repaired = false;
};

// "inode 5: its link count is 3, but it has 2 names (repaired)".
std::string ToString(const Problem& problem);

struct CheckOptions {
  // Mend what can be mended. The engine must not be read-only.
  bool repair = false;
  // Read the content of all files, so that every checksum is verified.
  bool verify_data = false;
  // Called with the part done, 0 to 1, on the calling thread. May be empty.
  std::function<void(double)> progress = {};
  uint64_t window_blocks = uint64_t{1} << 28;  // 1 TiB: 32 MiB of memory
  uint64_t window_inodes = uint64_t{1} << 21;  // 64 MiB of memory
};

struct CheckReport {
  static constexpr uint64_t kMaxProblems = 10000;

  std::vector<Problem> problems;  // the first kMaxProblems
  uint64_t problem_count = 0;
  uint64_t repaired_count = 0;
  // As the last look found them.
  uint64_t inodes = 0, directories = 0, entries = 0, extents = 0, nodes = 0;
  uint64_t used_blocks = 0;  // all that is not free
  uint64_t free_blocks = 0;

  bool clean() const { return problem_count == 0; }
  uint64_t unrepaired_count() const { return problem_count - repaired_count; }
};

// `engine` is open, and nothing else uses it. Blocks. With `repair`, what was mended is durable on return. Errors:
// InvalidArgument (no volume here), FailedPrecondition (a version from the future; the engine accepts no changes), or
// the engine's. What is wrong with the volume is no error but in the report.
absl::StatusOr<CheckReport> Check(core::Engine& engine, const CheckOptions& options);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_CHECK_H_

// What the exhaustive search runs: every operation of a list, and every pair of them, from each of a few volumes, with
// what can lie between and around them: nothing, Sync(), a checkpoint; one after the other or in flight together.

#ifndef STAGEFS_TESTS_CRASH_SEARCH_WORKLOADS_H_
#define STAGEFS_TESTS_CRASH_SEARCH_WORKLOADS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sal/simulated_store.h"
#include "tests/crash/volume_model.h"

namespace stagefs::crash {

// A volume to begin with: a root, two directories, and a file of each kind of content.
struct SearchStart {
  std::string name;
  bool fua = true;
  sal::SimulatedDisk disk;
  FileTree tree;
  std::vector<FileOp> first;  // made before anything is cut
};
inline constexpr uint64_t kSearchStoreBytes = 13 << 20;

// "cold": all is home, nothing is in memory. "warm": on a disk without FUA; two files have changes in the log that are
// not yet home. "full": as cold, with little free space.
const std::vector<SearchStart>& SearchStarts();

struct SearchWorkload {
  size_t start = 0;  // which of SearchStarts()
  std::vector<FileOp> ops;

  std::string name() const;  // "cold: create n; sync"
};

// The operations, and their parameters.
const std::vector<FileOp>& SearchOperations();

// All workloads of one operation, or of two. Operations that cannot follow one another are left out.
std::vector<SearchWorkload> AllOfOne();
std::vector<SearchWorkload> AllOfTwo();
// `count` workloads of `operations` operations, by seed.
std::vector<SearchWorkload> Sample(size_t operations, size_t count, uint64_t seed);

// The workload with that name, of any length.
absl::StatusOr<SearchWorkload> Parse(absl::string_view name);

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_SEARCH_WORKLOADS_H_

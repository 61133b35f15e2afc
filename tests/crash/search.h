// Search: bounded exhaustive crash search (after CrashMonkey and ACE, OSDI 2018). Runs a workload once, looks at every
// moment at which a request has been submitted, and there at every state that a power cut can leave: all subsets of the
// writes at risk, and some torn ones (CrashStates).
//
// From each such state the volume must recover, without a warning, to exactly the tree after some step of the workload
// that is not before the last one acknowledged as durable; fsck must find nothing; and the volume must go on: a file is
// made, written and synced, the power is cut, and all of that is there again.
//
// What a state recovers to depends on the image alone. So states with equal images are checked once, over all
// workloads; and so are states that differ only in writes that the check of one of them never reads.

#ifndef STAGEFS_TESTS_CRASH_SEARCH_H_
#define STAGEFS_TESTS_CRASH_SEARCH_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "sal/simulated_image.h"
#include "sal/simulated_store.h"
#include "tests/crash/crash_states.h"
#include "tests/crash/search_workloads.h"
#include "tests/crash/volume_run.h"

namespace stagefs::crash {

struct SearchOptions {
  uint64_t seed = 1;  // of latencies, of torn writes, and of what is sampled
  core::Broken broken = core::Broken::kNothing;
  Mistake mistake = Mistake::kNone;
  // Check also what should recover like a state that was checked before, and find a violation if it does not.
  bool check_alike = false;
};

struct SearchCounts {
  uint64_t workloads = 0;
  uint64_t cuts = 0;
  uint64_t states = 0;    // all crash states
  uint64_t distinct = 0;  // images that differ
  uint64_t checked = 0;   // recovered from; the others differ from one of these in what recovery never reads
};

class Search {
 public:
  explicit Search(const SearchOptions& options) : options_(options) {}

  // Internal: a violation, with all that is needed to find it again.
  absl::Status Try(const SearchWorkload& workload);
  const SearchCounts& counts() const { return counts_; }

 private:
  // A moment at which the power may fail.
  struct Cut {
    uint64_t request = 0;  // the last one that was submitted
    sal::SimulatedImage durable;
    std::vector<sal::SimulatedWrite> at_risk;
    size_t durable_steps = 0;
  };
  // What becomes of a crash state.
  struct Outcome {
    std::string violation;  // empty: it recovers, to `tree`
    FileTree tree;
    std::vector<std::pair<uint64_t, uint64_t>> reads;  // of all that was looked at: offset, length
  };
  // A state of the cut that is being looked at.
  struct Checked {
    CrashStates::Fates fates;
    std::vector<bool> read;  // which writes at risk the check has looked at
    uint64_t tree = 0;
  };

  VolumeRunOptions RunOptions(const SearchStart& start, uint64_t seed, Mistake mistake) const;
  absl::Status Run(const SearchWorkload& workload, VolumeHistory* history, std::vector<Cut>* cuts);
  absl::Status TryCut(const SearchWorkload& workload, const Cut& cut, const VolumeHistory& history,
                      const std::vector<uint64_t>& steps);
  Outcome Check(const SearchStart& start, const sal::SimulatedImage& image);
  absl::Status CheckGoesOn(VolumeRun& run, const SearchStart& start, Outcome* outcome);

  const SearchOptions options_;
  SearchCounts counts_;
  // Fingerprint of an image, with its start, to the fingerprint of the tree that it recovers to.
  absl::flat_hash_map<uint64_t, uint64_t> known_;
};

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_SEARCH_H_

// VolumeSweep: EngineSweep's sibling for files. Cuts the power at every request of a workload of the volume, recovers,
// runs fsck, and compares all names, links, types, modes, sizes, contents and attributes with the model.
//
// docs/crash_testing.md says how to read and replay a violation.

#ifndef STAGEFS_TESTS_CRASH_VOLUME_SWEEP_H_
#define STAGEFS_TESTS_CRASH_VOLUME_SWEEP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "sal/random.h"
#include "tests/crash/volume_run.h"

namespace stagefs::crash {

struct VolumeSweepOptions {
  bool fua = true;
  core::Broken broken = core::Broken::kNothing;
  Mistake mistake = Mistake::kNone;
  uint64_t seed = 1;
  uint64_t crash_seeds = 1;            // for each request and kind of crash
  uint64_t cut_every_request_of = 32;  // recovery is cut at each of its requests for every so manyth crash
  int generations = 2;                 // how often the disk crashes, is recovered and written to
};

struct VolumeSweepCounts {
  uint64_t workloads = 0;
  uint64_t cuts = 0;          // runs of a workload, each cut at another request
  uint64_t crash_states = 0;  // images that were recovered from
  uint64_t recoveries = 0;    // of these, some cut short
};

class VolumeSweep {
 public:
  explicit VolumeSweep(const VolumeSweepOptions& options) : options_(options) {}

  // Internal: a violation, with all that is needed to find it again.
  absl::Status Sweep(const FileWorkload& workload);
  const VolumeSweepCounts& counts() const { return counts_; }

 private:
  struct Crashed {
    sal::SimulatedDisk disk;
    VolumeHistory history;
    core::Lsn acknowledged = 0;
    bool settled = true;  // nothing of the disk is in its cache alone
    uint64_t seed = 0;
    int generations_left = 0;
  };

  VolumeRunOptions Run(uint64_t seed) const { return {seed, options_.fua, options_.broken, options_.mistake}; }
  absl::Status CheckCut(const FileWorkload& workload, uint64_t cut);
  absl::Status CheckCrash(const Crashed& crashed);
  // Compares with the steps [first, last] of the history, and says which it is.
  absl::Status CheckTree(VolumeRun& run, const Crashed& crashed, size_t first, size_t last, size_t* found);
  absl::Status CutRecovery(const Crashed& crashed, size_t expected, uint64_t first_cut, sal::Random64& random);
  absl::Status WriteMore(VolumeRun& run, const Crashed& crashed, size_t step, sal::Random64& random);

  const VolumeSweepOptions options_;
  VolumeSweepCounts counts_;
};

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_VOLUME_SWEEP_H_

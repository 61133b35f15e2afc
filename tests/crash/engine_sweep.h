// EngineSweep: cuts the power at every request of a workload, recovers, and compares with the model.
//
// For each request n that could change the disk, the workload runs until n has been submitted; then, for power cuts and
// for kill -9, and for several crash seeds each:
//   * the engine recovers, without a warning, at some P not below what it had acknowledged, and holds exactly the
//     model's state after P;
//   * the power is cut again when it has recovered: it holds the same, now read from home;
//   * recovery is cut itself, at each of its requests for some crashes and at random ones for all, up to three times in
//     a row, and ends at the same P (after kill -9, when the disk's cache may be lost by the second crash: at one not
//     below what was acknowledged);
//   * more is written after recovery, the power is cut, and all of it holds again.
//
// docs/crash_testing.md says how to read and replay a violation.

#ifndef STAGEFS_TESTS_CRASH_ENGINE_SWEEP_H_
#define STAGEFS_TESTS_CRASH_ENGINE_SWEEP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "sal/random.h"
#include "tests/crash/engine_run.h"

namespace stagefs::crash {

struct SweepOptions {
  bool fua = true;
  core::Broken broken = core::Broken::kNothing;
  uint64_t seed = 1;
  uint64_t crash_seeds = 2;            // for each request and kind of crash
  uint64_t cut_every_request_of = 16;  // recovery is cut at each of its requests for every so manyth crash
  int generations = 2;                 // how often the disk crashes, is recovered and written to
  // The newest superblock decays at each crash, if the other one is good.
  bool decay_newest_superblock = false;
};

struct SweepCounts {
  uint64_t workloads = 0;
  uint64_t cuts = 0;          // runs of a workload, each cut at another request
  uint64_t crash_states = 0;  // images that were recovered from
  uint64_t recoveries = 0;    // of these, some cut short
};

class EngineSweep {
 public:
  explicit EngineSweep(const SweepOptions& options) : options_(options) {}

  // Internal: a violation, with all that is needed to find it again.
  absl::Status Sweep(const Workload& workload);
  const SweepCounts& counts() const { return counts_; }

 private:
  struct Crashed {
    sal::SimulatedDisk disk;
    EngineModel model;
    core::Lsn acknowledged = 0;
    bool settled = true;  // nothing of the disk is in its cache alone
    uint64_t seed = 0;
    int generations_left = 0;
  };

  RunOptions Run(uint64_t seed) const { return {seed, options_.fua, options_.broken}; }
  absl::Status CheckCut(const Workload& workload, const sal::SimulatedDisk& start, uint64_t cut);
  absl::Status CheckCrash(const Crashed& crashed);
  // `expected`: the prefix it must be, if that is known.
  absl::Status CheckRecovered(EngineRun& run, const Crashed& crashed, std::optional<core::Lsn> expected,
                              bool after_cut_recovery);
  absl::Status CutRecovery(const Crashed& crashed, core::Lsn expected, uint64_t first_cut, sal::Random64& random);
  absl::Status WriteMore(EngineRun& run, const Crashed& crashed, core::Lsn recovered, sal::Random64& random);

  const SweepOptions options_;
  SweepCounts counts_;
};

// The image that `workload` starts from; made once.
const sal::SimulatedDisk& StartOf(const Workload& workload);

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_ENGINE_SWEEP_H_

// Simulation: what one seed does: a disk, life after life on it, crash after crash, and the checks between them.
//
// The invariant: what is recovered is the state after a prefix of the accepted order that is not shorter than the last
// acknowledgement of durability; or, where a fault of the disk destroyed something, the damage is an error or a
// warning, and what is served is right. sal/simulated_store.h says which faults count as what.

#ifndef STAGEFS_TESTS_SIMULATOR_SIMULATION_H_
#define STAGEFS_TESTS_SIMULATOR_SIMULATION_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/engine.h"
#include "sal/simulated_store.h"
#include "tests/simulator/file_tree.h"
#include "tests/simulator/trace.h"

namespace stagefs::simulator {

using FaultSet = std::array<bool, sal::kSimulatedFaultKinds>;
absl::string_view FaultName(sal::SimulatedFault fault);
FaultSet AllFaults();
// "read-error,lost-write", "all" or "none". Errors: InvalidArgument, with the names there are.
absl::StatusOr<FaultSet> ParseFaults(absl::string_view text);
// Whether information is lost by it, which can then only be noticed.
bool IsDestructive(sal::SimulatedFault fault);

struct SimulationOptions {
  uint64_t seed = 1;
  uint64_t operations = 10'000;  // of all lives together, about
  FaultSet faults = AllFaults();
  // To show that the simulator bites.
  core::Broken broken = core::Broken::kNothing;
  ModelBug model_bug = ModelBug::kNone;
};

struct Counts {
  uint64_t seeds = 0;
  uint64_t operations = 0;  // of both levels
  uint64_t volume_operations = 0;
  uint64_t lives = 0;
  uint64_t crashes = 0;         // of a volume at work
  uint64_t cut_recoveries = 0;  // crashes of a volume that was recovering
  uint64_t closes = 0;
  uint64_t checks = 0;  // by fsck
  uint64_t errors = 0;  // answers that said that something could not be done, because of a fault or a crash
  uint64_t reported_losses = 0;  // recoveries that said that something was lost
  uint64_t parked = 0;
  uint64_t checkpoints = 0;
  std::array<uint64_t, sal::kSimulatedFaultKinds> faults = {};

  void Add(const Counts& other);
  std::string ToString() const;
};

// Runs one seed. Internal: a violation, in words that say where.
absl::Status SimulateVolume(const SimulationOptions& options, Trace* trace, Counts* counts);
absl::Status SimulateEngine(const SimulationOptions& options, Trace* trace, Counts* counts);
// Both, in turn by seed: three of four seeds are of the volume.
absl::Status Simulate(const SimulationOptions& options, Trace* trace, Counts* counts);

}  // namespace stagefs::simulator

#endif  // STAGEFS_TESTS_SIMULATOR_SIMULATION_H_

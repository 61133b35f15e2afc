// DiskFaults: which faults the disk of one seed has, and where on the disk they may do harm.

#ifndef STAGEFS_TESTS_SIMULATOR_DISK_FAULTS_H_
#define STAGEFS_TESTS_SIMULATOR_DISK_FAULTS_H_

#include <cstdint>

#include "core/engine.h"
#include "sal/random.h"
#include "sal/simulated_store.h"
#include "tests/simulator/simulation.h"

namespace stagefs::simulator {

class DiskFaults {
 public:
  // Chooses by seed among `allowed`: none, faults that the disk reports, or one kind of those that destroy something.
  DiskFaults(const FaultSet& allowed, uint64_t seed);

  // For one life on a disk laid out as `info` says. This object must outlive the store.
  sal::SimulatedFaultPlan PlanFor(const core::VolumeInfo& info);
  // Faults for a recovery: only such as the disk reports.
  sal::SimulatedFaultPlan PlanForRecovery();

  bool destructive() const { return destructive_; }
  // Damage to the log's last frames makes the prefix shorter, and nobody can tell. See simulated_store.h.
  bool log_was_hit() const { return log_hits_ > 0; }
  void ForgetLogHits() { log_hits_ = 0; }

 private:
  bool MayHit(sal::SimulatedFault fault, uint64_t offset_bytes, uint64_t length_bytes);

  const FaultSet allowed_;
  sal::Random64 random_;
  bool reported_ = false;
  bool destructive_ = false;
  bool hits_log_ = false;
  sal::SimulatedFault kind_ = sal::SimulatedFault::kDecay;  // if destructive_
  uint64_t log_hits_ = 0;
  core::VolumeInfo info_;
};

}  // namespace stagefs::simulator

#endif  // STAGEFS_TESTS_SIMULATOR_DISK_FAULTS_H_

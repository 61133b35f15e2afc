#include "tests/simulator/disk_faults.h"

#include <algorithm>
#include <vector>

namespace stagefs::simulator {
namespace {

using sal::SimulatedFault;

// The second slot of the superblock is left alone: with both damaged there is no volume.
constexpr uint64_t kSecondSlotBytes = 16 * core::kBlockBytes;

bool Meets(uint64_t offset, uint64_t length, uint64_t start, uint64_t size) {
  return offset < start + size && start < offset + length;
}

}  // namespace

DiskFaults::DiskFaults(const FaultSet& allowed, uint64_t seed) : allowed_(allowed), random_(seed) {
  std::vector<SimulatedFault> destroying;
  bool any_reported = false;
  for (size_t i = 0; i < allowed.size(); ++i) {
    const SimulatedFault fault = static_cast<SimulatedFault>(i);
    if (allowed[i] && IsDestructive(fault)) destroying.push_back(fault);
    any_reported |= allowed[i] && !IsDestructive(fault) && fault != SimulatedFault::kSlowFlush;
  }
  const bool quiet = random_.OneIn(4);
  if (!quiet && !destroying.empty() && (!any_reported || !random_.OneIn(3))) {
    destructive_ = true;
    kind_ = destroying[random_.Below(destroying.size())];
    hits_log_ = random_.OneIn(4);
  } else {
    reported_ = !quiet && any_reported;
  }
}

sal::SimulatedFaultPlan DiskFaults::PlanFor(const core::VolumeInfo& info) {
  info_ = info;
  sal::SimulatedFaultPlan plan;
  const auto set = [&](SimulatedFault fault, uint32_t one_in) {
    if (allowed_[static_cast<size_t>(fault)]) plan[fault] = one_in;
  };
  if (random_.OneIn(3)) set(SimulatedFault::kSlowFlush, 10);
  if (reported_) {
    switch (random_.Below(6)) {
      case 0: set(SimulatedFault::kReadError, random_.Between(5, 100)); break;
      case 1: set(SimulatedFault::kWriteError, random_.Between(50, 1000)); break;
      case 2: set(SimulatedFault::kFlushError, random_.Between(5, 300)); break;
      case 3: set(SimulatedFault::kDeviceFull, random_.Between(50, 500)); break;
      default: break;
    }
  }
  if (destructive_ && random_.OneIn(2)) set(kind_, random_.Between(2, random_.OneIn(2) ? 10 : 200));
  plan.may_hit = [this](SimulatedFault fault, uint64_t offset, uint64_t length) {
    return MayHit(fault, offset, length);
  };
  return plan;
}

sal::SimulatedFaultPlan DiskFaults::PlanForRecovery() {
  sal::SimulatedFaultPlan plan;
  const SimulatedFault faults[] = {SimulatedFault::kReadError, SimulatedFault::kWriteError,
                                   SimulatedFault::kFlushError};
  const SimulatedFault fault = faults[random_.Below(3)];
  if (reported_ && allowed_[static_cast<size_t>(fault)]) plan[fault] = random_.Between(2, 40);
  return plan;
}

bool DiskFaults::MayHit(SimulatedFault fault, uint64_t offset, uint64_t length) {
  // What mkfs has written once has its place on a device that gets full.
  if (fault == SimulatedFault::kDeviceFull) return offset >= info_.table_start_bytes;
  if (!IsDestructive(fault)) return true;
  if (Meets(offset, length, kSecondSlotBytes, core::kBlockBytes)) return false;
  if (Meets(offset, length, info_.log_start_bytes, info_.log_bytes)) {
    if (!hits_log_) return false;
    ++log_hits_;
    return true;
  }
  // Nobody can tell that sectors of the table are as they were before.
  const bool leaves_old = fault == SimulatedFault::kLostWrite || fault == SimulatedFault::kTornWrite ||
                          fault == SimulatedFault::kMisdirectedWrite;
  return !(leaves_old && Meets(offset, length, info_.table_start_bytes, info_.table_bytes));
}

}  // namespace stagefs::simulator

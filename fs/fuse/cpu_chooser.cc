#include "fs/fuse/cpu_chooser.h"

#include <algorithm>

namespace stagefs::fuse {

void CpuChooser::Arrived(bool is_large, uint64_t now_ns) {
  if (now_ns - last_arrival_ns_ > kGoneNs && served_away_ > 0) {
    // Whoever was here has followed, or has stopped.
    served_away_ = 0;
    pause_ns_ = kShortestPauseNs;
  }
  last_arrival_ns_ = now_ns;
  if (is_away_) ++served_away_;
  if (is_large) is_large_ = true;
  small_in_a_row_ = is_large ? 0 : small_in_a_row_ + 1;
}

int CpuChooser::CpuToSleepOn(bool waits, uint64_t now_ns) {
  is_learning_ = false;
  if (is_large_ && small_in_a_row_ < kSmallBeforeReturn) return kAnyCpu;
  is_large_ = false;
  const bool mostly_waits = small_in_a_row_ <= kQuickBetweenWaits + (waits ? 1 : 0);
  if (!mostly_waits) is_away_ = false;
  if (waits) small_in_a_row_ = 0;
  if (waits && mostly_waits) return CpuToWaitOn(now_ns);
  return is_away_ ? store_cpu_ : home_;
}

int CpuChooser::CpuToWaitOn(uint64_t now_ns) {
  if (knows() && now_ns - learned_ns_ > kForgetNs) lessons_ = 0;
  if (!knows()) {
    is_away_ = false;
    is_learning_ = true;
    learned_ns_ = now_ns;
    return kAnyCpu;
  }
  if (store_cpu_ == home_ || now_ns < pause_end_ns_) return home_;
  is_away_ = served_away_ < kPatience;
  if (is_away_) return store_cpu_;
  served_away_ = 0;
  pause_end_ns_ = now_ns + pause_ns_;
  pause_ns_ = std::min(2 * pause_ns_, kLongestPauseNs);
  return home_;
}

void CpuChooser::WokenByStore(int cpu) {
  if (!is_learning_) return;  // where it had to be says nothing
  is_learning_ = false;       // one lesson a wake-up, however much has ended
  if (lessons_++ == 0) elsewhere_ = 0;
  if (cpu != home_) {
    elsewhere_ = cpu == other_cpu_ ? elsewhere_ + 1 : 1;
    other_cpu_ = cpu;
  }
  store_cpu_ = elsewhere_ >= kTelling ? other_cpu_ : home_;
}

}  // namespace stagefs::fuse

#include "fs/fuse/cpu_chooser.h"

#include <algorithm>

namespace stagefs::fuse {

void CpuChooser::Arrived(bool is_large, uint64_t now_ns) {
  if (now_ns - last_arrival_ns_ > kGoneNs && since_departure_ > 0) {
    // Whoever was here has followed, or has stopped.
    since_departure_ = 0;
    pause_ns_ = kShortestPauseNs;
  }
  last_arrival_ns_ = now_ns;
  if (is_away_) ++since_departure_;
  if (is_large) is_large_ = true;
  small_in_a_row_ = is_large ? 0 : small_in_a_row_ + 1;
}

int CpuChooser::CpuToSleepOn(bool waits, uint64_t now_ns) {
  if (is_large_ && small_in_a_row_ < kSmallBeforeReturn) return kAnyCpu;
  is_large_ = false;
  if (waits) {
    small_in_a_row_ = 0;
    return CpuToWaitOn(now_ns);
  }
  if (small_in_a_row_ >= kSmallBeforeReturn) is_away_ = false;
  return is_away_ ? store_cpu_ : home_;
}

int CpuChooser::CpuToWaitOn(uint64_t now_ns) {
  if (knows() && now_ns - learned_ns_ > kForgetNs) lessons_ = 0;
  if (!knows()) {
    is_away_ = false;
    learned_ns_ = now_ns;
    return kAnyCpu;
  }
  if (store_cpu_ == home_ || now_ns < pause_end_ns_) return home_;
  if (!is_away_) {
    is_away_ = true;
    since_departure_ = 0;
  }
  if (since_departure_ < kPatience) return store_cpu_;
  is_away_ = false;
  pause_end_ns_ = now_ns + pause_ns_;
  pause_ns_ = std::min(2 * pause_ns_, kLongestPauseNs);
  return home_;
}

void CpuChooser::WokenByStore(int cpu) {
  if (knows()) return;
  if (lessons_++ == 0 || agreed_ == 0) {
    store_cpu_ = cpu;
    agreed_ = 1;
  } else {
    agreed_ = cpu == store_cpu_ ? agreed_ + 1 : agreed_ - 1;
  }
  // kMajority of kLessons name it, the others do not.
  if (knows() && agreed_ < 2 * kMajority - kLessons) store_cpu_ = home_;
}

}  // namespace stagefs::fuse

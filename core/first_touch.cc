#include "core/first_touch.h"

#include "sal/mapped_memory.h"

namespace stagefs::core {

bool FirstTouch::GoAhead() {
  constexpr size_t kStepBytes = sal::kHugePageBytes;
  const size_t used_bytes = used_bytes_.load(std::memory_order_relaxed);
  const size_t end = Target(used_bytes, kAheadBytes);
  // What is in use has been touched, or is about to be.
  const size_t begin = std::max(ready_bytes(), used_bytes / kStepBytes * kStepBytes);
  const size_t step_end = std::min(end, begin / kStepBytes * kStepBytes + kStepBytes);
  if (begin < step_end) sal::MakeResident(area_.data() + begin, step_end - begin);
  ready_bytes_.store(std::max(begin, step_end), std::memory_order_relaxed);
  if (step_end < end) return true;
  is_going_.store(false);
  return false;
}

}  // namespace stagefs::core

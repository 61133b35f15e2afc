#include "core/first_touch.h"

#include "sal/mapped_memory.h"

namespace stagefs::core {

void FirstTouch::GoAhead() {
  const size_t begin = std::max(ready_bytes(), used_bytes_.load(std::memory_order_relaxed) / sal::kHugePageBytes *
                                                   sal::kHugePageBytes);
  const size_t end = Target(used_bytes_.load(std::memory_order_relaxed), kAheadBytes);
  if (begin < end) sal::MakeResident(area_.data() + begin, end - begin);
  ready_bytes_.store(std::max(begin, end), std::memory_order_relaxed);
  is_going_.store(false);
}

}  // namespace stagefs::core

// FirstTouch: makes memory resident before it is used for the first time.
//
// The first touch of a huge page has to wait for 2 MiB to be cleared, and in a virtual machine for the host to find them:
// milliseconds. If that happens in a section of the monitor everybody waits. So while the use of an area grows, what lies
// just ahead of it is touched by somebody who has the time. A load that stays small makes nothing resident ahead.

#ifndef STAGEFS_CORE_FIRST_TOUCH_H_
#define STAGEFS_CORE_FIRST_TOUCH_H_

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "absl/types/span.h"

namespace stagefs::core {

// Thread-safe.
class FirstTouch {
 public:
  // So much is used before anything is done, and so much is resident beyond what is used then.
  static constexpr size_t kSmallBytes = 1 << 20;
  static constexpr size_t kAheadBytes = 8 << 20;

  // `area` is used from its low end up, more or less.
  explicit FirstTouch(absl::Span<std::byte> area) : area_(area) {}

  // What lies below `end_bytes` is in use, or has been.
  void Uses(size_t end_bytes) {
    if (end_bytes > used_bytes_.load(std::memory_order_relaxed)) {
      used_bytes_.store(end_bytes, std::memory_order_relaxed);  // of two at once, either will do
    }
  }
  // Whether GoAhead() should be called until it returns false; true once, until that has been done.
  bool IsDue() {
    const size_t used_bytes = used_bytes_.load(std::memory_order_relaxed);
    if (used_bytes <= kSmallBytes || ready_bytes_.load(std::memory_order_relaxed) >= Target(used_bytes, kAheadBytes / 2)) {
      return false;
    }
    return !is_going_.exchange(true);
  }
  // Makes the next huge page resident. Takes milliseconds: call it in no section. Returns whether there is more to do.
  bool GoAhead();

  size_t ready_bytes() const { return ready_bytes_.load(std::memory_order_relaxed); }

 private:
  size_t Target(size_t used_bytes, size_t ahead_bytes) const { return std::min(area_.size(), used_bytes + ahead_bytes); }

  const absl::Span<std::byte> area_;
  std::atomic<size_t> used_bytes_ = 0;
  std::atomic<size_t> ready_bytes_ = 0;  // resident from the low end
  std::atomic<bool> is_going_ = false;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_FIRST_TOUCH_H_

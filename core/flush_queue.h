// FlushQueue: which flush covers what.
//
// Flushes are numbered and run one at a time. What completes now is covered by the first flush that is submitted after
// now: number NextCover(). Not thread-safe: the engine's monitor serialises.

#ifndef STAGEFS_CORE_FLUSH_QUEUE_H_
#define STAGEFS_CORE_FLUSH_QUEUE_H_

#include <algorithm>
#include <cstdint>

namespace stagefs::core {

class FlushQueue {
 public:
  // The number of the first flush that covers a write which has completed by now.
  uint64_t NextCover() const { return submitted_ + 1; }
  bool Covered(uint64_t number) const { return completed_ >= number; }
  // Asks for flushes up to `number` (at most NextCover()).
  void Want(uint64_t number) { wanted_ = std::max(wanted_, number); }
  // True if a flush must be submitted now; the caller does so and calls Completed().
  bool StartNext() {
    if (submitted_ > completed_ || wanted_ <= submitted_) return false;
    ++submitted_;
    return true;
  }
  void Completed() { completed_ = submitted_; }
  uint64_t completed() const { return completed_; }

 private:
  uint64_t wanted_ = 0, submitted_ = 0, completed_ = 0;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_FLUSH_QUEUE_H_

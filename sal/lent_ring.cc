#include "sal/lent_ring.h"

#include <sched.h>

#include <cerrno>

#include "sal/check.h"

namespace stagefs::sal {
namespace {

thread_local LentRing* ring_of_this_thread = nullptr;

constexpr uint64_t kTag = 1;  // in user_data

}  // namespace

LentRing::LentRing(io_uring* ring) : ring_(ring) {
  STAGEFS_CHECK(ring_of_this_thread == nullptr);
  ring_of_this_thread = this;
}

LentRing::~LentRing() {
  STAGEFS_CHECK(ring_of_this_thread == this && in_flight_ == 0);
  ring_of_this_thread = nullptr;
}

LentRing* LentRing::OfThisThread() { return ring_of_this_thread; }

io_uring_sqe* LentRing::NewEntry(io_uring* ring) {
  while (true) {
    if (io_uring_sqe* const entry = io_uring_get_sqe(ring)) return entry;
    const int result = io_uring_submit(ring);
    // The kernel is short of memory for a moment, or of room for completions: it makes some as they are taken.
    if (result == -EAGAIN || result == -EBUSY || result == -ENOMEM) sched_yield();
    STAGEFS_CHECK(result >= 0 || result == -EAGAIN || result == -EBUSY || result == -ENOMEM || result == -EINTR);
  }
}

void LentRing::Start(io_uring_sqe* entry, Operation* operation) {
  entry->user_data = reinterpret_cast<uint64_t>(operation) | kTag;
  ++in_flight_;
}

void LentRing::Complete(uint64_t user_data, int result) {
  STAGEFS_CHECK((user_data & kTag) != 0 && in_flight_ > 0);
  --in_flight_;
  reinterpret_cast<Operation*>(user_data & ~kTag)->Completed(result);
}

}  // namespace stagefs::sal

// LentRing: lets a thread that waits on an io_uring of its own wait there for its I/O, too.
//
// A store completes requests on a thread of its own; whoever waits for one somewhere else is then woken by a thread that
// has just been woken itself. A thread that serves requests from a ring (fs/fuse/uring_queue.h) lends that ring to the
// stores it calls: what it submits goes into the ring, leaves in the system call in which it waits anyway, and is
// completed by it. What it lends for, it must not block for: Event::Wait() aborts on such a thread.
//
// Not thread-safe: belongs to the thread that made it.

#ifndef STAGEFS_SAL_LENT_RING_H_
#define STAGEFS_SAL_LENT_RING_H_

#include <liburing.h>

#include <cstdint>

namespace stagefs::sal {

class LentRing {
 public:
  // Something on its way in the ring.
  class Operation {
   public:
    // With what the kernel says. Called once, by Complete(); may destroy the operation, and start others.
    virtual void Completed(int result) = 0;

   protected:
    ~Operation() = default;
  };

  // From now on stores may use `ring` for what is submitted on this thread, which is its only issuer. There is one for
  // a thread at most, and `ring` must outlive it.
  explicit LentRing(io_uring* ring);
  // Nothing may be in flight.
  ~LentRing();
  LentRing(const LentRing&) = delete;
  LentRing& operator=(const LentRing&) = delete;

  // The calling thread's, or null.
  static LentRing* OfThisThread();

  // For stores: an entry to prepare, and then what is to hear of its end. It leaves when the owner next submits.
  io_uring_sqe* NewEntry() { return NewEntry(ring_); }
  void Start(io_uring_sqe* entry, Operation* operation);

  // For the owner: whether a completion is one of these (the owner's own user_data must be even), and its handling.
  static bool Owns(const io_uring_cqe& completion) { return (completion.user_data & 1) != 0; }
  void Complete(uint64_t user_data, int result);
  uint64_t in_flight() const { return in_flight_; }

  // A free entry of `ring`; what is in the way is submitted. Never null.
  static io_uring_sqe* NewEntry(io_uring* ring);

 private:
  io_uring* const ring_;
  uint64_t in_flight_ = 0;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_LENT_RING_H_

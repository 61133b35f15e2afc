// SpinLock: for something that one thread uses all the time and others look into now and then: a few nanoseconds when
// nobody else is there. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_SPIN_LOCK_H_
#define STAGEFS_FS_DSA_CLIENT_SPIN_LOCK_H_

#include <sched.h>

#include <atomic>

namespace stagefs::dsa {

class SpinLock {
 public:
  bool try_lock() { return !taken_.exchange(true, std::memory_order_acquire); }
  void lock() {
    while (!try_lock()) sched_yield();
  }
  void unlock() { taken_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> taken_ = false;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_SPIN_LOCK_H_

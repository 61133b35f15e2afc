// CpuChooser: where the thread of a queue should be when it goes to sleep.
//
// At home, the CPU of its queue, a client's request and its answer wake no other CPU. Two things are worth leaving for:
//
//   * Large requests: what they carry is copied by this thread while the client copies, on another CPU if it may.
//   * Requests that wait for the store, where its interrupts come on one CPU only, as those of a disk with one queue
//     do. A thread that sleeps on another CPU is woken out of that CPU's halt, which in a virtual machine takes as long
//     as a third of the read it waited for. A program that reads a disk itself is drawn to the CPU of the interrupts by the
//     kernel's scheduler (wake_affine() in kernel/sched/fair.c); a client of ours sleeps for us, not for the disk, and
//     stays where it is. So the thread goes to that CPU and answers from there: as soon as a wait was long enough for
//     the host to take the client's own CPU away, the scheduler wakes the client here, too, and its next request comes
//     to this CPU's queue. A client that does not follow (it is pinned, or that CPU is busy) pays a little for each
//     request; so the thread gives up after some, and tries again after a pause that grows.
//
// Which CPU that is is learned: a thread that may run anywhere is woken where the interrupt comes.
//
// Not thread-safe: belongs to the queue's thread.

#ifndef STAGEFS_FS_FUSE_CPU_CHOOSER_H_
#define STAGEFS_FS_FUSE_CPU_CHOOSER_H_

#include <cstdint>

namespace stagefs::fuse {

class CpuChooser {
 public:
  static constexpr int kAnyCpu = -1;
  // Back home after so many small requests without a large one.
  static constexpr uint32_t kSmallBeforeReturn = 16;
  // With more requests than these between two that wait for the store it stays at home: until the client follows, each
  // of them costs more away than waiting does at home.
  static constexpr uint32_t kQuickBetweenWaits = 2;
  // So many times the thread sees where it is woken before it knows. So many that name one other CPU are telling: to be
  // woken at home may only mean that it was there last.
  static constexpr uint32_t kLessons = 8, kTelling = 3;
  // What it has learned it learns anew after this time: interrupts can be moved.
  static constexpr uint64_t kForgetNs = 10'000'000'000;
  // A client follows within so many requests that are served away from home, or not at all: about one wait in a hundred
  // is long enough.
  static constexpr uint32_t kPatience = 2000;
  static constexpr uint64_t kShortestPauseNs = 100'000'000, kLongestPauseNs = 12'800'000'000;
  // Requests that come with such a pause between them are not one client's that has been left behind.
  static constexpr uint64_t kGoneNs = 10'000'000;

  // `home`: the queue's CPU, where the thread is.
  explicit CpuChooser(int home) : home_(home) {}

  // A request has come. `now_ns`: a clock that only grows, coarse or not, the same below.
  void Arrived(bool is_large, uint64_t now_ns);
  // The thread goes to sleep; `waits`: some request waits for the store. Returns the CPU it should be on, or kAnyCpu.
  int CpuToSleepOn(bool waits, uint64_t now_ns);
  // The store's work has woken the thread on `cpu`.
  void WokenByStore(int cpu);

 private:
  bool knows() const { return lessons_ >= kLessons; }
  int CpuToWaitOn(uint64_t now_ns);

  const int home_;
  bool is_learning_ = false;     // sleeps anywhere to see where it is woken
  bool is_away_ = false;         // on the store's CPU, or to be there
  bool is_large_ = false;        // large requests come
  uint32_t small_in_a_row_ = 0;  // requests since one was large, or waited for the store
  uint32_t served_away_ = 0;     // requests, since a client last came or was given up
  uint64_t last_arrival_ns_ = 0;

  uint32_t lessons_ = 0;
  uint32_t elsewhere_ = 0;  // lessons in a row, but for those at home, that named other_cpu_
  int other_cpu_ = kAnyCpu;
  int store_cpu_ = kAnyCpu;  // where the interrupts come, when that is known
  uint64_t learned_ns_ = 0;

  uint64_t pause_ns_ = kShortestPauseNs;
  uint64_t pause_end_ns_ = 0;
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_CPU_CHOOSER_H_

// Scheduling: clients wake up on the CPU where their request was served.
//
// A queue's thread answers a request on the CPU of the client that made it, and then sleeps. If the kernel's scheduler
// sees another CPU idle when the answer wakes the client, it sends it there: that CPU must be woken from its halt, the
// client has left its caches behind, and its next request goes to another queue. That is most of what a small request
// costs. The scheduler leaves the client where it is if the CPU runs nothing but threads of policy SCHED_IDLE
// (sched_idle_cpu() in kernel/sched/fair.c, Linux 5.4 and later): a client goes before them at once.
//
// Such a thread has next to no weight against others of its scheduling group, so it may only use the policy where the
// server is a group by itself, whose share of the CPU is then as large as any other group's: where the kernel makes a
// group of each session (autogroup, sched(7)), this process leads its own, and no cgroup groups it with others instead.
// Nor does it go before others when it wakes up. Where programs compete for the CPUs that is what counts, and no CPU is
// idle anyway: so the thread watches how long it has to wait for its CPU, and takes the usual policy while that is long.

#ifndef STAGEFS_FS_FUSE_SCHEDULING_H_
#define STAGEFS_FS_FUSE_SCHEDULING_H_

#include <cstdint>
#include <string>

namespace stagefs::fuse {

// Whether all who share this process's part of the CPU time belong to its own session. False if that cannot be known.
// `root` goes before the paths of /proc and /sys, for tests.
bool IsGroupedBySession(const std::string& root = "");

// Whether threads of this process may let clients go first.
bool MayLetClientsGoFirst();

// How long a thread has waited for a CPU since it began, in how many waits.
struct CpuWaits {
  uint64_t total_ns = 0;
  uint64_t count = 0;
};

// Decides which policy a thread should have. Not thread-safe.
class PolicyChooser {
 public:
  // Waits for a CPU of this length, on average, are others' doing: clients are quicker, and a program that computes is
  // not interrupted for some milliseconds.
  static constexpr uint64_t kLongWaitNs = 500'000;
  // After long waits the usual policy stays for a time, which doubles as long as trying again shows the same.
  static constexpr uint64_t kShortestPauseNs = 250'000'000, kLongestPauseNs = 16'000'000'000;

  // `waits` as of `now_ns`, a clock that only grows. Returns whether the policy should be SCHED_IDLE from here on.
  bool Look(const CpuWaits& waits, uint64_t now_ns);

 private:
  bool is_idle_ = true;
  CpuWaits last_;
  uint64_t pause_ns_ = kShortestPauseNs;
  uint64_t pause_end_ns_ = 0;
  uint64_t since_ns_ = 0;  // when it became SCHED_IDLE
};

// The policy of the thread that makes it, until it is destroyed. I/O keeps its usual priority.
class ClientsFirst {
 public:
  // `may`: MayLetClientsGoFirst(); if not, this does nothing.
  explicit ClientsFirst(bool may);
  ~ClientsFirst();
  ClientsFirst(const ClientsFirst&) = delete;
  ClientsFirst& operator=(const ClientsFirst&) = delete;

  // For each round of the thread's loop. Cheap: looks at one round in kRoundsPerLook.
  void Adapt();

 private:
  static constexpr uint32_t kRoundsPerLook = 8;

  void Set(bool is_idle);

  int statistics_fd_ = -1;
  bool is_idle_ = false;
  uint32_t rounds_ = 0;
  PolicyChooser chooser_;
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_SCHEDULING_H_

// Which CPUs clients are being served on, so that background work keeps off them.
//
// A thread of policy SCHED_IDLE (fs/fuse/scheduling.h) does not count for the kernel's scheduler when it looks for a CPU:
// background threads, too, would be woken where a client is served, go before the thread that serves it, and take its
// CPU for as long as they work, while another is idle.

#ifndef STAGEFS_SAL_CLIENT_CPUS_H_
#define STAGEFS_SAL_CLIENT_CPUS_H_

#include <sched.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

namespace stagefs::sal {

// A client is being served on the CPU of this thread. Cheap. Thread-safe.
void NoteClient();

// For threads that work in the background, when they begin with something. If a client was served on this thread's CPU
// within the last milliseconds, the thread goes to one where none was, if there is such a CPU. Cheap if it stays.
// Thread-safe.
void KeepOffClients();

// When a client was last served on each CPU. Thread-safe. Times are of one clock that only grows, above 0.
class ClientCpus {
 public:
  // Who is busy with a file system asks more often than that.
  static constexpr uint64_t kRecentNs = 8'000'000;

  void Note(int cpu, uint64_t now_ns) {
    if (IsCpu(cpu) && last_ns_[cpu].load(std::memory_order_relaxed) != now_ns) {
      last_ns_[cpu].store(now_ns, std::memory_order_relaxed);
    }
  }
  bool IsServing(int cpu, uint64_t now_ns) const {
    const uint64_t last_ns = IsCpu(cpu) ? last_ns_[cpu].load(std::memory_order_relaxed) : 0;
    return last_ns != 0 && now_ns < last_ns + kRecentNs;
  }

 private:
  static bool IsCpu(int cpu) { return cpu >= 0 && cpu < CPU_SETSIZE; }

  std::array<std::atomic<uint64_t>, CPU_SETSIZE> last_ns_ = {};
};

// Where one background thread may be. Not thread-safe.
class BackgroundPlace {
 public:
  // A thread that was sent off may be anywhere again after this time.
  static constexpr uint64_t kSentOffNs = 200'000'000;

  // The thread is on CPU `here`, and `allowed` is where it may be. Returns where it may be from here on, if that is
  // something else.
  std::optional<cpu_set_t> Choose(const ClientCpus& clients, int here, const cpu_set_t& allowed, uint64_t now_ns);
  // Whether Choose() may return something.
  bool MayChange(const ClientCpus& clients, int here, uint64_t now_ns) const {
    return clients.IsServing(here, now_ns) || IsOver(now_ns);
  }

 private:
  bool IsOver(uint64_t now_ns) const { return is_sent_off_ && now_ns > sent_off_ns_ + kSentOffNs; }

  bool is_sent_off_ = false;
  uint64_t sent_off_ns_ = 0;
  cpu_set_t usual_ = {};  // where it might be before it was sent off
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_CLIENT_CPUS_H_

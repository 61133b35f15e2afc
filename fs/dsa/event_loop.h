// EventLoop: one thread that waits for descriptors, times, and tasks from other threads.

#ifndef STAGEFS_FS_DSA_EVENT_LOOP_H_
#define STAGEFS_FS_DSA_EVENT_LOOP_H_

#include <sys/epoll.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "sal/mutex.h"
#include "sal/owned_fd.h"

namespace stagefs::dsa {

class EventLoop {
 public:
  using Task = absl::AnyInvocable<void() &&>;
  using Clock = std::chrono::steady_clock;

  // Called on the loop's thread. May do anything to the loop, also unwatch itself or others.
  class Watcher {
   public:
    virtual ~Watcher() = default;
    // EPOLLIN and so on.
    virtual void Ready(uint32_t events) = 0;
    // The time given to SetDue() has come; it is no longer set.
    virtual void Due() {}
  };

  // Errors: Internal (no descriptors are left).
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create();

  // Runs `task` soon, on the loop's thread, in the order of posting. Any thread, as long as the loop exists; what is
  // posted after the end is destroyed with the loop.
  void Post(Task task) ABSL_LOCKS_EXCLUDED(mutex_);
  // Runs on the calling thread until End() is called there.
  void Run();

  // --- On the loop's thread (or before Run()) ---

  void End() { ended_ = true; }
  // `watcher` must live until Unwatch(), `fd` be open until then. Returns what the others ask for; never 0.
  uint64_t Watch(int fd, uint32_t events, Watcher* watcher);
  void Change(uint64_t watch, uint32_t events);
  void Unwatch(uint64_t watch);
  void SetDue(uint64_t watch, std::optional<Clock::time_point> due);

 private:
  struct Watched {
    int fd = -1;
    uint32_t events = 0;
    Watcher* watcher = nullptr;
    std::optional<Clock::time_point> due;
  };

  explicit EventLoop(OwnedFd epoll, OwnedFd event) : epoll_(std::move(epoll)), event_(std::move(event)) {}
  int TimeoutMs() const;
  void RunTasks() ABSL_LOCKS_EXCLUDED(mutex_);
  void RunDue();

  const OwnedFd epoll_;
  const OwnedFd event_;  // readable: there are tasks

  // Of the loop's thread.
  absl::flat_hash_map<uint64_t, Watched> watched_;
  uint64_t next_watch_ = 1;
  bool ended_ = false;

  Mutex mutex_;
  std::vector<Task> tasks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_EVENT_LOOP_H_

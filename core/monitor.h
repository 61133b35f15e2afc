// Monitor: the engine's one lock, and what leaves it. State changes under the lock; requests are submitted and
// callbacks run after it has been dropped. So there is no I/O, no callback and no reply under a lock, by
// construction.

#ifndef STAGEFS_CORE_MONITOR_H_
#define STAGEFS_CORE_MONITOR_H_

#include <memory>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "sal/block_store.h"
#include "sal/environment.h"
#include "sal/mutex.h"

namespace stagefs::core {

class Monitor;

// What a section wants done once the lock has been dropped: requests, then tasks, then callbacks, each in order.
class Outbox {
 public:
  explicit Outbox(Monitor* monitor) : monitor_(monitor) {}
  // `request` must live until `done` runs (under no lock), which may destroy it.
  void Submit(sal::Request* request, absl::AnyInvocable<void(absl::Status)> done);
  void Call(sal::Task callback) { callbacks_.push_back(std::move(callback)); }
  // Runs `task` on an executor thread. Monitor::Stop() waits for it.
  void Post(sal::Task task) { tasks_.push_back(std::move(task)); }

 private:
  friend class Monitor;
  Monitor* const monitor_;
  absl::InlinedVector<sal::Request*, 4> requests_;
  absl::InlinedVector<sal::Task, 2> callbacks_;
  absl::InlinedVector<sal::Task, 2> tasks_;
};

// Thread-safe.
class Monitor {
 public:
  Monitor(sal::BlockStore* store, sal::Environment* environment) : store_(store), environment_(environment) {}

  // Runs `section` under the lock, then carries out its outbox.
  void Run(absl::FunctionRef<void(Outbox&)> section) ABSL_LOCKS_EXCLUDED(mutex_);
  // Blocks until no request is in flight and no posted task is left. From the call on, Submit() drops requests.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  sal::BlockStore& store() { return *store_; }
  sal::Environment& environment() { return *environment_; }

 private:
  friend class Outbox;
  void Finished() ABSL_LOCKS_EXCLUDED(mutex_);

  sal::BlockStore* const store_;
  sal::Environment* const environment_;
  mutable Mutex mutex_;
  uint64_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<sal::Event> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_MONITOR_H_

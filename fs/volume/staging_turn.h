// StagingTurn: one at a time of those who hold staging buffers while they wait for more. Two of them could wait for each
// other forever; one alone gets what it needs, since everybody else's buffers come back by themselves.
//
// Thread-safe.

#ifndef STAGEFS_FS_VOLUME_STAGING_TURN_H_
#define STAGEFS_FS_VOLUME_STAGING_TURN_H_

#include <deque>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "sal/environment.h"
#include "sal/mutex.h"

namespace stagefs::volume {

class StagingTurn {
 public:
  // `environment` must outlive this object.
  explicit StagingTurn(sal::Environment& environment) : environment_(environment) {}

  // Calls `go` when it is the caller's turn: inside the call, or on an executor thread. Ends with End().
  void Begin(absl::AnyInvocable<void() &&> go) ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      MutexLock lock(&mutex_);
      if (taken_) return waiting_.push_back(std::move(go));
      taken_ = true;
    }
    std::move(go)();
  }
  void End() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::AnyInvocable<void() &&> next;
    {
      MutexLock lock(&mutex_);
      taken_ = !waiting_.empty();
      if (!taken_) return;
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    environment_.Post(std::move(next));
  }

 private:
  sal::Environment& environment_;
  Mutex mutex_;
  bool taken_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<absl::AnyInvocable<void() &&>> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_STAGING_TURN_H_

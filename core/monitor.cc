#include "core/monitor.h"

#include <utility>

namespace stagefs::core {

void Outbox::Submit(sal::Request* request, absl::AnyInvocable<void(absl::Status)> done) {
  request->done = [monitor = monitor_, done = std::move(done)](absl::Status status) mutable {
    {
      auto taken = std::move(done);  // what it owns must be gone before Stop() may return
      taken(std::move(status));
    }
    monitor->Finished();
  };
  requests_.push_back(request);
}

void Monitor::Run(absl::FunctionRef<void(Outbox&)> section) {
  Outbox outbox(this);
  absl::InlinedVector<sal::Request*, 4> dropped;
  mutex_.LockSoon();
  section(outbox);
  if (stopped_) dropped.swap(outbox.requests_);
  in_flight_ += outbox.requests_.size() + outbox.tasks_.size();
  mutex_.Unlock();
  if (!outbox.requests_.empty()) store_->Submit(outbox.requests_);
  for (sal::Task& task : outbox.tasks_) {
    environment_->Post([this, task = std::move(task)]() mutable {
      {
        sal::Task taken = std::move(task);
        std::move(taken)();
      }
      Finished();
    });
  }
  for (sal::Task& callback : outbox.callbacks_) std::move(callback)();
  // Nobody will call these: let go of what they own, which may be the request itself.
  for (sal::Request* request : dropped) {
    const absl::AnyInvocable<void(absl::Status)> done = std::move(request->done);
  }
}

void Monitor::Stop() {
  std::shared_ptr<sal::Event> idle;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    if (in_flight_ == 0) return;
    idle_ = environment_->NewEvent();
    idle = idle_;
  }
  idle->Wait();
}

void Monitor::Finished() {
  std::shared_ptr<sal::Event> idle;
  {
    MutexLock lock(&mutex_);
    if (--in_flight_ == 0) idle = idle_;
  }
  if (idle != nullptr) idle->Set();
}

}  // namespace stagefs::core

#include "sal/real_environment.h"

#include <sys/random.h>
#include <syslog.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "absl/strings/str_cat.h"
#include "sal/check.h"
#include "sal/client_cpus.h"
#include "sal/lent_ring.h"

namespace stagefs::sal {

namespace {

class RealEvent : public Event {
 public:
  void Set() override {
    // Whoever waits may destroy the event as soon as it sees `set`, while this call still holds the lock.
    const std::shared_ptr<State> state = state_;
    MutexLock lock(&state->mutex);
    state->set = true;
    state->changed.SignalAll();
  }

  void Wait() override {
    MutexLock lock(&state_->mutex);
    while (!state_->set) {
      STAGEFS_CHECK(LentRing::OfThisThread() == nullptr);  // only this thread could complete what it waits for
      state_->changed.Wait(&state_->mutex);
    }
  }

 private:
  struct State {
    Mutex mutex;
    CondVar changed;
    bool set ABSL_GUARDED_BY(mutex) = false;
  };

  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace

RealEnvironment::RealEnvironment(const RealEnvironmentOptions& options) : use_syslog_(options.use_syslog) {
  STAGEFS_CHECK(options.threads >= 1);
  for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this] { RunTasks(); });
  timer_thread_ = std::thread([this] { RunTimers(); });
}

RealEnvironment::~RealEnvironment() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    task_posted_.SignalAll();
    timer_changed_.SignalAll();
  }
  timer_thread_.join();
  for (std::thread& thread : threads_) thread.join();
}

uint64_t RealEnvironment::NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t RealEnvironment::WallNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

uint64_t RealEnvironment::Random() {
  uint64_t value;
  // Reads of up to 256 bytes are whole and cannot be interrupted once the generator is seeded; before that they can.
  while (getrandom(&value, sizeof(value), 0) != static_cast<ssize_t>(sizeof(value))) {
  }
  return value;
}

void RealEnvironment::Post(Task task) {
  MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
  task_posted_.SignalOne();
}

void RealEnvironment::PostAfter(uint64_t delay_ns, Task task) {
  const uint64_t due_ns = NowNs() + delay_ns;
  MutexLock lock(&mutex_);
  const auto position = timers_.emplace(due_ns, std::move(task));
  if (position == timers_.begin()) timer_changed_.SignalOne();
}

std::unique_ptr<Event> RealEnvironment::NewEvent() { return std::make_unique<RealEvent>(); }

void RealEnvironment::Log(absl::string_view line) {
  if (use_syslog_) {
    syslog(LOG_DAEMON | LOG_NOTICE, "%.*s", static_cast<int>(line.size()), line.data());
  } else {
    const std::string text = absl::StrCat("stagefs: ", line, "\n");  // one write, so that lines do not mix
    std::fwrite(text.data(), 1, text.size(), stderr);
  }
}

void RealEnvironment::RunTasks() {
  mutex_.Lock();
  while (true) {
    if (!tasks_.empty()) {
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      ++running_;
      mutex_.Unlock();
      std::move(task)();
      task = nullptr;  // what it holds is released before it counts as finished, and under no lock
      mutex_.Lock();
      --running_;
      if (stopping_ && running_ == 0) task_posted_.SignalAll();
    } else if (stopping_ && running_ == 0) {
      break;
    } else {
      task_posted_.Wait(&mutex_);
    }
  }
  mutex_.Unlock();
}

void RealEnvironment::GiveWay() {
  // Sleeping, however short, takes some 50 us. To yield would not do: it is for threads that can run, and who waits for a
  // lock has to be woken first.
  std::this_thread::sleep_for(std::chrono::nanoseconds(1));
  KeepOffClients();
}

void RealEnvironment::RunTimers() {
  MutexLock lock(&mutex_);
  while (!stopping_) {
    if (timers_.empty()) {
      timer_changed_.Wait(&mutex_);
      continue;
    }
    const uint64_t due_ns = timers_.begin()->first;
    if (due_ns > NowNs()) {
      timer_changed_.WaitUntil(&mutex_, std::chrono::time_point<std::chrono::steady_clock, std::chrono::nanoseconds>(
                                            std::chrono::nanoseconds(due_ns)));
      continue;
    }
    tasks_.push_back(std::move(timers_.begin()->second));
    timers_.erase(timers_.begin());
    task_posted_.SignalOne();
  }
}

}  // namespace stagefs::sal

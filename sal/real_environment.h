// RealEnvironment: threads and the system's clocks behind Environment.

#ifndef STAGEFS_SAL_REAL_ENVIRONMENT_H_
#define STAGEFS_SAL_REAL_ENVIRONMENT_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "sal/environment.h"
#include "sal/mutex.h"

namespace stagefs::sal {

struct RealEnvironmentOptions {
  // Executor threads, at least 1. There is one more, for timers.
  int threads = 2;
  // Log() goes to syslog (a daemon has no stderr) instead of stderr.
  bool use_syslog = false;
};

// The destructor runs every task that was posted (and what those post), and drops those of PostAfter() that are not yet
// due. It must not run on one of the threads.
//
// Thread-safe.
class RealEnvironment : public Environment {
 public:
  explicit RealEnvironment(const RealEnvironmentOptions& options = {});
  explicit RealEnvironment(int threads) : RealEnvironment(RealEnvironmentOptions{.threads = threads}) {}
  ~RealEnvironment() override;
  RealEnvironment(const RealEnvironment&) = delete;
  RealEnvironment& operator=(const RealEnvironment&) = delete;

  uint64_t NowNs() override;
  int64_t WallNs() override;
  // From the kernel's generator, so fit for salts and UUIDs.
  uint64_t Random() override;
  void Post(Task task) override;
  void PostAfter(uint64_t delay_ns, Task task) override;
  void GiveWay() override;
  std::unique_ptr<Event> NewEvent() override;
  void Log(absl::string_view line) override;

 private:
  void RunTasks() ABSL_LOCKS_EXCLUDED(mutex_);
  void RunTimers() ABSL_LOCKS_EXCLUDED(mutex_);

  // Constant after construction.
  const bool use_syslog_;
  std::vector<std::thread> threads_;
  std::thread timer_thread_;

  Mutex mutex_;
  CondVar task_posted_;
  CondVar timer_changed_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  // By due time; equal ones in the order of their posting.
  std::multimap<uint64_t, Task> timers_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;  // tasks being run; each may post more
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_REAL_ENVIRONMENT_H_

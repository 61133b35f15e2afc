// WorkerThreads: a few threads that run tasks, first come, first served.
//
// Thread-safe.

#ifndef STAGEFS_FS_FUSE_WORKER_THREADS_H_
#define STAGEFS_FS_FUSE_WORKER_THREADS_H_

#include <cstddef>
#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "sal/mutex.h"

namespace stagefs::fuse {

class WorkerThreads {
 public:
  using Task = absl::AnyInvocable<void() &&>;

  explicit WorkerThreads(size_t count);
  // Runs what has been posted, then ends.
  ~WorkerThreads();
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  void Post(Task task);

 private:
  void Run();

  Mutex mutex_;
  CondVar posted_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_WORKER_THREADS_H_

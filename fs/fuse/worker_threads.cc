#include "fs/fuse/worker_threads.h"

#include <utility>

namespace stagefs::fuse {

WorkerThreads::WorkerThreads(size_t count) {
  for (size_t i = 0; i < count; ++i) threads_.emplace_back([this] { Run(); });
}

WorkerThreads::~WorkerThreads() {
  {
    MutexLock lock(&mutex_);
    ending_ = true;
    posted_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

void WorkerThreads::Post(Task task) {
  MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
  posted_.SignalOne();
}

void WorkerThreads::Run() {
  mutex_.Lock();
  while (!tasks_.empty() || !ending_) {
    if (tasks_.empty()) {
      posted_.Wait(&mutex_);
      continue;
    }
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    mutex_.Unlock();
    std::move(task)();
    task = nullptr;  // what it holds is released under no lock
    mutex_.Lock();
  }
  mutex_.Unlock();
}

}  // namespace stagefs::fuse

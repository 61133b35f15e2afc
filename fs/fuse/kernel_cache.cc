#include "fs/fuse/kernel_cache.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

#include <utility>

namespace stagefs::fuse {
namespace {

// Cheap, and a few milliseconds behind at most. Never 0.
int64_t CoarseNowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * int64_t{1000} + now.tv_nsec / 1'000'000 + 1;
}

}  // namespace

KernelCache::KernelCache(const volume::Sharing& sharing, KernelNotifier& notifier)
    : sharing_(sharing), notifier_(notifier), content_(*this), names_(*this) {}

KernelCache::~KernelCache() { ending_ = true; }

// Whole files are dropped when direct writing begins or has ended (Sharing). A change of some bytes needs no new
// generation: while the file is being written to directly no attributes of it are kept anyway.
void KernelCache::DropContent(Ino ino, uint64_t offset, uint64_t length, Done done) {
  if (offset == 0 && length == 0) generation_.fetch_add(1);
  content_.Post({.ino = ino, .offset = offset, .length = length, .name = {}, .done = std::move(done)});
}

void KernelCache::DropName(Ino directory, absl::string_view name, Done done) {
  generation_.fetch_add(1);
  names_.Post({.ino = directory, .name = std::string(name), .done = std::move(done)});
}

// The order of these three matters. The mark is seen by whoever drops later than the other two look. A direct writer
// who came and went in between is found by the generation, which was counted up before he could write and before
// DirectlyWritten() ended.
bool KernelCache::MayKeepAttributes(Ino ino, uint64_t generation) {
  Slot(ino).store(CoarseNowMs());
  return !sharing_.DirectlyWritten(ino) && generation_.load() == generation;
}

bool KernelCache::AnswerMayBeUnderWay(Ino ino) const {
  const int64_t answered_ms = answered_ms_[ino % kSlots].load();
  return answered_ms != 0 && CoarseNowMs() - answered_ms < kAnswerLasts.count();
}

bool KernelCache::Send(const Drop& drop) {
  // The name first: that waits for lookups and listings that may have seen the old directory. What they left is then
  // forgotten.
  if (!drop.name.empty()) notifier_.ForgetName(drop.ino, drop.name);
  const int error = notifier_.ForgetContent(drop.ino, drop.offset, drop.length);
  const bool whole = drop.offset == 0 && drop.length == 0;
  return error != ENOENT || !whole || ending_ || !AnswerMayBeUnderWay(drop.ino);
}

KernelCache::Lane::Lane(KernelCache& cache) : cache_(cache) {
  // Signals are for the process's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

KernelCache::Lane::~Lane() {
  {
    MutexLock lock(&mutex_);
    ending_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

void KernelCache::Lane::Post(Drop drop) {
  MutexLock lock(&mutex_);
  drops_.push_back(std::move(drop));
  changed_.SignalAll();
}

void KernelCache::Lane::Run() {
  Drop drop;
  while (Take(&drop)) {
    if (cache_.Send(drop)) {
      std::move(drop.done)();
      drop.done = nullptr;  // what it holds is released under no lock
      continue;
    }
    drop.due = Clock::now() + kRetryAfter;
    MutexLock lock(&mutex_);
    retries_.push_back(std::move(drop));
  }
}

bool KernelCache::Lane::Take(Drop* drop) {
  MutexLock lock(&mutex_);
  while (true) {
    std::deque<Drop>* from = nullptr;
    if (!retries_.empty() && (ending_ || retries_.front().due <= Clock::now())) {
      from = &retries_;
    } else if (!drops_.empty()) {
      from = &drops_;
    } else if (retries_.empty() && ending_) {
      return false;
    }
    if (from != nullptr) {
      *drop = std::move(from->front());
      from->pop_front();
      return true;
    }
    if (retries_.empty()) {
      changed_.Wait(&mutex_);
    } else {
      changed_.WaitUntil(&mutex_, retries_.front().due);
    }
  }
}

}  // namespace stagefs::fuse

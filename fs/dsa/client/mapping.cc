#include "fs/dsa/client/mapping.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define STAGEFS_THREAD_SANITIZER
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
#endif
#endif

namespace stagefs::dsa {
namespace {

// How much is asked for at most, when faults come in sequence.
constexpr uint64_t kMaxWindowPages = 64;
// Pages that the memfd has are mapped a few at a time: a fault costs more than all of them.
constexpr uint64_t kMapAheadPages = 16;
// A page that is taken away each time before it can be mapped: the server's memory is far too small, or it lies.
constexpr int kMaxAttempts = 1000;

// The first place from `at` on where `a` and `b` differ (`equal` false), or are the same; `end` if there is none.
uint64_t Find(bool equal, const std::byte* a, const std::byte* b, uint64_t at, uint64_t end) {
  while (at < end && (a[at] == b[at]) != equal) {
    uint64_t words[2];
    if (!equal && at + sizeof(uint64_t) <= end) {
      memcpy(&words[0], a + at, sizeof(uint64_t));
      memcpy(&words[1], b + at, sizeof(uint64_t));
      if (words[0] == words[1]) {
        at += sizeof(uint64_t);
        continue;
      }
    }
    ++at;
  }
  return at;
}

// Copies a protected page. ThreadSanitizer cannot know that stores to it wait, or have come before.
void CopyPage(const std::byte* from, std::byte* to) {
#ifdef STAGEFS_THREAD_SANITIZER
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
#endif
  memcpy(to, from, Mapping::kPageBytes);
#ifdef STAGEFS_THREAD_SANITIZER
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
}

// Calls `act(first, count)` for runs of the pages added in ascending order.
template <typename Act>
class PageRuns {
 public:
  explicit PageRuns(Act act) : act_(std::move(act)) {}
  void Add(uint64_t page) {
    if (page != first_ + count_) Flush();
    if (count_ == 0) first_ = page;
    ++count_;
  }
  void Flush() {
    if (count_ > 0) act_(first_, count_);
    count_ = 0;
  }

 private:
  Act act_;
  uint64_t first_ = 0, count_ = 0;
};

// The thread must not run the program's signal handlers: they may touch what it serves.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

// What one Persist() is about.
struct Mapping::Sending {
  uint64_t begin = 0, end = 0;  // in the mapping
  std::vector<ChangedPages::iterator> pages;
  std::vector<ChangedBytes> pieces;
  uint64_t bytes = 0;
};

int Mapping::Create(int memfd, uint64_t offset, uint64_t length, MappingBackend& backend,
                    std::unique_ptr<Mapping>* mapping) {
  if (offset % kPageBytes != 0 || length == 0 || length > INT64_MAX - offset) return -EINVAL;
  std::unique_ptr<FaultedMemory> memory;
  const uint64_t page_count = (length + kPageBytes - 1) / kPageBytes;
  const int created = FaultedMemory::Create(memfd, offset / kPageBytes, page_count, &memory);
  if (created != 0) return created;
  std::unique_ptr<Mapping> made(new Mapping(offset, length, backend));
  const int started = made->Start(std::move(memory));
  if (started == 0) *mapping = std::move(made);
  return started;
}

Mapping::Mapping(uint64_t offset, uint64_t length, MappingBackend& backend)
    : offset_(offset), length_(length), backend_(backend) {}

int Mapping::Start(std::unique_ptr<FaultedMemory> memory) {
  memory_ = std::move(memory);
  stop_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stop_ < 0) return -errno;
  SignalsBlocked blocked;
  thread_ = std::thread([this] { ServeFaults(); });
  return 0;
}

Mapping::~Mapping() {
  if (thread_.joinable()) {
    if (memory_->InCreator()) {
      eventfd_write(stop_, 1);
      thread_.join();
    } else {
      thread_.detach();  // it stayed in the parent
    }
  }
  if (stop_ >= 0) close(stop_);
}

void Mapping::ServeFaults() {
  pollfd polled[] = {{memory_->fault_descriptor(), POLLIN, 0}, {stop_, POLLIN, 0}};
  for (;;) {
    if (poll(polled, 2, -1) < 0) continue;
    if (polled[1].revents != 0) return;
    FaultedMemory::Fault fault;
    while (memory_->NextFault(&fault)) Serve(fault);
  }
}

void Mapping::Serve(const FaultedMemory::Fault& fault) {
  int result = Resolve(fault);
  for (int attempt = 0; result == -ENODATA && attempt < kMaxAttempts; ++attempt) {
    // If it was taken away again, others asked for with it may have been the reason.
    const uint64_t pages = attempt == 0 ? std::min(AskFor(fault.page), memory_->page_count() - fault.page) : 1;
    result = backend_.Populate(offset_ + fault.page * kPageBytes, pages * kPageBytes);
    if (result == 0) result = Resolve(fault);
  }
  if (result == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  memory_->Poison(fault.page);
}

uint64_t Mapping::AskFor(uint64_t page) {
  window_pages_ = page == next_page_ ? std::min(window_pages_ * 2, kMaxWindowPages) : 1;
  next_page_ = page + window_pages_;
  return window_pages_;
}

int Mapping::Resolve(const FaultedMemory::Fault& fault) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (fault.store) return MakeStorable(fault.page);
  const uint64_t ahead = std::max(kMapAheadPages, window_pages_);
  return memory_->MapShared(fault.page, std::min(ahead, memory_->page_count() - fault.page));
}

int Mapping::MakeStorable(uint64_t page) {
  const auto found = changed_.find(page);
  if (found != changed_.end()) {
    found->second.stored_again = true;
    return memory_->Release(page, 1);
  }
  const int result = memory_->MakePrivate(page);
  if (result != 0) return result;
  Changed changed;
  changed.twin = std::make_unique<Page>();
  CopyPage(memory_->page(page), changed.twin->data());
  changed_.emplace(page, std::move(changed));
  return memory_->Release(page, 1);
}

int Mapping::Persist(uint64_t offset, uint64_t length, bool durable, uint64_t* lsn) {
  if (offset > length_ || length > length_ - offset) return -EINVAL;
  Sending sending = {.begin = offset, .end = offset + length, .pages = {}, .pieces = {}};
  std::unique_lock<std::mutex> lock(mutex_);
  persisted_.wait(lock, [&] { return !AnyPersisting(sending); });
  int result = Protect(sending);
  if (result == 0) result = Gather(sending);
  uint64_t sent_lsn = latest_lsn_;
  if (result == 0 && (durable || !sending.pieces.empty())) {
    lock.unlock();
    result = backend_.Persist(sending.pieces, durable, &sent_lsn);
    lock.lock();
  }
  Finish(sending, result == 0);
  persisted_.notify_all();
  if (result != 0) return result;
  latest_lsn_ = std::max(latest_lsn_, sent_lsn);
  if (lsn != nullptr) *lsn = sent_lsn;
  return 0;
}

Mapping::ChangedPages::iterator Mapping::FirstIn(const Sending& sending) {
  return changed_.lower_bound(sending.begin / kPageBytes);
}

bool Mapping::AnyPersisting(const Sending& sending) {
  for (auto page = FirstIn(sending); page != changed_.end() && page->first * kPageBytes < sending.end; ++page) {
    if (page->second.snapshot != nullptr) return true;
  }
  return false;
}

int Mapping::Protect(Sending& sending) {
  int result = 0;
  PageRuns runs([&](uint64_t first, uint64_t count) {
    if (result == 0) result = memory_->Protect(first, count);
  });
  for (auto page = FirstIn(sending); page != changed_.end() && page->first * kPageBytes < sending.end; ++page) {
    page->second.stored_again = false;
    sending.pages.push_back(page);
    runs.Add(page->first);
  }
  runs.Flush();
  return result;
}

int Mapping::Gather(Sending& sending) {
  for (const ChangedPages::iterator& page : sending.pages) {
    page->second.snapshot = std::make_unique<Page>();
    CopyPage(memory_->page(page->first), page->second.snapshot->data());
    GatherPage(page->first, page->second, sending);
    if (sending.bytes > kMaxPersistBytes) return -E2BIG;
  }
  return 0;
}

void Mapping::GatherPage(uint64_t page, const Changed& changed, Sending& sending) {
  const uint64_t start = page * kPageBytes;
  const std::byte* const now = changed.snapshot->data();
  const std::byte* const twin = changed.twin->data();
  const uint64_t end = std::min(sending.end - start, kPageBytes);
  uint64_t at = std::max(sending.begin, start) - start;
  while ((at = Find(/*equal=*/false, now, twin, at, end)) < end) {
    const uint64_t behind = Find(/*equal=*/true, now, twin, at, end);
    sending.bytes += behind - at;
    sending.pieces.push_back({offset_ + start + at, now + at, behind - at});
    at = behind;
  }
}

void Mapping::Finish(Sending& sending, bool sent) {
  PageRuns released([&](uint64_t first, uint64_t count) { memory_->Release(first, count); });
  PageRuns dropped([&](uint64_t first, uint64_t count) { memory_->Drop(first, count); });
  for (const ChangedPages::iterator& page : sending.pages) {
    Changed& changed = page->second;
    const bool same = TakeOver(sending, sent, page->first, changed);
    if (changed.stored_again) continue;  // released since
    if (!same) {
      released.Add(page->first);
      continue;
    }
    dropped.Add(page->first);
    changed_.erase(page);
  }
  released.Flush();
  dropped.Flush();
}

bool Mapping::TakeOver(const Sending& sending, bool sent, uint64_t page, Changed& changed) {
  const std::unique_ptr<Page> snapshot = std::move(changed.snapshot);
  if (snapshot == nullptr) return false;
  const uint64_t start = page * kPageBytes, from = std::max(sending.begin, start) - start;
  const uint64_t size = std::min(sending.end - start, kPageBytes) - from;
  if (sent) memcpy(changed.twin->data() + from, snapshot->data() + from, size);
  return *changed.twin == *snapshot;
}

}  // namespace stagefs::dsa

#include "fs/dsa/event_loop.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "sal/check.h"

namespace stagefs::dsa {
namespace {

constexpr uint64_t kTasks = 0;  // what the event is watched as
constexpr int kMaxTimeoutMs = 1'000'000;

}  // namespace

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  OwnedFd epoll(epoll_create1(EPOLL_CLOEXEC));
  OwnedFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event tasks = {};
  tasks.events = EPOLLIN;
  tasks.data.u64 = kTasks;
  if (epoll.get() < 0 || event.get() < 0 || epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &tasks) != 0) {
    return absl::InternalError(absl::StrCat("cannot make an event loop: ", strerror(errno)));
  }
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll), std::move(event)));
}

void EventLoop::Post(Task task) {
  bool first;
  {
    MutexLock lock(&mutex_);
    first = tasks_.empty();
    tasks_.push_back(std::move(task));
  }
  if (!first) return;
  const uint64_t one = 1;
  STAGEFS_CHECK(write(event_.get(), &one, sizeof(one)) == sizeof(one));
}

void EventLoop::Run() {
  std::array<epoll_event, 64> ready;
  while (!ended_) {
    const int count = epoll_wait(epoll_.get(), ready.data(), ready.size(), TimeoutMs());
    STAGEFS_CHECK(count >= 0 || errno == EINTR);
    for (int i = 0; i < count; ++i) {
      if (ready[i].data.u64 == kTasks) {
        RunTasks();
        continue;
      }
      // It may have been unwatched by what came before it.
      const auto found = watched_.find(ready[i].data.u64);
      if (found != watched_.end()) found->second.watcher->Ready(ready[i].events);
    }
    RunDue();
  }
}

void EventLoop::RunTasks() {
  uint64_t count;
  (void)!read(event_.get(), &count, sizeof(count));
  std::vector<Task> tasks;
  {
    MutexLock lock(&mutex_);
    tasks.swap(tasks_);
  }
  for (Task& task : tasks) std::move(task)();
}

void EventLoop::RunDue() {
  const Clock::time_point now = Clock::now();
  std::vector<uint64_t> due;
  for (const auto& [watch, watched] : watched_) {
    if (watched.due.has_value() && *watched.due <= now) due.push_back(watch);
  }
  for (const uint64_t watch : due) {
    const auto found = watched_.find(watch);
    if (found == watched_.end() || !found->second.due.has_value()) continue;
    found->second.due.reset();
    found->second.watcher->Due();
  }
}

// Watches are few (connections), so looking at all of them is cheap.
int EventLoop::TimeoutMs() const {
  std::optional<Clock::time_point> next;
  for (const auto& [watch, watched] : watched_) {
    if (watched.due.has_value()) next = next.has_value() ? std::min(*next, *watched.due) : *watched.due;
  }
  if (!next.has_value()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, kMaxTimeoutMs));
}

uint64_t EventLoop::Watch(int fd, uint32_t events, Watcher* watcher) {
  const uint64_t watch = next_watch_++;
  epoll_event event = {};
  event.events = events;
  event.data.u64 = watch;
  STAGEFS_CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0);
  watched_.emplace(watch, Watched{fd, events, watcher, std::nullopt});
  return watch;
}

void EventLoop::Change(uint64_t watch, uint32_t events) {
  const auto found = watched_.find(watch);
  STAGEFS_CHECK(found != watched_.end());
  if (found->second.events == events) return;
  found->second.events = events;
  epoll_event event = {};
  event.events = events;
  event.data.u64 = watch;
  STAGEFS_CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second.fd, &event) == 0);
}

void EventLoop::Unwatch(uint64_t watch) {
  const auto found = watched_.find(watch);
  STAGEFS_CHECK(found != watched_.end());
  STAGEFS_CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second.fd, nullptr) == 0);
  watched_.erase(found);
}

void EventLoop::SetDue(uint64_t watch, std::optional<Clock::time_point> due) {
  const auto found = watched_.find(watch);
  STAGEFS_CHECK(found != watched_.end());
  found->second.due = due;
}

}  // namespace stagefs::dsa

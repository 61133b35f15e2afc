#include "sal/simulated_environment.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace stagefs::sal {

namespace {

constexpr int64_t kFirstWallNs = 1'704'067'200'000'000'000;
constexpr uint64_t kLongestPostDelayNs = 5'000;

[[noreturn]] void Deadlock(const char* what, const std::vector<std::string>& log) {
  std::fprintf(stderr, "stagefs: simulated deadlock: Event::Wait() %s\n", what);
  const size_t first = log.size() > 20 ? log.size() - 20 : 0;
  for (size_t i = first; i < log.size(); ++i) std::fprintf(stderr, "  log: %s\n", log[i].c_str());
  std::abort();
}

class SimulatedEvent : public Event {
 public:
  explicit SimulatedEvent(SimulatedEnvironment* environment) : environment_(environment) {}

  void Set() override { set_ = true; }

  void Wait() override {
    const uint64_t start_ns = environment_->NowNs();
    while (!set_) {
      if (!environment_->RunOne()) Deadlock("and nothing is left to run that could Set() it", environment_->log());
      if (environment_->NowNs() - start_ns > SimulatedEnvironment::kLongestWaitNs) {
        Deadlock("lasted an hour of virtual time; only timers that repeat keep running", environment_->log());
      }
    }
  }

 private:
  SimulatedEnvironment* const environment_;
  bool set_ = false;
};

}  // namespace

SimulatedEnvironment::SimulatedEnvironment(uint64_t seed) : random_(seed) {}

int64_t SimulatedEnvironment::WallNs() { return kFirstWallNs + static_cast<int64_t>(now_ns_); }

void SimulatedEnvironment::Post(Task task) {
  Push(random_.Below(kLongestPostDelayNs), /*timer=*/false, std::move(task));
}

void SimulatedEnvironment::PostAfter(uint64_t delay_ns, Task task) {
  Push(delay_ns + random_.Below(kLongestPostDelayNs), /*timer=*/true, std::move(task));
}

void SimulatedEnvironment::Schedule(uint64_t delay_ns, Task task) { Push(delay_ns, /*timer=*/false, std::move(task)); }

std::unique_ptr<Event> SimulatedEnvironment::NewEvent() { return std::make_unique<SimulatedEvent>(this); }

bool SimulatedEnvironment::Later(const Entry& a, const Entry& b) {
  return a.due_ns != b.due_ns ? a.due_ns > b.due_ns : a.sequence > b.sequence;
}

void SimulatedEnvironment::Push(uint64_t delay_ns, bool timer, Task task) {
  if (!timer) ++work_;
  queue_.push_back(Entry{now_ns_ + delay_ns, next_sequence_++, timer, std::move(task)});
  std::push_heap(queue_.begin(), queue_.end(), Later);
}

bool SimulatedEnvironment::RunOne() {
  if (queue_.empty()) return false;
  std::pop_heap(queue_.begin(), queue_.end(), Later);
  Entry entry = std::move(queue_.back());
  queue_.pop_back();
  if (!entry.timer) --work_;
  now_ns_ = entry.due_ns;
  ++steps_;
  std::move(entry.task)();
  return true;
}

void SimulatedEnvironment::GiveWay() {
  for (uint64_t tasks = random_.Next() % 4; tasks > 0 && RunOne(); --tasks) {
  }
}

void SimulatedEnvironment::RunUntilIdle() {
  while (work_ > 0) RunOne();
}

void SimulatedEnvironment::RunFor(uint64_t duration_ns) {
  const uint64_t end_ns = now_ns_ + duration_ns;
  while (!queue_.empty() && queue_.front().due_ns <= end_ns) RunOne();
  now_ns_ = std::max(now_ns_, end_ns);
}

}  // namespace stagefs::sal

// SimulatedEnvironment: one thread, a virtual clock and one seed. What runs in it runs the same way every time.
//
// Tasks run when the owner lets them: in Event::Wait(), RunOne(), RunFor() or RunUntilIdle(). Each posted task gets a
// small delay by seed, so that tasks run in seed-random order and time passes for tasks that post themselves again.
//
// Not thread-safe: everything happens on the thread that made it.

#ifndef STAGEFS_SAL_SIMULATED_ENVIRONMENT_H_
#define STAGEFS_SAL_SIMULATED_ENVIRONMENT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sal/environment.h"
#include "sal/random.h"

namespace stagefs::sal {

class SimulatedEnvironment : public Environment {
 public:
  explicit SimulatedEnvironment(uint64_t seed);
  // Tasks that have not run are dropped, not run.
  ~SimulatedEnvironment() override = default;
  SimulatedEnvironment(const SimulatedEnvironment&) = delete;
  SimulatedEnvironment& operator=(const SimulatedEnvironment&) = delete;

  uint64_t NowNs() override { return now_ns_; }
  // Starts at 2024-01-01T00:00:00Z.
  int64_t WallNs() override;
  uint64_t Random() override { return random_.Next(); }
  void Post(Task task) override;
  void PostAfter(uint64_t delay_ns, Task task) override;
  // Wait() runs tasks until Set(). It aborts, with a clear message, if nothing is left that could call Set(), or after
  // kLongestWaitNs of virtual time: that is a deadlock.
  // Runs some of the tasks that come next, as they would on other threads.
  void GiveWay() override;
  std::unique_ptr<Event> NewEvent() override;
  void Log(absl::string_view line) override { log_.emplace_back(line); }

  // For devices: runs `task` after exactly `delay_ns`. Unlike a task of PostAfter() it counts as work: RunUntilIdle()
  // waits for it.
  void Schedule(uint64_t delay_ns, Task task);

  // Runs the next task, moving the clock to its time. False if there is none.
  bool RunOne();
  // Runs until only timers (PostAfter) that are not yet due are left.
  void RunUntilIdle();
  // Runs all that is due within `duration_ns`, and ends at exactly that time.
  void RunFor(uint64_t duration_ns);

  // How many tasks have run.
  uint64_t steps() const { return steps_; }
  // The lines logged so far.
  const std::vector<std::string>& log() const { return log_; }

  static constexpr uint64_t kLongestWaitNs = 3'600'000'000'000;

 private:
  struct Entry {
    uint64_t due_ns;
    uint64_t sequence;  // breaks ties
    bool timer;
    Task task;
  };

  static bool Later(const Entry& a, const Entry& b);
  void Push(uint64_t delay_ns, bool timer, Task task);

  Random64 random_;
  uint64_t now_ns_ = 1'000'000'000;
  uint64_t next_sequence_ = 0;
  uint64_t steps_ = 0;
  uint64_t work_ = 0;         // entries that are not timers
  std::vector<Entry> queue_;  // a heap, earliest first
  std::vector<std::string> log_;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_SIMULATED_ENVIRONMENT_H_

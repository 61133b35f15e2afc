// Environment: clock, executor and randomness, taken from outside so that one thread and one seed can run everything.
//
// RealEnvironment (sal/real_environment.h) is threads and the system clock; SimulatedEnvironment
// (sal/simulated_environment.h) is an event loop with a virtual clock.

#ifndef STAGEFS_SAL_ENVIRONMENT_H_
#define STAGEFS_SAL_ENVIRONMENT_H_

#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/strings/string_view.h"

namespace stagefs::sal {

using Task = absl::AnyInvocable<void() &&>;

// A one-shot event to wait for. Only opening, closing and the tools wait; serving threads never do.
class Event {
 public:
  virtual ~Event() = default;
  // Thread-safe; may be called from any callback, once or more often.
  virtual void Set() = 0;
  // Returns after Set(). The caller holds no lock. The simulator runs its event loop meanwhile.
  virtual void Wait() = 0;
};

// Thread-safe.
class Environment {
 public:
  virtual ~Environment() = default;
  // Monotonic, in nanoseconds from an arbitrary start.
  virtual uint64_t NowNs() = 0;
  // Wall clock, in nanoseconds since 1970, for the times of files.
  virtual int64_t WallNs() = 0;
  virtual uint64_t Random() = 0;
  // Runs `task` soon, on an executor thread, never inside Post(). Tasks may run in parallel and in any order.
  virtual void Post(Task task) = 0;
  // Runs `task` once after at least `delay_ns`. What the task refers to must live until then (or be held weakly).
  virtual void PostAfter(uint64_t delay_ns, Task task) = 0;
  // Called by a task that will work for milliseconds, before each piece of its work and holding no lock: who waits for a
  // lock that it held gets it, and it goes on on a CPU where no client is being served, if there is one.
  virtual void GiveWay() = 0;
  virtual std::unique_ptr<Event> NewEvent() = 0;
  // One line for the operator: what happened, where, what to do. Goes to stderr or syslog.
  virtual void Log(absl::string_view line) = 0;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_ENVIRONMENT_H_

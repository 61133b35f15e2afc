// Once: a callback that is certain to run. Who has promised to call it, and then throws it away, calls it so with what
// was said to mean that.

#ifndef STAGEFS_FS_DSA_ONCE_H_
#define STAGEFS_FS_DSA_ONCE_H_

#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"

namespace stagefs::dsa {

template <typename T>
class Once {
 public:
  Once(T otherwise, absl::AnyInvocable<void(T) &&> then)
      : state_(std::make_unique<State>(State{std::move(otherwise), std::move(then)})) {}
  Once(Once&&) noexcept = default;
  Once& operator=(Once&&) = delete;
  ~Once() {
    if (state_ != nullptr) Run(std::move(state_->otherwise));
  }

  void operator()(T value) && { Run(std::move(value)); }

 private:
  struct State {
    T otherwise;
    absl::AnyInvocable<void(T) &&> then;
  };

  void Run(T value) {
    const std::unique_ptr<State> state = std::move(state_);
    std::move(state->then)(std::move(value));
  }

  std::unique_ptr<State> state_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_ONCE_H_

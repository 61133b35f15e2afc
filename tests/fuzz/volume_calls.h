// Calls to a volume that wait, for tests in a simulated environment.

#ifndef STAGEFS_TESTS_FUZZ_VOLUME_CALLS_H_
#define STAGEFS_TESTS_FUZZ_VOLUME_CALLS_H_

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/volume/volume.h"
#include "sal/environment.h"

namespace stagefs::fuzz {

// What the callback gets that `start` is given.
template <typename T, typename Start>
absl::StatusOr<T> WaitFor(volume::Volume& volume, Start start) {
  const std::unique_ptr<sal::Event> over = volume.engine().environment().NewEvent();
  absl::StatusOr<T> result = absl::UnknownError("not called back");
  start(volume::Callback<T>([&](absl::StatusOr<T> value) {
    result = std::move(value);
    over->Set();
  }));
  over->Wait();
  return result;
}

// The same, for calls that give nothing but a status.
template <typename Start>
absl::Status WaitForStatus(volume::Volume& volume, Start start) {
  const std::unique_ptr<sal::Event> over = volume.engine().environment().NewEvent();
  absl::Status result;
  start(volume::StatusCallback([&](absl::Status status) {
    result = std::move(status);
    over->Set();
  }));
  over->Wait();
  return result;
}

}  // namespace stagefs::fuzz

#endif  // STAGEFS_TESTS_FUZZ_VOLUME_CALLS_H_

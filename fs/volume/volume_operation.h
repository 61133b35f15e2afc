// Operation: runs one body as one change and calls back with its result. It runs the body again after a removal that
// has to be finished first, and, before it believes that the volume is full, whenever the remover has freed something.

#ifndef STAGEFS_FS_VOLUME_VOLUME_OPERATION_H_
#define STAGEFS_FS_VOLUME_VOLUME_OPERATION_H_

#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/variant.h"
#include "core/engine.h"
#include "fs/volume/orphans.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

// The result of operations that have none.
using Nothing = absl::monostate;

// `Body` is called as absl::Status(Change&, T* result), under the engine's sequencer lock, with a fresh result each
// time. `Done` is called once with absl::StatusOr<T>, or with absl::Status if T is Nothing. A result with a field `lsn`
// is given the LSN of the change (of the latest one, if it changed nothing).
template <typename T, typename Body, typename Done>
class Operation {
 public:
  // Deletes itself after `done`. `state` and `remover` must outlive it.
  static void Start(VolumeState& state, Remover& remover, Body body, Done done) {
    (new Operation(state, remover, std::move(body), std::move(done)))->Run();
  }

 private:
  Operation(VolumeState& state, Remover& remover, Body body, Done done)
      : state_(state), remover_(remover), body_(std::move(body)), done_(std::move(done)) {}

  void Run() {
    state_.engine().Run(
        [this](core::Transaction& tx) {
          result_ = T();
          state_.SetNodeUse(SpaceUse::kMetadata);
          Change change = {.tx = tx, .now_ns = state_.engine().environment().WallNs()};
          absl::Status status = body_(change, &result_);
          finish_removal_of_ = absl::IsAborted(status) ? change.finish_removal_of : 0;
          return status;
        },
        [this](absl::StatusOr<core::Lsn> lsn) {
          if constexpr (requires { result_.lsn; }) {
            if (lsn.ok()) result_.lsn = *lsn;
          }
          Finished(std::move(lsn).status());
        });
  }

  void Finished(absl::Status status) {
    if (absl::IsAborted(status) && finish_removal_of_ != 0) {
      remover_.Finish(finish_removal_of_, [this](absl::Status finished) {
        if (finished.ok()) {
          Run();
        } else {
          Deliver(std::move(finished));
        }
      });
      return;
    }
    if (absl::IsResourceExhausted(status) && remover_.WhenProgress([this] { Run(); })) return;
    Deliver(std::move(status));
  }

  void Deliver(absl::Status status) {
    // The callback may start the next operation or end the volume: nothing of this one may be left.
    Done done = std::move(done_);
    T result = std::move(result_);
    delete this;
    if constexpr (std::is_same_v<T, Nothing>) {
      std::move(done)(std::move(status));
    } else if (status.ok()) {
      std::move(done)(std::move(result));
    } else {
      std::move(done)(std::move(status));
    }
  }

  VolumeState& state_;
  Remover& remover_;
  Body body_;
  Done done_;
  T result_ = T();
  Ino finish_removal_of_ = 0;
};

template <typename T, typename Body, typename Done>
void RunOperation(VolumeState& state, Remover& remover, Body body, Done done) {
  Operation<T, Body, Done>::Start(state, remover, std::move(body), std::move(done));
}

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_VOLUME_OPERATION_H_

// Calls to an engine that wait, for fuzzers. What the engine lives in is simulated, so that a call that would never
// come back ends the process.

#ifndef STAGEFS_TESTS_FUZZ_ENGINE_CALLS_H_
#define STAGEFS_TESTS_FUZZ_ENGINE_CALLS_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/engine.h"
#include "core/transaction.h"
#include "core/types.h"
#include "sal/environment.h"

namespace stagefs::fuzz {

inline absl::StatusOr<core::Lsn> RunAndWait(core::Engine& engine, core::Engine::Body body) {
  absl::StatusOr<core::Lsn> result = absl::UnknownError("not called back");
  const std::unique_ptr<sal::Event> over = engine.environment().NewEvent();
  engine.Run(std::move(body), [&](absl::StatusOr<core::Lsn> lsn) {
    result = std::move(lsn);
    over->Set();
  });
  over->Wait();
  return result;
}

inline absl::Status CheckpointAndWait(core::Engine& engine) {
  absl::Status result;
  const std::unique_ptr<sal::Event> over = engine.environment().NewEvent();
  engine.Checkpoint([&](absl::Status status) {
    result = std::move(status);
    over->Set();
  });
  over->Wait();
  return result;
}

// The content of `block`, or the error that reading it gives.
inline absl::StatusOr<std::string> ReadBlock(core::Engine& engine, core::Block block) {
  std::string content;
  const absl::StatusOr<core::Lsn> run = RunAndWait(engine, [&](core::Transaction& tx) -> absl::Status {
    const absl::StatusOr<const std::byte*> bytes = tx.Read(block);
    if (!bytes.ok()) return bytes.status();
    content.assign(reinterpret_cast<const char*>(*bytes), core::kBlockBytes);
    return absl::OkStatus();
  });
  if (!run.ok()) return run.status();
  return content;
}

}  // namespace stagefs::fuzz

#endif  // STAGEFS_TESTS_FUZZ_ENGINE_CALLS_H_

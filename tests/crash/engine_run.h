// EngineRun: one life of an engine on a simulated disk, from power-on to the crash: opens it, executes operations,
// keeps the model and notes what was acknowledged as durable.
//
// Everything runs on the calling thread and depends on the options and the disk alone.

#ifndef STAGEFS_TESTS_CRASH_ENGINE_RUN_H_
#define STAGEFS_TESTS_CRASH_ENGINE_RUN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/aligned_memory.h"
#include "core/engine.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "tests/crash/engine_model.h"
#include "tests/crash/engine_workload.h"
#include "tests/crash/recording_store.h"

namespace stagefs::crash {

struct RunOptions {
  uint64_t seed = 1;
  bool fua = true;
  core::Broken broken = core::Broken::kNothing;
};

class EngineRun {
 public:
  static constexpr uint64_t kStoreBytes = 24 << 20;
  static constexpr uint64_t kLogBytes = 4 << 20;
  static constexpr uint64_t kDirtyBlocks = 64;
  static constexpr uint64_t kMostArenaBlocks = 256;

  EngineRun(const RunOptions& options, sal::SimulatedDisk disk);
  ~EngineRun();

  // A formatted disk. The second: formatted, and the log's head lies a few blocks before the end of the ring.
  static sal::SimulatedDisk Formatted(uint64_t seed);
  static sal::SimulatedDisk NearlyWrapped(uint64_t seed);

  // Recovers. Whatever error the engine reports.
  absl::Status Open();
  // Executes `ops` on slots of `model` until they are over or the power is off. Internal: an operation failed or got
  // stuck while the power was on.
  absl::Status Execute(EngineModel* model, const std::vector<Op>& ops);
  // Reads all that `state` owns. Internal: it differs, or cannot be read.
  absl::Status Verify(const EngineModel::State& state);
  // The same, while the power may fail: what is read then is not looked at.
  absl::Status VerifyUnlessCut(const EngineModel::State& state);
  // Reads `range`. Errors: the engine's.
  absl::Status Read(core::BlockRange range, std::string* bytes);
  // What the disk holds after a crash now, or when the power failed.
  sal::SimulatedDisk Crash(uint64_t seed, sal::SimulatedStore::CrashKind kind) const {
    return store_.Crash(seed, kind);
  }

  const core::RecoveryReport& report() const { return report_; }
  core::Engine& engine() { return *engine_; }
  sal::SimulatedStore& store() { return store_; }
  sal::SimulatedEnvironment& environment() { return environment_; }
  // Requests so far that changed something, or could have.
  const std::vector<uint64_t>& changing_requests() const { return recording_.changing(); }
  // The highest LSN that the engine said was durable.
  core::Lsn acknowledged() const { return acknowledged_; }

 private:
  // What a body works out anew each time it runs.
  struct Plan {
    EngineModel::Change change;
  };
  absl::Status Body(core::Transaction& tx, const Op& op, uint64_t serial, const EngineModel& model,
                    const std::shared_ptr<core::StagedData>& staged, Plan& plan);
  absl::Status Allocate(core::Transaction& tx, const EngineModel& model, int slot, uint64_t count, Plan& plan,
                        core::BlockRange* range);
  void Start(EngineModel* model, const Op& op);
  bool RunUntil(const bool& done);
  const RunOptions options_;
  sal::SimulatedEnvironment environment_;
  sal::SimulatedStore store_;
  RecordingStore recording_;
  std::unique_ptr<core::Engine> engine_;
  core::RecoveryReport report_;
  core::Lsn acknowledged_ = 0;
  // The engine reads in other requests when its destination is not aligned. Strings lie where the allocator likes, so
  // reading into them would make runs differ.
  const core::AlignedMemory read_buffer_;
  uint64_t reads_ = 0;
  uint64_t serial_ = 0;       // of the operation, for content that never repeats
  uint64_t outstanding_ = 0;  // operations under way
  bool last_done_ = false;
  absl::Status failure_;
};

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_ENGINE_RUN_H_

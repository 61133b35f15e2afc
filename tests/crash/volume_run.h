// VolumeRun: one life of a volume on an engine on a simulated disk, from power-on to the crash.
//
// Operations are made one after the other, each waited for; the history notes the tree after each and the LSNs between
// which its change lies.

#ifndef STAGEFS_TESTS_CRASH_VOLUME_RUN_H_
#define STAGEFS_TESTS_CRASH_VOLUME_RUN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/aligned_memory.h"
#include "core/engine.h"
#include "fs/volume/volume.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "tests/crash/recording_store.h"
#include "tests/crash/volume_model.h"

namespace stagefs::crash {

struct VolumeRunOptions {
  uint64_t seed = 1;
  bool fua = true;
  core::Broken broken = core::Broken::kNothing;
};

// The trees that the volume went through. Step 0 is what it began with.
struct VolumeHistory {
  struct Step {
    core::Lsn after = 0;  // the change's LSN is above this one
    core::Lsn up_to = 0;  // and at most this one
    FileTree tree;
  };
  std::vector<Step> steps;
  size_t durable_steps = 0;  // the last step that is acknowledged as durable
};

class VolumeRun {
 public:
  static constexpr uint64_t kStoreBytes = 24 << 20;

  VolumeRun(const VolumeRunOptions& options, sal::SimulatedDisk disk);
  ~VolumeRun();

  // A disk with a small tree and little free space, and what it holds.
  static sal::SimulatedDisk Prepared(FileTree* tree);

  // Recovers the engine. Whatever error it reports.
  absl::Status OpenEngine();
  // Internal: fsck finds something.
  absl::Status Check();
  absl::Status OpenVolume();
  void CloseVolume();

  // Until `ops` are over or the power is off. Internal: an operation failed while the power was on.
  absl::Status Execute(const std::vector<FileOp>& ops, VolumeHistory* history);
  // What the volume holds, but for the content of the file that fills it up.
  absl::StatusOr<FileTree> Load();
  sal::SimulatedDisk Crash(uint64_t seed, sal::SimulatedStore::CrashKind kind) const {
    return store_.Crash(seed, kind);
  }

  core::Engine& engine() { return *engine_; }
  sal::SimulatedStore& store() { return store_; }
  const core::RecoveryReport& report() const { return report_; }
  const std::vector<uint64_t>& changing_requests() const { return recording_.changing(); }

 private:
  template <typename T, typename Start>
  absl::StatusOr<T> Wait(Start start);
  template <typename Start>
  absl::Status WaitStatus(Start start);
  void RunUntil(const bool& done);
  absl::StatusOr<Ino> Carry(const FileOp& op, const Place& place, const FileTree& tree, absl::string_view bytes);
  absl::Status LoadNode(Ino ino, FileTree* tree);

  const VolumeRunOptions options_;
  sal::SimulatedEnvironment environment_;
  sal::SimulatedStore store_;
  RecordingStore recording_;
  std::unique_ptr<core::Engine> engine_;
  std::unique_ptr<volume::Volume> volume_;
  core::RecoveryReport report_;
  const core::AlignedMemory read_buffer_;  // strings lie where the allocator likes, and runs would differ
  uint64_t serial_;
  size_t asked_ = 0;  // Sync() calls that nobody waits for
};

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_VOLUME_RUN_H_

// VolumeRun: one life of a volume on an engine on a simulated disk, from power-on to the crash.
//
// Operations are waited for or not, as they say. The history notes the tree after each, in the order in which they were
// accepted (which is that of their callbacks, for all runs on one thread), and the LSNs between which its change lies.

#ifndef STAGEFS_TESTS_CRASH_VOLUME_RUN_H_
#define STAGEFS_TESTS_CRASH_VOLUME_RUN_H_

#include <cstdint>
#include <functional>
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

// What a front end could do wrong. For tests that show that this is noticed.
enum class Mistake : uint8_t {
  kNone,
  kReplaceInTwoChanges,  // rename removes what is in its way first
  kWriteInTwoChanges,    // a write of several blocks is sent in two parts
  kGroupInTwoChanges,    // and so is a group
  kSyncDoesNotWait,      // Sync() is acknowledged at once
};

struct VolumeRunOptions {
  uint64_t seed = 1;
  bool fua = true;
  core::Broken broken = core::Broken::kNothing;
  Mistake mistake = Mistake::kNone;
  uint64_t store_bytes = 24 << 20;
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

  const FileTree& now() const { return steps.back().tree; }
};
VolumeHistory Beginning(const FileTree& tree);

class VolumeRun {
 public:
  VolumeRun(const VolumeRunOptions& options, sal::SimulatedDisk disk);
  ~VolumeRun();

  // A disk with an empty volume on it, opened and served by this run.
  absl::Status Format(uint64_t log_bytes);
  // A disk with a small tree and little free space, and what it holds.
  static sal::SimulatedDisk Prepared(FileTree* tree);
  // Takes all free space but `free_blocks` with a file of zeros, which Load() does not read.
  absl::Status FillUp(uint64_t free_blocks);

  // Recovers the engine. Whatever error it reports.
  absl::Status OpenEngine();
  // Internal: fsck finds something.
  absl::Status Check();
  absl::Status OpenVolume();
  void CloseVolume();

  // Until `ops` are over or the power is off. Internal: an operation failed while the power was on, or was accepted
  // when it should have failed.
  absl::Status Execute(const std::vector<FileOp>& ops, VolumeHistory* history);
  // What the volume holds, but for the content of the file that fills it up.
  absl::StatusOr<FileTree> Load();
  sal::SimulatedDisk Crash(uint64_t seed, sal::SimulatedStore::CrashKind kind) const {
    return store_.Crash(seed, kind);
  }

  core::Engine& engine() { return *engine_; }
  sal::SimulatedStore& store() { return store_; }
  RecordingStore& recording() { return recording_; }
  const core::RecoveryReport& report() const { return report_; }
  const std::vector<uint64_t>& changing_requests() const { return recording_.changing(); }

 private:
  // An operation under way.
  struct Sent;
  using SentRef = std::shared_ptr<Sent>;
  using Over = std::function<void(absl::StatusOr<Ino>)>;

  template <typename T, typename Call>
  absl::StatusOr<T> Wait(Call call);
  template <typename Call>
  absl::Status WaitStatus(Call call);
  void RunOne(uint64_t waiting_since_ns);
  void RunUntil(const bool& done);
  void RunUntilNone(const size_t& count);
  void LetRun(uint64_t duration_ns);

  void Start(const FileOp& op);
  void StartSync(bool wait);
  void StartStores(const FileOp& op);
  void StartChange(const FileOp& op, std::string bytes);
  // Sends the operation to the volume; `over` gets the number of the inode that it made, or 0.
  void Send(const SentRef& sent, Over over);
  void SendMistaken(const SentRef& sent, Over over);
  void Finish(const SentRef& sent, const absl::StatusOr<Ino>& made);
  void NoteGrowth();
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
  size_t changes_under_way_ = 0;
  size_t syncs_under_way_ = 0;
  std::vector<SentRef> growing_;  // of the changes, what grows a file, perhaps in several steps
  core::Lsn growth_seen_ = 0;
  std::vector<Ino> opened_;
  VolumeHistory* history_ = nullptr;  // of the Execute() that runs
  absl::Status failure_;
};

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_VOLUME_RUN_H_

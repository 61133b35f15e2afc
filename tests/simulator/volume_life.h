// VolumeLife: one life of a volume on an engine on a simulated disk, from power-on to the crash or the orderly end, with
// many operations of many clients under way at once. Every answer of the volume is compared with the model's at that
// point of the order.
//
// Everything runs on the calling thread and depends on the options, the disk and the model alone.

#ifndef STAGEFS_TESTS_SIMULATOR_VOLUME_LIFE_H_
#define STAGEFS_TESTS_SIMULATOR_VOLUME_LIFE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/engine.h"
#include "fs/volume/volume.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "tests/simulator/file_operations.h"
#include "tests/simulator/file_tree.h"
#include "tests/simulator/observed_engine.h"
#include "tests/simulator/trace.h"

namespace stagefs::simulator {

struct VolumeLifeOptions {
  uint64_t seed = 1;
  sal::SimulatedStoreOptions store;
  core::EngineOptions engine;
  FileOperationsOptions operations;
  uint32_t in_flight = 8;  // operations under way at once, of all clients
};

// What the clients did in a life, in the order in which the engine did it.
struct AppliedOp {
  FileOp op;
  int64_t wall_ns = 0;
  core::Lsn lsn = 0;  // its own or, if it changed nothing that lasts, that of the one before
  // Before it, nobody knows what some of its inode is like: it made that known again, or is the last of several changes.
  bool settles = false;
  Ino made = 0;  // the number of the inode that it made; 0: none
};

class VolumeLife {
 public:
  VolumeLife(const VolumeLifeOptions& options, sal::SimulatedDisk disk, Trace* trace);
  // Ends the life as a kill does, if nothing else has.
  ~VolumeLife();

  // Makes an engine and a volume on an empty disk, and closes both.
  absl::Status Format(uint64_t log_bytes);

  // Recovers the engine. Whatever error it reports.
  absl::Status OpenEngine();
  // What fsck finds; nothing: OK. Internal: problems.
  absl::Status Check(bool repair);
  absl::Status OpenVolume();
  // Internal: the volume differs from `tree`. With `damaged`, what cannot be read is passed over, what can be read must
  // be right. Of files in `unsettled` size, times and content are not looked at.
  absl::Status Verify(const FileTree& tree, const std::set<Ino>& unsettled, bool damaged);
  // Empties the files in `unsettled`, which makes them known again.
  absl::Status Settle(FileTree* tree, const std::set<Ino>& unsettled, bool damaged);
  // Carries out `count` random operations on the volume and on `tree`, or fewer if the power fails. Internal: the
  // volume gave an answer that the model does not know. With `damaged`, errors that say so are answers, too.
  absl::Status Work(uint64_t count, FileTree* tree, bool damaged);
  // Closes volume and engine. What was accepted is durable then.
  absl::Status Close();

  sal::SimulatedStore& store() { return store_; }
  core::Engine& engine() { return *engine_; }
  bool has_engine() const { return engine_ != nullptr; }
  const core::RecoveryReport& report() const { return report_; }
  core::Lsn acknowledged() const { return acknowledged_; }
  // No LSN of this life is higher, and every one of the next is.
  core::Lsn last_lsn() const { return stats_.accepted_lsn + (core::Lsn{1} << 31); }
  absl::StatusOr<volume::Attributes> RootAttributes();
  const std::vector<AppliedOp>& history() const { return history_; }
  // Files that several changes of one operation are on their way to; a crash may leave some of them.
  const std::set<Ino>& unsettled() const { return unsettled_; }
  uint64_t operations() const { return operations_; }
  uint64_t errors() const { return errors_; }
  uint64_t steps() const { return environment_.steps(); }
  core::EngineStats stats() const { return stats_; }

 private:
  struct Slot;
  struct Answer;

  void Start(Slot& slot, FileOp op);
  void Send(Slot& slot);
  void Finish(Slot& slot, const absl::Status& status, const Answer& answer);
  void Compare(Slot& slot, const Answer& answer, const Result& expected);
  void CompareAttributes(const FileOp& op, const volume::Attributes& found, const volume::Attributes& expected);
  void CompareListing(Slot& slot, const Answer& answer);
  void CompareSeek(const FileOp& op, uint64_t found);
  void WatchRead(Slot& slot);
  void NoteVersions(Ino ino);
  absl::Status CheckRead(const Slot& slot) const;
  bool MayFail() const;
  void Fail(const FileOp& op, absl::string_view what);
  void NoteEnd();

  template <typename T, typename Begin>
  absl::StatusOr<T> Wait(Begin begin);
  template <typename Begin>
  absl::Status WaitStatus(Begin begin);
  void RunUntil(const bool& done, absl::string_view what);
  absl::Status VerifyNode(const FileNode& node, bool unsettled, bool damaged);
  absl::Status VerifyContent(const FileNode& node, bool damaged);

  const VolumeLifeOptions options_;
  Trace* const trace_;
  sal::SimulatedEnvironment environment_;
  sal::SimulatedStore store_;
  std::unique_ptr<core::Engine> engine_;
  std::unique_ptr<ObservedEngine> observed_;
  std::unique_ptr<volume::Volume> volume_;
  FileOperations generator_;
  sal::Random64 random_;
  core::RecoveryReport report_;
  core::Lsn acknowledged_ = 0;
  core::EngineStats stats_;

  // Of Work().
  FileTree* tree_ = nullptr;
  bool damaged_ = false;
  std::list<Slot> slots_;
  uint32_t busy_ = 0;
  std::set<Ino> locked_;     // only one operation at a time may work on these
  std::set<Ino> unsettled_;
  std::vector<AppliedOp> history_;
  absl::Status failure_;
  uint64_t operations_ = 0;
  uint64_t errors_ = 0;
};

}  // namespace stagefs::simulator

#endif  // STAGEFS_TESTS_SIMULATOR_VOLUME_LIFE_H_

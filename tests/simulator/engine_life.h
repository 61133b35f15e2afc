// EngineLife: one life of an engine without a volume on a simulated disk, with many transactions and reads of many
// clients under way at once.
//
// Owners are slots, each with one range of blocks or none, out of a small arena: released space is soon used again.
// What nobody owns may hold anything and is not looked at. Bodies look at the model under the sequencer lock, and their
// accept hooks change it, so the model goes the way the engine goes.
//
// Everything runs on the calling thread and depends on the options, the disk and the model alone.

#ifndef STAGEFS_TESTS_SIMULATOR_ENGINE_LIFE_H_
#define STAGEFS_TESTS_SIMULATOR_ENGINE_LIFE_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/engine.h"
#include "sal/random.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "tests/simulator/file_tree.h"
#include "tests/simulator/trace.h"

namespace stagefs::simulator {

// What the blocks hold that somebody owns, and who.
struct BlockModel {
  std::map<core::Block, Piece> blocks;  // null: zeros
  std::vector<core::BlockRange> slots;
};

struct BlockChange {
  core::Lsn lsn = 0;
  std::vector<std::pair<core::Block, Piece>> written;
  std::vector<core::BlockRange> released;
  int slot = -1;  // gets `range`; -1: none does
  core::BlockRange range;

  void ApplyTo(BlockModel& model) const;
};

struct EngineLifeOptions {
  uint64_t seed = 1;
  sal::SimulatedStoreOptions store;
  core::EngineOptions engine;
  core::BlockRange arena;
  uint64_t largest_range = 16;  // blocks
  uint32_t in_flight = 8;
};

class EngineLife {
 public:
  EngineLife(const EngineLifeOptions& options, sal::SimulatedDisk disk, Trace* trace);
  // Ends the life as a kill does, if nothing else has.
  ~EngineLife();

  absl::Status Format(uint64_t log_bytes);
  // Recovers. Whatever error the engine reports.
  absl::Status Open();
  // Internal: what is owned differs from `model`. With `damaged`, what cannot be read is passed over.
  absl::Status Verify(const BlockModel& model, bool damaged);
  // Carries out `count` random operations, or fewer if the power fails. Internal: wrong bytes, an error that nothing
  // explains, an operation that does not end.
  absl::Status Work(uint64_t count, BlockModel* model, bool damaged);
  // What was accepted is durable then.
  absl::Status Close();

  sal::SimulatedStore& store() { return store_; }
  core::Engine& engine() { return *engine_; }
  const core::RecoveryReport& report() const { return report_; }
  core::Lsn acknowledged() const { return acknowledged_; }
  // No LSN of this life is higher, and every one of the next is.
  core::Lsn last_lsn() const { return stats_.accepted_lsn + (core::Lsn{1} << 31); }
  const std::vector<BlockChange>& history() const { return history_; }
  uint64_t operations() const { return operations_; }
  uint64_t errors() const { return errors_; }
  const core::EngineStats& stats() const { return stats_; }

 private:
  enum class Kind : uint8_t {
    kMakeExtent, kMakeWhole, kMakeParts, kMakeFresh, kWrite, kModify, kZero, kRelease, kMove, kRead, kDurable,
    kCheckpoint,
  };
  struct Op {
    Kind kind = Kind::kRead;
    int slot = 0;
    uint64_t offset = 0, length = 0;  // bytes of the slot; of kMake: blocks in `length`
    uint64_t serial = 0;
  };
  struct Flight;

  Op Choose();
  void Start(Flight& flight);
  void StartRead(Flight& flight);
  absl::Status Body(core::Transaction& tx, Flight& flight, BlockChange* change);
  absl::Status MakeRange(core::Transaction& tx, const Op& op, uint64_t count, BlockChange* change);
  absl::Status Make(core::Transaction& tx, Flight& flight, BlockChange* change);
  absl::Status Overwrite(core::Transaction& tx, const Op& op, BlockChange* change);
  absl::Status Move(core::Transaction& tx, const Op& op, BlockChange* change);
  void Accept(core::Lsn lsn, BlockChange change);
  void Finish(Flight& flight, const absl::Status& status);
  absl::Status CheckRead(const Flight& flight) const;
  bool MayFail() const;
  void NoteEnd();

  const EngineLifeOptions options_;
  Trace* const trace_;
  sal::SimulatedEnvironment environment_;
  sal::SimulatedStore store_;
  std::unique_ptr<core::Engine> engine_;
  sal::Random64 random_;
  core::RecoveryReport report_;
  core::Lsn acknowledged_ = 0;
  core::EngineStats stats_;

  // Of Work().
  BlockModel* model_ = nullptr;
  bool damaged_ = false;
  std::list<Flight> flights_;
  uint32_t busy_ = 0;
  std::vector<BlockChange> history_;
  absl::Status failure_;
  uint64_t serial_;
  uint64_t operations_ = 0;
  uint64_t errors_ = 0;
};

}  // namespace stagefs::simulator

#endif  // STAGEFS_TESTS_SIMULATOR_ENGINE_LIFE_H_

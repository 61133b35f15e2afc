// Recovery: finds the prefix that the log holds and builds the state after it in memory. docs/recovery.md#recovery.
//
// It writes nothing: Engine::Open() then ends with a checkpoint that begins a new epoch. The same log gives the same
// state however often recovery is cut and run again.
//
// Blocking, single-threaded, before any section of the monitor.

#ifndef STAGEFS_CORE_RECOVERY_H_
#define STAGEFS_CORE_RECOVERY_H_

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "core/log_reader.h"
#include "core/state.h"

namespace stagefs::core {

// Both superblocks as they were found.
struct SuperblockPair {
  Superblock newest;
  std::array<absl::Status, 2> slots;
};
// Reads them and chooses the newest. Errors: as Engine::Inspect().
absl::StatusOr<SuperblockPair> ReadSuperblocks(sal::BlockStore& store, sal::Environment& environment);

class Recovery {
 public:
  Recovery(State* state, RecoveryReport* report) : state_(state), report_(report) {}

  // Fills state's cache, table, accepted_lsn, next_lsn and starts its log at the end of the prefix. Sets
  // state->read_only if the log is corrupt beyond it (unless that loss is accepted).
  absl::Status Run();

 private:
  // A block with redo that counts, learnt in the first pass. Zero, Extent and Release records delete it again.
  struct BlockPlan {
    uint64_t first_redo = 0;          // number of its first record that counts; earlier ones are revoked
    uint64_t base_entry = 0;          // of the table when that record came: what the base must match
    bool whole_first = false;         // that record replaces the whole block: the base does not matter
    std::optional<IntentEntry> intent;  // the latest since
  };
  // The same block in the second pass.
  struct Replayed {
    ImageRef image;
    Lsn lsn = 0;             // of the latest redo
    bool bad = false;        // base or image failed its check
    bool verified = false;   // against its intent
  };

  absl::Status FindPrefix();
  absl::Status TakeLsns(const LogReader::Frame& frame);
  absl::Status PlanRecord(const Record& record, uint64_t number);
  void Revoke(BlockRange range);
  absl::Status LoadBases();
  absl::Status CheckBase(Block block, const absl::Status& read_status);
  absl::Status Replay();
  void Redo(const Record& record, Lsn lsn, uint64_t number);
  void VerifyIntent(Block block, const BlockPlan& plan, Replayed& replayed);
  void Install();
  absl::Status NeedTable(BlockRange range);
  void Lose(Block block);
  template <typename Visit>
  absl::Status ForEachRecord(const LogReader::Frame& frame, uint64_t* number, Visit visit);

  State* const state_;
  RecoveryReport* const report_;
  std::optional<LogReader> reader_;
  LogPlace end_;
  Lsn last_lsn_ = 0;
  Lsn recorded_lsn_ = 0;  // the highest that a frame says is durable
  absl::btree_map<Block, BlockPlan> plans_;
  absl::btree_map<Block, Replayed> blocks_;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_RECOVERY_H_

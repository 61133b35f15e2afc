// EngineModel: what an engine must hold, byte for byte, after each accepted change.
//
// It knows blocks that somebody owns and their content. What nobody owns may hold anything and is not compared. Owners
// are slots, each with one range of blocks or none; the ranges come from a small arena, so that released space is soon
// used again.
//
// Not thread-safe. The engine's bodies read it under the sequencer lock; their OnAccept() hooks change it.

#ifndef STAGEFS_TESTS_CRASH_ENGINE_MODEL_H_
#define STAGEFS_TESTS_CRASH_ENGINE_MODEL_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/transaction.h"
#include "core/types.h"

namespace stagefs::crash {

class EngineModel {
 public:
  static constexpr int kSlots = 8;
  using Content = std::shared_ptr<const std::string>;  // kBlockBytes; null: nobody owns the block
  using Blocks = std::map<core::Block, Content>;
  using Slots = std::array<core::BlockRange, kSlots>;  // count 0: owns nothing

  struct Change {
    core::Lsn lsn = 0;
    Blocks blocks;  // those that changed
    std::vector<std::pair<int, core::BlockRange>> slots;
  };
  struct State {
    Blocks blocks;  // owned ones only
    Slots slots = {};
  };

  // The arena lies where two blocks of the checksum table, and two sectors of each, meet.
  explicit EngineModel(uint64_t arena_blocks) : arena_{504 - arena_blocks / 2, arena_blocks} {}

  const State& current() const { return current_; }
  core::BlockRange arena() const { return arena_; }
  // A range that nobody owns and that is not quarantined, by first fit; or nothing.
  std::optional<core::BlockRange> FindFree(core::Transaction& tx, uint64_t count) const;

  // Adds a change. LSNs ascend.
  void Accept(Change change);
  // The state after every change up to `lsn`.
  State At(core::Lsn lsn) const;
  // What follows `lsn` never happened.
  void TruncateTo(core::Lsn lsn);
  // No state before the present one will be asked for any more.
  void ForgetHistory();
  // The LSN of the latest change up to `lsn`, or 0.
  core::Lsn LastChange(core::Lsn lsn) const;
  const std::vector<Change>& history() const { return history_; }

 private:
  static void Apply(const Change& change, State& state);

  core::BlockRange arena_;
  State base_;  // before history_
  std::vector<Change> history_;
  State current_;
};

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_ENGINE_MODEL_H_

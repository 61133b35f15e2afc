#include "tests/crash/engine_model.h"

#include "sal/check.h"

namespace stagefs::crash {

std::optional<core::BlockRange> EngineModel::FindFree(core::Transaction& tx, uint64_t count) const {
  core::BlockRange range = {arena_.first, count};
  while (range.end() <= arena_.end()) {
    const auto owned = current_.blocks.lower_bound(range.first);
    if (owned != current_.blocks.end() && owned->first < range.end()) {
      range.first = owned->first + 1;
      continue;
    }
    const std::optional<core::BlockRange> quarantined = tx.Quarantined(range);
    if (!quarantined.has_value()) return range;
    range.first = quarantined->end();
  }
  return std::nullopt;
}

void EngineModel::Apply(const Change& change, State& state) {
  for (const auto& [block, content] : change.blocks) {
    if (content == nullptr) {
      state.blocks.erase(block);
    } else {
      state.blocks[block] = content;
    }
  }
  for (const auto& [slot, range] : change.slots) state.slots[slot] = range;
}

void EngineModel::Accept(Change change) {
  STAGEFS_CHECK(history_.empty() || history_.back().lsn < change.lsn);
  Apply(change, current_);
  history_.push_back(std::move(change));
}

EngineModel::State EngineModel::At(core::Lsn lsn) const {
  State state = base_;
  for (const Change& change : history_) {
    if (change.lsn > lsn) break;
    Apply(change, state);
  }
  return state;
}

void EngineModel::TruncateTo(core::Lsn lsn) {
  while (!history_.empty() && history_.back().lsn > lsn) history_.pop_back();
  current_ = At(lsn);
}

void EngineModel::ForgetHistory() {
  base_ = current_;
  history_.clear();
}

core::Lsn EngineModel::LastChange(core::Lsn lsn) const {
  core::Lsn last = 0;
  for (const Change& change : history_) {
    if (change.lsn <= lsn) last = change.lsn;
  }
  return last;
}

}  // namespace stagefs::crash

// Quarantine: released blocks that must not be used yet (invariant 3).
//
// A range leaves when its release is durable, every read that began before it is over, and the destage that may still
// be writing it is over. Those conditions come true in the order of release, so a queue suffices.
//
// Not thread-safe: every method runs in a section of the monitor.

#ifndef STAGEFS_CORE_QUARANTINE_H_
#define STAGEFS_CORE_QUARANTINE_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>

#include "absl/container/btree_map.h"
#include "core/types.h"

namespace stagefs::core {

class Quarantine {
 public:
  struct Condition {
    Lsn durable_lsn = 0;       // the release's own LSN
    uint64_t reads_over = 0;   // reads with lower numbers must be over
    uint64_t destages_over = 0;  // this many destages must be over
    bool MetBy(const Condition& state) const {
      return durable_lsn <= state.durable_lsn && reads_over <= state.reads_over &&
             destages_over <= state.destages_over;
    }
  };

  void Add(BlockRange range, const Condition& condition) {
    ends_.emplace(range.first, range.end());
    queue_.push_back({range, condition});
    blocks_ += range.count;
  }

  // Lets go what `state` allows. True if anything left.
  bool Expire(const Condition& state) {
    bool any = false;
    while (!queue_.empty() && queue_.front().condition.MetBy(state)) {
      ends_.erase(queue_.front().range.first);
      blocks_ -= queue_.front().range.count;
      queue_.pop_front();
      any = true;
    }
    return any;
  }

  // The first run of quarantined blocks in `range`.
  std::optional<BlockRange> FirstIn(BlockRange range) const {
    auto it = ends_.upper_bound(range.first);
    if (it != ends_.begin()) {
      const auto before = std::prev(it);
      if (before->second > range.first) {
        return BlockRange{range.first, std::min(before->second, range.end()) - range.first};
      }
    }
    if (it == ends_.end() || it->first >= range.end()) return std::nullopt;
    return BlockRange{it->first, std::min(it->second, range.end()) - it->first};
  }

  bool empty() const { return queue_.empty(); }
  uint64_t block_count() const { return blocks_; }

 private:
  struct Released {
    BlockRange range;
    Condition condition;
  };
  std::deque<Released> queue_;
  absl::btree_map<Block, Block> ends_;  // first block -> end; ranges do not overlap: nothing is released twice
  uint64_t blocks_ = 0;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_QUARANTINE_H_

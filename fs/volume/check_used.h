// UsedMap: which blocks of a window of the device files and nodes claim, as the tree tells.

#ifndef STAGEFS_FS_VOLUME_CHECK_USED_H_
#define STAGEFS_FS_VOLUME_CHECK_USED_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/types.h"
#include "fs/volume/allocator.h"

namespace stagefs::volume {

// A bit for each block of whole groups.
class UsedMap {
 public:
  static constexpr uint64_t kWordsPerGroup = AllocationLayout::kGroupBlocks / 64;

  UsedMap(uint64_t first_group, uint64_t group_count)
      : first_(first_group * AllocationLayout::kGroupBlocks), words_(group_count * kWordsPerGroup) {}

  core::BlockRange window() const { return {first_, words_.size() * 64}; }
  uint64_t first_group() const { return first_ / AllocationLayout::kGroupBlocks; }
  uint64_t end_group() const { return window().end() / AllocationLayout::kGroupBlocks; }
  const uint64_t* GroupWords(uint64_t group) const {
    return &words_[(group * AllocationLayout::kGroupBlocks - first_) / 64];
  }

  // Marks `range`, as far as it lies in the window. The runs of it that were marked already.
  std::vector<core::BlockRange> Take(core::BlockRange range) {
    std::vector<core::BlockRange> shared;
    const core::Block begin = std::max(range.first, first_);
    const core::Block end = std::min(range.end(), window().end());
    for (core::Block block = begin; block < end; ++block) {
      uint64_t& word = words_[(block - first_) / 64];
      if (block % 64 == 0 && end - block >= 64 && word == 0) {
        word = ~uint64_t{0};
        block += 63;
        continue;
      }
      const uint64_t bit = uint64_t{1} << (block % 64);
      if ((word & bit) != 0) {
        if (shared.empty() || shared.back().end() != block) shared.push_back({block, 0});
        ++shared.back().count;
      }
      word |= bit;
    }
    return shared;
  }

 private:
  core::Block first_;
  std::vector<uint64_t> words_;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_CHECK_USED_H_

// The bitmap of an allocation group: searching and changing it. Bit i % 8 of byte i / 8 stands for block i of the
// group; set means in use. Refers to the block's bytes.
//
// Format: docs/format-volume.md#allocation.

#ifndef STAGEFS_FS_VOLUME_ALLOCATOR_BITMAP_H_
#define STAGEFS_FS_VOLUME_ALLOCATOR_BITMAP_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fs/volume/allocator.h"

namespace stagefs::volume {

class AllocatorBitmap {
 public:
  // `blocks`: how many the group has; bits behind them mean nothing.
  AllocatorBitmap(const std::byte* bits, uint64_t group, uint64_t blocks)
      : bits_(bits), group_(group), blocks_(blocks) {}

  bool Bit(uint64_t index) const { return (Word(index / 64) >> (index % 64) & 1) != 0; }

  // The first block at or behind `index` that is free, or in use; the number of blocks if there is none.
  uint64_t NextFree(uint64_t index) const {
    while (true) {
      index = NextBit(index, /*flip=*/~uint64_t{0});
      if (index >= blocks_) return blocks_;
      if (index >= AllocationLayout::kMaxReserved || !AllocationLayout::IsReserved(group_, index)) return index;
      ++index;
    }
  }
  uint64_t NextInUse(uint64_t index) const {
    uint64_t next = std::min(NextBit(index, /*flip=*/0), blocks_);
    for (uint64_t i = index; i < AllocationLayout::kMaxReserved; ++i) {
      if (i < next && AllocationLayout::IsReserved(group_, i)) next = i;
    }
    return next;
  }
  // Whether the bits of [first, end) are all `set`.
  bool AllAre(bool set, uint64_t first, uint64_t end) const {
    return NextBit(first, set ? ~uint64_t{0} : 0) >= end;
  }
  // How many bits are set.
  uint64_t Count() const {
    uint64_t count = 0;
    for (uint64_t i = 0; i < core::kBlockBytes / 8; ++i) count += static_cast<uint64_t>(std::popcount(Word(i)));
    return count;
  }
  static void Set(std::byte* bits, bool set, uint64_t first, uint64_t end) {
    for (uint64_t index = first; index < end;) {
      if (index % 8 == 0 && end - index >= 8) {
        const uint64_t bytes = (end - index) / 8;
        std::memset(bits + index / 8, set ? 0xff : 0, bytes);
        index += 8 * bytes;
        continue;
      }
      const std::byte mask{static_cast<uint8_t>(1 << (index % 8))};
      bits[index / 8] = set ? bits[index / 8] | mask : bits[index / 8] & ~mask;
      ++index;
    }
  }

 private:
  uint64_t Word(uint64_t index) const {
    uint64_t word;
    std::memcpy(&word, bits_ + 8 * index, sizeof(word));
    return word;
  }
  // The first bit at or behind `index` that is set after xor with `flip`; the size of the bitmap if there is none.
  uint64_t NextBit(uint64_t index, uint64_t flip) const {
    if (index >= AllocationLayout::kGroupBlocks) return AllocationLayout::kGroupBlocks;
    uint64_t i = index / 64;
    uint64_t word = (Word(i) ^ flip) & (~uint64_t{0} << (index % 64));
    while (word == 0) {
      if (++i == AllocationLayout::kGroupBlocks / 64) return AllocationLayout::kGroupBlocks;
      word = Word(i) ^ flip;
    }
    return 64 * i + static_cast<uint64_t>(std::countr_zero(word));
  }

  const std::byte* bits_;
  uint64_t group_;
  uint64_t blocks_;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_ALLOCATOR_BITMAP_H_

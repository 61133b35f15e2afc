// The words of the engine: LSN, blocks and ranges of them.

#ifndef STAGEFS_CORE_TYPES_H_
#define STAGEFS_CORE_TYPES_H_

#include <cstddef>
#include <cstdint>

namespace stagefs::core {

// Log sequence number: the place of a change in the one order of the volume. Grows for the life of the volume, never
// used twice. 0 means "before every change".
using Lsn = uint64_t;

inline constexpr uint64_t kBlockBytes = 4096;

// A number of a home block, 0 to capacity_blocks() - 1: byte address / kBlockBytes.
using Block = uint64_t;

struct BlockRange {
  Block first = 0;
  uint64_t count = 0;

  Block end() const { return first + count; }
  bool Overlaps(const BlockRange& other) const { return first < other.end() && other.first < end(); }
  friend bool operator==(const BlockRange&, const BlockRange&) = default;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_TYPES_H_

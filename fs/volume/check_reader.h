// BlockReader: reads runs of home blocks past the cache of structures, for checks that look at much content.

#ifndef STAGEFS_FS_VOLUME_CHECK_READER_H_
#define STAGEFS_FS_VOLUME_CHECK_READER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "core/engine.h"
#include "core/types.h"

namespace stagefs::volume {

class BlockReader {
 public:
  static constexpr uint64_t kMaxBlocks = 256;

  BlockReader() : storage_((kMaxBlocks + 1) * core::kBlockBytes) {
    // Reads are cheap into aligned memory.
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    buffer_ = storage_.data() + (core::kBlockBytes - address % core::kBlockBytes) % core::kBlockBytes;
  }

  // Reads `range`, at most kMaxBlocks. Blocks. Errors: DataLoss (a block of it), or the engine's.
  absl::Status Read(core::Engine& engine, core::BlockRange range);
  // The block number `index` of the range read last.
  const std::byte* block(uint64_t index) const { return buffer_ + index * core::kBlockBytes; }

 private:
  std::vector<std::byte> storage_;
  std::byte* buffer_;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_CHECK_READER_H_

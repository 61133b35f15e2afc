// LogReader: reads the frames of the log in order, up to the first that is not valid, and tells a crash from
// corruption.
//
// A frame is valid if and only if its header and checksum are right and it is the one expected there: volume, epoch,
// sequence, position, and the chain that names the frame before. docs/format.md#log-frame.
//
// Blocking, for recovery; not thread-safe.

#ifndef STAGEFS_CORE_LOG_READER_H_
#define STAGEFS_CORE_LOG_READER_H_

#include <optional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/aligned_memory.h"
#include "core/broken.h"
#include "core/format.h"
#include "core/log_writer.h"
#include "sal/block_store.h"
#include "sal/environment.h"

namespace stagefs::core {

class LogReader {
 public:
  LogReader(sal::BlockStore* store, sal::Environment* environment, const Superblock& superblock, Broken broken);

  struct Frame {
    FrameHeader header;
    absl::Span<const std::byte> payload;  // valid until the next call
  };
  // The next valid frame, or nothing at the end of the valid prefix. A read error is an error: it never ends the
  // prefix.
  absl::StatusOr<std::optional<Frame>> Next();
  // Where the next frame would lie: after Next() returned nothing, where the log goes on.
  const LogPlace& place() const { return place_; }
  // Begins anew at the tail.
  void Rewind();

  struct Beyond {
    Lsn highest_lsn = 0;     // of any frame of this epoch
    Lsn highest_durable = 0; // that any of them records as durable
  };
  // After the end: looks at all frames of this epoch in the rest of the window.
  absl::StatusOr<Beyond> ScanBeyond();

 private:
  static constexpr uint64_t kChunkBlocks = 256;
  // Makes blocks [position, position + count) of the log contiguous in memory.
  absl::StatusOr<const std::byte*> Fetch(uint64_t position, uint64_t count);
  // Whether a frame of this volume and epoch with a right checksum lies at `position`.
  absl::StatusOr<std::optional<FrameHeader>> FrameAt(uint64_t position);

  sal::BlockStore* const store_;
  sal::Environment* const environment_;
  const Superblock superblock_;
  const Broken broken_;
  LogPlace place_;
  AlignedMemory buffer_;
  uint64_t buffer_position_ = 0, buffer_blocks_ = 0;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_LOG_READER_H_

// Blocking reads, writes and flushes over a BlockStore, to open, format and check. Serving code never blocks.

#ifndef STAGEFS_SAL_BLOCKING_IO_H_
#define STAGEFS_SAL_BLOCKING_IO_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "sal/block_store.h"
#include "sal/environment.h"

namespace stagefs::sal {

// Each splits what is larger than the store's largest request, waits for all of it through `environment`, and returns
// the first error. Buffers must be aligned to 4096 bytes, offsets and lengths to the store's block size.
absl::Status BlockingRead(BlockStore& store, Environment& environment, uint64_t offset_bytes, void* buffer,
                          uint64_t length_bytes);
// Not durable before the next BlockingFlush, unless `fua` (which falls back to write and flush where needed).
absl::Status BlockingWrite(BlockStore& store, Environment& environment, uint64_t offset_bytes, const void* buffer,
                           uint64_t length_bytes, bool fua = false);
absl::Status BlockingZero(BlockStore& store, Environment& environment, uint64_t offset_bytes, uint64_t length_bytes);
absl::Status BlockingFlush(BlockStore& store, Environment& environment);

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_BLOCKING_IO_H_

// BlockStore: how bytes leave. Asynchronous requests against one flat range of bytes.
//
// What every store promises, and all that the engine relies on:
//   * A write that completed is durable once a flush that was *submitted after that completion* has completed with OK,
//     or if the write carried `fua` and completed with OK. Completion alone says nothing about durability.
//   * Requests that are in flight together take effect in any order.
//   * A write that power interrupts leaves each aligned unit of Geometry::atomic_write_bytes either old or new.
//   * Blocks never written (of a fresh sparse file) read as zeros; discarded ones read as anything.
//   * After a failed write or flush nothing is known about what the store holds; the caller must not retry in hope.
//
// Thread-safe: Submit() may be called from any thread.

#ifndef STAGEFS_SAL_BLOCK_STORE_H_
#define STAGEFS_SAL_BLOCK_STORE_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/types/span.h"

namespace stagefs::sal {

struct Geometry {
  uint64_t size_bytes = 0;              // multiple of block_size_bytes; what lies beyond is not used
  uint32_t block_size_bytes = 512;      // offsets, lengths and memory addresses are multiples of this; at most 4096
  uint32_t max_request_bytes = 1 << 20; // the largest read or write; at least 64 KiB. Discards may be of any length
  uint32_t atomic_write_bytes = 512;    // see above; at least 512
  uint32_t max_buffers = 256;           // how many pieces one request may have; at least 16
  bool fua = false;                     // writes with `fua` are supported (else: write, then flush)
  bool discard = false;                 // kDiscard is supported (else it completes with Unimplemented)
};

// One request. Owned by the caller, together with the memory that `buffers` names; both must stay as they are from
// Submit() until `done` runs. `done` runs exactly once, on any thread, never inside Submit() and never under a lock of
// the store; it may destroy or reuse the request (so the store moves `done` out before it calls it). Many requests
// complete on one thread, so `done` must be short.
//
// kZero makes its range read as zeros, like a write of zeros but as cheap as the store can (a hole in an image file,
// BLKZEROOUT on a device); every store supports it. It may be slow: mkfs uses it, serving does not.
struct Request {
  enum class Op : uint8_t { kRead, kWrite, kFlush, kDiscard, kZero };

  Op op = Op::kRead;
  bool fua = false;           // kWrite only: complete only when these bytes are durable
  uint64_t offset_bytes = 0;  // kFlush: unused
  uint64_t length_bytes = 0;  // kRead, kWrite: the sum of the buffers; kDiscard, kZero: the range, any length
  absl::InlinedVector<iovec, 2> buffers;  // kRead, kWrite: where the bytes go or come from
  // Errors: OutOfRange (beyond the end), Unavailable or DataLoss (the device says EIO), Internal (other errno), with
  // offset and length in the message. A short read or write is an error.
  absl::AnyInvocable<void(absl::Status)> done;
};

class BlockStore {
 public:
  virtual ~BlockStore() = default;  // all requests must have completed

  virtual const Geometry& geometry() const = 0;
  // The URL it was opened by, for messages.
  virtual const std::string& name() const = 0;
  // Starts `requests`. Order among them, and with others in flight, is the store's business.
  virtual void Submit(absl::Span<Request* const> requests) = 0;
  void Submit(Request* request) { Submit(absl::MakeConstSpan(&request, 1)); }
  // Tells the store that I/O will often use this memory (io_uring registered buffers). A hint; call it before I/O.
  virtual void RegisterMemory(absl::Span<const iovec> /*areas*/) {}
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_BLOCK_STORE_H_

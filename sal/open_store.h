// OpenStore: the one factory that turns a URL into a BlockStore.
//
//   PATH or file:PATH   an image file or a block device, through io_uring with O_DIRECT
//   mem:BYTES           memory, for tests; gone with the process
//   fault:SPEC,URL      the store URL with faults, for tests: see sal/fault_store.h. SPEC is OP-ACTION, then any of
//                       @OFFSET+LENGTH (only requests that touch this range), -after=N (not the first N of them) and
//                       -count=N (at most N of them). OP is read, write, flush, discard, zero or any; ACTION is eio,
//                       lose (says OK, does nothing), tear (writes the first half, says OK), misdirect (writes at
//                       the wrong place, says OK) or flip (one bit of what is read). Nest them for more than one:
//                       fault:read-eio@1M+4K,fault:flush-eio-after=20,file:/var/tmp/image
//   record:FILE,URL     the store URL, and in FILE (which must not exist; no commas) a record of all that changes it,
//                       for tests that cut the power afterwards: see sal/record_store.h and docs/testing.md. Marks
//                       come in through the socket FILE.sock
//
// BYTES, OFFSET and LENGTH are read by ParseSize().

#ifndef STAGEFS_SAL_OPEN_STORE_H_
#define STAGEFS_SAL_OPEN_STORE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sal/block_store.h"

namespace stagefs::sal {

struct OpenStoreOptions {
  bool read_only = false;
  // If not 0 and the URL names a file that does not exist, creates a sparse one of this size; an existing regular file
  // that is smaller is extended to it. Must be 0 with read_only.
  uint64_t create_bytes = 0;
  // The store is locked with flock on the descriptor that carries the I/O (shared if read_only, else exclusive), so
  // after a kill the lock lasts as long as the dead server's I/O. How long to wait for another holder:
  uint64_t lock_wait_ms = 10'000;
  // Do not lock at all (`stagefs info` on a mounted volume).
  bool no_lock = false;
  // Block devices, unless read_only or no_lock: a device that is mounted or otherwise claimed (O_EXCL) is refused, and
  // the store claims it for as long as it is open. False: it is only checked, because a fuseblk mount will claim it.
  bool claim_device = true;
};

// Errors: NotFound, PermissionDenied, FailedPrecondition (locked by another process), InvalidArgument (bad URL,
// a directory, too small), Internal. Each message names the URL and says what to do.
absl::StatusOr<std::unique_ptr<BlockStore>> OpenStore(absl::string_view url, const OpenStoreOptions& options);

// What the user should know about how `store` works here (no O_DIRECT on this file system, ...), or nothing.
std::string StoreNote(const BlockStore& store);

// "64M", "1.5GiB", "8T", "4096": bytes, by powers of 1024.
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_OPEN_STORE_H_

// What the kernel and a server of FUSE over io_uring have in memory in common. From linux/fuse.h of kernels newer than
// Debian 12's headers.
//
// An entry is a place for one request: headers and a payload. The server hands it to the kernel (REGISTER, and with
// each reply COMMIT_AND_FETCH); it comes back, as a completion of that very command, with the next request in it.

#ifndef STAGEFS_FS_FUSE_URING_PROTOCOL_H_
#define STAGEFS_FS_FUSE_URING_PROTOCOL_H_

#include <linux/fuse.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace stagefs::fuse {

// INIT's flag for it, in flags2.
inline constexpr uint32_t kInitOverUring = 1u << (41 - 32);

enum UringCommandCode : uint32_t { kUringRegister = 1, kUringCommitAndFetch = 2 };

// In an SQE of 128 bytes, at byte 48.
struct UringCommand {
  uint64_t flags;
  uint64_t commit_id;  // of the request that is answered
  uint16_t queue;
  uint8_t padding[6];
};
static_assert(sizeof(UringCommand) == 24);

struct UringHeaders {
  std::byte in_out[128];  // fuse_in_header, then fuse_out_header
  std::byte op_in[128];   // the request's first argument, if that has a fixed size
  uint64_t flags;
  uint64_t commit_id;
  uint32_t payload_bytes;  // of the request, then of the reply
  uint32_t padding;
  uint64_t reserved;
};
static_assert(sizeof(UringHeaders) == 288);
static_assert(offsetof(UringHeaders, payload_bytes) == 272);

// In front of a payload there must be room for what comes before it when the request is put together.
inline constexpr size_t kMaxRequestPrefixBytes = sizeof(fuse_in_header) + sizeof(UringHeaders::op_in);

// Puts the request in `headers` and `payload` together as /dev/fuse would deliver it, without moving the payload: the
// prefix is written right in front of it. Errors: InvalidArgument, if the lengths contradict each other.
absl::StatusOr<absl::Span<std::byte>> AssembleRequest(const UringHeaders& headers, absl::Span<std::byte> payload);

// Writes a reply as Send() gets it to where the kernel looks for it. What lies in `payload` already is not copied.
// Errors: InvalidArgument, if it does not fit or is no reply.
absl::Status PlaceReply(absl::Span<const iovec> message, UringHeaders* headers, absl::Span<std::byte> payload);

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_URING_PROTOCOL_H_

// ControlRequest: what a client asks for, taken out of a message. docs/direct-access.md#protocol.
//
// A body is valid if and only if it has the size of its structure (and the path or name behind it the size allowed) and
// zeros in all reserved bytes. What handles, ranges and flags mean is checked where they are used.

#ifndef STAGEFS_FS_DSA_CONTROL_REQUEST_H_
#define STAGEFS_FS_DSA_CONTROL_REQUEST_H_

#include <cstddef>
#include <cstring>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "fs/dsa/control_stream.h"
#include "fs/dsa/protocol.h"

namespace stagefs::dsa {

struct OpenMessage {
  OpenRequest request;
  std::string path;
};

struct CreateQueueMessage {
  CreateQueueRequest request;
  std::vector<std::byte> name;  // of the client's endpoint: 1 to kMaxEndpointNameBytes
};
inline constexpr size_t kMaxEndpointNameBytes = 512;

// kStat, kClose, kDeregister, kDestroyQueue, kUnmap; kMap, kPopulate.
struct HandleMessage {
  ControlType type;
  HandleRequest request;
};
struct RangeMessage {
  ControlType type;
  RangeRequest request;
};

using ControlRequest = std::variant<HelloRequest, Proof, OpenMessage, RegisterRequest, CreateQueueMessage, HandleMessage,
                                    RangeMessage>;

// Errors carry an errno: EOPNOTSUPP (no such type), EINVAL. For kHello also EPROTONOSUPPORT (the other side's version is
// not ours; nothing else was looked at then) and EPROTO (the other side is something else altogether).
absl::StatusOr<ControlRequest> DecodeControlRequest(const ControlMessage& message);

// The text in an array that is padded with NULs.
template <size_t size>
std::string PaddedText(const char (&text)[size]) {
  return std::string(text, strnlen(text, size));
}

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CONTROL_REQUEST_H_

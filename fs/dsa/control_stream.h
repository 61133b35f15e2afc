// ControlParser, ControlStream: messages of the control protocol (fs/dsa/protocol.h) out of, and into, a stream socket
// that never blocks. The server's side.
//
// Invariants:
//   * What is kept of a peer's bytes is never more than one message of the greatest size allowed.
//   * A message is handed out if and only if its header is that of a request: a size from 16 to the limit, zeros in
//     `reserved` and `status`. From the first one that is not, nothing more is handed out.
//
// Not thread-safe.

#ifndef STAGEFS_FS_DSA_CONTROL_STREAM_H_
#define STAGEFS_FS_DSA_CONTROL_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "fs/dsa/protocol.h"
#include "sal/owned_fd.h"

namespace stagefs::dsa {

struct ControlMessage {
  uint16_t type = 0;
  uint32_t request = 0;
  std::vector<std::byte> body;
};

class ControlParser {
 public:
  // The greatest message allowed from here on, with its header: at most kMaxControlBytes.
  void SetLimit(uint32_t limit_bytes) { limit_bytes_ = limit_bytes; }
  // How much may be added now. 0: first take what Next() has.
  size_t room() const { return limit_bytes_ > bytes_.size() ? limit_bytes_ - bytes_.size() : 0; }
  // At most room().
  void Add(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  std::optional<ControlMessage> Next();
  // What came is no message.
  bool broken() const { return broken_; }
  // A message has begun to come.
  bool partial() const { return !bytes_.empty(); }

 private:
  uint32_t limit_bytes_ = kMaxControlBytes;
  std::vector<std::byte> bytes_;
  bool broken_ = false;
};

class ControlStream {
 public:
  explicit ControlStream(OwnedFd socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.get(); }
  ControlParser& parser() { return parser_; }

  // Gives the parser what has come. Errors: Unavailable (the peer has ended the connection, or it broke).
  absl::Status Receive();
  // Sends a reply, as much as goes now, and keeps the rest. The descriptors travel with its first byte. Errors as
  // Receive().
  absl::Status Send(const ControlHeader& header, std::span<const std::byte> body, std::vector<OwnedFd> descriptors = {});
  // Sends what was kept.
  absl::Status SendMore();
  size_t unsent_bytes() const { return unsent_bytes_; }

 private:
  struct Message {
    std::vector<std::byte> bytes;
    size_t sent = 0;
    std::vector<OwnedFd> descriptors;
  };

  OwnedFd socket_;
  ControlParser parser_;
  std::deque<Message> unsent_;
  size_t unsent_bytes_ = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CONTROL_STREAM_H_

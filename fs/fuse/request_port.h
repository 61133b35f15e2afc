// RequestPort: the way a request came by, and its reply leaves by.

#ifndef STAGEFS_FS_FUSE_REQUEST_PORT_H_
#define STAGEFS_FS_FUSE_REQUEST_PORT_H_

#include <sys/uio.h>

#include <cstddef>

#include "absl/types/span.h"

namespace stagefs::fuse {

// Thread-safe, in that each request is answered once, on whatever thread.
class RequestPort {
 public:
  // Sends one message as the protocol has it: a fuse_out_header and what belongs to it. Errors (the request was
  // interrupted, the mount is gone) do not matter to anybody.
  virtual void Send(absl::Span<const iovec> message) = 0;

  // Memory that is the request's own until its reply is sent, aligned to 4096 bytes: a WRITE's payload lies there, and a
  // reply whose payload is built there is not copied. Empty if the port has none.
  virtual absl::Span<std::byte> memory() { return {}; }

 protected:
  ~RequestPort() = default;
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_REQUEST_PORT_H_

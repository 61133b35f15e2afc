// The line between a mounted server and `stagefs umount`: an abstract unix socket named after the mount's device
// number, so there is no file to clean up, and the kernel itself tells when the server has gone.
//
// The server listens from the moment the mount is usable until the mount is gone: then the kernel may give the device
// number, and so the name, to the next mount. Whoever has connected meanwhile waits: at its end, when everything is on
// the store and the store is released, the server writes one line to every connection, "ok" or what went wrong. A
// server that dies says nothing: the connection just ends.

#ifndef STAGEFS_TOOLS_SERVER_LINK_H_
#define STAGEFS_TOOLS_SERVER_LINK_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sal/owned_fd.h"

namespace stagefs::tools {

// The server's end. Not thread-safe.
class ServerLink {
 public:
  // `device`: "major:minor" of the mount. Waits up to `wait_ms` for a server whose mount had this number before, and
  // which has yet to notice that it is gone. Errors: AlreadyExists, Internal.
  static absl::StatusOr<ServerLink> Listen(absl::string_view device, uint64_t wait_ms = 0);
  // Gives the name up. Those who have connected until now still hear of Finish(). Call it as soon as the mount is gone.
  void StopListening();
  // Tells everyone who has connected how it ended. Call it last, with the store released.
  void Finish(const absl::Status& result);

 private:
  explicit ServerLink(OwnedFd socket) : socket_(std::move(socket)) {}
  OwnedFd socket_;
  std::vector<OwnedFd> peers_;  // who has connected; filled by StopListening()
};

// The end of one who waits. Connect before the umount: afterwards the server may be gone at once. Not thread-safe.
class ServerWatch {
 public:
  // Errors: NotFound (no server of this name, or not one run by root or this user).
  static absl::StatusOr<ServerWatch> Connect(absl::string_view device);
  // Returns when the server process is gone. OK: everything is on the store. Errors: Aborted (it died: what it had
  // acknowledged as durable is on the store, and the next mount recovers it), Internal (what the server said).
  absl::Status WaitForEnd();
  pid_t pid() const { return pid_; }

 private:
  ServerWatch(OwnedFd socket, OwnedFd process, pid_t pid)
      : socket_(std::move(socket)), process_(std::move(process)), pid_(pid) {}
  OwnedFd socket_;
  OwnedFd process_;  // a pidfd
  pid_t pid_;
};

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_SERVER_LINK_H_

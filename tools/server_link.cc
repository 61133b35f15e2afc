#include "tools/server_link.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "sal/check.h"

namespace stagefs::tools {

namespace {

constexpr int kListenRetryMs = 10;

// Abstract: the name begins with a NUL and ends with the length given to the kernel.
socklen_t Address(absl::string_view device, sockaddr_un* address) {
  const std::string name = absl::StrCat("stagefs/", device);
  STAGEFS_CHECK(name.size() + 1 <= sizeof address->sun_path);
  *address = {};
  address->sun_family = AF_UNIX;
  name.copy(address->sun_path + 1, name.size());
  return offsetof(sockaddr_un, sun_path) + 1 + name.size();
}

absl::Status ErrnoError(absl::string_view what) {
  return absl::InternalError(absl::StrCat(what, ": ", strerror(errno)));
}

}  // namespace

absl::StatusOr<ServerLink> ServerLink::Listen(absl::string_view device, uint64_t wait_ms) {
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() < 0) return ErrnoError("cannot create a socket");
  sockaddr_un address;
  const socklen_t length = Address(device, &address);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(wait_ms);
  while (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (errno != EADDRINUSE) return ErrnoError("cannot listen for umount");
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::AlreadyExistsError(absl::StrCat("another process listens as the server of device ", device));
    }
    poll(nullptr, 0, kListenRetryMs);
  }
  if (listen(fd.get(), 16) != 0) return ErrnoError("cannot listen for umount");
  return ServerLink(std::move(fd));
}

void ServerLink::StopListening() {
  while (socket_.get() >= 0) {
    OwnedFd peer(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (peer.get() < 0) break;  // nobody else waits
    peers_.push_back(std::move(peer));
  }
  socket_ = OwnedFd();
}

void ServerLink::Finish(const absl::Status& result) {
  StopListening();
  const std::string line = result.ok() ? "ok\n" : absl::StrCat(result.message(), "\n");
  // A peer that went away meanwhile needs no answer; a line fits any socket buffer.
  for (const OwnedFd& peer : peers_) (void)!send(peer.get(), line.data(), line.size(), MSG_NOSIGNAL);
  peers_.clear();
}

absl::StatusOr<ServerWatch> ServerWatch::Connect(absl::string_view device) {
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return ErrnoError("cannot create a socket");
  sockaddr_un address;
  const socklen_t length = Address(device, &address);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return absl::NotFoundError(absl::StrCat("no server answers for device ", device));
  }
  ucred peer = {};
  socklen_t peer_length = sizeof peer;
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &peer_length) != 0) return ErrnoError("SO_PEERCRED");
  if (peer.uid != 0 && peer.uid != geteuid() && geteuid() != 0) {
    return absl::NotFoundError(absl::StrCat("process ", peer.pid, " of another user answers for device ", device));
  }
  OwnedFd process(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0)));
  if (process.get() < 0) return absl::NotFoundError(absl::StrCat("the server of device ", device, " has just ended"));
  return ServerWatch(std::move(fd), std::move(process), peer.pid);
}

absl::Status ServerWatch::WaitForEnd() {
  std::string said;
  char buffer[512];
  while (true) {
    const ssize_t count = read(socket_.get(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    said.append(buffer, count);
  }
  pollfd process = {.fd = process_.get(), .events = POLLIN, .revents = 0};
  while (poll(&process, 1, -1) < 0 && errno == EINTR) {
  }
  if (said == "ok\n") return absl::OkStatus();
  if (said.empty()) return absl::AbortedError(absl::StrCat("the server (process ", pid_, ") died"));
  return absl::InternalError(absl::StripAsciiWhitespace(said));
}

}  // namespace stagefs::tools

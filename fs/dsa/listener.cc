#include "fs/dsa/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "fs/dsa/unix_path.h"
#include "sal/status_macros.h"

namespace stagefs::dsa {
namespace {

constexpr int kBacklog = 64;
// A peer whose machine is gone is noticed within 30 s: after 10 s of silence it is asked, four times in 20 s; and bytes
// sent to it may stay without an answer for as long.
constexpr int kKeepAliveIdleSeconds = 10, kKeepAliveIntervalSeconds = 5, kKeepAliveCount = 4;
constexpr unsigned kUserTimeoutMs = 30'000;

absl::Status Failed(absl::string_view address, absl::string_view what) {
  return absl::InternalError(absl::StrCat("cannot listen at ", address, ": ", what, ": ", strerror(errno)));
}

// A socket whose server is gone refuses connections: then it may go.
absl::Status RemoveStale(const std::string& path, const UnixPath& address) {
  struct stat status;
  if (lstat(path.c_str(), &status) != 0) return absl::OkStatus();
  if (!S_ISSOCK(status.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat(path, " exists, and is not a socket"));
  }
  const OwnedFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (probe.get() < 0) return Failed(path, "socket");
  const int result = connect(probe.get(), address.address(), address.size());
  if (result == 0 || errno != ECONNREFUSED) {
    return absl::AlreadyExistsError(absl::StrCat("a server listens at ", path, " already"));
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return Failed(path, "cannot remove what a dead server left");
  return absl::OkStatus();
}

// With mode 0666: who may do what is decided by the permissions of files; who reaches the socket, by its directories. A
// chmod(2) afterwards could be led to another file by whoever owns the directory. The umask is the whole process's, and
// the volume's threads make no files.
bool BindForAll(int socket, const UnixPath& address) {
  const mode_t before = umask(0111);
  const bool bound = bind(socket, address.address(), address.size()) == 0;
  const int error = errno;
  umask(before);
  errno = error;
  return bound;
}

struct HostAndPort {
  std::string host, port;
};

absl::StatusOr<HostAndPort> SplitAddress(absl::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos || colon + 1 == address.size()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", address, "\" is neither HOST:PORT nor a path with a slash"));
  }
  absl::string_view host = address.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[") && !absl::ConsumeSuffix(&host, "]")) {
    return absl::InvalidArgumentError(absl::StrCat("\"", address, "\": ] is missing"));
  }
  return HostAndPort{std::string(host), std::string(address.substr(colon + 1))};
}

std::string NumericHost(const sockaddr_storage& address, socklen_t length, std::string* port = nullptr) {
  char host[NI_MAXHOST] = {}, service[NI_MAXSERV] = {};
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host, sizeof(host), service, sizeof(service),
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "";
  }
  if (port != nullptr) *port = service;
  return host;
}

std::string NumericAddress(const sockaddr_storage& address, socklen_t length) {
  std::string port;
  const std::string host = NumericHost(address, length, &port);
  const bool is_ipv6 = absl::StrContains(host, ":");
  return absl::StrCat(is_ipv6 ? "[" : "", host, is_ipv6 ? "]:" : ":", port);
}

bool SetOption(int socket, int level, int name, int value) {
  return setsockopt(socket, level, name, &value, sizeof(value)) == 0;
}

absl::StatusOr<OwnedFd> ListenAt(const addrinfo& info, absl::string_view address) {
  OwnedFd fd(socket(info.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() < 0) return Failed(address, "socket");
  (void)SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (info.ai_family == AF_INET6) (void)SetOption(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (bind(fd.get(), info.ai_addr, info.ai_addrlen) != 0) return Failed(address, "bind");
  if (listen(fd.get(), kBacklog) != 0) return Failed(address, "listen");
  return fd;
}

absl::Status Gone() { return absl::UnavailableError("no client"); }

// Who has connected, as of that moment: what the process becomes later changes nothing.
absl::StatusOr<Peer> LocalPeer(int socket) {
  ucred credentials = {};
  socklen_t length = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return Gone();
  std::vector<gid_t> groups(32);
  length = groups.size() * sizeof(gid_t);
  while (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length) != 0) {
    if (errno != ERANGE) return Gone();
    groups.resize(length / sizeof(gid_t));
  }
  groups.resize(length / sizeof(gid_t));
  Peer peer;
  peer.local = true;
  peer.trusted = credentials.uid == 0 || credentials.uid == geteuid();
  peer.identity = {.uid = credentials.uid, .gid = credentials.gid, .groups = {groups.begin(), groups.end()}};
  peer.text = absl::StrCat("process ", credentials.pid, " of user ", credentials.uid);
  return peer;
}

absl::StatusOr<Peer> RemotePeer(int socket) {
  sockaddr_storage here = {}, there = {};
  socklen_t here_length = sizeof(here), there_length = sizeof(there);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&here), &here_length) != 0 ||
      getpeername(socket, reinterpret_cast<sockaddr*>(&there), &there_length) != 0) {
    return Gone();
  }
  const bool set = SetOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1) &&
                   SetOption(socket, IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdleSeconds) &&
                   SetOption(socket, IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveIntervalSeconds) &&
                   SetOption(socket, IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveCount) &&
                   SetOption(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs) &&
                   SetOption(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  if (!set) return Gone();
  Peer peer;
  peer.address = NumericHost(here, here_length);
  peer.text = NumericAddress(there, there_length);
  return peer;
}

}  // namespace

Listener::SocketFile::SocketFile(const std::string& path) : path_(path) {
  struct stat status;
  if (lstat(path.c_str(), &status) != 0) return;
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

Listener::SocketFile::~SocketFile() {
  struct stat status;
  if (lstat(path_.c_str(), &status) != 0 || status.st_dev != device_ || status.st_ino != inode_) return;
  (void)unlink(path_.c_str());
}

absl::StatusOr<Listener> Listener::ListenUnix(const std::string& path) {
  const UnixPath address(path);
  if (address.error() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot listen at ", path, ": ", strerror(address.error())));
  }
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() < 0) return Failed(path, "socket");
  RETURN_IF_ERROR(RemoveStale(path, address));
  if (!BindForAll(fd.get(), address)) return Failed(path, "bind");
  Listener listener(std::move(fd), path);
  listener.file_ = std::make_unique<SocketFile>(path);
  if (listen(listener.fd(), kBacklog) != 0) return Failed(path, "listen");
  return listener;
}

absl::StatusOr<std::vector<Listener>> Listener::ListenTcp(absl::string_view address) {
  ASSIGN_OR_RETURN(const HostAndPort parts, SplitAddress(address));
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_ADDRCONFIG;
  addrinfo* first = nullptr;
  const int failed =
      getaddrinfo(parts.host.empty() ? nullptr : parts.host.c_str(), parts.port.c_str(), &hints, &first);
  if (failed != 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot listen at ", address, ": ", gai_strerror(failed)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(first, &freeaddrinfo);
  std::vector<Listener> listeners;
  for (const addrinfo* info = first; info != nullptr; info = info->ai_next) {
    ASSIGN_OR_RETURN(OwnedFd fd, ListenAt(*info, address));
    sockaddr_storage bound = {};
    socklen_t length = sizeof(bound);
    if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) return Failed(address, "getsockname");
    listeners.push_back(Listener(std::move(fd), NumericAddress(bound, length)));
  }
  return listeners;
}

absl::StatusOr<Arrival> Listener::Accept() {
  OwnedFd client(accept4(fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (client.get() < 0) {
    const bool exhausted = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    return exhausted ? absl::ResourceExhaustedError(strerror(errno)) : Gone();
  }
  ASSIGN_OR_RETURN(Peer peer, local() ? LocalPeer(client.get()) : RemotePeer(client.get()));
  return Arrival{std::move(client), std::move(peer)};
}

}  // namespace stagefs::dsa

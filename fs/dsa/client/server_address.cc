#include "fs/dsa/client/server_address.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <memory>

#include "fs/dsa/unix_path.h"

namespace stagefs::dsa {
namespace {

// A peer that died without a word is noticed after about keep-alive's idle + interval * count seconds.
constexpr int kKeepAliveIdleSeconds = 10, kKeepAliveIntervalSeconds = 5, kKeepAliveCount = 4;

int Fail(std::string* error, const std::string& what, int code) {
  *error = what + ": " + strerror(code);
  return -code;
}

bool IsPort(const std::string& text) {
  return !text.empty() && text.size() <= 5 && text.find_first_not_of("0123456789") == std::string::npos;
}

bool SplitHostAndPort(const std::string& address, ServerAddress* result) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || address.find('/') != std::string::npos) return false;
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  result->host = host;
  result->port = address.substr(colon + 1);
  return IsPort(result->port) && !host.empty();
}

std::string NameOfDevice(const std::string& path) {
  const std::unique_ptr<char, decltype(&free)> resolved(realpath(path.c_str(), nullptr), &free);
  const std::string name = resolved != nullptr ? resolved.get() : path;
  return name.substr(name.rfind('/') + 1);
}

// connect(2) obeys it as it does a blocking send.
void LimitConnecting(int socket, uint32_t timeout_ms) {
  const timeval limit = {timeout_ms / 1000, static_cast<suseconds_t>(timeout_ms % 1000) * 1000};
  (void)setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

// 0, or an errno.
int Connect(int socket, const sockaddr* address, socklen_t size, uint32_t timeout_ms) {
  LimitConnecting(socket, timeout_ms);
  if (connect(socket, address, size) == 0) return 0;
  return errno == EAGAIN || errno == EINPROGRESS ? ETIMEDOUT : errno;
}

int ConnectUnix(const std::string& path, uint32_t timeout_ms, OwnedFd* result, std::string* error) {
  const UnixPath server(path);
  if (server.error() != 0) return Fail(error, path, server.error());
  OwnedFd connecting(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connecting.get() < 0) return Fail(error, "socket", errno);
  const int code = Connect(connecting.get(), server.address(), server.size(), timeout_ms);
  if (code != 0) return Fail(error, path, code);
  *result = std::move(connecting);
  return 0;
}

void Tune(int socket, uint32_t timeout_ms) {
  const int one = 1;
  (void)setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  (void)setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
  (void)setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &kKeepAliveIdleSeconds, sizeof(int));
  (void)setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &kKeepAliveIntervalSeconds, sizeof(int));
  (void)setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &kKeepAliveCount, sizeof(int));
  (void)setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

int ConnectTcp(const ServerAddress& address, uint32_t timeout_ms, OwnedFd* result, std::string* error) {
  const std::string name = address.host + ":" + address.port;
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int unresolved = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (unresolved != 0) {
    *error = name + ": " + gai_strerror(unresolved);
    return -EHOSTUNREACH;
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  int code = EHOSTUNREACH;
  for (const addrinfo* next = found; next != nullptr; next = next->ai_next) {
    OwnedFd connecting(socket(next->ai_family, next->ai_socktype | SOCK_CLOEXEC, next->ai_protocol));
    if (connecting.get() < 0) {
      code = errno;
      continue;
    }
    code = Connect(connecting.get(), next->ai_addr, next->ai_addrlen, timeout_ms);
    if (code != 0) continue;
    Tune(connecting.get(), timeout_ms);
    *result = std::move(connecting);
    return 0;
  }
  return Fail(error, name, code);
}

}  // namespace

ServerAddress ParseServerAddress(const std::string& address) {
  ServerAddress result;
  struct stat found;
  if (stat(address.c_str(), &found) == 0) {
    if (S_ISSOCK(found.st_mode)) {
      result.path = address;
    } else if (S_ISBLK(found.st_mode)) {
      result.path = "/run/stagefs/" + NameOfDevice(address) + ".dsa";
    } else {
      result.path = address + ".dsa";
    }
    return result;
  }
  result.is_remote = SplitHostAndPort(address, &result);
  if (!result.is_remote) result.path = address + ".dsa";
  return result;
}

int ConnectSocket(const ServerAddress& address, uint32_t timeout_ms, OwnedFd* socket, std::string* error) {
  return address.is_remote ? ConnectTcp(address, timeout_ms, socket, error)
                           : ConnectUnix(address.path, timeout_ms, socket, error);
}

std::string LocalAddress(int socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  char host[NI_MAXHOST];
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      getnameinfo(reinterpret_cast<sockaddr*>(&address), size, host, sizeof(host), nullptr, 0, NI_NUMERICHOST) != 0) {
    return {};
  }
  return host;
}

}  // namespace stagefs::dsa

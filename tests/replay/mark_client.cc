#include "tests/replay/mark_client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/memory/memory.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace stagefs::replay {

absl::StatusOr<std::unique_ptr<MarkClient>> MarkClient::Connect(const std::string& path) {
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is too long for a socket"));
  }
  auto client = absl::WrapUnique(new MarkClient(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)));
  // An address of the kernel's choice, for the answers to come to.
  const bool bound = bind(client->socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(sa_family_t)) == 0;
  memcpy(address.sun_path, path.data(), path.size());
  if (!bound || connect(client->socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(absl::StrCat(path, ": ", strerror(errno)));
  }
  return client;
}

MarkClient::~MarkClient() {
  if (socket_ >= 0) close(socket_);
}

absl::StatusOr<uint64_t> MarkClient::Mark(absl::string_view text) {
  char answer[32];
  uint64_t position = 0;
  if (send(socket_, text.data(), text.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(text.size())) {
    return absl::UnavailableError(absl::StrCat("sending a mark: ", strerror(errno)));
  }
  const ssize_t length = recv(socket_, answer, sizeof(answer), 0);
  if (length <= 0 || !absl::SimpleAtoi(absl::string_view(answer, length), &position)) {
    return absl::UnavailableError(absl::StrCat("no answer to a mark: ", strerror(errno)));
  }
  return position;
}

}  // namespace stagefs::replay

#include "sal/record_marks.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

namespace stagefs::sal {

namespace {

constexpr size_t kLongestMark = 4096;  // what is longer is cut off

}  // namespace

absl::StatusOr<std::unique_ptr<RecordMarks>> RecordMarks::Listen(const std::string& path, RecordLog& log) {
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("record socket ", path, ": the path is too long; a socket's may ",
                                                   "have ", sizeof(address.sun_path) - 1, " bytes"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  const int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return absl::InternalError(absl::StrCat("record socket ", path, ": ", strerror(errno)));
  unlink(path.c_str());
  if (bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      chmod(path.c_str(), 0666) != 0) {
    const absl::Status status = absl::InternalError(absl::StrCat("record socket ", path, ": ", strerror(errno)));
    close(descriptor);
    return status;
  }
  return absl::WrapUnique(new RecordMarks(path, descriptor, log));
}

RecordMarks::RecordMarks(const std::string& path, int socket, RecordLog& log)
    : path_(path), socket_(socket), log_(log), server_([this] { Serve(); }) {}

RecordMarks::~RecordMarks() {
  shutdown(socket_, SHUT_RDWR);  // ends the server's recvfrom()
  server_.join();
  close(socket_);
  unlink(path_.c_str());
}

void RecordMarks::Serve() {
  std::array<char, kLongestMark> text;
  while (true) {
    sockaddr_un sender = {};
    socklen_t sender_length = sizeof(sender);
    const ssize_t length =
        recvfrom(socket_, text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&sender), &sender_length);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 || sender_length == 0) return;
    std::string answer = "0";
    if (length > 0) {
      const RecordEventHeader header = {.request_number = 0,
                                        .offset_bytes = 0,
                                        .length_bytes = static_cast<uint64_t>(length),
                                        .kind = static_cast<uint8_t>(RecordEventKind::kMark),
                                        .flags = 0,
                                        .reserved = {}};
      const iovec data = {text.data(), static_cast<size_t>(length)};
      answer = absl::StrCat(log_.Append(header, absl::MakeConstSpan(&data, 1)));
    }
    // Whoever has gone away, or does not fetch its answers, gets none.
    (void)sendto(socket_, answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                 reinterpret_cast<const sockaddr*>(&sender), sender_length);
  }
}

}  // namespace stagefs::sal

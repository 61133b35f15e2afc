#include "fs/dsa/control_stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "absl/strings/string_view.h"
#include "sal/check.h"

namespace stagefs::dsa {
namespace {

constexpr size_t kMaxDescriptors = 4;

absl::Status Ended(absl::string_view what) { return absl::UnavailableError(what); }

// Sends part of a message; `descriptors` with its first byte.
ssize_t SendSome(int socket, std::span<const std::byte> bytes, std::span<const OwnedFd> descriptors) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  iovec part = {const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    STAGEFS_CHECK(descriptors.size() <= kMaxDescriptors);
    std::array<int, kMaxDescriptors> numbers = {};
    for (size_t i = 0; i < descriptors.size(); ++i) numbers[i] = descriptors[i].get();
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    memcpy(CMSG_DATA(header), numbers.data(), descriptors.size() * sizeof(int));
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

std::optional<ControlMessage> ControlParser::Next() {
  if (broken_) return std::nullopt;
  std::span<const std::byte> left(bytes_);
  const std::optional<ControlHeader> header = Take<ControlHeader>(&left);
  if (!header.has_value()) return std::nullopt;
  broken_ = header->size_bytes < sizeof(ControlHeader) || header->size_bytes > limit_bytes_ || header->reserved != 0 ||
            header->status != 0;
  if (broken_ || bytes_.size() < header->size_bytes) return std::nullopt;
  ControlMessage message = {header->type, header->request, {}};
  message.body.assign(bytes_.begin() + sizeof(ControlHeader), bytes_.begin() + header->size_bytes);
  bytes_.erase(bytes_.begin(), bytes_.begin() + header->size_bytes);
  return message;
}

absl::Status ControlStream::Receive() {
  std::array<std::byte, 16 << 10> buffer;
  while (parser_.room() > 0) {
    const size_t want = std::min(parser_.room(), buffer.size());
    // Descriptors that come along are closed by the kernel: there is nowhere to put them.
    const ssize_t count = recv(socket_.get(), buffer.data(), want, MSG_DONTWAIT);
    if (count == 0) return Ended("the peer has ended the connection");
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return absl::OkStatus();
    if (count < 0) return Ended(strerror(errno));
    parser_.Add({buffer.data(), static_cast<size_t>(count)});
    if (static_cast<size_t>(count) < want) break;
  }
  return absl::OkStatus();
}

absl::Status ControlStream::Send(const ControlHeader& header, std::span<const std::byte> body,
                                 std::vector<OwnedFd> descriptors) {
  Message message;
  message.bytes.reserve(sizeof(header) + body.size());
  Append(&message.bytes, header);
  message.bytes.insert(message.bytes.end(), body.begin(), body.end());
  message.descriptors = std::move(descriptors);
  unsent_bytes_ += message.bytes.size();
  unsent_.push_back(std::move(message));
  return SendMore();
}

absl::Status ControlStream::SendMore() {
  while (!unsent_.empty()) {
    Message& message = unsent_.front();
    const auto left = std::span<const std::byte>(message.bytes).subspan(message.sent);
    const ssize_t count = SendSome(socket_.get(), left, message.descriptors);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return absl::OkStatus();
    if (count < 0) return Ended(strerror(errno));
    message.descriptors.clear();
    message.sent += static_cast<size_t>(count);
    unsent_bytes_ -= static_cast<size_t>(count);
    if (message.sent == message.bytes.size()) unsent_.pop_front();
  }
  return absl::OkStatus();
}

}  // namespace stagefs::dsa

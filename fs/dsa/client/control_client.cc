#include "fs/dsa/client/control_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

namespace stagefs::dsa {
namespace {

constexpr int kMaxErrno = 4095;
constexpr size_t kMaxDescriptors = 8, kMaxTextBytes = 400;

// A server's words, fit for a terminal.
std::string Text(const std::vector<std::byte>& body) {
  std::string text;
  for (const std::byte byte : std::span(body).first(std::min(body.size(), kMaxTextBytes))) {
    const char letter = static_cast<char>(byte);
    text += static_cast<unsigned char>(letter) < ' ' || letter == 0x7f ? '?' : letter;
  }
  return text;
}

void TakeDescriptors(msghdr* message, ControlReply* reply) {
  for (cmsghdr* control = CMSG_FIRSTHDR(message); control != nullptr; control = CMSG_NXTHDR(message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int descriptor = -1;
      memcpy(&descriptor, CMSG_DATA(control) + i * sizeof(int), sizeof(int));
      reply->descriptors.emplace_back(descriptor);
    }
  }
}

}  // namespace

int ControlClient::Call(ControlType type, std::span<const std::byte> body, ControlReply* reply, std::string* error,
                        const std::function<void()>& meanwhile) {
  if (body.size() > kMaxControlBytes - sizeof(ControlHeader)) {
    *error = "the request is too large";
    return -EMSGSIZE;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (dead_.load(std::memory_order_relaxed)) {
    *error = "the connection has ended";
    return -ECONNRESET;
  }
  *reply = ControlReply();
  return RoundTrip(type, body, reply, error, meanwhile);
}

int ControlClient::RoundTrip(ControlType type, std::span<const std::byte> body, ControlReply* reply,
                             std::string* error, const std::function<void()>& meanwhile) {
  ControlHeader header = {};
  header.size_bytes = static_cast<uint32_t>(sizeof(header) + body.size());
  header.type = static_cast<uint16_t>(type);
  header.request = next_request_++;
  std::vector<std::byte> request;
  request.reserve(header.size_bytes);
  Append(&request, header);
  request.insert(request.end(), body.begin(), body.end());

  const Clock::time_point deadline = Clock::now() + timeout_;
  ControlHeader answer = {};
  int code = Send(request, deadline);
  if (code == 0) code = Receive(std::as_writable_bytes(std::span(&answer, 1)), deadline, reply, meanwhile);
  if (code == 0) {
    if (answer.size_bytes < sizeof(answer) || answer.size_bytes > kMaxControlBytes || answer.reserved != 0 ||
        answer.type != header.type || answer.request != header.request || answer.status > 0 ||
        answer.status < -kMaxErrno) {
      return Nonsense("the header of a reply", error);
    }
    reply->body.resize(answer.size_bytes - sizeof(answer));
    code = Receive(reply->body, deadline, reply, meanwhile);
  }
  if (code != 0) {
    // What was under way when the time was over would be taken for the next reply: the connection is of no more use.
    Abandon();
    *error = code == -ETIMEDOUT ? "the server did not answer in time" : "the server has gone";
    return code == -ETIMEDOUT ? code : -ECONNRESET;
  }
  if (answer.status != 0) *error = reply->body.empty() ? strerror(-answer.status) : Text(reply->body);
  return answer.status;
}

int ControlClient::Nonsense(const char* what, std::string* error) {
  Abandon();
  *error = std::string("the server sent nonsense: ") + what;
  return -ECONNRESET;
}

void ControlClient::Abandon() {
  dead_.store(true, std::memory_order_relaxed);
  (void)shutdown(socket_.get(), SHUT_RDWR);
}

bool ControlClient::HasEnded() const {
  if (dead_.load(std::memory_order_relaxed)) return true;
  pollfd look = {socket_.get(), POLLRDHUP, 0};
  return poll(&look, 1, 0) > 0;
}

int ControlClient::Send(std::span<const std::byte> bytes, Clock::time_point deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      bytes = bytes.subspan(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      if (const int code = WaitFor(POLLOUT, deadline, nullptr); code != 0) return code;
    } else if (errno != EINTR) {
      return -errno;
    }
  }
  return 0;
}

int ControlClient::Receive(std::span<std::byte> bytes, Clock::time_point deadline, ControlReply* reply,
                           const std::function<void()>& meanwhile) {
  while (!bytes.empty()) {
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
    iovec part = {bytes.data(), bytes.size()};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t received = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (received > 0) {
      TakeDescriptors(&message, reply);
      if ((message.msg_flags & MSG_CTRUNC) != 0 || reply->descriptors.size() > kMaxDescriptors) return -EPROTO;
      bytes = bytes.subspan(static_cast<size_t>(received));
    } else if (received == 0) {
      return -ECONNRESET;
    } else if (errno == EAGAIN) {
      if (const int code = WaitFor(POLLIN, deadline, meanwhile); code != 0) return code;
    } else if (errno != EINTR) {
      return -errno;
    }
  }
  return 0;
}

int ControlClient::WaitFor(short events, Clock::time_point deadline, const std::function<void()>& meanwhile) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) return -ETIMEDOUT;
    pollfd ready = {socket_.get(), events, 0};
    const int slice = meanwhile != nullptr ? 1 : static_cast<int>(std::min<int64_t>(left.count(), 1 << 30));
    const int count = poll(&ready, 1, slice);
    if (count > 0) return 0;
    if (count < 0 && errno != EINTR) return -errno;
    if (meanwhile != nullptr) meanwhile();
  }
}

}  // namespace stagefs::dsa

// ControlClient: the client's end of a control connection. A request and its reply at a time.
//
// Invariants:
//   * After the first thing that went wrong with the connection (the server has gone, did not answer in time, or sent
//     what it may not send) it is dead: every call fails with -ECONNRESET, at once.
//   * While its mutex is held nothing but the library's own memory is touched: a program's may lie in a mapping whose
//     page faults are served by calls on this very connection.
//
// Thread-safe. Part of libstagefs. docs/direct-access.md#protocol.

#ifndef STAGEFS_FS_DSA_CLIENT_CONTROL_CLIENT_H_
#define STAGEFS_FS_DSA_CLIENT_CONTROL_CLIENT_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "fs/dsa/protocol.h"
#include "sal/owned_fd.h"

namespace stagefs::dsa {

struct ControlReply {
  std::vector<std::byte> body;
  std::vector<OwnedFd> descriptors;
};

class ControlClient {
 public:
  // Over a connected stream socket. `timeout_ms`: for each round trip.
  ControlClient(OwnedFd socket, uint32_t timeout_ms) : socket_(std::move(socket)), timeout_(timeout_ms) {}
  std::chrono::milliseconds timeout() const { return timeout_; }

  // Sends a request and waits for its reply. 0, the server's negative errno (`error` is its text then), -ETIMEDOUT or
  // -ECONNRESET. `meanwhile`, if given, is called each millisecond while it waits, with the mutex held.
  int Call(ControlType type, std::span<const std::byte> body, ControlReply* reply, std::string* error,
           const std::function<void()>& meanwhile = nullptr);
  // The same for a request that is one structure.
  template <typename Request>
  int Ask(ControlType type, const Request& request, ControlReply* reply, std::string* error,
           const std::function<void()>& meanwhile = nullptr) {
    static_assert(std::is_trivially_copyable_v<Request>);
    return Call(type, std::as_bytes(std::span(&request, 1)), reply, error, meanwhile);
  }
  // What the server sent makes no sense: the end of the connection. Returns -ECONNRESET.
  int Nonsense(const char* what, std::string* error);

  // Ends the connection for both sides. Any time, without waiting for a call under way, which fails.
  void Abandon();
  // Whether it is dead, or the server has closed it. A system call.
  bool HasEnded() const;
  // For poll(2), with POLLRDHUP: it says when the server has gone.
  int descriptor() const { return socket_.get(); }

 private:
  using Clock = std::chrono::steady_clock;

  int RoundTrip(ControlType type, std::span<const std::byte> body, ControlReply* reply, std::string* error,
                const std::function<void()>& meanwhile);
  int Send(std::span<const std::byte> bytes, Clock::time_point deadline);
  // Fills `bytes`; descriptors that come along go to `reply`.
  int Receive(std::span<std::byte> bytes, Clock::time_point deadline, ControlReply* reply,
              const std::function<void()>& meanwhile);
  int WaitFor(short events, Clock::time_point deadline, const std::function<void()>& meanwhile);

  const OwnedFd socket_;
  const std::chrono::milliseconds timeout_;
  std::atomic<bool> dead_ = false;
  std::mutex mutex_;           // one round trip at a time
  uint32_t next_request_ = 1;  // guarded by mutex_
};

// The structure that a reply's body begins with; what follows it goes to `rest`, which may be null if nothing may
// follow. False: the body is too short or too long.
template <typename Reply>
bool DecodeReply(const ControlReply& reply, Reply* result, std::span<const std::byte>* rest = nullptr) {
  std::span<const std::byte> bytes = reply.body;
  const std::optional<Reply> taken = Take<Reply>(&bytes);
  if (!taken.has_value() || (rest == nullptr && !bytes.empty())) return false;
  *result = *taken;
  if (rest != nullptr) *rest = bytes;
  return true;
}

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_CONTROL_CLIENT_H_

// UringTransport: requests in, replies out, over io_uring: a queue (fs/fuse/uring_queue.h) for each CPU that the machine
// may have.
//
// It comes to life in two steps, since the kernel must not be told of it in the answer to INIT unless it can work, but
// takes entries only after that answer: Create() does all that can fail for want of something, Register() the rest.
//
// Memory: entries for kEntries requests of 1 MiB in all, 65 MiB, of which only what is used becomes resident. With more
// than 32 CPUs it is 2 MiB a CPU.

#ifndef STAGEFS_FS_FUSE_URING_TRANSPORT_H_
#define STAGEFS_FS_FUSE_URING_TRANSPORT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "fs/fuse/request_port.h"
#include "fs/fuse/uring_queue.h"
#include "fs/fuse/worker_threads.h"

namespace stagefs::fuse {

// The CPUs in a list such as /sys/devices/system/cpu/possible holds ("0-3,8"), ascending. InvalidArgument if it is none.
absl::StatusOr<std::vector<uint16_t>> ParseCpuList(absl::string_view text);

class UringTransport {
 public:
  static constexpr unsigned kEntries = 64, kMaxDepth = 32;

  // The depth of a queue, when there are `online` CPUs.
  static unsigned DepthOf(size_t online);

  // Handles a request; the reply leaves by `port`. Thread-safe.
  using Dispatch = std::function<void(RequestPort& port, absl::Span<std::byte> request)>;

  // What a payload must hold at least: 1 MiB in pages, from and to unaligned memory, as the answer to INIT says.
  static absl::StatusOr<std::unique_ptr<UringTransport>> Create(size_t payload_bytes, Dispatch dispatch,
                                                                std::function<void(absl::string_view)> log);
  // Join() must have returned, if Register() was called.
  ~UringTransport() = default;

  // Hands all entries to the kernel, which from then on uses them instead of `device_fd`, the connection. It must have
  // answered INIT, and stay open until Join() has returned. Unavailable: the kernel has refused.
  absl::Status Register(int device_fd);
  // Waits until the connection has ended and with it every thread.
  void Join();

 private:
  UringTransport(Dispatch dispatch, std::function<void(absl::string_view)> log);

  UringQueue::Handlers handlers_;  // constant after construction
  std::vector<std::unique_ptr<UringQueue>> queues_;
  std::optional<WorkerThreads> other_threads_;  // from Register() to Join()
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_URING_TRANSPORT_H_

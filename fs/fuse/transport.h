// Transport: requests in, replies out, and libfuse in between. There are two ways for them.
//
// /dev/fuse, with a cloned descriptor and a thread for each: a worker reads a request into a buffer of its own and runs
// its handler, which may keep the buffer (a large WRITE does); the worker then goes on with another one. So requests are
// parked, not threads: what bounds them is the BufferPool.
//
// io_uring (fs/fuse/uring_transport.h), where the kernel offers it: requests come in memory that is theirs until they
// are answered. One worker stays for /dev/fuse: INIT, FORGET and INTERRUPT come that way, notifications leave by it.
//
// A reply must leave the way its request came, from whatever thread. Reply (fs/fuse/reply.h) remembers the RequestPort
// and names it to libfuse's send function, which is ours, by a thread-local variable.
//
// The library decodes and encodes what it knows. What it does not know or answers badly goes to the RawHandler first:
// O_TMPFILE, syncfs, DESTROY, 64-bit copy_file_range. Requests that need no answer (FORGET, INTERRUPT) stop here.

#ifndef STAGEFS_FS_FUSE_TRANSPORT_H_
#define STAGEFS_FS_FUSE_TRANSPORT_H_

#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "fs/fuse/buffer_pool.h"
#include "fs/fuse/kernel_cache.h"
#include "fs/fuse/options.h"
#include "fs/fuse/request_port.h"
#include "fs/fuse/uring_transport.h"
#include "sal/mutex.h"

namespace stagefs::fuse {

inline constexpr uint32_t kMaxRequestBytes = 1 << 20;

// Counts since the mount. For statistics and tests.
struct FuseStats {
  static constexpr size_t kOpcodes = 64;
  std::array<uint64_t, kOpcodes> requests = {};  // by FUSE opcode
  uint64_t read_bytes = 0, written_bytes = 0;    // as sent and received, not as asked for
  uint64_t in_flight = 0;                        // received, not answered
  bool over_uring = false;                       // requests come over io_uring, else by /dev/fuse
};

// "io_uring" or "dev", as the mount option has it.
inline const char* TransportName(const FuseStats& stats) { return stats.over_uring ? "io_uring" : "dev"; }

// {"lookup": 3, ...}: the opcodes that occurred, by name, and the other counts.
std::string FuseStatsJson(const FuseStats& stats);

// The request that this thread is dispatching, valid inside a handler only; and the port of the reply that this thread
// is sending.
struct CurrentRequest {
  RequestPort* port = nullptr;
  // What the request arrived in: move it out to keep the request's memory. Null if that memory stays anyway until the
  // request is answered.
  Buffer* buffer = nullptr;
  const fuse_init_in* init = nullptr;  // what the kernel offers, if this is INIT
};

class Transport final : public KernelNotifier {
 public:
  // Buffers in all: about 32 MiB, more when there are more threads than a small machine has.
  static constexpr size_t kSmallBuffers = 256;
  static constexpr size_t kLargeBuffers = 26;

  // Handles a request of an opcode that it knows, and returns true, or returns false. `argument` is what follows
  // `header`, `size` bytes.
  using RawHandler = std::function<bool(const fuse_in_header& header, const void* argument, size_t size)>;

  // Takes `device_fd`. What fuse_req_userdata() returns in `operations` is this object; `user` is what user() returns.
  Transport(int device_fd, const fuse_lowlevel_ops& operations, void* user, RawHandler raw,
            const MountOptions& options);
  // The mount must be gone: waits for the workers.
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  // Makes what io_uring needs, so that Start() uses it if the kernel offers it. Unavailable: it cannot be had.
  absl::Status PrepareUring();
  // Starts serving and returns when the kernel has got the answer to INIT: the mount is usable.
  // Errors: Internal (the mount went away before, or the kernel is too old); Unavailable (after PrepareUring(): io_uring
  // cannot be used after all; unmount, and mount again without).
  absl::Status Start();
  // Returns when the mount is gone, every worker has ended and every request has been answered.
  void WaitUntilUnmounted();

  void* user() { return user_; }
  // Which attributes the kernel may keep. Null, as it is unless set before Start(): all of them. Outlives the requests.
  void set_kernel_cache(KernelCache* cache) { kernel_cache_ = cache; }
  KernelCache* kernel_cache() { return kernel_cache_; }
  FuseStats stats() const;
  BufferPool& buffers() { return buffers_; }

  // Handles `request`, a fuse_in_header and what follows it, that came by `port`. `buffer`: see CurrentRequest. Whatever
  // the request holds, it is answered, if its kind is ever answered. For what receives requests, and for fuzzers.
  void Dispatch(RequestPort& port, Buffer* buffer, absl::Span<std::byte> request);

  // --- For Reply and handlers ---
  static CurrentRequest& current();
  // Makes the kernel ask for the attributes of `ino` when it next needs them. Any thread that holds no lock.
  void InvalidateAttributes(uint64_t ino);
  // These may wait for requests to be answered: not for a thread that answers any. A mount that is gone knows nothing
  // (an errno of some kind).
  int ForgetContent(volume::Ino ino, uint64_t offset, uint64_t length) override;
  int ForgetName(volume::Ino directory, absl::string_view name) override;
  void BeginRequest() { in_flight_.fetch_add(kOneInFlight, std::memory_order_relaxed); }
  void EndRequest();
  void CountRead(uint64_t bytes) { read_bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  void CountWritten(uint64_t bytes) { written_bytes_.fetch_add(bytes, std::memory_order_relaxed); }

 private:
  // A descriptor of /dev/fuse, the session's or a clone.
  class DevicePort final : public RequestPort {
   public:
    DevicePort(int fd, const MountOptions& options) : fd(fd), options_(options) {}
    void Send(absl::Span<const iovec> message) override;
    const int fd;

   private:
    const MountOptions& options_;
  };

  absl::Status StartThreads();
  void StartWorker(DevicePort& port);
  void ServeRequests(DevicePort& port);
  // False: the connection is over.
  bool ReceiveAndDispatch(DevicePort& port, Buffer* buffer);
  // 0 or an errno, which the library would keep to itself.
  int Notify(fuse_notify_code code, absl::Span<const iovec> pieces);
  ssize_t SendForLibrary(const iovec* pieces, int count);
  void SendInitReply(const fuse_init_in& offered, const iovec* pieces);

  // Constant after construction.
  const MountOptions& options_;
  void* const user_;
  KernelCache* kernel_cache_ = nullptr;  // constant after Start()
  const RawHandler raw_;
  fuse_session* session_ = nullptr;
  std::vector<std::unique_ptr<DevicePort>> ports_;  // [0] is the session's
  BufferPool buffers_;
  std::unique_ptr<UringTransport> uring_;  // null: not for this mount

  std::vector<std::thread> workers_;
  std::array<std::atomic<uint64_t>, FuseStats::kOpcodes> requests_ = {};
  std::atomic<uint64_t> read_bytes_ = 0, written_bytes_ = 0;
  std::atomic<bool> over_uring_ = false;  // as INIT was answered

  // Twice the number of requests in flight, plus 1 when somebody waits for that to be 0. One word, since whoever ends
  // the last request may touch this object afterwards only if it is known to be waited for.
  static constexpr uint64_t kSomebodyWaits = 1, kOneInFlight = 2;
  std::atomic<uint64_t> in_flight_ = 0;

  mutable Mutex mutex_;
  CondVar changed_;  // a worker ended, INIT was answered, or nothing is in flight any more
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;
  bool initialized_ ABSL_GUARDED_BY(mutex_) = false;
  size_t running_workers_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_TRANSPORT_H_

// UringQueue: one queue of FUSE over io_uring: a ring, the thread that owns it, and the entries that requests come in.
//
// The kernel has a queue per CPU and puts a request on that of the CPU it is made on. This queue's thread is pinned to
// that CPU: it runs as soon as the caller sleeps, and the caller as soon as the thread does, without waking another CPU.
// It handles requests itself. Only large writes that come together with others it gives away, since copying would keep
// those waiting; for one alone, waking another thread would cost more than it brings. What a large read brings is copied
// when the reply is sent, which only this thread may do. So that the reader and this thread can copy at the same time,
// the thread may run on any CPU while large requests come; and the store gets a few large reads at a time, so that the
// first is copied while the next are read (fs/fuse/read_admission.h). Where requests mostly wait for a store that
// interrupts another CPU, the thread goes there (fs/fuse/cpu_chooser.h).
//
// A reply goes to the kernel by a command on the ring, which only the owning thread may issue. A reply made on another
// thread is handed back: put on a list, and the thread woken by an eventfd if it sleeps. Replies gather while the thread
// handles requests and leave together, in the call in which it then waits for more.
//
// Stores that handlers call on this thread use its ring (sal/lent_ring.h): an fsync's write leaves in the call in which
// the thread waits anyway, and its end is found there. So a handler on this thread must never wait for I/O, nor
// for memory that another request holds; copy_file_range, which does, is always given away.
//
// An entry is taken from its request's arrival until its reply has left: fetching is part of replying. So the depth
// bounds how many requests of this CPU can wait for the volume at once; more wait in the kernel.
//
// The end: when the connection is gone (unmounted, aborted) each entry comes back with an error, those still being
// answered when their reply is sent. With the last one the thread ends.

#ifndef STAGEFS_FS_FUSE_URING_QUEUE_H_
#define STAGEFS_FS_FUSE_URING_QUEUE_H_

#include <liburing.h>
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "fs/fuse/cpu_chooser.h"
#include "fs/fuse/read_admission.h"
#include "fs/fuse/request_port.h"
#include "fs/fuse/scheduling.h"
#include "fs/fuse/uring_protocol.h"
#include "sal/lent_ring.h"
#include "sal/mutex.h"

namespace stagefs::fuse {

class UringQueue {
 public:
  // What a queue does with requests. Must outlive it; thread-safe.
  struct Handlers {
    // Handles `request`, whose reply leaves by `port`, now or later. On the queue's thread, without waiting.
    std::function<void(RequestPort& port, absl::Span<std::byte> request)> here;
    // The same somewhere else, where it may wait: returns at once.
    std::function<void(RequestPort& port, absl::Span<std::byte> request)> elsewhere;
    // One line for the operator. May be empty.
    std::function<void(absl::string_view)> log;
  };

  // Reads and writes of at least this much are large.
  static constexpr size_t kLargeBytes = 128 << 10;

  // Makes the ring and maps the memory, of which only what is used becomes resident: `depth` (at most 4096) entries of
  // `payload_bytes` (a multiple of 4096). The kernel's side of the mount hears nothing of it yet. `id` is the CPU's
  // number and the queue's. Errors: FailedPrecondition (no io_uring, or not for us), ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<UringQueue>> Create(uint16_t id, unsigned depth, size_t payload_bytes,
                                                            const Handlers& handlers);
  // Join() must have returned, if Start() was called.
  ~UringQueue();
  UringQueue(const UringQueue&) = delete;
  UringQueue& operator=(const UringQueue&) = delete;

  // Starts the thread, and returns when the kernel has taken or refused the entries. `device_fd` is the connection,
  // which has answered INIT; it must stay open until Join() has returned. Unavailable: the kernel has refused; the
  // thread then goes on with what it has taken.
  absl::Status Start(int device_fd);
  // Waits for the end of the connection, and the thread's.
  void Join();

 private:
  class Entry;

  UringQueue(uint16_t id, const Handlers& handlers);
  absl::Status MakeRing(unsigned depth);
  absl::Status MapEntries(unsigned depth, size_t payload_bytes);

  // --- On the owning thread ---
  void Run(int device_fd);
  absl::Status Register(int device_fd);
  void Serve(sal::LentRing& lent, ClientsFirst& policy);
  void SendReplies();
  // Moves what was answered to sending_.
  void TakeAnswered();
  // Returns whether there were any.
  bool StartHeldReads();
  void StartLargeRead(Entry* entry, absl::Span<std::byte> request);
  void WatchWakeups();
  // Before the thread sleeps.
  void ChooseCpu(const sal::LentRing& lent);
  // `cpu`: a CPU's number, or CpuChooser::kAnyCpu.
  void GoTo(int cpu);
  void SubmitAndWait(unsigned completions);
  // Takes the completions that are there and handles their requests.
  void HandleCompletions(sal::LentRing& lent);
  // `is_alone`: nothing else has come together with it.
  void HandleEntry(Entry* entry, int result, bool is_alone);
  io_uring_sqe* NewCommand(UringCommandCode code, uint64_t commit_id);

  // On any thread, when the reply has been put into the entry.
  void Answered(Entry* entry);

  // Constant after Create().
  const uint16_t id_;
  const Handlers& handlers_;
  std::byte* area_ = nullptr;
  size_t area_bytes_ = 0;
  std::vector<std::unique_ptr<Entry>> entries_;
  int wake_fd_ = -1;

  // Of the owning thread.
  io_uring ring_ = {};
  bool has_ring_ = false;
  cpu_set_t any_cpu_;            // where this process may run
  int cpu_ = CpuChooser::kAnyCpu;  // where GoTo() has sent it
  CpuChooser cpu_chooser_;
  bool leave_now_ = false;  // what is on the ring: it is large, and what else has arrived takes its time
  size_t unanswered_ = 0;  // requests that have come and whose replies have not left
  size_t live_ = 0;  // entries that the kernel has, or that are being answered
  ReadAdmission read_admission_;
  std::deque<Entry*> held_reads_;  // large ones, until they are admitted; others are then under way
  std::vector<Entry*> answered_here_;
  std::vector<Entry*> sending_;
  std::vector<io_uring_cqe> completions_;

  std::thread thread_;
  // Whoever hands back a reply and finds this set must wake the thread. Set before the list is looked at a last time.
  std::atomic<bool> asleep_ = false;

  Mutex mutex_;
  CondVar registered_;
  std::vector<Entry*> answered_elsewhere_ ABSL_GUARDED_BY(mutex_);
  bool is_registered_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status registration_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_URING_QUEUE_H_

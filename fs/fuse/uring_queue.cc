#include "fs/fuse/uring_queue.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "sal/check.h"
#include "sal/client_cpus.h"
#include "sal/mapped_memory.h"
#include "sal/status_macros.h"

namespace stagefs::fuse {
namespace {

constexpr size_t kPageBytes = 4096;
// An entry's headers lie at the start of a page of their own, and at its end the request's prefix, in front of the
// payload.
static_assert(sizeof(UringHeaders) + kMaxRequestPrefixBytes <= kPageBytes);

constexpr int kFixedDevice = 0;  // /dev/fuse in the ring's table of files

// The queue that this thread owns.
thread_local const UringQueue* owned_queue = nullptr;

// copy_file_range with a 64-bit reply, from linux/fuse.h of kernels newer than Debian 12's headers.
constexpr uint32_t kCopyFileRange64 = 53;

// Entries of the ring beyond those for the queue's own commands: for what the stores do. There may be more of that.
constexpr unsigned kStoreEntries = 64;
constexpr unsigned kCompletions = 1024;

// It takes a buffer of the pool, for which it may have to wait.
bool MayWait(absl::Span<const std::byte> request) {
  const uint32_t opcode = reinterpret_cast<const fuse_in_header*>(request.data())->opcode;
  return opcode == FUSE_COPY_FILE_RANGE || opcode == kCopyFileRange64;
}

// What a READ asks for; 0 for any other request.
uint32_t ReadBytes(absl::Span<const std::byte> request) {
  const auto* header = reinterpret_cast<const fuse_in_header*>(request.data());
  if (header->opcode != FUSE_READ || request.size() < sizeof(fuse_in_header) + sizeof(fuse_read_in)) return 0;
  return reinterpret_cast<const fuse_read_in*>(header + 1)->size;
}

bool IsLargeWrite(absl::Span<const std::byte> request) {
  return reinterpret_cast<const fuse_in_header*>(request.data())->opcode == FUSE_WRITE &&
         request.size() >= UringQueue::kLargeBytes;
}

uint64_t Now(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

// What the commands of a connection that has ended come back with.
bool IsTheEnd(int result) { return result == -ENOTCONN || result == -ECONNABORTED || result == -ECANCELED; }

}  // namespace

class UringQueue::Entry final : public RequestPort {
 public:
  Entry(UringQueue* queue, std::byte* page, size_t payload_bytes)
      : queue_(queue), headers_(reinterpret_cast<UringHeaders*>(page)), payload_(page + kPageBytes, payload_bytes) {
    pieces_[0] = {headers_, sizeof(*headers_)};
    pieces_[1] = {payload_.data(), payload_.size()};
  }

  void Send(absl::Span<const iovec> message) override {
    const absl::Status placed = PlaceReply(message, headers_, payload_);
    if (!placed.ok()) {
      if (queue_->handlers_.log) queue_->handlers_.log(placed.message());
      Refuse();
      return;
    }
    queue_->Answered(this);
  }
  absl::Span<std::byte> memory() override { return payload_; }

  // The request that has arrived.
  absl::StatusOr<absl::Span<std::byte>> Take() {
    commit_id_ = headers_->commit_id;
    large_read_bytes_ = 0;
    return AssembleRequest(*headers_, payload_);
  }
  // `request` is a large read that has to wait.
  void Hold(absl::Span<std::byte> request) { held_ = request; }
  absl::Span<std::byte> held() const { return held_; }
  // What has arrived is a large read, and it starts.
  void StartLargeRead(uint64_t bytes) {
    large_read_bytes_ = bytes;
    started_ns_ = Now(CLOCK_MONOTONIC);
  }
  uint64_t large_read_bytes() const { return large_read_bytes_; }  // 0: it is something else
  uint64_t started_ns() const { return started_ns_; }
  // Answers EIO.
  void Refuse() {
    fuse_out_header header = {};
    header.len = sizeof(header);
    header.error = -EIO;
    header.unique = commit_id_;
    const iovec message[] = {{&header, sizeof(header)}};
    STAGEFS_CHECK(PlaceReply(message, headers_, payload_).ok());
    queue_->Answered(this);
  }

  uint64_t commit_id() const { return commit_id_; }
  uint32_t reply_bytes() const { return headers_->payload_bytes; }
  const iovec* pieces() const { return pieces_; }

 private:
  UringQueue* const queue_;
  UringHeaders* const headers_;
  const absl::Span<std::byte> payload_;
  iovec pieces_[2];
  uint64_t commit_id_ = 0;
  absl::Span<std::byte> held_;
  uint64_t large_read_bytes_ = 0;
  uint64_t started_ns_ = 0;
};

absl::StatusOr<std::unique_ptr<UringQueue>> UringQueue::Create(uint16_t id, unsigned depth, size_t payload_bytes,
                                                               const Handlers& handlers) {
  std::unique_ptr<UringQueue> queue(new UringQueue(id, handlers));
  RETURN_IF_ERROR(queue->MakeRing(depth));
  RETURN_IF_ERROR(queue->MapEntries(depth, payload_bytes));
  return queue;
}

UringQueue::UringQueue(uint16_t id, const Handlers& handlers) : id_(id), handlers_(handlers), cpu_chooser_(id) {}

absl::Status UringQueue::MakeRing(unsigned depth) {
  // Disabled: the thread that enables it is the one that owns it. With deferred task work requests are copied in when
  // that thread asks for them, and it is not interrupted.
  io_uring_params parameters = {};
  parameters.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                     IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
  parameters.cq_entries = kCompletions;
  // A command for each entry, and the watch on wake_fd_.
  const int error = io_uring_queue_init_params(depth + 1 + kStoreEntries, &ring_, &parameters);
  if (error < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("io_uring is not available: ", strerror(-error),
                     "; check sysctl kernel.io_uring_disabled, and what the container allows (seccomp)"));
  }
  has_ring_ = true;
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) return absl::ResourceExhaustedError(absl::StrCat("eventfd: ", strerror(errno)));
  return absl::OkStatus();
}

absl::Status UringQueue::MapEntries(unsigned depth, size_t payload_bytes) {
  // The kernel touches an entry when it puts a request there, the most recently used one first.
  const size_t stride = kPageBytes + payload_bytes;
  area_bytes_ = depth * stride;
  area_ = sal::MapMemory(area_bytes_);
  if (area_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("mapping ", area_bytes_, " bytes: ", strerror(errno)));
  }
  for (unsigned i = 0; i < depth; ++i) {
    entries_.push_back(std::make_unique<Entry>(this, area_ + i * stride, payload_bytes));
  }
  return absl::OkStatus();
}

UringQueue::~UringQueue() {
  STAGEFS_CHECK(!thread_.joinable());
  if (has_ring_) io_uring_queue_exit(&ring_);
  if (wake_fd_ >= 0) close(wake_fd_);
  if (area_ != nullptr) sal::UnmapMemory(area_, area_bytes_);
}

absl::Status UringQueue::Start(int device_fd) {
  thread_ = std::thread([this, device_fd] { Run(device_fd); });
  MutexLock lock(&mutex_);
  while (!is_registered_) registered_.Wait(&mutex_);
  return registration_;
}

void UringQueue::Join() {
  if (thread_.joinable()) thread_.join();
}

void UringQueue::Run(int device_fd) {
  owned_queue = this;
  pthread_setname_np(pthread_self(), absl::StrCat("fuse-queue-", id_).c_str());
  if (sched_getaffinity(0, sizeof(any_cpu_), &any_cpu_) != 0) CPU_ZERO(&any_cpu_);
  GoTo(id_);
  absl::Status status = Register(device_fd);
  {
    MutexLock lock(&mutex_);
    registration_ = std::move(status);
    is_registered_ = true;
    registered_.SignalAll();
  }
  sal::LentRing lent(&ring_);
  ClientsFirst policy(MayLetClientsGoFirst());
  Serve(lent, policy);
}

absl::Status UringQueue::Register(int device_fd) {
  // liburing 2.3 declares io_uring_enable_rings(), but does not export it.
  int error = 0;
  if (syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) < 0) error = -errno;
  if (error >= 0) error = io_uring_register_files(&ring_, &device_fd, 1);
  if (error < 0) return absl::UnavailableError(absl::StrCat("queue ", id_, ": io_uring: ", strerror(-error)));
  io_uring_register_ring_fd(&ring_);  // cheaper, where it can be had
  for (const std::unique_ptr<Entry>& entry : entries_) {
    io_uring_sqe* const sqe = NewCommand(kUringRegister, 0);
    sqe->addr = reinterpret_cast<uint64_t>(entry->pieces());
    sqe->len = 2;
    io_uring_sqe_set_data(sqe, entry.get());
    ++live_;
  }
  WatchWakeups();
  SubmitAndWait(0);
  // What is refused comes back at once. Requests that come back, too, are left for HandleCompletions().
  absl::Status status;
  unsigned head;
  io_uring_cqe* cqe;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    if (cqe->res >= 0 || cqe->user_data == 0) continue;
    status.Update(absl::UnavailableError(
        absl::StrCat("the kernel refuses an entry of queue ", id_, ": ", strerror(-cqe->res))));
  }
  return status;
}

void UringQueue::Serve(sal::LentRing& lent, ClientsFirst& policy) {
  while (live_ > 0 || lent.in_flight() > 0) {
    // In this order: what is handed back after the look at the list finds the flag.
    asleep_.store(true);
    SendReplies();
    ChooseCpu(lent);
    SubmitAndWait(1);
    asleep_.store(false);
    policy.Adapt();
    HandleCompletions(lent);
  }
}

void UringQueue::SendReplies() {
  // A reply's data is copied when it is sent: what is held goes to the store before.
  do {
    TakeAnswered();
  } while (StartHeldReads());
  for (Entry* entry : sending_) {
    io_uring_sqe* const sqe = NewCommand(kUringCommitAndFetch, entry->commit_id());
    io_uring_sqe_set_data(sqe, entry);
  }
  unanswered_ -= sending_.size();
  sending_.clear();
}

void UringQueue::TakeAnswered() {
  const size_t before = sending_.size();
  sending_.insert(sending_.end(), answered_here_.begin(), answered_here_.end());
  answered_here_.clear();
  {
    MutexLock lock(&mutex_);
    sending_.insert(sending_.end(), answered_elsewhere_.begin(), answered_elsewhere_.end());
    answered_elsewhere_.clear();
  }
  for (size_t i = before; i < sending_.size(); ++i) {
    const Entry& entry = *sending_[i];
    if (entry.large_read_bytes() == 0) continue;
    read_admission_.Ended(entry.large_read_bytes(), Now(CLOCK_MONOTONIC) - entry.started_ns());
  }
}

bool UringQueue::StartHeldReads() {
  bool any = false;
  for (; !held_reads_.empty() && read_admission_.MayStart(); any = true) {
    Entry* const entry = held_reads_.front();
    held_reads_.pop_front();
    StartLargeRead(entry, entry->held());
  }
  return any;
}

void UringQueue::StartLargeRead(Entry* entry, absl::Span<std::byte> request) {
  entry->StartLargeRead(ReadBytes(request));
  read_admission_.Started(entry->large_read_bytes());
  handlers_.here(*entry, request);
}

void UringQueue::GoTo(int cpu) {
  // Where that cannot be (the CPU is offline, or not for us) the thread runs anywhere.
  cpu_ = cpu;
  cpu_set_t set = any_cpu_;
  if (cpu != CpuChooser::kAnyCpu && cpu < CPU_SETSIZE) {
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
  }
  sched_setaffinity(0, sizeof(set), &set);
}

void UringQueue::ChooseCpu(const sal::LentRing& lent) {
  const int cpu = cpu_chooser_.CpuToSleepOn(unanswered_ > 0 && lent.in_flight() > 0, Now(CLOCK_MONOTONIC_COARSE));
  if (cpu == cpu_) return;
  SubmitAndWait(0);  // moving takes its time
  GoTo(cpu);
}

void UringQueue::WatchWakeups() {
  io_uring_sqe* const sqe = sal::LentRing::NewEntry(&ring_);
  // Once for all writes to the eventfd. Its count is of no interest, so nobody reads it.
  io_uring_prep_poll_multishot(sqe, wake_fd_, POLLIN);
  io_uring_sqe_set_data(sqe, nullptr);
}

void UringQueue::SubmitAndWait(unsigned completions) {
  while (true) {
    const int result = completions == 0 ? io_uring_submit(&ring_) : io_uring_submit_and_wait(&ring_, completions);
    if (result >= 0 && io_uring_sq_ready(&ring_) == 0) return;
    // Interrupted, or short of memory for the moment.
    STAGEFS_CHECK(result >= 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY || result == -ENOMEM);
    if (io_uring_sq_ready(&ring_) == 0 && io_uring_cq_ready(&ring_) >= completions) return;
  }
}

void UringQueue::HandleCompletions(sal::LentRing& lent) {
  // Taken off the ring before any is handled: handlers take their time, and what they start needs room on it.
  completions_.clear();
  unsigned head;
  io_uring_cqe* cqe;
  io_uring_for_each_cqe(&ring_, head, cqe) completions_.push_back(*cqe);
  io_uring_cq_advance(&ring_, static_cast<unsigned>(completions_.size()));
  for (const io_uring_cqe& completion : completions_) {
    if (sal::LentRing::Owns(completion)) {
      cpu_chooser_.WokenByStore(sched_getcpu());
      lent.Complete(completion.user_data, completion.res);
    } else if (completion.user_data != 0) {
      HandleEntry(reinterpret_cast<Entry*>(completion.user_data), completion.res, completions_.size() == 1);
    } else if (!(completion.flags & IORING_CQE_F_MORE)) {
      WatchWakeups();
    }
    if (!std::exchange(leave_now_, false)) continue;
    SendReplies();
    SubmitAndWait(0);
  }
}

void UringQueue::HandleEntry(Entry* entry, int result, bool is_alone) {
  if (result < 0) {
    --live_;
    if (!IsTheEnd(result) && handlers_.log) {
      handlers_.log(absl::StrCat("queue ", id_, ": an entry is lost: ", strerror(-result)));
    }
    return;
  }
  ++unanswered_;
  sal::NoteClient();
  const absl::StatusOr<absl::Span<std::byte>> request = entry->Take();
  if (!request.ok()) {
    if (handlers_.log) handlers_.log(request.status().message());
    return entry->Refuse();
  }
  const bool is_large_read = ReadBytes(*request) >= kLargeBytes;
  const bool is_large_write = IsLargeWrite(*request);
  cpu_chooser_.Arrived(is_large_read || is_large_write, Now(CLOCK_MONOTONIC_COARSE));
  leave_now_ = leave_now_ || is_large_read || is_large_write;
  if (is_large_read && !read_admission_.MayStart()) {
    entry->Hold(*request);
    held_reads_.push_back(entry);
  } else if (is_large_read) {
    StartLargeRead(entry, *request);
  } else {
    const bool elsewhere = MayWait(*request) || (is_large_write && !is_alone);
    (elsewhere ? handlers_.elsewhere : handlers_.here)(*entry, *request);
  }
}

io_uring_sqe* UringQueue::NewCommand(UringCommandCode code, uint64_t commit_id) {
  io_uring_sqe* const sqe = sal::LentRing::NewEntry(&ring_);
  memset(sqe, 0, 2 * sizeof(*sqe));
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->flags = IOSQE_FIXED_FILE;
  sqe->fd = kFixedDevice;
  sqe->cmd_op = code;
  const UringCommand command = {.flags = 0, .commit_id = commit_id, .queue = id_, .padding = {}};
  memcpy(sqe->cmd, &command, sizeof(command));
  return sqe;
}

void UringQueue::Answered(Entry* entry) {
  if (owned_queue == this) {
    answered_here_.push_back(entry);
    leave_now_ = leave_now_ || entry->reply_bytes() >= kLargeBytes;
    return;
  }
  {
    MutexLock lock(&mutex_);
    answered_elsewhere_.push_back(entry);
  }
  if (!asleep_.exchange(false)) return;
  const uint64_t one = 1;
  // It fails only if the count were full, and then it is readable.
  (void)!write(wake_fd_, &one, sizeof(one));
}

}  // namespace stagefs::fuse

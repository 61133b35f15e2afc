#include "sal/file_store.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "sal/check.h"
#include "sal/client_cpus.h"
#include "sal/request_check.h"
#include "sal/status_macros.h"

namespace stagefs::sal {

namespace {

constexpr int kFixedFile = 0;              // our descriptor's index in the ring's file table
constexpr uint64_t kLargestArea = 1 << 30;  // of registered memory, by the kernel's rule

}  // namespace

absl::StatusOr<std::unique_ptr<FileStore>> FileStore::Open(const std::string& name, const std::string& path,
                                                           const OpenStoreOptions& options) {
  ASSIGN_OR_RETURN(OpenedFile file, OpenFile(name, path, options));
  std::unique_ptr<FileStore> store(new FileStore(name, std::move(file)));
  RETURN_IF_ERROR(store->Start());
  return store;
}

FileStore::FileStore(std::string name, OpenedFile file) : name_(std::move(name)), file_(std::move(file)) {}

absl::Status FileStore::Start() {
  // The kernel doubles the depth for completions, so they never overflow.
  int error = io_uring_queue_init(kDepth, &ring_, 0);
  if (error < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(name_, ": io_uring is not available: ", std::strerror(-error),
                     "; check sysctl kernel.io_uring_disabled, and what the container allows (seccomp)"));
  }
  ring_ready_ = true;
  error = io_uring_register_files(&ring_, &file_.fd, 1);
  if (error < 0) return absl::InternalError(absl::StrCat(name_, ": io_uring: ", std::strerror(-error)));
  reaper_ = std::thread([this] { Reap(); });
  return absl::OkStatus();
}

FileStore::~FileStore() {
  if (reaper_.joinable()) {
    {
      MutexLock lock(&mutex_);
      STAGEFS_CHECK(waiting_.empty());
      stopping_ = true;
      Wake();
    }
    reaper_.join();
  }
  if (!ring_ready_) return;
  // The kernel takes a ring apart later, by itself, and would hold the file, its lock and its claim until then. All I/O
  // is over, so they can be given back now.
  io_uring_unregister_files(&ring_);
  io_uring_queue_exit(&ring_);
  flock(file_.fd, LOCK_UN);
}

void FileStore::RegisterMemory(absl::Span<const iovec> areas) {
  MutexLock lock(&mutex_);
  if (!areas_.empty()) return;
  std::vector<iovec> pieces;
  for (const iovec& area : areas) {
    for (uint64_t done = 0; done < area.iov_len; done += kLargestArea) {
      pieces.push_back(iovec{static_cast<std::byte*>(area.iov_base) + done,
                             std::min<uint64_t>(kLargestArea, area.iov_len - done)});
    }
  }
  std::sort(pieces.begin(), pieces.end(), [](const iovec& a, const iovec& b) { return a.iov_base < b.iov_base; });
  // Refused where RLIMIT_MEMLOCK is small: then requests work the ordinary way.
  if (!pieces.empty() && io_uring_register_buffers(&ring_, pieces.data(), pieces.size()) == 0) {
    areas_ = std::move(pieces);
  }
}

absl::Status FileStore::Check(const Request& request) const {
  RETURN_IF_ERROR(CheckRequest(file_.geometry, name_, request));
  if (file_.read_only && request.op != Request::Op::kRead && request.op != Request::Op::kFlush) {
    return absl::FailedPreconditionError(absl::StrCat(name_, ": ", Describe(request), ": opened read-only"));
  }
  if (request.op == Request::Op::kDiscard && !file_.geometry.discard) {
    return absl::UnimplementedError(absl::StrCat(name_, ": the device knows no discard"));
  }
  return absl::OkStatus();
}

void FileStore::Submit(absl::Span<Request* const> requests) {
  LentRing* const lent = LentRing::OfThisThread();
  absl::InlinedVector<Request*, 4> ours;
  absl::InlinedVector<std::pair<Request*, absl::Status>, 1> refused;
  for (Request* request : requests) {
    absl::Status status = Check(*request);
    const bool quick = request->op != Request::Op::kDiscard && request->op != Request::Op::kZero;
    if (!status.ok()) {
      refused.emplace_back(request, std::move(status));
    } else if (lent != nullptr && quick) {
      SubmitTo(*lent, request);
    } else {
      ours.push_back(request);
    }
  }
  if (ours.empty() && refused.empty()) return;
  MutexLock lock(&mutex_);
  waiting_.insert(waiting_.end(), ours.begin(), ours.end());
  for (auto& request : refused) refused_.push_back(std::move(request));
  if (!refused.empty()) Wake();
  StartWaiting();
}

class FileStore::LentOperation final : public LentRing::Operation {
 public:
  LentOperation(FileStore* store, LentRing* ring, Request* request)
      : store_(store), ring_(ring), request_(request) {}

  void Start() {
    io_uring_sqe* const sqe = ring_->NewEntry();
    switch (request_->op) {
      case Request::Op::kRead:
        io_uring_prep_readv(sqe, store_->file_.fd, request_->buffers.data(), request_->buffers.size(),
                            request_->offset_bytes);
        break;
      case Request::Op::kWrite:
        io_uring_prep_writev(sqe, store_->file_.fd, request_->buffers.data(), request_->buffers.size(),
                             request_->offset_bytes);
        if (request_->fua) sqe->rw_flags = RWF_DSYNC;
        break;
      default:
        io_uring_prep_fsync(sqe, store_->file_.fd, IORING_FSYNC_DATASYNC);
    }
    ring_->Start(sqe, this);
  }

  void Completed(int result) override {
    if (result == -EAGAIN || result == -EINTR) return Start();  // the kernel did not start it
    const std::unique_ptr<LentOperation> self(this);
    Complete(request_, store_->Result(*request_, result));
  }

 private:
  FileStore* const store_;
  LentRing* const ring_;
  Request* const request_;
};

void FileStore::SubmitTo(LentRing& ring, Request* request) { (new LentOperation(this, &ring, request))->Start(); }

void FileStore::StartWaiting() {
  // One place is left for Wake().
  bool added = false;
  while (!waiting_.empty() && in_ring_ < kDepth - 1) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    STAGEFS_CHECK(sqe != nullptr);
    Prepare(sqe, *waiting_.front());
    io_uring_sqe_set_data(sqe, waiting_.front());
    waiting_.pop_front();
    ++in_ring_;
    added = true;
  }
  if (added) SubmitRing();
}

void FileStore::SubmitRing() {
  while (io_uring_sq_ready(&ring_) > 0) {
    const int result = io_uring_submit(&ring_);
    // The kernel is short of memory for a moment. The entries stay in the ring, and their order does not matter.
    if (result == -EAGAIN || result == -EBUSY || result == -ENOMEM) sched_yield();
    STAGEFS_CHECK(result >= 0 || result == -EAGAIN || result == -EBUSY || result == -ENOMEM || result == -EINTR);
  }
}

int FileStore::RegisteredArea(const iovec& buffer) const {
  auto after = std::upper_bound(areas_.begin(), areas_.end(), buffer,
                                [](const iovec& a, const iovec& b) { return a.iov_base < b.iov_base; });
  if (after == areas_.begin()) return -1;
  const iovec& area = *--after;
  const uint64_t start = static_cast<std::byte*>(buffer.iov_base) - static_cast<std::byte*>(area.iov_base);
  if (start + buffer.iov_len > area.iov_len) return -1;
  return static_cast<int>(after - areas_.begin());
}

void FileStore::Prepare(io_uring_sqe* sqe, Request& request) {
  const int area = request.buffers.size() == 1 ? RegisteredArea(request.buffers[0]) : -1;
  switch (request.op) {
    case Request::Op::kRead:
      if (area >= 0) {
        io_uring_prep_read_fixed(sqe, kFixedFile, request.buffers[0].iov_base, request.buffers[0].iov_len,
                                 request.offset_bytes, area);
      } else {
        io_uring_prep_readv(sqe, kFixedFile, request.buffers.data(), request.buffers.size(), request.offset_bytes);
      }
      break;
    case Request::Op::kWrite:
      if (area >= 0) {
        io_uring_prep_write_fixed(sqe, kFixedFile, request.buffers[0].iov_base, request.buffers[0].iov_len,
                                  request.offset_bytes, area);
      } else {
        io_uring_prep_writev(sqe, kFixedFile, request.buffers.data(), request.buffers.size(), request.offset_bytes);
      }
      if (request.fua) sqe->rw_flags = RWF_DSYNC;
      break;
    case Request::Op::kFlush:
      io_uring_prep_fsync(sqe, kFixedFile, IORING_FSYNC_DATASYNC);
      break;
    case Request::Op::kDiscard:
    case Request::Op::kZero: {
      // On a device ZERO_RANGE writes zeros where nothing cheaper is there; PUNCH_HOLE would refuse.
      const bool zero_range = file_.block_device && request.op == Request::Op::kZero;
      const int mode = (zero_range ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE) | FALLOC_FL_KEEP_SIZE;
      io_uring_prep_fallocate(sqe, kFixedFile, mode, request.offset_bytes, request.length_bytes);
      break;
    }
  }
  sqe->flags |= IOSQE_FIXED_FILE;
}

void FileStore::Wake() {
  if (wake_pending_) return;
  wake_pending_ = true;
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  STAGEFS_CHECK(sqe != nullptr);
  io_uring_prep_nop(sqe);
  io_uring_sqe_set_data(sqe, nullptr);
  ++in_ring_;
  SubmitRing();
}

void FileStore::Reap() {
  struct Completion {
    Request* request;
    int result;
  };
  std::vector<Completion> completions;
  std::vector<std::pair<Request*, absl::Status>> refused;
  bool stop = false;
  while (!stop) {
    io_uring_cqe* first = nullptr;
    const int error = io_uring_wait_cqe(&ring_, &first);
    STAGEFS_CHECK(error == 0 || error == -EINTR || error == -EAGAIN);
    if (error != 0) continue;
    KeepOffClients();  // what is for clients that wait has lent rings (sal/lent_ring.h)
    io_uring_cqe* cqes[kDepth];
    const unsigned count = io_uring_peek_batch_cqe(&ring_, cqes, kDepth);
    for (unsigned i = 0; i < count; ++i) {
      completions.push_back({static_cast<Request*>(io_uring_cqe_get_data(cqes[i])), cqes[i]->res});
    }
    io_uring_cq_advance(&ring_, count);
    {
      MutexLock lock(&mutex_);
      in_ring_ -= count;
      for (Completion& completion : completions) {
        if (completion.request == nullptr) {
          wake_pending_ = false;
          stop = stopping_;
        } else if (completion.result == -EAGAIN || completion.result == -EINTR) {
          waiting_.push_back(completion.request);  // the kernel did not start it
          completion.request = nullptr;
        }
      }
      refused.swap(refused_);
      StartWaiting();
    }
    for (const Completion& completion : completions) {
      if (completion.request != nullptr) Complete(completion.request, Result(*completion.request, completion.result));
    }
    completions.clear();
    for (auto& [request, status] : refused) Complete(request, std::move(status));
    refused.clear();
  }
}

absl::Status FileStore::Result(const Request& request, int result) {
  const bool transfer = request.op == Request::Op::kRead || request.op == Request::Op::kWrite;
  if (result >= 0) {
    if (!transfer || static_cast<uint64_t>(result) == request.length_bytes) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(name_, ": ", Describe(request), ": only ", result,
                                            " bytes were transferred; was the store made smaller?"));
  }
  const int error = -result;
  if (error == EOPNOTSUPP && request.op == Request::Op::kZero) return WriteZeros(request);
  const std::string message = absl::StrCat(name_, ": ", Describe(request), ": ", std::strerror(error));
  switch (error) {
    case EIO:
    case ENODATA:    // what the block layer says of a bad medium
    case EREMOTEIO:
    case EBADMSG:
    case EILSEQ:
      return request.op == Request::Op::kRead ? absl::DataLossError(message) : absl::UnavailableError(message);
    case ENODEV:
    case ENXIO:
    case ETIMEDOUT:
      return absl::UnavailableError(absl::StrCat(message, "; the device is gone"));
    case EOPNOTSUPP:
      return absl::UnimplementedError(message);
    case ENOSPC:
    case EDQUOT:
      return absl::InternalError(
          absl::StrCat(message, ": the file system that holds the image is full; make room there, then mount again"));
    default:
      return absl::InternalError(message);
  }
}

// For file systems that know no holes. Blocks the reaper, but zeroing is for mkfs, which waits for it anyway.
absl::Status FileStore::WriteZeros(const Request& request) {
  constexpr uint64_t kPiece = 1 << 20;
  void* zeros = std::aligned_alloc(4096, kPiece);
  STAGEFS_CHECK(zeros != nullptr);
  std::memset(zeros, 0, kPiece);
  absl::Status status;
  for (uint64_t done = 0; done < request.length_bytes && status.ok();) {
    const uint64_t length = std::min(kPiece, request.length_bytes - done);
    const ssize_t written = pwrite(file_.fd, zeros, length, static_cast<off_t>(request.offset_bytes + done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      status = absl::InternalError(absl::StrCat(name_, ": ", Describe(request), ": ", std::strerror(errno)));
    } else {
      done += static_cast<uint64_t>(written);
    }
  }
  std::free(zeros);
  return status;
}

}  // namespace stagefs::sal

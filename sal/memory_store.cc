#include "sal/memory_store.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sal/request_check.h"

namespace stagefs::sal {

absl::StatusOr<std::unique_ptr<MemoryStore>> MemoryStore::Create(uint64_t size_bytes) {
  size_bytes -= size_bytes % 4096;
  if (size_bytes == 0) return absl::InvalidArgumentError("mem: a store needs at least 4096 bytes");
  void* memory =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("mem:", size_bytes, ": no address space for it (", std::strerror(errno), "); use a smaller size"));
  }
  return std::unique_ptr<MemoryStore>(new MemoryStore(static_cast<std::byte*>(memory), size_bytes));
}

MemoryStore::MemoryStore(std::byte* memory, uint64_t size_bytes)
    : memory_(memory), name_(absl::StrCat("mem:", size_bytes)) {
  geometry_.size_bytes = size_bytes;
  geometry_.fua = true;
  geometry_.discard = true;
  thread_ = std::thread([this] { Serve(); });
}

MemoryStore::~MemoryStore() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.SignalOne();
  }
  thread_.join();
  munmap(memory_, geometry_.size_bytes);
}

void MemoryStore::Submit(absl::Span<Request* const> requests) {
  MutexLock lock(&mutex_);
  queue_.insert(queue_.end(), requests.begin(), requests.end());
  changed_.SignalOne();
}

void MemoryStore::Serve() {
  while (true) {
    std::deque<Request*> batch;
    {
      MutexLock lock(&mutex_);
      while (queue_.empty() && !stopping_) changed_.Wait(&mutex_);
      if (queue_.empty()) return;
      batch.swap(queue_);
    }
    for (Request* request : batch) Complete(request, Execute(*request));
  }
}

absl::Status MemoryStore::Execute(const Request& request) {
  absl::Status status = CheckRequest(geometry_, name_, request);
  if (!status.ok()) return status;
  std::byte* position = memory_ + request.offset_bytes;
  switch (request.op) {
    case Request::Op::kRead:
      for (const iovec& buffer : request.buffers) {
        std::memcpy(buffer.iov_base, position, buffer.iov_len);
        position += buffer.iov_len;
      }
      break;
    case Request::Op::kWrite:
      for (const iovec& buffer : request.buffers) {
        std::memcpy(position, buffer.iov_base, buffer.iov_len);
        position += buffer.iov_len;
      }
      break;
    case Request::Op::kFlush:
      break;
    case Request::Op::kDiscard:
    case Request::Op::kZero: {
      // Whole pages go back to the system, and read as zeros from then on; the edges are cleared by hand.
      const uint64_t end = request.offset_bytes + request.length_bytes;
      const uint64_t first_page = (request.offset_bytes + 4095) / 4096 * 4096;
      const uint64_t end_page = end / 4096 * 4096;
      if (first_page >= end_page) {
        std::memset(position, 0, request.length_bytes);
        break;
      }
      std::memset(position, 0, first_page - request.offset_bytes);
      std::memset(memory_ + end_page, 0, end - end_page);
      if (madvise(memory_ + first_page, end_page - first_page, MADV_DONTNEED) != 0) {
        return absl::InternalError(absl::StrCat(name_, ": ", Describe(request), ": ", std::strerror(errno)));
      }
      break;
    }
  }
  return absl::OkStatus();
}

}  // namespace stagefs::sal

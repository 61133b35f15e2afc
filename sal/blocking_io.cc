#include "sal/blocking_io.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "sal/check.h"
#include "sal/mutex.h"
#include "sal/status_macros.h"

namespace stagefs::sal {

namespace {

constexpr uint64_t kBufferAlignment = 4096;
// Enough to keep a disk busy with pieces of the largest request.
constexpr size_t kPiecesInFlight = 8;

// One transfer, cut into pieces. Each piece's request, when it completes, takes the next piece, until none is left or
// one has failed; the last request to fall idle wakes the caller.
class Transfer {
 public:
  Transfer(BlockStore& store, Environment& environment, Request::Op op, bool fua, uint64_t offset_bytes,
           std::byte* buffer, uint64_t length_bytes)
      : store_(store),
        op_(op),
        fua_(fua),
        piece_bytes_(store.geometry().max_request_bytes),
        offset_bytes_(offset_bytes),
        buffer_(buffer),
        length_bytes_(length_bytes),
        event_(environment.NewEvent()) {}

  absl::Status Run() {
    const size_t pieces = std::min<uint64_t>(kPiecesInFlight, (length_bytes_ + piece_bytes_ - 1) / piece_bytes_);
    {
      MutexLock lock(&mutex_);
      active_ = pieces;
    }
    for (size_t i = 0; i < pieces; ++i) {
      // Every first piece exists; a later one may have been taken over by a request that was quicker.
      if (!StartNext(&requests_[i])) Retire();
    }
    event_->Wait();
    MutexLock lock(&mutex_);
    return status_;
  }

 private:
  bool StartNext(Request* request) ABSL_LOCKS_EXCLUDED(mutex_) {
    uint64_t start, length;
    {
      MutexLock lock(&mutex_);
      if (!status_.ok() || next_ == length_bytes_) return false;
      start = next_;
      length = std::min(piece_bytes_, length_bytes_ - start);
      next_ += length;
    }
    request->op = op_;
    request->fua = fua_;
    request->offset_bytes = offset_bytes_ + start;
    request->length_bytes = length;
    request->buffers.clear();
    request->buffers.push_back(iovec{buffer_ + start, length});
    request->done = [this, request](absl::Status status) { OnDone(request, std::move(status)); };
    store_.Submit(request);
    return true;
  }

  void OnDone(Request* request, absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      MutexLock lock(&mutex_);
      status_.Update(std::move(status));
    }
    if (!StartNext(request)) Retire();
  }

  void Retire() ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      MutexLock lock(&mutex_);
      if (--active_ > 0) return;
    }
    event_->Set();  // The last touch of `this`: the caller may be gone now.
  }

  BlockStore& store_;
  const Request::Op op_;
  const bool fua_;
  const uint64_t piece_bytes_;
  const uint64_t offset_bytes_;
  std::byte* const buffer_;
  const uint64_t length_bytes_;
  const std::unique_ptr<Event> event_;
  Request requests_[kPiecesInFlight];

  Mutex mutex_;
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 0;   // bytes handed out
  size_t active_ ABSL_GUARDED_BY(mutex_) = 0;   // requests that have not retired
  absl::Status status_ ABSL_GUARDED_BY(mutex_);  // the first error
};

absl::Status TransferAll(BlockStore& store, Environment& environment, Request::Op op, bool fua, uint64_t offset_bytes,
                         std::byte* buffer, uint64_t length_bytes) {
  STAGEFS_CHECK(reinterpret_cast<uintptr_t>(buffer) % kBufferAlignment == 0);
  if (length_bytes == 0) return absl::OkStatus();
  return Transfer(store, environment, op, fua, offset_bytes, buffer, length_bytes).Run();
}

absl::Status RunOne(BlockStore& store, Environment& environment, Request::Op op, uint64_t offset_bytes,
                    uint64_t length_bytes) {
  const std::unique_ptr<Event> event = environment.NewEvent();
  absl::Status result;
  Request request;
  request.op = op;
  request.offset_bytes = offset_bytes;
  request.length_bytes = length_bytes;
  request.done = [&](absl::Status status) {
    result = std::move(status);
    event->Set();
  };
  store.Submit(&request);
  event->Wait();
  return result;
}

}  // namespace

absl::Status BlockingRead(BlockStore& store, Environment& environment, uint64_t offset_bytes, void* buffer,
                          uint64_t length_bytes) {
  return TransferAll(store, environment, Request::Op::kRead, /*fua=*/false, offset_bytes,
                     static_cast<std::byte*>(buffer), length_bytes);
}

absl::Status BlockingWrite(BlockStore& store, Environment& environment, uint64_t offset_bytes, const void* buffer,
                           uint64_t length_bytes, bool fua) {
  // One flush behind many pieces is cheaper than many FUA writes.
  const bool use_fua = fua && store.geometry().fua && length_bytes <= store.geometry().max_request_bytes;
  RETURN_IF_ERROR(TransferAll(store, environment, Request::Op::kWrite, use_fua, offset_bytes,
                              static_cast<std::byte*>(const_cast<void*>(buffer)), length_bytes));
  return fua && !use_fua ? BlockingFlush(store, environment) : absl::OkStatus();
}

absl::Status BlockingZero(BlockStore& store, Environment& environment, uint64_t offset_bytes, uint64_t length_bytes) {
  if (length_bytes == 0) return absl::OkStatus();
  return RunOne(store, environment, Request::Op::kZero, offset_bytes, length_bytes);
}

absl::Status BlockingFlush(BlockStore& store, Environment& environment) {
  return RunOne(store, environment, Request::Op::kFlush, 0, 0);
}

}  // namespace stagefs::sal

// BufferPool: the memory that requests arrive in and read replies leave from.
//
// Bounded: when it is used up, Take() waits, and with it the thread that would have received the next request. That is
// the front end's backpressure.
//
// Two sizes: many small buffers, so that a deep queue of 4 KiB requests does not use up the large ones, and a few large
// ones for requests of up to 1 MiB. Memory is touched, and so becomes resident, only when first used.
//
// Thread-safe.

#ifndef STAGEFS_FS_FUSE_BUFFER_POOL_H_
#define STAGEFS_FS_FUSE_BUFFER_POOL_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "sal/mutex.h"

namespace stagefs::fuse {

class BufferPool;

// A buffer of the pool; goes back to it when destroyed. Movable, not copyable. Empty after a move.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), data_(other.data_), size_bytes_(other.size_bytes_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }
  ~Buffer();

  bool empty() const { return pool_ == nullptr; }
  // Aligned to 4096 bytes. In front of a large buffer lie kHeadroomBytes that belong to it, too.
  std::byte* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }

 private:
  friend class BufferPool;
  Buffer(BufferPool* pool, std::byte* data, size_t size_bytes) : pool_(pool), data_(data), size_bytes_(size_bytes) {}

  BufferPool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

class BufferPool {
 public:
  static constexpr size_t kSmallBytes = 16 << 10;
  static constexpr size_t kLargeBytes = 1 << 20;
  static constexpr size_t kHeadroomBytes = 4096;

  BufferPool(size_t small_count, size_t large_count);
  ~BufferPool();  // every buffer must be back
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // A buffer of at least `bytes`, which is at most kLargeBytes. Waits until there is one.
  Buffer Take(size_t bytes);
  size_t idle_count() const;

 private:
  friend class Buffer;
  struct SizeClass {
    std::vector<std::byte*> idle;  // the last one given back is the first to go: its memory is warm
    CondVar returned;
  };

  void GiveBack(std::byte* data, size_t size_bytes);

  // Constant after construction.
  const size_t small_count_, large_count_;
  std::byte* area_ = nullptr;
  size_t area_bytes_ = 0;

  mutable Mutex mutex_;
  SizeClass small_ ABSL_GUARDED_BY(mutex_);
  SizeClass large_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_BUFFER_POOL_H_

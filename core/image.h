// Image: the content of one block in memory. Immutable once it is shared: a change makes a new one, so a destage or a
// reader that holds the old one has a private snapshot for nothing.

#ifndef STAGEFS_CORE_IMAGE_H_
#define STAGEFS_CORE_IMAGE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/aligned_memory.h"
#include "core/first_touch.h"
#include "core/types.h"
#include "sal/mutex.h"

namespace stagefs::core {

class ImagePool;

// A counted reference to an image. Thread-safe as a shared_ptr is: different references, any threads.
class ImageRef {
 public:
  ImageRef() = default;
  ImageRef(const ImageRef& other);
  ImageRef(ImageRef&& other) noexcept : pool_(other.pool_), index_(other.index_) { other.pool_ = nullptr; }
  ImageRef& operator=(ImageRef other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(index_, other.index_);
    return *this;
  }
  ~ImageRef();

  explicit operator bool() const { return pool_ != nullptr; }
  std::byte* data() const;  // kBlockBytes, aligned to kBlockBytes
  friend bool operator==(const ImageRef& a, const ImageRef& b) {
    return a.pool_ == b.pool_ && (a.pool_ == nullptr || a.index_ == b.index_);
  }

 private:
  friend class ImagePool;
  ImageRef(ImagePool* pool, uint32_t index) : pool_(pool), index_(index) {}

  ImagePool* pool_ = nullptr;
  uint32_t index_ = 0;
};

// A fixed number of images in one piece of memory. Thread-safe.
class ImagePool {
 public:
  explicit ImagePool(uint32_t image_count);
  ~ImagePool();  // all references must be gone
  ImagePool(const ImagePool&) = delete;
  ImagePool& operator=(const ImagePool&) = delete;

  // An image of undefined content, or null if all are in use.
  ImageRef Allocate();
  uint32_t free_count() const;
  uint32_t image_count() const { return image_count_; }
  absl::Span<std::byte> memory() const { return memory_.span(); }
  FirstTouch& first_touch() { return first_touch_; }

 private:
  friend class ImageRef;
  void Free(uint32_t index);

  const uint32_t image_count_;
  AlignedMemory memory_;
  FirstTouch first_touch_;
  std::vector<std::atomic<uint32_t>> references_;
  mutable Mutex mutex_;
  std::vector<uint32_t> free_ ABSL_GUARDED_BY(mutex_);
};

inline ImageRef::ImageRef(const ImageRef& other) : pool_(other.pool_), index_(other.index_) {
  if (pool_ != nullptr) pool_->references_[index_].fetch_add(1, std::memory_order_relaxed);
}

inline ImageRef::~ImageRef() {
  if (pool_ != nullptr && pool_->references_[index_].fetch_sub(1, std::memory_order_acq_rel) == 1) pool_->Free(index_);
}

inline std::byte* ImageRef::data() const { return pool_->memory_.data() + uint64_t{index_} * kBlockBytes; }

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_IMAGE_H_

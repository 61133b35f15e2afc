#include "core/image.h"

#include "sal/check.h"

namespace stagefs::core {

ImagePool::ImagePool(uint32_t image_count)
    : image_count_(image_count), memory_(image_count * kBlockBytes), first_touch_(memory_.span()), references_(image_count) {
  free_.reserve(image_count);
  for (uint32_t i = image_count; i-- > 0;) free_.push_back(i);
}

ImagePool::~ImagePool() { STAGEFS_CHECK(free_count() == image_count_); }

ImageRef ImagePool::Allocate() {
  MutexLock lock(&mutex_);
  if (free_.empty()) return ImageRef();
  const uint32_t index = free_.back();
  free_.pop_back();
  first_touch_.Uses((uint64_t{index} + 1) * kBlockBytes);
  references_[index].store(1, std::memory_order_relaxed);
  return ImageRef(this, index);
}

uint32_t ImagePool::free_count() const {
  MutexLock lock(&mutex_);
  return free_.size();
}

void ImagePool::Free(uint32_t index) {
  MutexLock lock(&mutex_);
  free_.push_back(index);
}

}  // namespace stagefs::core

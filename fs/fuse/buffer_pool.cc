#include "fs/fuse/buffer_pool.h"

#include <sys/mman.h>

#include "sal/check.h"

namespace stagefs::fuse {

Buffer::~Buffer() {
  if (pool_ != nullptr) pool_->GiveBack(data_, size_bytes_);
}

BufferPool::BufferPool(size_t small_count, size_t large_count) : small_count_(small_count), large_count_(large_count) {
  area_bytes_ = small_count * kSmallBytes + large_count * (kHeadroomBytes + kLargeBytes);
  void* area = mmap(nullptr, area_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  STAGEFS_CHECK(area != MAP_FAILED);
  area_ = static_cast<std::byte*>(area);
  std::byte* next = area_;
  MutexLock lock(&mutex_);
  for (size_t i = 0; i < small_count; ++i, next += kSmallBytes) small_.idle.push_back(next);
  for (size_t i = 0; i < large_count; ++i, next += kHeadroomBytes + kLargeBytes) {
    large_.idle.push_back(next + kHeadroomBytes);
  }
}

BufferPool::~BufferPool() {
  STAGEFS_CHECK(idle_count() == small_count_ + large_count_);
  munmap(area_, area_bytes_);
}

Buffer BufferPool::Take(size_t bytes) {
  STAGEFS_CHECK(bytes <= kLargeBytes);
  const bool is_small = bytes <= kSmallBytes;
  MutexLock lock(&mutex_);
  SizeClass& size_class = is_small ? small_ : large_;
  while (size_class.idle.empty()) size_class.returned.Wait(&mutex_);
  std::byte* data = size_class.idle.back();
  size_class.idle.pop_back();
  return Buffer(this, data, is_small ? kSmallBytes : kLargeBytes);
}

void BufferPool::GiveBack(std::byte* data, size_t size_bytes) {
  MutexLock lock(&mutex_);
  SizeClass& size_class = size_bytes == kSmallBytes ? small_ : large_;
  size_class.idle.push_back(data);
  size_class.returned.SignalOne();
}

size_t BufferPool::idle_count() const {
  MutexLock lock(&mutex_);
  return small_.idle.size() + large_.idle.size();
}

}  // namespace stagefs::fuse

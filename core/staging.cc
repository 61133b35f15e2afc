#include "core/staging.h"

#include "core/checksum.h"
#include "sal/check.h"

namespace stagefs::core {
namespace {

constexpr uint64_t kSmallestBytes = 64 << 10;

}  // namespace

std::shared_ptr<StagedBuffer> StagingMemory::Allocate(uint64_t block_count) {
  int size_class = 0;
  while ((kSmallestBytes << size_class) < block_count * kBlockBytes) ++size_class;
  STAGEFS_CHECK(block_count > 0 && size_class < kClasses);
  const uint64_t size_bytes = kSmallestBytes << size_class;

  AlignedMemory memory;
  {
    MutexLock lock(&mutex_);
    if (used_bytes_ + size_bytes > limit_bytes_) return nullptr;
    used_bytes_ += size_bytes;
    if (!kept_[size_class].empty()) {
      memory = std::move(kept_[size_class].back());
      kept_[size_class].pop_back();
    } else {
      // Give kept buffers of other sizes back to the kernel rather than hold more than the limit.
      for (int other = 0; held_bytes_ + size_bytes > limit_bytes_ && other < kClasses; ++other) {
        while (!kept_[other].empty() && held_bytes_ + size_bytes > limit_bytes_) {
          kept_[other].pop_back();
          held_bytes_ -= kSmallestBytes << other;
        }
      }
      held_bytes_ += size_bytes;
    }
  }
  if (memory.data() == nullptr) memory = AlignedMemory(size_bytes);
  return std::shared_ptr<StagedBuffer>(
      new StagedBuffer(shared_from_this(), std::move(memory), size_class, block_count));
}

void StagingMemory::WhenAvailable(absl::AnyInvocable<void() &&> retry) {
  {
    MutexLock lock(&mutex_);
    if (used_bytes_ > 0 && !nobody_waits_) {
      waiting_.push_back(std::move(retry));
      return;
    }
  }
  std::move(retry)();
}

void StagingMemory::StopWaiting() {
  std::vector<absl::AnyInvocable<void() &&>> waiting;
  {
    MutexLock lock(&mutex_);
    nobody_waits_ = true;
    waiting.swap(waiting_);
  }
  for (auto& retry : waiting) std::move(retry)();
}

void StagingMemory::Free(AlignedMemory memory, int size_class) {
  std::vector<absl::AnyInvocable<void() &&>> waiting;
  {
    MutexLock lock(&mutex_);
    used_bytes_ -= kSmallestBytes << size_class;
    kept_[size_class].push_back(std::move(memory));
    waiting.swap(waiting_);
  }
  for (auto& retry : waiting) std::move(retry)();
}

uint64_t StagingMemory::used_bytes() const {
  MutexLock lock(&mutex_);
  return used_bytes_;
}

StagedBuffer::~StagedBuffer() { owner_->Free(std::move(memory_), size_class_); }

void StagedBuffer::Seal() {
  content_hashes_.resize(block_count_);
  for (uint64_t i = 0; i < block_count_; ++i) content_hashes_[i] = ContentHash(block(i));
}

}  // namespace stagefs::core

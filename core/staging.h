// StagingMemory: buffers for extents on their way to the store, bounded in sum.
//
// Buffers come in powers of two from 64 KiB to 2 MiB and are kept for reuse: touching fresh pages for every write would
// cost more than copying the data.

#ifndef STAGEFS_CORE_STAGING_H_
#define STAGEFS_CORE_STAGING_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/aligned_memory.h"
#include "core/engine.h"
#include "sal/mutex.h"

namespace stagefs::core {

class StagedBuffer;

// Thread-safe. Buffers may outlive the StagingMemory object's owner only as long as they hold the shared state.
class StagingMemory : public std::enable_shared_from_this<StagingMemory> {
 public:
  explicit StagingMemory(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // Null when the limit is reached; then `retry` of WhenAvailable() runs once after a buffer came back.
  std::shared_ptr<StagedBuffer> Allocate(uint64_t block_count);
  void WhenAvailable(absl::AnyInvocable<void() &&> retry);
  // Buffers may never come back from here on: whoever waits, and will wait, is called at once.
  void StopWaiting();

  uint64_t used_bytes() const;
  uint64_t limit_bytes() const { return limit_bytes_; }

 private:
  friend class StagedBuffer;
  static constexpr int kClasses = 6;  // 64 KiB << 0 to 5
  void Free(AlignedMemory memory, int size_class);

  const uint64_t limit_bytes_;
  mutable Mutex mutex_;
  uint64_t used_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // handed out
  uint64_t held_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // handed out or kept
  std::array<std::vector<AlignedMemory>, kClasses> kept_ ABSL_GUARDED_BY(mutex_);
  std::vector<absl::AnyInvocable<void() &&>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool nobody_waits_ ABSL_GUARDED_BY(mutex_) = false;
};

class StagedBuffer : public StagedData {
 public:
  ~StagedBuffer() override;

  absl::Span<std::byte> bytes() override { return {memory_.data(), block_count_ * kBlockBytes}; }
  uint64_t block_count() const override { return block_count_; }
  void Seal() override;

  const std::byte* block(uint64_t index) const { return memory_.data() + index * kBlockBytes; }
  // ContentHash of a block. Requires Seal().
  uint64_t content_hash(uint64_t index) const { return content_hashes_[index]; }
  bool sealed() const { return !content_hashes_.empty(); }

 private:
  friend class StagingMemory;
  StagedBuffer(std::shared_ptr<StagingMemory> owner, AlignedMemory memory, int size_class, uint64_t block_count)
      : owner_(std::move(owner)), memory_(std::move(memory)), size_class_(size_class), block_count_(block_count) {}

  const std::shared_ptr<StagingMemory> owner_;
  AlignedMemory memory_;
  const int size_class_;
  const uint64_t block_count_;
  std::vector<uint64_t> content_hashes_;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_STAGING_H_

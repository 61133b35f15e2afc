// StagingMemory: buffers for extents on their way to the store, bounded in sum.
//
// They are cut out of one area and used again and again: touching fresh pages for every write would cost more than
// copying the data. A buffer has a power of two of units and begins at a multiple of its size, so that those of one size
// fill the gaps of another. The lowest gap is taken first: a small load touches little of the area.

#ifndef STAGEFS_CORE_STAGING_H_
#define STAGEFS_CORE_STAGING_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "core/aligned_memory.h"
#include "core/engine.h"
#include "core/first_touch.h"
#include "sal/mutex.h"

namespace stagefs::core {

class StagedBuffer;

// Thread-safe. Buffers may outlive the StagingMemory object's owner only as long as they hold the shared state.
class StagingMemory : public std::enable_shared_from_this<StagingMemory> {
 public:
  static constexpr uint64_t kUnitBytes = 64 << 10;
  static constexpr uint64_t kSlabBytes = 32 * kUnitBytes;  // and the largest buffer

  // `limit_bytes` is at least kSlabBytes; what it has beyond a multiple of that is not used.
  explicit StagingMemory(uint64_t limit_bytes);

  // For 1 to kSlabBytes / kBlockBytes blocks. Null when there is no room; then `retry` of WhenAvailable() runs once after
  // a buffer came back.
  std::shared_ptr<StagedBuffer> Allocate(uint64_t block_count);
  void WhenAvailable(absl::AnyInvocable<void() &&> retry);
  // Buffers may never come back from here on: whoever waits, and will wait, is called at once.
  void StopWaiting();

  uint64_t used_bytes() const;
  uint64_t limit_bytes() const { return area_.size(); }
  FirstTouch& first_touch() { return first_touch_; }

 private:
  friend class StagedBuffer;
  void Free(const StagedBuffer& buffer);

  const AlignedMemory area_;
  FirstTouch first_touch_;
  mutable Mutex mutex_;
  uint64_t used_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<uint32_t> free_units_ ABSL_GUARDED_BY(mutex_);  // of each slab: bit i is set if unit i is free
  std::vector<absl::AnyInvocable<void() &&>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool nobody_waits_ ABSL_GUARDED_BY(mutex_) = false;
};

class StagedBuffer : public StagedData {
 public:
  ~StagedBuffer() override;

  absl::Span<std::byte> bytes() override { return {data_, block_count_ * kBlockBytes}; }
  uint64_t block_count() const override { return block_count_; }
  void Seal() override;

  const std::byte* block(uint64_t index) const { return data_ + index * kBlockBytes; }
  // ContentHash of a block. Requires Seal().
  uint64_t content_hash(uint64_t index) const { return content_hashes_[index]; }
  bool sealed() const { return !content_hashes_.empty(); }

 private:
  friend class StagingMemory;
  StagedBuffer(std::shared_ptr<StagingMemory> owner, std::byte* data, uint64_t block_count)
      : owner_(std::move(owner)), data_(data), block_count_(block_count) {}

  const std::shared_ptr<StagingMemory> owner_;
  std::byte* const data_;
  const uint64_t block_count_;
  std::vector<uint64_t> content_hashes_;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_STAGING_H_

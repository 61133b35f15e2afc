// TransferBuffers: block-aligned memory for bytes on their way between a client and the volume, kept for the next use.
//
// Not thread-safe: belongs to a data path's thread.

#ifndef STAGEFS_FS_DSA_TRANSFER_BUFFERS_H_
#define STAGEFS_FS_DSA_TRANSFER_BUFFERS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "sal/check.h"

namespace stagefs::dsa {

class TransferBuffers {
 public:
  static constexpr uint64_t kSmallestBytes = 4096;
  static constexpr size_t kSizes = 10;  // powers of two: 4 KiB to 2 MiB

  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), memory_(std::exchange(other.memory_, nullptr)),
          index_(other.index_), used_(other.used_) {}
    Buffer& operator=(Buffer&& other) noexcept {
      std::swap(pool_, other.pool_);
      std::swap(memory_, other.memory_);
      std::swap(index_, other.index_);
      std::swap(used_, other.used_);
      return *this;
    }
    ~Buffer() { Reset(); }
    void Reset() {
      if (pool_ != nullptr) pool_->Give(memory_, index_);
      pool_ = nullptr;
    }

    bool empty() const { return pool_ == nullptr; }
    std::byte* data() const { return memory_; }
    uint64_t size() const { return used_; }
    absl::Span<const std::byte> bytes() const { return absl::MakeConstSpan(memory_, used_); }

   private:
    friend class TransferBuffers;
    TransferBuffers* pool_ = nullptr;
    std::byte* memory_ = nullptr;
    size_t index_ = 0;
    uint64_t used_ = 0;
  };

  TransferBuffers() = default;
  ~TransferBuffers() {
    for (auto& list : free_) {
      for (std::byte* const memory : list) std::free(memory);
    }
  }
  TransferBuffers(const TransferBuffers&) = delete;

  // `size_bytes`: at most 2 MiB.
  Buffer Take(uint64_t size_bytes) {
    Buffer buffer;
    while ((kSmallestBytes << buffer.index_) < size_bytes) ++buffer.index_;
    std::vector<std::byte*>& list = free_[buffer.index_];
    buffer.pool_ = this;
    buffer.used_ = size_bytes;
    if (list.empty()) {
      buffer.memory_ = static_cast<std::byte*>(std::aligned_alloc(kSmallestBytes, kSmallestBytes << buffer.index_));
      STAGEFS_CHECK(buffer.memory_ != nullptr);
    } else {
      buffer.memory_ = list.back();
      list.pop_back();
      kept_bytes_ -= kSmallestBytes << buffer.index_;
    }
    return buffer;
  }

 private:
  static constexpr uint64_t kMaxKeptBytes = 16 << 20;

  void Give(std::byte* memory, size_t index) {
    if (kept_bytes_ + (kSmallestBytes << index) > kMaxKeptBytes) return std::free(memory);
    kept_bytes_ += kSmallestBytes << index;
    free_[index].push_back(memory);
  }

  uint64_t kept_bytes_ = 0;
  std::array<std::vector<std::byte*>, kSizes> free_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_TRANSFER_BUFFERS_H_

// AlignedMemory: page-aligned memory straight from the kernel, in huge pages if it is large (sal/mapped_memory.h).
// Untouched pages cost nothing; what it holds at first is undefined.

#ifndef STAGEFS_CORE_ALIGNED_MEMORY_H_
#define STAGEFS_CORE_ALIGNED_MEMORY_H_

#include <cstddef>
#include <utility>

#include "absl/types/span.h"

namespace stagefs::core {

class AlignedMemory {
 public:
  AlignedMemory() = default;
  explicit AlignedMemory(size_t size_bytes);
  ~AlignedMemory();
  AlignedMemory(AlignedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  AlignedMemory& operator=(AlignedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }

  std::byte* data() const { return data_; }
  size_t size() const { return size_bytes_; }
  // For tests, which open thousands of engines, one after the other: from now on memory that is given back is kept, and
  // handed out again to whoever wants as much. It is then not faulted in anew. Thread-safe.
  static void KeepForReuse();

  absl::Span<std::byte> span() const { return {data_, size_bytes_}; }

 private:
  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_ALIGNED_MEMORY_H_

#include "core/aligned_memory.h"

#include <sys/mman.h>

#include "sal/check.h"

namespace stagefs::core {

AlignedMemory::AlignedMemory(size_t size_bytes) : size_bytes_(size_bytes) {
  void* const memory =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  STAGEFS_CHECK(memory != MAP_FAILED);
  data_ = static_cast<std::byte*>(memory);
}

AlignedMemory::~AlignedMemory() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

}  // namespace stagefs::core

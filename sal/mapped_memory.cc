#include "sal/mapped_memory.h"

#include <sys/mman.h>

#include <cstdint>

#include "sal/check.h"

// For what is no race, whatever else touches the memory. Clang's no_sanitize("thread") leaves atomic operations in.
#if defined(__clang__)
#define UNSEEN_BY_TSAN __attribute__((disable_sanitizer_instrumentation))
#else
#define UNSEEN_BY_TSAN __attribute__((no_sanitize("thread")))
#endif

namespace stagefs::sal {
namespace {

constexpr size_t kPageBytes = 4096;

size_t ToWholePages(size_t size_bytes) { return (size_bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

void Unmap(std::byte* memory, size_t size_bytes) {
  if (size_bytes > 0) STAGEFS_CHECK(munmap(memory, size_bytes) == 0);
}

}  // namespace

std::byte* MapMemory(size_t size_bytes) {
  const size_t wanted = ToWholePages(size_bytes);
  const size_t slack = wanted < kHugePageBytes ? 0 : kHugePageBytes - kPageBytes;  // so that it can be aligned
  void* const mapped =
      mmap(nullptr, wanted + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  std::byte* const area = static_cast<std::byte*>(mapped);
  if (slack == 0) return area;
  const size_t before = -reinterpret_cast<uintptr_t>(area) % kHugePageBytes;
  Unmap(area, before);
  Unmap(area + before + wanted, slack - before);
  madvise(area + before, wanted, MADV_HUGEPAGE);  // where there are none, small ones do
  return area + before;
}

// Not MADV_POPULATE_WRITE: it keeps the lock of the whole address space, and a malloc() that needs more memory would wait.
UNSEEN_BY_TSAN void MakeResident(std::byte* memory, size_t size_bytes) {
  for (size_t offset = 0; offset < size_bytes; offset += kPageBytes) {
    // What was never touched is zero, and written as such; anything else was touched. In one step: others may be writing.
    unsigned char zero = 0;
    __atomic_compare_exchange_n(reinterpret_cast<unsigned char*>(memory + offset), &zero, 0, /*weak=*/false,
                                __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  }
}

void UnmapMemory(std::byte* memory, size_t size_bytes) { Unmap(memory, ToWholePages(size_bytes)); }

}  // namespace stagefs::sal

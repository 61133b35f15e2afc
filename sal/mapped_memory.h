// Memory straight from the kernel, for buffers that devices read and write.
//
// Large areas are asked to be made of huge pages: a request of 1 MiB in scattered small pages has more pieces than many
// devices take at once (virtio: 254), and each small page costs a fault when it is first touched.

#ifndef STAGEFS_SAL_MAPPED_MEMORY_H_
#define STAGEFS_SAL_MAPPED_MEMORY_H_

#include <cstddef>

namespace stagefs::sal {

// The size and alignment of a huge page.
inline constexpr size_t kHugePageBytes = 2 << 20;

// Maps `size_bytes` of zeros, aligned to a page, and to kHugePageBytes if it is that large. What is not touched is not
// resident; what is touched may become so a huge page at a time. Null if there is no room. Thread-safe.
std::byte* MapMemory(size_t size_bytes);
// Gives back what MapMemory(size_bytes) has returned.
void UnmapMemory(std::byte* memory, size_t size_bytes);

// Makes that part of such an area resident, with the content it has. Thread-safe, beside any use of the memory.
void MakeResident(std::byte* memory, size_t size_bytes);

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_MAPPED_MEMORY_H_

#include "sal/mapped_memory.h"

#include <algorithm>
#include <cstdint>

#include "gtest/gtest.h"

namespace stagefs::sal {
namespace {

TEST(MappedMemoryTest, IsZerosFromEndToEndAndAligned) {
  for (const size_t size : {size_t{1}, size_t{4096}, size_t{5000}, kHugePageBytes - 1, kHugePageBytes,
                            3 * kHugePageBytes + 12345}) {
    std::byte* const memory = MapMemory(size);
    ASSERT_NE(memory, nullptr);
    const size_t alignment = size < kHugePageBytes - 4095 ? 4096 : kHugePageBytes;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % alignment, 0) << size;
    EXPECT_TRUE(std::all_of(memory, memory + size, [](std::byte byte) { return byte == std::byte{0}; })) << size;
    std::fill(memory, memory + size, std::byte{0x5a});
    UnmapMemory(memory, size);
  }
}

TEST(MappedMemoryTest, AreasDoNotOverlap) {
  std::byte* const first = MapMemory(kHugePageBytes);
  std::byte* const second = MapMemory(kHugePageBytes);
  std::fill(first, first + kHugePageBytes, std::byte{1});
  std::fill(second, second + kHugePageBytes, std::byte{2});
  EXPECT_TRUE(std::all_of(first, first + kHugePageBytes, [](std::byte byte) { return byte == std::byte{1}; }));
  UnmapMemory(first, kHugePageBytes);
  EXPECT_EQ(second[kHugePageBytes - 1], std::byte{2});
  UnmapMemory(second, kHugePageBytes);
}

TEST(MappedMemoryTest, NoRoomIsNull) { EXPECT_EQ(MapMemory(SIZE_MAX / 2), nullptr); }

}  // namespace
}  // namespace stagefs::sal

#include "fs/fuse/buffer_pool.h"

#include <atomic>
#include <cstring>
#include <thread>

#include "gtest/gtest.h"

namespace stagefs::fuse {
namespace {

TEST(BufferPoolTest, BuffersAreAlignedToPagesAndLargeOnesHaveHeadroom) {
  BufferPool pool(2, 2);
  const Buffer small = pool.Take(100);
  const Buffer large = pool.Take(BufferPool::kLargeBytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(small.data()) % 4096, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.data()) % 4096, 0u);
  EXPECT_EQ(small.size_bytes(), BufferPool::kSmallBytes);
  EXPECT_EQ(large.size_bytes(), BufferPool::kLargeBytes);
  std::memset(small.data(), 1, small.size_bytes());
  std::memset(large.data() - BufferPool::kHeadroomBytes, 2, BufferPool::kHeadroomBytes + BufferPool::kLargeBytes);
  EXPECT_EQ(small.data()[small.size_bytes() - 1], std::byte{1});
}

TEST(BufferPoolTest, ABufferGoesBackOnceHoweverOftenItMoved) {
  BufferPool pool(1, 1);
  {
    Buffer first = pool.Take(1);
    Buffer second = std::move(first);
    EXPECT_TRUE(first.empty());
    Buffer third;
    third = std::move(second);
    EXPECT_FALSE(third.empty());
    EXPECT_EQ(pool.idle_count(), 1u);
  }
  EXPECT_EQ(pool.idle_count(), 2u);
}

TEST(BufferPoolTest, TakingFromAnEmptyPoolWaitsForAReturnOfThatSize) {
  BufferPool pool(1, 1);
  Buffer held = pool.Take(BufferPool::kLargeBytes);
  std::atomic<bool> released = false;
  std::thread taker([&] {
    const Buffer taken = pool.Take(BufferPool::kSmallBytes + 1);
    EXPECT_TRUE(released.load());
  });
  const Buffer unaffected = pool.Take(BufferPool::kSmallBytes);
  released = true;
  held = Buffer();
  taker.join();
}

}  // namespace
}  // namespace stagefs::fuse

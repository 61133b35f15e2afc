#include "core/block_cache.h"

#include <vector>

#include "core/checksum_table.h"
#include "core/image.h"
#include "gtest/gtest.h"

namespace stagefs::core {
namespace {

constexpr uint32_t kImages = 64;

// A cache full of clean blocks, the last one the newest.
class BlockCacheTest : public ::testing::Test {
 protected:
  BlockCacheTest() {
    table_.Insert(0, table_images_.Allocate());
    for (Block block = 0; block < kImages; ++block) cache_.InsertClean(block, images_.Allocate(), false);
  }
  // New blocks come in, as many others go.
  void Insert(uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) cache_.InsertClean(next_++, cache_.Allocate(), false);
  }

  ImagePool images_{kImages};
  ImagePool table_images_{3};
  ChecksumTable table_{&table_images_, 1};
  BlockCache cache_{&images_, &table_};
  Block next_ = kImages;
};

TEST_F(BlockCacheTest, TheLeastRecentlyUsedGoesFirst) {
  EXPECT_NE(cache_.Find(0), nullptr);
  Insert(1);
  EXPECT_NE(cache_.Find(0), nullptr);
  EXPECT_EQ(cache_.Find(1), nullptr);
  EXPECT_NE(cache_.Find(2), nullptr);
}

TEST_F(BlockCacheTest, WhatIsUsedNowAndThenStays) {
  for (int i = 0; i < 100; ++i) {
    ASSERT_NE(cache_.Find(0), nullptr) << i;
    Insert(kImages / 2);
  }
}

TEST_F(BlockCacheTest, DirtyAndPinnedBlocksStay) {
  cache_.SetDirty(0, cache_.Find(0)->image, /*lsn=*/1);
  cache_.Pin(cache_.Find(1));
  Insert(2 * kImages);
  EXPECT_EQ(cache_.dirty_count(), 1);
  EXPECT_NE(cache_.Find(0), nullptr);
  ASSERT_NE(cache_.Find(1), nullptr);
  cache_.Unpin(1, cache_.Find(1)->incarnation);
  Insert(2 * kImages);
  EXPECT_EQ(cache_.Find(1), nullptr);
}

TEST_F(BlockCacheTest, WhatIsHomeIsCleanUnlessItWasChangedSince) {
  std::vector<BlockCache::DirtyImage> images;
  for (Block block = 0; block < 3; ++block) cache_.SetDirty(block, cache_.Find(block)->image, /*lsn=*/1 + block);
  cache_.GetDirtyImages(&images);
  ASSERT_EQ(images.size(), 3);
  cache_.SetDirty(1, cache_.Find(1)->image, /*lsn=*/9);
  for (const BlockCache::DirtyImage& image : images) cache_.MarkHome(image);
  EXPECT_EQ(cache_.dirty_count(), 1);
  EXPECT_TRUE(cache_.Find(1)->dirty);
}

TEST_F(BlockCacheTest, AnotherLifeOfABlockIsNotTheOneOfAnImage) {
  cache_.SetDirty(0, cache_.Find(0)->image, /*lsn=*/1);
  std::vector<BlockCache::DirtyImage> images;
  cache_.GetDirtyImages(&images);
  EXPECT_EQ(BlockCache::EntryOf(images[0]), cache_.Find(0));
  cache_.Erase({0, 1});
  EXPECT_EQ(BlockCache::EntryOf(images[0]), nullptr);
  cache_.SetDirty(0, cache_.Allocate(), /*lsn=*/1);  // most likely in the same place
  EXPECT_EQ(BlockCache::EntryOf(images[0]), nullptr);
  cache_.MarkHome(images[0]);
  EXPECT_EQ(cache_.dirty_count(), 1);
}

}  // namespace
}  // namespace stagefs::core

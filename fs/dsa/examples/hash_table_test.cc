#include "fs/dsa/examples/hash_table.h"

#include <errno.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::examples {
namespace {

using Content = std::map<std::string, std::string>;

// Memory, and what has become of it at the last persist: all that a crash leaves.
class HashTableTest : public ::testing::Test {
 protected:
  explicit HashTableTest(size_t size = 512 << 10) : memory_(size), durable_(size) {}

  HashTable Table() {
    return HashTable(memory_, [this] {
      ++persists_;
      if (fail_ != 0) return fail_;
      durable_ = memory_;
      return 0;
    });
  }
  void Crash() { memory_ = durable_; }

  Content All() {
    Content all;
    Table().ForEach([&](std::string_view key, std::string_view value) {
      EXPECT_TRUE(all.emplace(key, value).second) << key << " is there twice";
    });
    EXPECT_EQ(all.size(), Table().size());
    return all;
  }

  std::vector<std::byte> memory_, durable_;
  int persists_ = 0;
  int fail_ = 0;
};

TEST_F(HashTableTest, ZerosAreAnEmptyTable) {
  EXPECT_TRUE(Table().valid());
  EXPECT_EQ(Table().Get("a"), std::nullopt);
  EXPECT_EQ(Table().Delete("a"), -ENOENT);
  EXPECT_TRUE(All().empty());
  EXPECT_EQ(persists_, 0);
}

TEST_F(HashTableTest, SomethingElseIsNoTable) {
  memory_[0] = std::byte{1};
  EXPECT_FALSE(Table().valid());
}

TEST_F(HashTableTest, WhatWasPutIsFoundAfterACrash) {
  ASSERT_EQ(Table().Put("a", "1"), 0);
  ASSERT_EQ(Table().Put("", "empty key"), 0);
  Crash();
  EXPECT_EQ(Table().Get("a"), "1");
  EXPECT_EQ(Table().Get(""), "empty key");
  EXPECT_EQ(Table().Get("b"), std::nullopt);
}

TEST_F(HashTableTest, EachChangeIsOnePersist) {
  for (int i = 0; i < 100; ++i) ASSERT_EQ(Table().Put(std::to_string(i), "v"), 0);
  EXPECT_EQ(persists_, 100);
  ASSERT_EQ(Table().Delete("7"), 0);
  EXPECT_EQ(persists_, 101);
}

TEST_F(HashTableTest, APersistThatFailsChangesNothingDurable) {
  ASSERT_EQ(Table().Put("a", "1"), 0);
  fail_ = -EIO;
  EXPECT_EQ(Table().Put("a", "2"), -EIO);
  Crash();
  EXPECT_EQ(Table().Get("a"), "1");
}

TEST_F(HashTableTest, SpaceOfReplacedAndDeletedEntriesIsUsedAgain) {
  for (int i = 0; i < 3000; ++i) {
    ASSERT_EQ(Table().Put("a", std::string(i % 500, 'x')), 0);
    ASSERT_EQ(Table().Put("b", std::string(1000, 'y')), 0);
    ASSERT_EQ(Table().Delete("b"), 0);
  }
}

TEST_F(HashTableTest, FullMemoryIsSaid) {
  int status = 0;
  for (int i = 0; status == 0; ++i) status = Table().Put(std::to_string(i), std::string(6000, 'x'));
  EXPECT_EQ(status, -ENOSPC);
  Crash();
  EXPECT_GT(All().size(), 8u);
}

TEST_F(HashTableTest, RandomChangesMatchAMap) {
  std::mt19937 random(1);
  Content model;
  for (int i = 0; i < 3000; ++i) {
    const std::string key = std::to_string(random() % 700);
    if (random() % 3 == 0) {
      ASSERT_EQ(Table().Delete(key), model.erase(key) != 0 ? 0 : -ENOENT);
    } else {
      model[key] = std::string(random() % 100, static_cast<char>('a' + i % 26));
      ASSERT_EQ(Table().Put(key, model[key]), 0);
    }
    if (i % 100 == 0) {
      Crash();
      ASSERT_EQ(All(), model) << "after " << i;
    }
  }
}

}  // namespace
}  // namespace stagefs::examples

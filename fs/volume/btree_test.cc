#include "fs/volume/btree.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/btree_node.h"
#include "fs/volume/testing/memory_engine.h"
#include "gtest/gtest.h"
#include "sal/random.h"
#include "sal/simulated_environment.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::Transaction;
using testing::MemoryEngine;

constexpr uint64_t kCapacity = 4096;

// Keeps in block 1: u64 root, u64 height, u64 next new block, u64 number of free blocks, their numbers.
class TestStorage : public BTreeStorage {
 public:
  absl::StatusOr<Root> GetRoot(Transaction& tx) override {
    ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(1));
    return Root{Get(bytes, 0), static_cast<uint32_t>(Get(bytes, 1))};
  }
  absl::Status SetRoot(Transaction& tx, Root root) override {
    ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(1));
    Set(bytes, 0, root.block);
    Set(bytes, 1, root.height);
    return absl::OkStatus();
  }
  absl::StatusOr<Block> AllocateNode(Transaction& tx, Block) override {
    ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(1));
    for (uint64_t i = Get(bytes, 3); i > 0; --i) {
      const Block block = Get(bytes, 3 + i);
      if (tx.Quarantined({block, 1})) continue;
      Set(bytes, 3 + i, Get(bytes, 3 + Get(bytes, 3)));
      Set(bytes, 3, Get(bytes, 3) - 1);
      return block;
    }
    const Block next = std::max<uint64_t>(Get(bytes, 2), 2);
    if (next >= limit) return absl::ResourceExhaustedError("full");
    Set(bytes, 2, next + 1);
    return next;
  }
  absl::Status FreeNode(Transaction& tx, Block block) override {
    ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(1));
    const uint64_t count = Get(bytes, 3) + 1;
    if (count > 500) return absl::InternalError("too many free blocks for this test");
    Set(bytes, 3, count);
    Set(bytes, 3 + count, block);
    tx.Release({block, 1});
    return absl::OkStatus();
  }
  static uint64_t Get(const std::byte* bytes, uint64_t index) {
    uint64_t value;
    std::memcpy(&value, bytes + 8 * index, 8);
    return value;
  }
  static void Set(std::byte* bytes, uint64_t index, uint64_t value) { std::memcpy(bytes + 8 * index, &value, 8); }

  Block limit = kCapacity;
};

std::string ToString(const Key& key) { return absl::StrCat(key.ino, "/", key.kind, "/", key.offset); }

class BTreeTest : public ::testing::Test {
 protected:
  using Model = std::map<Key, std::string>;

  void Start(MemoryEngine::Options options) {
    options.capacity_blocks = kCapacity;
    engine_ = std::make_unique<MemoryEngine>(environment_, options);
    ASSERT_TRUE(Run([this](Transaction& tx) {
                  ASSIGN_OR_RETURN(const Block block, storage_.AllocateNode(tx, 0));
                  return tree_.Format(tx, block);
                }).ok());
  }
  absl::Status Run(core::Engine::Body body) { return engine_->RunAndWait(std::move(body)).status(); }
  absl::Status Put(const Key& key, absl::string_view value) {
    return Run([&](Transaction& tx) { return tree_.Put(tx, key, value); });
  }
  absl::Status Erase(const Key& key) {
    return Run([&](Transaction& tx) { return tree_.Erase(tx, key); });
  }
  void PutBoth(const Key& key, const std::string& value) {
    ASSERT_TRUE(Put(key, value).ok());
    model_[key] = value;
  }
  absl::StatusOr<BTreeStorage::Root> Root() {
    BTreeStorage::Root root;
    RETURN_IF_ERROR(Run([&](Transaction& tx) {
      ASSIGN_OR_RETURN(root, storage_.GetRoot(tx));
      return absl::OkStatus();
    }));
    return root;
  }

  // Checks every invariant of the header; counts nodes and the room they use.
  absl::Status VerifyNode(Transaction& tx, Block block, uint32_t level, bool root, const Key& low,
                          const std::optional<Key>& high) {
    ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(block));
    ASSIGN_OR_RETURN(const NodeView node, NodeView::Open(bytes, block, level));
    RETURN_IF_ERROR(node.CheckAll());
    ++nodes_;
    used_bytes_ += node.live_bytes();
    if (node.count() == 0 && !root) return absl::InternalError(absl::StrCat("node ", block, " is empty"));
    if (root && level > 0 && node.count() < 2) return absl::InternalError("the root has one child");
    for (uint32_t i = 0; i < node.count(); ++i) {
      ASSIGN_OR_RETURN(const Key key, node.KeyAt(i));
      if (key < low || (high.has_value() && key >= *high)) {
        return absl::InternalError(absl::StrCat("key ", ToString(key), " in node ", block, " is out of its range"));
      }
      if (level == 0) continue;
      ASSIGN_OR_RETURN(const Block child, node.ChildAt(i));
      std::optional<Key> child_high = high;
      if (i + 1 < node.count()) {
        ASSIGN_OR_RETURN(child_high, node.KeyAt(i + 1));
      }
      RETURN_IF_ERROR(VerifyNode(tx, child, level - 1, false, key, child_high));
    }
    return absl::OkStatus();
  }
  void Verify() {
    std::vector<std::pair<Key, std::string>> items;
    uint64_t blocks_taken = 0;
    const absl::Status status = Run([&](Transaction& tx) -> absl::Status {
      items.clear();
      nodes_ = used_bytes_ = 0;
      ASSIGN_OR_RETURN(const BTreeStorage::Root root, storage_.GetRoot(tx));
      RETURN_IF_ERROR(VerifyNode(tx, root.block, root.height - 1, true, Key{}, std::nullopt));
      ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(1));
      blocks_taken = TestStorage::Get(bytes, 2) - 2 - TestStorage::Get(bytes, 3);
      return tree_.Scan(tx, Key{}, Key{~0ull, 255, ~0ull}, [&](const BTree::Item& item) {
        items.emplace_back(item.key, std::string(item.value));
        return true;
      });
    });
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(nodes_, blocks_taken) << "nodes were lost, or are used twice";
    ASSERT_EQ(items.size(), model_.size());
    EXPECT_TRUE(std::equal(items.begin(), items.end(), model_.begin(), [](const auto& item, const auto& expected) {
      return item.first == expected.first && item.second == expected.second;
    }));
  }
  // Find, AtOrAfter and AtOrBefore agree with the model about `key`.
  void CheckLookups(const Key& key) {
    std::optional<std::string> found;
    std::optional<Key> after, before;
    ASSERT_TRUE(Run([&](Transaction& tx) {
                  found = std::nullopt;
                  after = before = std::nullopt;
                  ASSIGN_OR_RETURN(const auto value, tree_.Find(tx, key));
                  if (value) found = std::string(*value);
                  ASSIGN_OR_RETURN(const auto next, tree_.AtOrAfter(tx, key));
                  if (next) after = next->key;
                  ASSIGN_OR_RETURN(const auto previous, tree_.AtOrBefore(tx, key));
                  if (previous) before = previous->key;
                  return absl::OkStatus();
                }).ok());
    const auto exact = model_.find(key);
    EXPECT_EQ(found, exact == model_.end() ? std::nullopt : std::optional<std::string>(exact->second));
    const auto next = model_.lower_bound(key);
    EXPECT_TRUE(after == (next == model_.end() ? std::nullopt : std::optional<Key>(next->first)));
    const auto behind = model_.upper_bound(key);
    EXPECT_TRUE(before ==
                (behind == model_.begin() ? std::nullopt : std::optional<Key>(std::prev(behind)->first)));
  }
  std::string RandomValue(sal::Random64& random) {
    const uint64_t kinds[] = {8, 40, 200, BTree::kMaxValueBytes};
    return std::string(random.Below(kinds[random.Below(4)] + 1), static_cast<char>('a' + random.Below(26)));
  }

  sal::SimulatedEnvironment environment_{1};
  std::unique_ptr<MemoryEngine> engine_;
  TestStorage storage_;
  BTree tree_{&storage_, kCapacity};
  Model model_;
  uint64_t nodes_ = 0, used_bytes_ = 0;
};

TEST_F(BTreeTest, KeysStayInOrderUnderRandomChanges) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    sal::Random64 random(seed);
    model_.clear();
    Start({.seed = seed,
           .miss_probability = seed % 3 == 0 ? 0.3 : 0.0,
           .rerun_probability = 0.05,
           .durability = seed % 2 == 0 ? MemoryEngine::Durability::kAtOnce : MemoryEngine::Durability::kWhenAsked});
    const uint64_t inodes = random.Between(1, 12), offsets = random.Between(2, 200);
    const auto random_key = [&] {
      return Key{random.Below(inodes), static_cast<uint8_t>(random.Below(3)), random.Below(offsets)};
    };
    for (int round = 0; round < 6; ++round) {
      // Grows and shrinks in turn.
      const uint64_t erasures = round % 2 == 0 ? 20 : 80;
      for (int i = 0; i < 250; ++i) {
        const Key key = random_key();
        if (random.Below(100) < erasures) {
          const absl::Status status = Erase(key);
          EXPECT_EQ(status.code(), model_.erase(key) == 1 ? absl::StatusCode::kOk : absl::StatusCode::kNotFound);
        } else {
          PutBoth(key, RandomValue(random));
        }
        if (i % 10 == 0) CheckLookups(random_key());
      }
      Verify();
      if (HasFatalFailure()) return;
    }
    while (!model_.empty()) {
      const Key key = std::next(model_.begin(), static_cast<int64_t>(random.Below(model_.size())))->first;
      ASSERT_TRUE(Erase(key).ok());
      model_.erase(key);
    }
    Verify();
    EXPECT_EQ(nodes_, 1u);
    EXPECT_EQ(Root()->height, 1u);
  }
}

TEST_F(BTreeTest, AscendingKeysLeaveFullNodes) {
  Start({});
  for (uint64_t i = 0; i < 20000; ++i) PutBoth({1, 4, i}, "sixteen bytes...");
  Verify();
  EXPECT_GT(static_cast<double>(used_bytes_) / static_cast<double>(nodes_ * kNodeRoomBytes), 0.95);
  EXPECT_EQ(Root()->height, 3u);
}

TEST_F(BTreeTest, DescendingKeysWork) {
  Start({});
  for (uint64_t i = 5000; i > 0; --i) PutBoth({1, 4, i}, "sixteen bytes...");
  Verify();
  EXPECT_GT(static_cast<double>(used_bytes_) / static_cast<double>(nodes_ * kNodeRoomBytes), 0.45);
}

TEST_F(BTreeTest, RandomDeletionsLeaveNoThinNodesBehind) {
  Start({});
  sal::Random64 random(5);
  for (uint64_t i = 0; i < 10000; ++i) PutBoth({1, 4, i}, "sixteen bytes...");
  std::vector<Key> keys;
  for (const auto& [key, value] : model_) keys.push_back(key);
  for (size_t i = keys.size() - 1; i > 0; --i) std::swap(keys[i], keys[random.Below(i + 1)]);
  for (size_t i = 0; i < 9500; ++i) {
    ASSERT_TRUE(Erase(keys[i]).ok());
    model_.erase(keys[i]);
  }
  Verify();
  EXPECT_GT(static_cast<double>(used_bytes_) / static_cast<double>(nodes_ * kNodeRoomBytes), 0.3);
}

TEST_F(BTreeTest, ScansStopAtTheirEndsAndWhenTold) {
  Start({.miss_probability = 0.5});
  for (uint64_t i = 0; i < 1000; ++i) PutBoth({i / 100, 1, i % 100}, "value");
  std::vector<Key> seen;
  const auto scan = [&](const Key& first, const Key& last, size_t limit) {
    return Run([&, limit](Transaction& tx) {
      seen.clear();
      return tree_.Scan(tx, first, last, [&](const BTree::Item& item) {
        seen.push_back(item.key);
        return seen.size() < limit;
      });
    });
  };
  ASSERT_TRUE(scan({3, 1, 50}, {5, 1, 49}, 10000).ok());
  ASSERT_EQ(seen.size(), 200u);
  EXPECT_TRUE(seen.front() == (Key{3, 1, 50}));
  EXPECT_TRUE(seen.back() == (Key{5, 1, 49}));
  ASSERT_TRUE(scan({3, 1, 50}, {5, 1, 49}, 7).ok());
  EXPECT_EQ(seen.size(), 7u);
  ASSERT_TRUE(scan({30, 0, 0}, {40, 0, 0}, 7).ok());
  EXPECT_TRUE(seen.empty());
}

TEST_F(BTreeTest, LongScansOfAColdTreeTakeFewRestarts) {
  Start({});
  for (uint64_t i = 0; i < 5000; ++i) PutBoth({1, 1, i}, "sixteen bytes...");
  MemoryEngine cold(environment_, {.capacity_blocks = kCapacity, .miss_probability = 1}, engine_->Snapshot());
  uint64_t count = 0;
  ASSERT_TRUE(cold.RunAndWait([&](Transaction& tx) {
                    count = 0;
                    return tree_.Scan(tx, Key{}, Key{9, 0, 0}, [&](const BTree::Item&) { return ++count > 0; });
                  }).ok());
  EXPECT_EQ(count, 5000u);
  EXPECT_LT(cold.body_runs(), 10u);  // some 46 leaves
}

TEST_F(BTreeTest, SmallChangesTouchFewBytes) {
  Start({});
  for (uint64_t i = 0; i < 60; ++i) PutBoth({1, 4, 2 * i}, std::string(32, 'x'));
  const auto differing = [&](const Key& key, const std::string& value) {
    const MemoryEngine::State before = engine_->Snapshot();
    EXPECT_TRUE(Put(key, value).ok());
    uint64_t count = 0;
    for (const auto& [block, slot] : engine_->Snapshot()) {
      for (uint64_t i = 0; i < core::kBlockBytes; ++i) count += (*slot.image)[i] != (*before.at(block).image)[i];
    }
    return count;
  };
  EXPECT_EQ(differing({1, 4, 60}, std::string(31, 'x') + "y"), 1u);
  EXPECT_EQ(differing({1, 4, 60}, std::string(31, 'x') + "y"), 0u);
  EXPECT_LE(differing({1, 4, 62}, std::string(8, 'y')), 12u);
  EXPECT_LE(differing({1, 4, 63}, std::string(8, 'y')), 170u);
}

TEST_F(BTreeTest, ANodeLooksAsTheFormatSays) {
  // The example in docs/format-volume.md#the-tree.
  std::array<std::byte, core::kBlockBytes> bytes;
  bytes.fill(std::byte{0xee});
  ASSERT_TRUE(NodeEditor::Format(bytes.data(), 7, 0, 0x1122334455667788).Insert(0, {1, 1, 0}, "ab").ok());
  std::array<uint8_t, core::kBlockBytes> expected = {0x54, 0x52, 0x45, 0x45, 0, 0, 1, 0, 0xeb, 0x0f};
  expected[0x10] = 7;
  for (uint8_t i = 0; i < 8; ++i) expected[0x18 + i] = static_cast<uint8_t>(0x11 * (8 - i));
  expected[0x20] = 0xeb;
  expected[0x21] = 0x0f;
  expected[0xfeb] = 1;
  expected[0xff3] = 1;
  expected[0xffc] = 2;
  expected[0xffe] = 'a';
  expected[0xfff] = 'b';
  EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), bytes.size()), 0);
}

TEST_F(BTreeTest, ValuesThatLieInTheTreeCanBePut) {
  Start({});
  for (uint64_t i = 0; i < 3; ++i) PutBoth({1, 1, i}, std::string(1000, static_cast<char>('a' + i)));
  ASSERT_TRUE(Run([&](Transaction& tx) {
                ASSIGN_OR_RETURN(const auto value, tree_.Find(tx, {1, 1, 2}));
                return tree_.Put(tx, {1, 1, 1}, value->substr(0, 900));
              }).ok());
  ASSERT_TRUE(Run([&](Transaction& tx) {
                ASSIGN_OR_RETURN(const auto value, tree_.Find(tx, {1, 1, 2}));
                return tree_.Put(tx, {1, 1, 1}, *value);
              }).ok());
  model_[{1, 1, 1}] = std::string(1000, 'c');
  Verify();
}

TEST_F(BTreeTest, NoSpaceLeavesTheTreeAsItWas) {
  Start({});
  storage_.limit = 20;
  absl::Status status;
  for (uint64_t i = 0; status.ok(); ++i) {
    const Key key{1, 1, i * 7919 % 10007};
    status = Put(key, std::string(300, 'v'));
    if (status.ok()) model_[key] = std::string(300, 'v');
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  Verify();
}

class CorruptBTreeTest : public BTreeTest {
 protected:
  // Reads and changes all over the tree. Whatever comes out, it must come to an end.
  void Exercise(MemoryEngine& engine, uint64_t seed) {
    sal::Random64 random(seed);
    const auto run = [&](core::Engine::Body body) {
      const absl::Status status = engine.RunAndWait(std::move(body)).status();
      EXPECT_TRUE(status.ok() || absl::IsDataLoss(status) || absl::IsNotFound(status) ||
                  absl::IsInternal(status))
          << status;
    };
    run([&](Transaction& tx) {
      return tree_.Scan(tx, Key{}, Key{~0ull, 255, ~0ull}, [](const BTree::Item&) { return true; });
    });
    for (int i = 0; i < 40; ++i) {
      const Key key{random.Below(5), 1, random.Below(200)};
      run([&](Transaction& tx) {
        RETURN_IF_ERROR(tree_.AtOrAfter(tx, key).status());
        return tree_.AtOrBefore(tx, key).status();
      });
      const std::string value = RandomValue(random);
      run([&](Transaction& tx) { return i % 2 == 0 ? tree_.Put(tx, key, value) : tree_.Erase(tx, key); });
    }
  }
};

TEST_F(CorruptBTreeTest, EveryHeaderFieldIsChecked) {
  Start({});
  for (uint64_t i = 0; i < 300; ++i) PutBoth({1, 1, i}, "sixteen bytes...");
  const BTreeStorage::Root root = *Root();
  ASSERT_EQ(root.height, 2u);
  struct Field {
    uint64_t offset;
    std::vector<std::byte> bytes;
  };
  const std::vector<Field> fields = {
      {kNodeMagicOffset, {std::byte{0}}},
      {kNodeLevelOffset, {std::byte{7}}},
      {kNodeCountOffset, {std::byte{0xff}, std::byte{0xff}}},
      {kNodeCountOffset, {std::byte{193}}},
      {kNodeHeapOffset, {std::byte{1}, std::byte{0}}},
      {kNodeHeapOffset, {std::byte{0}, std::byte{0xff}}},
      {kNodeGarbageOffset, {std::byte{0}, std::byte{0x10}}},
      {kNodeBlockOffset, {std::byte{0xee}}},
      {kNodeHeaderBytes, {std::byte{0}, std::byte{0}}},
      {kNodeHeaderBytes, {std::byte{0xff}, std::byte{0xff}}},
      {kNodeHeaderBytes, {std::byte{0xfe}, std::byte{0x0f}}},
  };
  for (const Field& field : fields) {
    SCOPED_TRACE(absl::StrCat("offset ", field.offset));
    MemoryEngine engine(environment_, {.capacity_blocks = kCapacity}, engine_->Snapshot());
    engine.Poke(root.block * core::kBlockBytes + field.offset, field.bytes);
    const absl::Status status =
        engine.RunAndWait([&](Transaction& tx) {
                return tree_.Scan(tx, Key{}, Key{9, 0, 0}, [](const BTree::Item&) { return true; });
              }).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_NE(status.message().find(absl::StrCat("block ", root.block)), absl::string_view::npos) << status;
  }
}

TEST_F(CorruptBTreeTest, ChildrenBeyondTheCapacityAndCyclesAreDataLoss) {
  Start({});
  for (uint64_t i = 0; i < 300; ++i) PutBoth({1, 1, i}, "sixteen bytes...");
  const BTreeStorage::Root root = *Root();
  for (const Block child : {kCapacity, ~uint64_t{0}, root.block, Block{1}}) {
    MemoryEngine engine(environment_, {.capacity_blocks = kCapacity}, engine_->Snapshot());
    // The last cell of the block is the root's first item: its value ends the block.
    engine.Poke((root.block + 1) * core::kBlockBytes - 8,
                {reinterpret_cast<const std::byte*>(&child), sizeof(child)});
    EXPECT_TRUE(absl::IsDataLoss(
        engine.RunAndWait([&](Transaction& tx) { return tree_.Find(tx, {1, 1, 0}).status(); }).status()));
  }
}

TEST_F(CorruptBTreeTest, RandomBytesNeverCrashAWalk) {
  Start({});
  sal::Random64 fill(3);
  for (uint64_t i = 0; i < 400; ++i) PutBoth({fill.Below(5), 1, fill.Below(200)}, RandomValue(fill));
  ASSERT_GE(Root()->height, 2u);
  std::vector<Block> blocks;
  const MemoryEngine::State state = engine_->Snapshot();
  for (const auto& [block, slot] : state) {
    if (block > 1 && slot.use == MemoryEngine::Slot::Use::kInUse) blocks.push_back(block);
  }
  std::sort(blocks.begin(), blocks.end());
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    sal::Random64 random(seed);
    MemoryEngine engine(environment_, {.capacity_blocks = kCapacity}, state);
    for (uint64_t flips = random.Between(1, 20); flips > 0; --flips) {
      // Mostly headers and slots, where it hurts.
      const uint64_t offset = random.OneIn(3) ? random.Below(core::kBlockBytes) : random.Between(4, 80);
      const std::byte value{static_cast<uint8_t>(random.Next())};
      engine.Poke(blocks[random.Below(blocks.size())] * core::kBlockBytes + offset, {&value, 1});
    }
    Exercise(engine, seed);
  }
}

}  // namespace
}  // namespace stagefs::volume

// Power fails at each request of a repair to the store: the next repair mends the volume all the same, and nothing is
// lost that the first one would have kept.

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/engine.h"
#include "fs/volume/allocator.h"
#include "fs/volume/btree.h"
#include "fs/volume/btree_node.h"
#include "fs/volume/check.h"
#include "fs/volume/format.h"
#include "fs/volume/header.h"
#include "fs/volume/volume.h"
#include "gtest/gtest.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::kBlockBytes;
using core::Transaction;

constexpr uint64_t kStoreBytes = 32 << 20;
constexpr int kFiles = 120;

// One life of a machine with the volume's disk.
class Life {
 public:
  Life(uint64_t seed, sal::SimulatedDisk disk)
      : environment_(seed), store_(environment_, {.seed = seed, .size_bytes = kStoreBytes}, std::move(disk)) {}
  ~Life() {
    store_.CutNow();
    if (volume_ != nullptr) volume_->Close();
    volume_ = nullptr;
    environment_.RunUntilIdle();
    if (engine_ != nullptr) engine_->Abandon();
    engine_ = nullptr;
    environment_.RunUntilIdle();
  }

  void Format() {
    core::FormatOptions options;
    options.log_bytes = 4 << 20;
    ASSERT_TRUE(core::Engine::Format(store_, environment_, options).ok());
    ASSERT_TRUE(OpenEngine().ok());
    ASSERT_TRUE(Volume::Format(*engine_, {}).ok());
  }
  absl::Status OpenEngine() {
    core::RecoveryReport report;
    core::EngineOptions options;
    options.cache_bytes = 32 << 20;
    // Shorter than a request: what a repair does becomes durable bit by bit, not all at its end.
    options.flush_interval_ns = 20'000;
    ASSIGN_OR_RETURN(engine_, core::Engine::Open(store_, environment_, options, &report));
    return absl::OkStatus();
  }
  void OpenVolume() {
    auto volume = Volume::Open(*engine_);
    ASSERT_TRUE(volume.ok()) << volume.status();
    volume_ = *std::move(volume);
  }
  void CloseVolume() {
    volume_->Close();
    volume_ = nullptr;
    environment_.RunUntilIdle();
  }
  void CloseEngine() {
    EXPECT_TRUE(engine_->Close().ok());
    engine_ = nullptr;
  }
  absl::StatusOr<CheckReport> Run(bool repair) {
    return Check(*engine_, {.repair = repair, .verify_data = true, .window_blocks = 1 << 16, .window_inodes = 1000});
  }
  template <typename T, typename Start>
  T Wait(Start start) {
    const std::unique_ptr<sal::Event> finished = environment_.NewEvent();
    absl::StatusOr<T> result;
    start([&](absl::StatusOr<T> value) {
      result = std::move(value);
      finished->Set();
    });
    finished->Wait();
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : T();
  }
  void Do(core::Engine::Body body) {
    const std::unique_ptr<sal::Event> finished = environment_.NewEvent();
    engine_->Run(std::move(body), [&](absl::StatusOr<core::Lsn> lsn) {
      EXPECT_TRUE(lsn.ok()) << lsn.status();
      finished->Set();
    });
    finished->Wait();
  }
  Volume& volume() { return *volume_; }
  core::Engine& engine() { return *engine_; }
  sal::SimulatedStore& store() { return store_; }

 private:
  sal::SimulatedEnvironment environment_;
  sal::SimulatedStore store_;
  std::unique_ptr<core::Engine> engine_;
  std::unique_ptr<Volume> volume_;
};

// Files 3 and 50 hold the same.
std::string Content(int number) {
  return absl::StrCat("the content of file ", number == 50 ? 3 : number, std::string(200, 'c'));
}

class CheckCutTest : public ::testing::Test {
 protected:
  CheckCutTest() {
    Life life(1, {});
    life.Format();
    life.OpenVolume();
    for (int i = 0; i < kFiles; ++i) {
      const auto file = life.Wait<Attributes>([&](auto done) {
        life.volume().Create(kRootIno, absl::StrCat("file ", i), {.mode = S_IFREG | 0644}, false, std::move(done));
      });
      inos_.push_back(file.ino);
      Write(life, file.ino, 0, Content(i));
    }
    for (const int i : {3, 50}) Write(life, inos_[i], 4096, std::string(20000, 'd'));
    life.CloseVolume();
    life.CloseEngine();
    good_ = life.store().Image();
  }
  static void Write(Life& life, Ino ino, uint64_t offset, const std::string& bytes) {
    life.Wait<size_t>([&](auto done) {
      life.volume().Write(ino, offset, {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}, false,
                          std::move(done));
    });
  }
  static absl::StatusOr<NodeView> Root(Transaction& tx, VolumeHeader* header) {
    ASSIGN_OR_RETURN(*header, ReadHeader(tx));
    ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(header->root_block));
    return NodeView::Open(bytes, header->root_block, header->root_height - 1);
  }
  // The disk after `damage` was done to the good one.
  sal::SimulatedDisk Damaged(core::Engine::Body damage) {
    Life life(2, good_);
    EXPECT_TRUE(life.OpenEngine().ok());
    life.Do(std::move(damage));
    life.CloseEngine();
    return life.store().Image();
  }

  // All files, wherever they hang by now. With `root`, under their names.
  void ExpectAllFiles(Life& life) {
    life.OpenVolume();
    for (int i = 0; i < kFiles; ++i) {
      std::string bytes(30000, '\0');
      const size_t count = life.Wait<size_t>([&](auto done) {
        life.volume().Read(inos_[i], 0, absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()), bytes.size()),
                           std::move(done));
      });
      bytes.resize(count);
      EXPECT_EQ(bytes.substr(0, Content(i).size()), Content(i)) << "file " << i;
      EXPECT_TRUE((i != 3 && i != 50) || bytes.substr(4096) == std::string(20000, 'd')) << "file " << i;
      const auto found = life.Wait<Attributes>(
          [&](auto done) { life.volume().Lookup(kRootIno, absl::StrCat("file ", i), std::move(done)); });
      EXPECT_EQ(found.ino, inos_[i]);
    }
    life.CloseVolume();
  }

  void Sweep(core::Engine::Body damage) {
    const sal::SimulatedDisk damaged = Damaged(std::move(damage));
    uint64_t requests = 0;
    {
      Life life(3, damaged);
      ASSERT_TRUE(life.OpenEngine().ok());
      const auto report = life.Run(true);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_GT(report->problem_count, 0u);
      EXPECT_EQ(report->unrepaired_count(), 0u);
      life.CloseEngine();
      requests = life.store().request_count();
    }
    ASSERT_GT(requests, 20u);
    uint64_t failed = 0;
    for (uint64_t cut = 1; cut <= requests; ++cut) {
      for (const auto kind : {sal::SimulatedStore::CrashKind::kPowerCut, sal::SimulatedStore::CrashKind::kKill}) {
        SCOPED_TRACE(absl::StrCat("cut at request ", cut, " of ", requests));
        sal::SimulatedDisk crashed;
        {
          Life life(3, damaged);
          life.store().CutAt(cut);
          if (life.OpenEngine().ok() && !life.Run(true).ok()) ++failed;
          crashed = life.store().Crash(cut, kind);
        }
        Life life(4, std::move(crashed));
        ASSERT_TRUE(life.OpenEngine().ok());
        const auto report = life.Run(true);
        ASSERT_TRUE(report.ok()) << report.status();
        EXPECT_EQ(report->unrepaired_count(), 0u);
        const auto again = life.Run(false);
        ASSERT_TRUE(again.ok()) << again.status();
        for (const Problem& problem : again->problems) ADD_FAILURE() << ToString(problem);
        ExpectAllFiles(life);
        if (HasFailure()) return;
      }
    }
    EXPECT_GT(failed, 10u);  // the power did fail in the middle of repairs
  }

  std::vector<Ino> inos_;
  sal::SimulatedDisk good_;
};

TEST_F(CheckCutTest, APutTogetherTree) {
  Sweep([](Transaction& tx) -> absl::Status {
    VolumeHeader header;
    ASSIGN_OR_RETURN(const NodeView root, Root(tx, &header));
    EXPECT_GT(root.count(), 5u);
    ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(header.root_block));
    bytes[0] = std::byte{0};
    return absl::OkStatus();
  });
}

TEST_F(CheckCutTest, WhatWasRemovedDoesNotComeBackFromFreedNodes) {
  Life life(5, good_);
  ASSERT_TRUE(life.OpenEngine().ok());
  life.OpenVolume();
  for (int i = 10; i < kFiles; ++i) {
    life.Wait<int>([&](auto done) {
      life.volume().Unlink(kRootIno, absl::StrCat("file ", i), [done = std::move(done)](absl::Status status) mutable {
        std::move(done)(status.ok() ? absl::StatusOr<int>(0) : status);
      });
    });
  }
  life.CloseVolume();
  // All blocks are said to be in use, and the root, whatever it is, is lost.
  life.Do([](Transaction& tx) -> absl::Status {
    ASSIGN_OR_RETURN(std::byte* bits, tx.Modify(AllocationLayout::BitmapBlock(0)));
    std::memset(bits, 0xff, 700);
    ASSIGN_OR_RETURN(const VolumeHeader header, ReadHeader(tx));
    EXPECT_GE(header.root_height, 2u);
    ASSIGN_OR_RETURN(std::byte* root, tx.Modify(header.root_block));
    root[0] = std::byte{0};
    return absl::OkStatus();
  });
  const auto report = life.Run(true);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->unrepaired_count(), 0u);
  const auto again = life.Run(false);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->clean());
  EXPECT_EQ(again->entries, 10u);
  EXPECT_EQ(again->inodes, 11u);
}

TEST_F(CheckCutTest, PointersSeparatorsAndAHeader) {
  Sweep([](Transaction& tx) -> absl::Status {
    VolumeHeader header;
    ASSIGN_OR_RETURN(const NodeView root, Root(tx, &header));
    ASSIGN_OR_RETURN(const Block third, root.ChildAt(3));
    ASSIGN_OR_RETURN(const Key sixth, root.KeyAt(6));
    ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(header.root_block));
    ASSIGN_OR_RETURN(NodeEditor node, NodeEditor::Open(bytes, header.root_block, header.root_height - 1));
    RETURN_IF_ERROR(node.ReplaceInPlace(4, {reinterpret_cast<const char*>(&third), sizeof(third)}));
    RETURN_IF_ERROR(node.SetKey(6, {sixth.ino + 1, sixth.kind, sixth.offset}));
    ASSIGN_OR_RETURN(std::byte* copy, tx.Modify(kHeaderBlock));
    copy[4] = std::byte{0};
    return absl::OkStatus();
  });
}

TEST_F(CheckCutTest, SharedBlocksAndSpace) {
  const Ino first = inos_[3], second = inos_[50];
  Sweep([=](Transaction& tx) -> absl::Status {
    // The second file claims the first one's blocks: they hold the same.
    VolumeHeader header;
    ASSIGN_OR_RETURN(header, ReadHeader(tx));
    class Storage : public BTreeStorage {
     public:
      explicit Storage(const VolumeHeader& header) : header_(header) {}
      absl::StatusOr<Root> GetRoot(Transaction&) override { return Root{header_.root_block, header_.root_height}; }
      absl::Status SetRoot(Transaction&, Root) override { return absl::InternalError("the tree must not grow"); }
      absl::StatusOr<Block> AllocateNode(Transaction&, Block) override { return absl::InternalError("nor its nodes"); }
      absl::Status FreeNode(Transaction&, Block) override { return absl::InternalError("nor shrink"); }

     private:
      VolumeHeader header_;
    } storage(header);
    BTree tree(&storage);
    std::vector<std::pair<Key, std::string>> items, old;
    for (const auto& [ino, list] : {std::pair(first, &items), std::pair(second, &old)}) {
      const auto take = [&list = list](const BTree::Item& item) {
        list->emplace_back(item.key, std::string(item.value));
        return true;
      };
      RETURN_IF_ERROR(tree.Scan(tx, ExtentKey(ino, 0), ExtentKey(ino, ~uint64_t{0}), take));
    }
    EXPECT_EQ(items.size(), old.size());
    for (const auto& [key, value] : items) {
      RETURN_IF_ERROR(tree.Put(tx, Key{second, key.kind, key.offset}, value));
    }
    // Bits for nobody, a wrong count.
    ASSIGN_OR_RETURN(std::byte* bits, tx.Modify(AllocationLayout::BitmapBlock(0)));
    for (int i = 700; i < 720; ++i) bits[i] ^= std::byte{0xff};
    ASSIGN_OR_RETURN(std::byte* count, tx.Modify(kHeaderBlock));
    count[256] ^= std::byte{0x55};
    return absl::OkStatus();
  });
}

}  // namespace
}  // namespace stagefs::volume

#include "fs/volume/check.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/allocator.h"
#include "fs/volume/btree_node.h"
#include "fs/volume/format.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"
#include "sal/random.h"
#include "sal/simulated_environment.h"
#include "sal/status_macros.h"

namespace stagefs::volume::testing {
namespace {

using core::Block;
using core::kBlockBytes;
using core::Transaction;

// Changes what lies on the device, as a bug would.
class Vandal : public BTreeStorage {
 public:
  explicit Vandal(MemoryEngine& engine) : engine_(engine), allocator_(engine.capacity_blocks()) {}

  void Do(core::Engine::Body body) {
    const absl::Status status = engine_.RunAndWait(std::move(body)).status();
    ASSERT_TRUE(status.ok()) << status;
  }
  void EditHeader(const std::function<void(VolumeHeader&)>& edit) {
    Do([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(kHeaderBlock));
      ASSIGN_OR_RETURN(VolumeHeader header, DecodeHeader(bytes));
      edit(header);
      EncodeHeader(header, bytes);
      return absl::OkStatus();
    });
  }
  VolumeHeader Header() {
    VolumeHeader header;
    EditHeader([&](VolumeHeader& found) { header = found; });
    return header;
  }
  void Put(const Key& key, const std::string& value) {
    Do([&](Transaction& tx) { return tree_.Put(tx, key, value); });
  }
  void Erase(const Key& key) {
    Do([&](Transaction& tx) { return tree_.Erase(tx, key); });
  }
  std::string Get(const Key& key) {
    std::string result;
    Do([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(const auto value, tree_.Find(tx, key));
      if (!value.has_value()) return absl::NotFoundError("no such item");
      result = std::string(*value);
      return absl::OkStatus();
    });
    return result;
  }
  void EditInode(Ino ino, const std::function<void(Inode&)>& edit) {
    Inode inode = *DecodeInode(Get(InodeKey(ino)));
    edit(inode);
    std::string bytes(kInodeBytes, '\0');
    EncodeInode(inode, bytes.data());
    Put(InodeKey(ino), bytes);
  }
  void PutEntry(Ino directory, uint64_t hash, Ino ino, uint32_t mode, const std::string& name) {
    std::string value;
    AppendEntry({.ino = ino, .type = static_cast<uint8_t>((mode & S_IFMT) >> 12), .slot = 0, .name = name}, &value);
    Put(EntryKey(directory, hash), value);
  }
  uint64_t Hash(const std::string& name) { return HashName(Header().hash_seed, name); }
  void PutExtent(Ino ino, uint64_t file_block, const Extent& extent) {
    std::string bytes(kExtentBytes, '\0');
    EncodeExtent(extent, bytes.data());
    Put(ExtentKey(ino, file_block), bytes);
  }
  Extent FirstExtent(Ino ino) { return *DecodeExtent(Get(ExtentKey(ino, 0))); }
  template <typename T>
  void Poke(uint64_t address, T value) {
    engine_.Poke(address, {reinterpret_cast<const std::byte*>(&value), sizeof(value)});
  }
  std::vector<std::pair<Key, std::string>> Items() {
    std::vector<std::pair<Key, std::string>> items;
    Do([&](Transaction& tx) {
      items.clear();
      return tree_.Scan(tx, Key{}, Key{~uint64_t{0}, 0xff, ~uint64_t{0}}, [&](const BTree::Item& item) {
        items.emplace_back(item.key, std::string(item.value));
        return true;
      });
    });
    return items;
  }
  // The leaf that holds `key`.
  Block LeafOf(const Key& key) {
    Block block = 0;
    Do([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(const Root root, GetRoot(tx));
      block = root.block;
      for (uint32_t level = root.height - 1; level > 0; --level) {
        ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(block));
        ASSIGN_OR_RETURN(const NodeView node, NodeView::Open(bytes, block, level));
        ASSIGN_OR_RETURN(const uint32_t index, node.ChildFor(key));
        ASSIGN_OR_RETURN(block, node.ChildAt(index));
      }
      return absl::OkStatus();
    });
    return block;
  }

  absl::StatusOr<Root> GetRoot(Transaction& tx) override {
    ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(kHeaderBlock));
    ASSIGN_OR_RETURN(const VolumeHeader header, DecodeHeader(bytes));
    return Root{header.root_block, header.root_height};
  }
  absl::Status SetRoot(Transaction& tx, Root root) override {
    ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(kHeaderBlock));
    ASSIGN_OR_RETURN(VolumeHeader header, DecodeHeader(bytes));
    header.root_block = root.block;
    header.root_height = root.height;
    EncodeHeader(header, bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<Block> AllocateNode(Transaction& tx, Block near) override {
    ASSIGN_OR_RETURN(const core::BlockRange range, allocator_.Allocate(tx, 1, 1, near, SpaceUse::kFreeing));
    return range.first;
  }
  absl::Status FreeNode(Transaction& tx, Block block) override { return allocator_.Free(tx, {block, 1}); }

 private:
  MemoryEngine& engine_;
  Allocator allocator_;
  BTree tree_{this};
};

class CheckTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kCapacity = 3 * AllocationLayout::kGroupBlocks / 2;

  CheckTest() : tester_(VolumeTester::NoMisses(kCapacity)) {
    directory_ = tester_.Directory(kRootIno, "directory");
    inner_ = tester_.Directory(directory_, "inner");
    other_ = tester_.Directory(kRootIno, "other");
    small_ = tester_.File(directory_, "small");
    EXPECT_EQ(tester_.Write(small_, 0, "a small content"), 0);
    large_ = tester_.File(directory_, "large");
    EXPECT_EQ(tester_.Write(large_, 0, Pattern(1, 300 << 10)), 0);
    sparse_ = tester_.File(inner_, "sparse");
    EXPECT_EQ(tester_.Write(sparse_, 0, Pattern(2, 8192)), 0);
    EXPECT_EQ(tester_.Write(sparse_, 1 << 20, Pattern(3, 100 << 10)), 0);
    tester_.Symlink(kRootIno, "short", "directory/small");
    tester_.Symlink(kRootIno, "long", std::string(3000, 'x'));
    EXPECT_EQ(tester_.Link(large_, other_, "large too"), 0);
    EXPECT_EQ(tester_.SetXattr(small_, "user.short", "value"), 0);
    EXPECT_EQ(tester_.SetXattr(small_, "user.long", Pattern(4, 10000)), 0);
    for (int i = 0; i < 400; ++i) {
      const Ino ino = tester_.File(other_, absl::StrCat("file ", i));
      EXPECT_EQ(tester_.Write(ino, 0, Pattern(static_cast<uint64_t>(i), 200)), 0);
    }
    tester_.volume().Close();
    tester_.Settle();
    tester_.engine().MakeDurable();
    made_ = tester_.engine().Snapshot();
    Restart();
  }

  // Back to the volume as it was made.
  void Restart(MemoryEngine::Options options = {}) {
    options.capacity_blocks = kCapacity;
    engine_ = std::make_unique<MemoryEngine>(environment_, options, made_);
    vandal_ = std::make_unique<Vandal>(*engine_);
  }
  Vandal& vandal() { return *vandal_; }

  CheckReport Look(const CheckOptions& options = {}) {
    const auto report = Check(*engine_, options);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : CheckReport();
  }
  static std::string Describe(const CheckReport& report) {
    std::string text;
    for (const Problem& problem : report.problems) {
      absl::StrAppend(&text, ProblemKindName(problem.kind), ": ", ToString(problem), "\n");
    }
    return text;
  }
  static bool Has(const CheckReport& report, ProblemKind kind) {
    return std::any_of(report.problems.begin(), report.problems.end(),
                       [&](const Problem& problem) { return problem.kind == kind; });
  }
  // A look finds a problem of `kind` and changes nothing; a repair mends everything.
  CheckReport ExpectMended(ProblemKind kind) {
    const core::Lsn before = engine_->accepted_lsn();
    const CheckReport found = Look();
    EXPECT_TRUE(Has(found, kind)) << Describe(found);
    EXPECT_EQ(found.repaired_count, 0u);
    EXPECT_EQ(engine_->accepted_lsn(), before);
    const CheckReport mended = Look({.repair = true});
    EXPECT_TRUE(Has(mended, kind)) << Describe(mended);
    EXPECT_EQ(mended.unrepaired_count(), 0u) << Describe(mended);
    const CheckReport again = Look({.verify_data = true});
    EXPECT_TRUE(again.clean()) << Describe(again);
    return mended;
  }
  // The volume as repaired, in use.
  VolumeTester& Mounted() {
    tester_.Crash(engine_->Snapshot());
    return tester_;
  }
  void ExpectLargeIsIntact() {
    EXPECT_EQ(Mounted().Read(large_, 0, 1 << 20), Pattern(1, 300 << 10));
    EXPECT_EQ(tester_.Names(other_).size(), 401u);
  }

  VolumeTester tester_;
  MemoryEngine::State made_;
  sal::SimulatedEnvironment environment_{9};
  std::unique_ptr<MemoryEngine> engine_;
  std::unique_ptr<Vandal> vandal_;
  Ino directory_ = 0, inner_ = 0, other_ = 0, small_ = 0, large_ = 0, sparse_ = 0;
};

TEST_F(CheckTest, NothingIsWrongWithAGoodVolume) {
  ASSERT_GE(vandal().Header().root_height, 2u);
  double last = 0;
  const CheckReport report = Look({.verify_data = true, .progress = [&](double part) {
                                     EXPECT_GE(part, last);
                                     EXPECT_LE(part, 1.0);
                                     last = part;
                                   }});
  EXPECT_TRUE(report.clean()) << Describe(report);
  EXPECT_EQ(last, 1.0);
  const StatFs fs = Mounted().Fs();
  EXPECT_EQ(report.inodes, fs.inodes);
  EXPECT_EQ(report.inodes, 409u);
  EXPECT_EQ(report.directories, 4u);
  EXPECT_EQ(report.entries, 409u);
  EXPECT_EQ(report.free_blocks, fs.free_blocks);
  EXPECT_EQ(report.used_blocks, kCapacity - fs.free_blocks);
}

TEST_F(CheckTest, SmallWindowsAndMissesFindTheSame) {
  Restart({.miss_probability = 0.3});
  const CheckReport report = Look({.window_blocks = 1, .window_inodes = 50});
  EXPECT_TRUE(report.clean()) << Describe(report);
  EXPECT_EQ(report.inodes, 409u);
  vandal().EditInode(large_, [](Inode& inode) { inode.nlink = 5; });
  vandal().PutExtent(sparse_, 2, vandal().FirstExtent(large_));
  const CheckReport mended = Look({.repair = true, .window_blocks = 1, .window_inodes = 7});
  EXPECT_EQ(mended.unrepaired_count(), 0u) << Describe(mended);
  EXPECT_TRUE(Has(mended, ProblemKind::kLinks));
  EXPECT_TRUE(Has(mended, ProblemKind::kExtent));
  EXPECT_TRUE(Look({.window_blocks = 1, .window_inodes = 7}).clean());
}

TEST_F(CheckTest, CountsOfTheHeaderAreMended) {
  vandal().EditHeader([](VolumeHeader& header) { header.inode_count += 7; });
  ExpectMended(ProblemKind::kHeader);
  vandal().EditHeader([](VolumeHeader& header) { header.next_ino = 5; });
  ExpectMended(ProblemKind::kHeader);
  vandal().Poke<uint64_t>(AllocationLayout::kFreeCountAddress, 17);
  ExpectMended(ProblemKind::kSpace);
  ExpectLargeIsIntact();
}

TEST_F(CheckTest, HeadersThatMakeNoSenseAreReported) {
  vandal().EditHeader([](VolumeHeader& header) { header.capacity_blocks += 1; });
  EXPECT_TRUE(Has(Look(), ProblemKind::kHeader));
  vandal().EditHeader([](VolumeHeader& header) { header.root_block = 0; });
  const CheckReport report = Look({.repair = true});
  EXPECT_TRUE(Has(report, ProblemKind::kHeader));
  EXPECT_EQ(report.unrepaired_count(), 1u);
  vandal().Poke<uint64_t>(kHeaderBlock * kBlockBytes, 0);
  EXPECT_TRUE(absl::IsInvalidArgument(Check(*engine_, {}).status()));
}

TEST_F(CheckTest, BitmapsAndSummariesAreMended) {
  const Block bitmap = AllocationLayout::BitmapBlock(0) * kBlockBytes;
  vandal().Poke<uint8_t>(bitmap + 3000, 0xff);  // nobody's
  ExpectMended(ProblemKind::kSpace);
  const Extent extent = vandal().FirstExtent(large_);
  vandal().Poke<uint8_t>(AllocationLayout::BitmapBlock(extent.home / AllocationLayout::kGroupBlocks) * kBlockBytes +
                             extent.home % AllocationLayout::kGroupBlocks / 8,
                         0);
  ExpectMended(ProblemKind::kSpace);
  vandal().Poke<uint16_t>(AllocationLayout::SummaryBlock(0) * kBlockBytes + AllocationLayout::SummaryOffset(1), 9999);
  ExpectMended(ProblemKind::kSpace);
  for (const Block block : {AllocationLayout::BitmapBlock(0), AllocationLayout::BitmapBlock(1),
                            AllocationLayout::SummaryBlock(0)}) {
    engine_->SpoilBlock(block);
    ExpectMended(ProblemKind::kSpace);
  }
  ExpectLargeIsIntact();
}

TEST_F(CheckTest, CountsOfInodesAreMended) {
  vandal().EditInode(large_, [](Inode& inode) { inode.blocks += 3; });
  ExpectMended(ProblemKind::kInode);
  vandal().EditInode(large_, [](Inode& inode) { inode.nlink = 1; });
  ExpectMended(ProblemKind::kLinks);
  vandal().EditInode(large_, [](Inode& inode) { inode.nlink = 0; });
  ExpectMended(ProblemKind::kLinks);
  vandal().EditInode(directory_, [](Inode& inode) { inode.nlink = 9; });
  ExpectMended(ProblemKind::kInode);
  vandal().EditInode(directory_, [](Inode& inode) { inode.nlink = 0; });
  ExpectMended(ProblemKind::kInode);
  vandal().EditInode(directory_, [](Inode& inode) { inode.mode = S_IFREG | 0755; });
  ExpectMended(ProblemKind::kInode);
  vandal().EditInode(large_, [](Inode& inode) { inode.mode = S_IFIFO | 0644; });
  ExpectMended(ProblemKind::kInode);
  vandal().EditInode(other_, [](Inode& inode) { inode.size_bytes = 1; });
  ExpectMended(ProblemKind::kInode);
  vandal().EditInode(small_, [](Inode& inode) { inode.size_bytes = 400; });
  ExpectMended(ProblemKind::kInode);
  vandal().EditInode(inner_, [](Inode& inode) { inode.parent = 77; });
  ExpectMended(ProblemKind::kLinks);
  vandal().EditInode(kRootIno, [](Inode& inode) { inode.parent = 5; });
  ExpectMended(ProblemKind::kLinks);
  vandal().EditInode(large_, [](Inode& inode) { inode.mode &= 0777; });
  ExpectMended(ProblemKind::kInode);
  ExpectLargeIsIntact();
  EXPECT_EQ(tester_.Stat(directory_).nlink, 3u);
  EXPECT_EQ(tester_.Stat(large_).nlink, 2u);
  EXPECT_EQ(tester_.Read(small_, 0, 100), "a small content");
}

TEST_F(CheckTest, NamesThatLeadNowhereGo) {
  vandal().PutEntry(other_, vandal().Hash("ghost"), 100000, S_IFREG, "ghost");
  ExpectMended(ProblemKind::kEntry);
  ExpectLargeIsIntact();
}

TEST_F(CheckTest, NamesWithAWrongTypeOrPlaceAreMended) {
  vandal().PutEntry(directory_, vandal().Hash("small"), small_, S_IFDIR, "small");
  ExpectMended(ProblemKind::kEntry);
  vandal().Erase(EntryKey(directory_, vandal().Hash("small")));
  vandal().PutEntry(directory_, 12345, small_, S_IFREG, "small");
  ExpectMended(ProblemKind::kEntry);
  vandal().PutEntry(directory_, vandal().Hash("a/b"), small_, S_IFREG, "a/b");
  ExpectMended(ProblemKind::kEntry);
  vandal().PutEntry(other_, vandal().Hash("inner again"), inner_, S_IFDIR, "inner again");
  ExpectMended(ProblemKind::kEntry);
  ExpectLargeIsIntact();
  Ino ino = 0;
  EXPECT_EQ(tester_.Lookup(directory_, "small", &ino), 0);
  EXPECT_EQ(ino, small_);
}

TEST_F(CheckTest, WhatHasNoNameGoesToLostAndFound) {
  vandal().Erase(EntryKey(directory_, vandal().Hash("small")));
  vandal().Erase(EntryKey(kRootIno, vandal().Hash("directory")));
  ExpectMended(ProblemKind::kLinks);
  VolumeTester& tester = Mounted();
  Ino lost = 0, ino = 0;
  ASSERT_EQ(tester.Lookup(kRootIno, "lost+found", &lost), 0);
  EXPECT_EQ(tester.Lookup(lost, absl::StrCat("#", small_), &ino), 0);
  EXPECT_EQ(ino, small_);
  EXPECT_EQ(tester.Lookup(lost, absl::StrCat("#", directory_), &ino), 0);
  EXPECT_EQ(tester.Names(directory_), (std::vector<std::string>{"inner", "large"}));
  EXPECT_EQ(tester.Read(small_, 0, 100), "a small content");
}

TEST_F(CheckTest, CirclesOfDirectoriesAreBroken) {
  // "directory" moves below its own child.
  vandal().Erase(EntryKey(kRootIno, vandal().Hash("directory")));
  vandal().PutEntry(inner_, vandal().Hash("directory"), directory_, S_IFDIR, "directory");
  vandal().EditInode(directory_, [&](Inode& inode) { inode.parent = inner_; });
  ExpectMended(ProblemKind::kLinks);
  ExpectLargeIsIntact();
}

TEST_F(CheckTest, ExtentsThatMakeNoSenseAreDropped) {
  const Extent large = vandal().FirstExtent(large_);
  vandal().PutExtent(sparse_, 5, {.home = kCapacity - 1, .count = 4});
  ExpectMended(ProblemKind::kExtent);
  vandal().PutExtent(sparse_, 5, {.home = 1, .count = 1});
  ExpectMended(ProblemKind::kExtent);
  vandal().PutExtent(sparse_, 5, {.home = large.home + 3, .count = 2});
  ExpectMended(ProblemKind::kExtent);
  vandal().PutExtent(sparse_, 5, {.home = vandal().Header().root_block, .count = 1});
  ExpectMended(ProblemKind::kExtent);
  vandal().PutExtent(sparse_, 1, {.home = 5000, .count = 1});  // within the file's first extent
  ExpectMended(ProblemKind::kExtent);
  vandal().Put(ExtentKey(sparse_, 7), "nonsense");
  ExpectMended(ProblemKind::kExtent);
  ExpectLargeIsIntact();
  EXPECT_EQ(tester_.Read(sparse_, 0, 8192), Pattern(2, 8192));
}

TEST_F(CheckTest, OrphansAreMended) {
  std::string orphan(kOrphanBytes, '\0');
  EncodeOrphan({.what = Orphan::What::kInode, .from_block = 0}, orphan.data());
  vandal().Put(OrphanKey(small_), orphan);
  ExpectMended(ProblemKind::kOrphan);
  vandal().Put(OrphanKey(99999), orphan);
  ExpectMended(ProblemKind::kOrphan);
  vandal().Put(OrphanKey(99999), "short");
  ExpectMended(ProblemKind::kOrphan);
  vandal().EditInode(large_, [](Inode& inode) { inode.flags |= kInodeTruncatePending; });
  ExpectMended(ProblemKind::kOrphan);
  vandal().Erase(EntryKey(directory_, vandal().Hash("small")));
  vandal().EditInode(small_, [](Inode& inode) { inode.nlink = 0; });
  ExpectMended(ProblemKind::kOrphan);
  ExpectLargeIsIntact();
  tester_.Settle();
  EXPECT_NE(tester_.StatError(small_), 0);
}

TEST_F(CheckTest, AttributesAreMended) {
  vandal().Erase(XattrChunkKey(small_, 1, 3));
  ExpectMended(ProblemKind::kXattr);
  vandal().Put(XattrChunkKey(small_, 55, 0), "nobody's");
  ExpectMended(ProblemKind::kXattr);
  vandal().Put(XattrKey(small_, 99), "nonsense");
  ExpectMended(ProblemKind::kXattr);
  vandal().Put(Key{small_, 77, 0}, "of a kind that nobody knows");
  ExpectMended(ProblemKind::kItem);
  VolumeTester& tester = Mounted();
  std::string value;
  EXPECT_EQ(tester.GetXattr(small_, "user.short", &value), 0);
  EXPECT_EQ(value, "value");
  EXPECT_NE(tester.GetXattr(small_, "user.long", &value), 0);
}

TEST_F(CheckTest, ADamagedLeafCostsOnlyWhatWasInIt) {
  const Block leaf = vandal().LeafOf(InodeKey(other_ + 300));
  engine_->SpoilBlock(leaf);
  ExpectMended(ProblemKind::kNode);
  VolumeTester& tester = Mounted();
  EXPECT_EQ(tester.Read(large_, 0, 1 << 20), Pattern(1, 300 << 10));
  const size_t left = tester.Names(other_).size();
  EXPECT_LT(left, 401u);
  EXPECT_GT(left, 350u);
}

TEST_F(CheckTest, EveryLeafCanBeLost) {
  std::vector<Block> leaves;
  for (const auto& [block, slot] : engine_->Snapshot()) {
    uint32_t magic = 0;
    uint16_t level = 1;
    if (slot.image == nullptr || slot.use != MemoryEngine::Slot::Use::kInUse) continue;
    std::memcpy(&magic, slot.image->data() + kNodeMagicOffset, 4);
    std::memcpy(&level, slot.image->data() + kNodeLevelOffset, 2);
    if (magic == kNodeMagic && level == 0) leaves.push_back(block);
  }
  ASSERT_GT(leaves.size(), 10u);
  std::sort(leaves.begin(), leaves.end());
  for (const Block leaf : leaves) {
    SCOPED_TRACE(absl::StrCat("leaf ", leaf));
    Restart();
    engine_->SpoilBlock(leaf);
    ExpectMended(ProblemKind::kNode);
  }
}

TEST_F(CheckTest, ADamagedInnerNodeIsLeftAloneWithAllThatDependsOnIt) {
  engine_->SpoilBlock(vandal().Header().root_block);
  const CheckReport before = Look();
  const CheckReport report = Look({.repair = true});
  EXPECT_TRUE(Has(report, ProblemKind::kNode));
  EXPECT_GT(report.unrepaired_count(), 0u);
  // Nothing that may be used was given free.
  EXPECT_EQ(report.free_blocks, before.free_blocks);
}

TEST_F(CheckTest, InodesLostWithTheirLeafAreMadeAnewFromWhatIsLeft) {
  vandal().Erase(InodeKey(large_));
  vandal().Erase(InodeKey(inner_));
  vandal().Erase(InodeKey(kRootIno));
  ExpectMended(ProblemKind::kInode);
  VolumeTester& tester = Mounted();
  EXPECT_EQ(tester.Read(large_, 0, 300 << 10), Pattern(1, 300 << 10));
  EXPECT_EQ(tester.Stat(large_).nlink, 2u);
  EXPECT_EQ(tester.Names(inner_), (std::vector<std::string>{"sparse"}));
  EXPECT_EQ(tester.Names(kRootIno), (std::vector<std::string>{"directory", "long", "other", "short"}));
}

TEST_F(CheckTest, BadContentIsNamedAndLeftAlone) {
  const Extent extent = vandal().FirstExtent(large_);
  engine_->SpoilBlock(extent.home + 5);
  EXPECT_TRUE(Look().clean());
  const CheckReport report = Look({.repair = true, .verify_data = true});
  ASSERT_EQ(report.problem_count, 1u);
  EXPECT_EQ(report.unrepaired_count(), 1u);
  EXPECT_EQ(report.problems[0].kind, ProblemKind::kData);
  EXPECT_EQ(report.problems[0].object, absl::StrCat("inode ", large_));
  EXPECT_NE(report.problems[0].message.find("block 5 of"), std::string::npos) << report.problems[0].message;
}

TEST_F(CheckTest, RandomDamageNeverCrashesACheck) {
  std::vector<Block> blocks;
  for (const auto& [block, slot] : engine_->Snapshot()) {
    uint32_t magic = 0;
    if (slot.image != nullptr) std::memcpy(&magic, slot.image->data(), 4);
    if (magic == kNodeMagic && slot.use == MemoryEngine::Slot::Use::kInUse) blocks.push_back(block);
  }
  std::sort(blocks.begin(), blocks.end());
  int mended = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    sal::Random64 random(seed);
    Restart({.seed = seed});
    for (uint64_t flips = random.Between(1, 6); flips > 0; --flips) {
      const uint64_t offset = random.OneIn(4) ? random.Below(kNodeHeaderBytes) : random.Below(kBlockBytes);
      vandal().Poke<uint8_t>(blocks[random.Below(blocks.size())] * kBlockBytes + offset,
                             static_cast<uint8_t>(random.Next()));
    }
    const CheckReport report = Look({.repair = true});
    const CheckReport again = Look();
    EXPECT_EQ(again.problem_count, report.unrepaired_count()) << Describe(report) << "then\n" << Describe(again);
    if (report.unrepaired_count() == 0) ++mended;
  }
  EXPECT_GT(mended, 30);
}

TEST_F(CheckTest, RandomItemsAreMendedToAVolumeThatCanBeUsed) {
  const std::vector<std::pair<Key, std::string>> items = vandal().Items();
  int mended = 0;
  constexpr uint64_t kSeeds = 60;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    sal::Random64 random(seed);
    Restart({.seed = seed});
    for (uint64_t changes = random.Between(1, 5); changes > 0; --changes) {
      auto [key, value] = items[random.Below(items.size())];
      const auto& [other_key, other_value] = items[random.Below(items.size())];
      switch (random.Below(5)) {
        case 0:
          vandal().Do([&](Transaction& tx) {
            const absl::Status status = BTree(&vandal()).Erase(tx, key);
            return absl::IsNotFound(status) ? absl::OkStatus() : status;
          });
          break;
        case 1:
          if (!value.empty()) value[random.Below(value.size())] = static_cast<char>(random.Next());
          vandal().Put(key, value);
          break;
        case 2:
          vandal().Put(key, value.substr(0, random.Below(value.size() + 1)));
          break;
        case 3:
          vandal().Put(key, other_value);
          break;
        default:
          (random.OneIn(2) ? key.ino : key.offset) = random.Below(600);
          if (key.ino > 0) vandal().Put(key, value);
      }
    }
    const CheckReport report = Look({.repair = true});
    const CheckReport again = Look();
    EXPECT_EQ(again.problem_count, report.unrepaired_count()) << Describe(report) << "then\n" << Describe(again);
    if (report.unrepaired_count() > 0) continue;
    ++mended;
    VolumeTester& tester = Mounted();
    tester.Settle();
    uint64_t names = 0;
    std::vector<Ino> directories = {kRootIno};
    while (!directories.empty()) {
      const Ino directory = directories.back();
      directories.pop_back();
      for (const DirectoryEntry& entry : tester.List(directory, 10000, /*with_attributes=*/true)) {
        if (entry.name == "." || entry.name == "..") continue;
        ++names;
        if (S_ISDIR(entry.type)) directories.push_back(entry.ino);
        if (S_ISREG(entry.type)) tester.Read(entry.ino, 0, 2 << 20);
      }
    }
    EXPECT_EQ(names, again.entries);
  }
  EXPECT_GT(mended, static_cast<int>(kSeeds * 9 / 10));
}

}  // namespace
}  // namespace stagefs::volume::testing

#include "fs/volume/check.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/check_tester.h"
#include "gtest/gtest.h"
#include "sal/random.h"

namespace stagefs::volume::testing {
namespace {

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
  const std::vector<Block> leaves = NodesOf(*engine_, 0);
  ASSERT_GT(leaves.size(), 10u);
  for (const Block leaf : leaves) {
    SCOPED_TRACE(absl::StrCat("leaf ", leaf));
    Restart();
    engine_->SpoilBlock(leaf);
    ExpectMended(ProblemKind::kNode);
  }
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
  const std::vector<Block> blocks = NodesOf(*engine_, -1);
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
          vandal().Do([&, &key = key](Transaction& tx) {
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

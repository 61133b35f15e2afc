// Each kind of damage, built by hand: it is found and named, mended without losing what is whole, a second run is
// clean, and the volume can be used.

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/check_tester.h"
#include "gtest/gtest.h"

namespace stagefs::volume::testing {
namespace {

class DamageTest : public CheckTest {
 protected:
  // What the fixture made is all there, under its names.
  void ExpectNothingIsLost() {
    VolumeTester& tester = Mounted();
    EXPECT_EQ(tester.Read(large_, 0, 1 << 20), Pattern(1, 300 << 10));
    EXPECT_EQ(tester.Read(sparse_, 0, 8192), Pattern(2, 8192));
    EXPECT_EQ(tester.Read(sparse_, 1 << 20, 1 << 20), Pattern(3, 100 << 10));
    EXPECT_EQ(tester.Read(small_, 0, 100), "a small content");
    EXPECT_EQ(tester.Names(directory_), (std::vector<std::string>{"inner", "large", "small"}));
    const std::vector<DirectoryEntry> files = tester.List(other_, 1000);
    EXPECT_EQ(files.size(), 403u);
    for (const DirectoryEntry& file : files) {
      int number = 0;
      if (sscanf(file.name.c_str(), "file %d", &number) != 1) continue;
      EXPECT_EQ(tester.Read(file.ino, 0, 1000), Pattern(static_cast<uint64_t>(number), 200)) << file.name;
    }
    std::string value;
    EXPECT_EQ(tester.GetXattr(small_, "user.long", &value), 0);
    EXPECT_EQ(value, Pattern(4, 10000));
  }
  Block Copy() const { return HeaderCopyBlock(kCapacity); }
  std::vector<std::string> LostAndFound() {
    Ino ino = 0;
    if (Mounted().Lookup(kRootIno, "lost+found", &ino) != 0) return {};
    return tester_.Names(ino);
  }
  Ino Found(const std::string& name) {
    Ino directory = 0, ino = 0;
    EXPECT_EQ(Mounted().Lookup(kRootIno, "lost+found", &directory), 0);
    EXPECT_EQ(tester_.Lookup(directory, name, &ino), 0) << name;
    return ino;
  }
  // The leaves in the order of their keys, and the node above them.
  std::vector<Block> Children(Block inner, uint32_t level) {
    std::vector<Block> children;
    vandal().Do([&](Transaction& tx) -> absl::Status {
      children.clear();
      ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(inner));
      ASSIGN_OR_RETURN(const NodeView node, NodeView::Open(bytes, inner, level));
      for (uint32_t i = 0; i < node.count(); ++i) {
        ASSIGN_OR_RETURN(children.emplace_back(), node.ChildAt(i));
      }
      return absl::OkStatus();
    });
    return children;
  }
  Block Root() { return vandal().Header().root_block; }
  void EditNode(Block block, uint32_t level, const std::function<void(NodeEditor&)>& edit) {
    vandal().EditBlock(block, [&](std::byte* bytes) {
      absl::StatusOr<NodeEditor> node = NodeEditor::Open(bytes, block, level);
      ASSERT_TRUE(node.ok()) << node.status();
      edit(*node);
    });
  }
};

// --- The header and its copy ---

TEST_F(DamageTest, ALostOrSenselessHeaderComesBackFromItsCopy) {
  const std::vector<std::function<void()>> damages = {
      [&] { engine_->SpoilBlock(kHeaderBlock); },
      [&] { vandal().Poke<uint64_t>(kHeaderBlock * kBlockBytes, 0); },
      [&] { vandal().Poke<uint32_t>(kHeaderBlock * kBlockBytes + 8, 77); },
      [&] { vandal().EditHeader([](VolumeHeader& header) { header.capacity_blocks += 1; }); },
      [&] { vandal().EditHeader([](VolumeHeader& header) { header.capacity_blocks = 20000; }); },
      [&] { vandal().EditHeader([](VolumeHeader& header) { header.root_block = 0; }); },
      [&] { vandal().EditHeader([](VolumeHeader& header) { header.root_block += 1; }); },
      [&] { vandal().EditHeader([](VolumeHeader& header) { header.root_height += 1; }); },
      [&] { vandal().EditHeader([](VolumeHeader& header) { header.hash_seed ^= 4; }); },
      [&] { vandal().EditHeader([](VolumeHeader& header) { header.created_ns += 4; }); },
      [&] { vandal().EditHeader([](VolumeHeader& header) { header.flags = kHeaderGathering; }); },
      [&] { vandal().EditHeader([](VolumeHeader& header) { header.next_ino += 1 << 20; }); },
      [&] { vandal().Poke<uint8_t>(kHeaderBlock * kBlockBytes + 100, 1); },
      [&] { vandal().Poke<uint8_t>(kHeaderBlock * kBlockBytes + 4000, 1); },
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("damage ", i));
    Restart();
    damages[i]();
    ExpectMended(ProblemKind::kHeader, {"volume: the "});
    ExpectNothingIsLost();
  }
  ExpectUsable();
}

TEST_F(DamageTest, ADamagedCopyOfTheHeaderIsWrittenAnew) {
  const std::vector<std::function<void()>> damages = {
      [&] { engine_->SpoilBlock(Copy()); },
      [&] { vandal().Poke<uint64_t>(Copy() * kBlockBytes, 0); },
      [&] { vandal().Poke<uint64_t>(Copy() * kBlockBytes + 24, 5000); },
      [&] { vandal().Poke<uint64_t>(Copy() * kBlockBytes + 40, 99); },
      [&] { vandal().Poke<uint8_t>(Copy() * kBlockBytes + 300, 1); },
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("damage ", i));
    Restart();
    damages[i]();
    ExpectMended(ProblemKind::kHeader, {"copy of the header", absl::StrCat("block ", Copy())});
    ExpectNothingIsLost();
  }
}

TEST_F(DamageTest, WithoutHeaderAndCopyNothingIsTouched) {
  engine_->SpoilBlock(kHeaderBlock);
  engine_->SpoilBlock(Copy());
  const core::Lsn before = engine_->accepted_lsn();
  const CheckReport report = Look({.repair = true});
  EXPECT_EQ(report.unrepaired_count(), 2u) << Describe(report);
  EXPECT_EQ(engine_->accepted_lsn(), before);
  vandal().Do([](Transaction& tx) { return tx.Zero(kHeaderBlock * kBlockBytes, kBlockBytes); });
  vandal().Do([&](Transaction& tx) { return tx.Zero(Copy() * kBlockBytes, kBlockBytes); });
  EXPECT_TRUE(absl::IsInvalidArgument(Check(*engine_, {}).status()));
}

// --- The tree ---

TEST_F(DamageTest, ALostRootIsMadeAnewFromTheLeavesBelow) {
  engine_->SpoilBlock(Root());
  ExpectMended(ProblemKind::kNode, {absl::StrCat("block ", Root()), "level 1"});
  ExpectNothingIsLost();
  ExpectUsable();
}

TEST_F(DamageTest, ALookThatMayNotMendSaysNothingOfWhatItCannotSee) {
  engine_->SpoilBlock(Root());
  const CheckReport report = Look();
  EXPECT_EQ(report.problem_count, 1u) << Describe(report);
}

TEST_F(DamageTest, PointersThatLeadElsewhereLoseNothing) {
  const std::vector<Block> leaves = Children(Root(), 1);
  ASSERT_GT(leaves.size(), 6u);
  const auto point = [&](uint32_t index, Block to) {
    EditNode(Root(), 1, [&](NodeEditor& node) {
      EXPECT_TRUE(node.ReplaceInPlace(index, {reinterpret_cast<const char*>(&to), sizeof(to)}).ok());
    });
  };
  const std::vector<std::function<void()>> damages = {
      [&] { point(3, leaves[4]); },                         // a leaf twice, another not at all
      [&] { point(3, Root()); },                            // itself
      [&] { point(3, vandal().FirstExtent(large_).home); },  // a file's content
      [&] { point(3, kCapacity + 5); },
      [&] { point(3, kHeaderBlock); },
      [&] { point(0, AllocationLayout::BitmapBlock(1)); },
      [&] { point(3, 20000); },  // free space
      [&] {
        point(3, leaves[4]);
        point(4, leaves[3]);
      },
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("damage ", i));
    Restart();
    damages[i]();
    ExpectMended(ProblemKind::kNode, {"tree node of level 0"});
    ExpectNothingIsLost();
  }
  ExpectUsable();
}

TEST_F(DamageTest, SeparatorsThatAreWrongLoseNothing) {
  const std::vector<Block> leaves = Children(Root(), 1);
  Key key;
  EditNode(Root(), 1, [&](NodeEditor& node) { key = *node.KeyAt(4); });
  for (const int delta : {-3, 3, 30}) {
    SCOPED_TRACE(absl::StrCat("moved by ", delta));
    Restart();
    EditNode(Root(), 1, [&](NodeEditor& node) {
      EXPECT_TRUE(node.SetKey(4, {key.ino + static_cast<uint64_t>(delta), key.kind, key.offset}).ok());
    });
    ExpectMended(ProblemKind::kNode);
    ExpectNothingIsLost();
  }
}

TEST_F(DamageTest, FieldsOfALeafsHeaderThatAreWrongLoseNothing) {
  const Block leaf = Children(Root(), 1)[4];
  struct Damage {
    uint64_t offset;
    uint64_t bytes;
    uint64_t value;
  };
  for (const Damage& damage : std::vector<Damage>{{kNodeMagicOffset, 4, 0},
                                                  {kNodeLevelOffset, 2, 1},
                                                  {kNodeLevelOffset, 2, 77},
                                                  {kNodeCountOffset, 2, 1},
                                                  {kNodeCountOffset, 2, 60},
                                                  {kNodeCountOffset, 2, 60000},
                                                  {kNodeGarbageOffset, 2, 999},
                                                  {kNodeReserved1Offset, 4, 1},
                                                  {kNodeBlockOffset, 8, 5},
                                                  {kNodeVolumeOffset, 8, 5}}) {
    SCOPED_TRACE(absl::StrCat("offset ", damage.offset, " value ", damage.value));
    Restart();
    vandal().EditBlock(
        leaf, [&](std::byte* bytes) { std::memcpy(bytes + damage.offset, &damage.value, damage.bytes); });
    ExpectMended(ProblemKind::kNode, {absl::StrCat("block ", leaf)});
    ExpectNothingIsLost();
  }
}

TEST_F(DamageTest, ARootThatIsALeafCanBeLost) {
  VolumeTester fresh(VolumeTester::NoMisses(kCapacity));
  fresh.Directory(kRootIno, "gone");
  made_ = fresh.engine().Snapshot();
  Restart();
  engine_->SpoilBlock(Root());
  ExpectMended(ProblemKind::kNode, {"level 0"});
  ExpectUsable();
}

TEST_F(DamageTest, ContentThatLooksLikeANodeStaysContent) {
  // An image of another volume, where each node happens to lie in its own block; and a node of this volume elsewhere.
  const Extent extent = vandal().FirstExtent(large_);
  const Block leaf = Children(Root(), 1)[2];
  std::string content = Pattern(1, 300 << 10);
  std::vector<std::byte> node(kBlockBytes);
  vandal().EditBlock(leaf, [&](std::byte* bytes) { std::memcpy(node.data(), bytes, kBlockBytes); });
  for (uint64_t i = 0; i < 6; ++i) {
    const Block home = extent.home + i;
    const uint64_t volume = i < 3 ? 12345 : vandal().Header().hash_seed;
    std::memcpy(node.data() + kNodeVolumeOffset, &volume, sizeof(volume));
    if (i < 3) std::memcpy(node.data() + kNodeBlockOffset, &home, sizeof(home));
    vandal().Do([&](Transaction& tx) { return tx.Write(home * kBlockBytes, node); });
    std::memcpy(content.data() + i * kBlockBytes, node.data(), kBlockBytes);
  }
  engine_->SpoilBlock(Root());
  ExpectMended(ProblemKind::kNode);
  EXPECT_EQ(Mounted().Read(large_, 0, 1 << 20), content);
  EXPECT_EQ(tester_.Names(other_).size(), 401u);
  EXPECT_TRUE(LostAndFound().empty());
}

// A tree of three levels: an inner node that is not the root.
class HighTreeTest : public DamageTest {
 protected:
  static constexpr int kMore = 2500;

  HighTreeTest() {
    tester_.Crash(made_);
    const Ino many = tester_.Directory(kRootIno, "many");
    for (int i = 0; i < kMore; ++i) {
      const Ino ino = tester_.File(many, absl::StrCat("a file with a long name, number ", i));
      EXPECT_EQ(tester_.Write(ino, 0, Pattern(static_cast<uint64_t>(i), 500)), 0);
    }
    tester_.engine().MakeDurable();
    made_ = tester_.engine().Snapshot();
    Restart();
    EXPECT_GE(vandal().Header().root_height, 3u);
  }
  void ExpectAllOfManyAreThere() {
    Ino many = 0;
    EXPECT_EQ(Mounted().Lookup(kRootIno, "many", &many), 0);
    EXPECT_EQ(tester_.Names(many).size(), static_cast<size_t>(kMore));
    for (const DirectoryEntry& file : tester_.List(many, 1000)) {
      int number = 0;
      if (sscanf(file.name.c_str(), "a file with a long name, number %d", &number) != 1) continue;
      EXPECT_EQ(tester_.Read(file.ino, 0, 1000), Pattern(static_cast<uint64_t>(number), 500)) << file.name;
    }
  }
};

TEST_F(HighTreeTest, EveryInnerNodeCanBeLost) {
  std::vector<Block> inner = NodesOf(*engine_, 1);
  inner.push_back(Root());
  ASSERT_GE(inner.size(), 3u);
  for (const Block block : inner) {
    SCOPED_TRACE(absl::StrCat("node ", block));
    Restart();
    engine_->SpoilBlock(block);
    ExpectMended(ProblemKind::kNode, {absl::StrCat("block ", block)});
    ExpectNothingIsLost();
    ExpectAllOfManyAreThere();
  }
  ExpectUsable();
}

TEST_F(HighTreeTest, AllInnerNodesCanBeLostTogetherAndABitmapWithThem) {
  for (const Block block : NodesOf(*engine_, 1)) engine_->SpoilBlock(block);
  engine_->SpoilBlock(Root());
  engine_->SpoilBlock(AllocationLayout::BitmapBlock(0));
  ExpectMended(ProblemKind::kNode);
  ExpectNothingIsLost();
  ExpectAllOfManyAreThere();
  ExpectUsable();
}

TEST_F(HighTreeTest, SmallWindowsGatherTheSame) {
  engine_->SpoilBlock(Root());
  Mend({.repair = true, .window_blocks = 1, .window_inodes = 100});
  ExpectNothingIsLost();
  ExpectAllOfManyAreThere();
}

// --- Inodes ---

TEST_F(DamageTest, NamesAndContentOfOneInodeAreSeparated) {
  // A directory with the content of a file.
  const Extent extent = vandal().FirstExtent(large_);
  vandal().Erase(ExtentKey(large_, 0));
  vandal().PutExtent(inner_, 0, extent);
  ExpectMended(ProblemKind::kInode, {absl::StrCat("inode ", inner_), "both names and content"});
  EXPECT_EQ(Mounted().Names(inner_), (std::vector<std::string>{"sparse"}));
  const std::vector<std::string> found = LostAndFound();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(Mounted().Read(Found(found[0]), 0, uint64_t{extent.count} * kBlockBytes),
            Pattern(1, 300 << 10).substr(0, uint64_t{extent.count} * kBlockBytes));
  // A file with names.
  Restart();
  vandal().PutEntry(large_, vandal().Hash("sparse"), sparse_, S_IFREG, "sparse");
  vandal().EditInode(sparse_, [](Inode& inode) { ++inode.nlink; });
  ExpectMended(ProblemKind::kInode, {absl::StrCat("inode ", large_), "both names and content"});
  ExpectNothingIsLost();
  EXPECT_EQ(LostAndFound().size(), 1u);
  ExpectUsable();
}

TEST_F(DamageTest, InlineContentAndExtentsOfOneInodeAreSeparated) {
  vandal().Put(InlineKey(large_), "not the file's");
  ExpectMended(ProblemKind::kInode, {absl::StrCat("inode ", large_), "both inline content and extents"});
  ExpectNothingIsLost();
  ASSERT_EQ(LostAndFound().size(), 1u);
  EXPECT_EQ(Mounted().Read(Found(LostAndFound()[0]), 0, 100), "not the file's");

  Restart();
  const Extent extent = vandal().FirstExtent(large_);
  vandal().Erase(ExtentKey(large_, 0));
  vandal().PutExtent(small_, 0, extent);
  ExpectMended(ProblemKind::kInode, {absl::StrCat("inode ", small_), "both inline content and extents"});
  EXPECT_EQ(Mounted().Read(small_, 0, 100), "a small content");
  ASSERT_EQ(LostAndFound().size(), 1u);
  EXPECT_EQ(Mounted().Read(Found(LostAndFound()[0]), 0, 4096), Pattern(1, 300 << 10).substr(0, 4096));
}

TEST_F(DamageTest, TooMuchInlineContentMovesToABlock) {
  const std::string content = Pattern(9, 1100);
  vandal().Put(InlineKey(small_), content);
  vandal().EditInode(small_, [](Inode& inode) { inode.size_bytes = 1100; });
  ExpectMended(ProblemKind::kInode, {"1100 bytes of inline content"});
  EXPECT_EQ(Mounted().Read(small_, 0, 4096), content);
  ExpectUsable();
}

TEST_F(DamageTest, FieldsOfInodesThatCannotBeAreMended) {
  Ino short_link = 0;
  tester_.Crash(made_);
  ASSERT_EQ(tester_.Lookup(kRootIno, "short", &short_link), 0);
  struct Damage {
    Ino ino;
    std::function<void(Inode&)> edit;
    std::string word;
  };
  const std::vector<Damage> damages = {
      {large_, [](Inode& inode) { inode.mode |= 1 << 20; }, "its mode"},
      {large_, [](Inode& inode) { inode.rdev = 5; }, "its device number"},
      {large_, [](Inode& inode) { inode.parent = 5; }, "its parent"},
      {large_, [](Inode& inode) { inode.flags |= kInodeInline; }, "its flags"},
      {large_, [](Inode& inode) { inode.size_bytes = uint64_t{1} << 63; }, "its size"},
      {inner_, [](Inode& inode) { inode.flags = kInodeTruncatePending; }, "its flags"},
      {small_, [](Inode& inode) { inode.flags |= kInodeTruncatePending; }, "its flags"},
      {small_, [](Inode& inode) { inode.next_xattr_id = 0; }, "its last attribute"},
      {small_, [](Inode& inode) { inode.mode = S_IFSOCK | 0644; }, "its mode"},
      {short_link, [](Inode& inode) { inode.size_bytes = 0; }, "its"},
      {short_link, [](Inode& inode) { inode.mode = 0777; }, "its mode"},
      {kRootIno, [](Inode& inode) { inode.mode = S_IFREG | 0755; }, "its mode"},
      {kRootIno, [](Inode& inode) { inode.nlink = 0; }, "its link count"},
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("damage ", i));
    Restart();
    vandal().EditInode(damages[i].ino, damages[i].edit);
    ExpectMended(ProblemKind::kInode, {absl::StrCat("inode ", damages[i].ino), damages[i].word});
    EXPECT_EQ(Mounted().Names(other_).size(), 401u);
    EXPECT_EQ(Mounted().Read(small_, 0, 100), "a small content");
  }
  Restart();
  std::string value = vandal().Get(InodeKey(large_));
  value[100] = 1;
  vandal().Put(InodeKey(large_), value);
  ExpectMended(ProblemKind::kInode, {"reserved bytes"});
  value[80] = 64;
  vandal().Put(InodeKey(large_), value);
  ExpectMended(ProblemKind::kInode, {"flags"});
  ExpectNothingIsLost();
  ExpectUsable();
}

TEST_F(DamageTest, ItemsOfInodesThatCannotBeAreDropped) {
  vandal().Put(Key{~uint64_t{0}, kKindInline, 0}, "nobody's");
  ExpectMended(ProblemKind::kItem, {"no inode has such a number"});
  ExpectNothingIsLost();
  ExpectUsable();
}

TEST_F(DamageTest, ASymbolicLinkWithoutItsTargetBecomesAFile) {
  Ino link = 0;
  tester_.Crash(made_);
  ASSERT_EQ(tester_.Lookup(kRootIno, "long", &link), 0);
  vandal().Erase(ExtentKey(link, 0));
  ExpectMended(ProblemKind::kInode, {absl::StrCat("inode ", link)});
  EXPECT_TRUE(S_ISREG(Mounted().Stat(link).mode));
  EXPECT_EQ(tester_.Stat(link).size_bytes, 0u);
}

// --- Names ---

TEST_F(DamageTest, NamesThatAreNotAllowedGoAndTheirInodesAreFound) {
  for (const std::string& name : {std::string("."), std::string(".."), std::string("a/b"), std::string("a\0b", 3)}) {
    SCOPED_TRACE(name);
    Restart();
    vandal().Erase(EntryKey(directory_, vandal().Hash("small")));
    vandal().PutEntry(directory_, vandal().Hash(name), small_, S_IFREG, name);
    ExpectMended(ProblemKind::kEntry, {absl::StrCat("inode ", directory_), "not allowed"});
    EXPECT_EQ(LostAndFound(), std::vector<std::string>{absl::StrCat("#", small_)});
    EXPECT_EQ(Mounted().Read(small_, 0, 100), "a small content");
  }
  ExpectUsable();
}

TEST_F(DamageTest, LostInodesGoToLostAndFoundWhateverIsThere) {
  // A file has the directory's name, and its successor has the names that would be given.
  tester_.Crash(made_);
  tester_.File(kRootIno, "lost+found");
  const Ino second = tester_.Directory(kRootIno, "lost+found.1");
  tester_.File(second, absl::StrCat("#", small_));
  tester_.engine().MakeDurable();
  made_ = tester_.engine().Snapshot();
  Restart();
  vandal().Erase(EntryKey(directory_, vandal().Hash("small")));
  ExpectMended(ProblemKind::kLinks, {absl::StrCat("inode ", small_), "no name leads to it"});
  EXPECT_EQ(Mounted().Names(second),
            (std::vector<std::string>{absl::StrCat("#", small_), absl::StrCat("#", small_, ".1")}));
  Ino found = 0;
  EXPECT_EQ(tester_.Lookup(second, absl::StrCat("#", small_, ".1"), &found), 0);
  EXPECT_EQ(found, small_);
  ExpectUsable();
}

TEST_F(DamageTest, ADirectoryThatNoNameLeadsToKeepsAllBelowIt) {
  vandal().Erase(EntryKey(kRootIno, vandal().Hash("directory")));
  ExpectMended(ProblemKind::kLinks, {absl::StrCat("inode ", directory_)});
  EXPECT_EQ(LostAndFound(), std::vector<std::string>{absl::StrCat("#", directory_)});
  ExpectNothingIsLost();
  ExpectUsable();
}

// --- Extents ---

TEST_F(DamageTest, BothFilesThatClaimABlockCanBeReadAfterwards) {
  const Extent large = vandal().FirstExtent(large_);
  // The later file loses nothing, the earlier one gets what it claims.
  vandal().PutExtent(small_ - 0, 100, {.home = large.home + 3, .count = 5});
  vandal().Erase(InlineKey(small_));
  vandal().EditInode(small_, [](Inode& inode) {
    inode.flags = 0;
    inode.size_bytes = 105 * kBlockBytes;
    inode.blocks = 5;
  });
  ExpectMended(ProblemKind::kExtent,
               {absl::StrCat("home blocks ", large.home + 3, " to ", large.home + 7), "used by something else"});
  VolumeTester& tester = Mounted();
  const std::string content = Pattern(1, 300 << 10);
  EXPECT_EQ(tester.Read(large_, 0, 1 << 20), content);
  EXPECT_EQ(tester.Read(small_, 100 * kBlockBytes, 5 * kBlockBytes), content.substr(3 * kBlockBytes, 5 * kBlockBytes));
  // They are two files now.
  EXPECT_EQ(tester.Write(small_, 100 * kBlockBytes, std::string(5 * kBlockBytes, 'x')), 0);
  EXPECT_EQ(tester.Read(large_, 0, 1 << 20), content);
  tester.ExpectClean();
}

TEST_F(DamageTest, AFileThatClaimsANodeGetsAHole) {
  const Block leaf = Children(Root(), 1)[3];
  vandal().PutExtent(sparse_, 5, {.home = leaf, .count = 1});
  vandal().EditInode(sparse_, [](Inode& inode) { ++inode.blocks; });
  ExpectMended(ProblemKind::kExtent, {absl::StrCat("inode ", sparse_), absl::StrCat("home block ", leaf)});
  EXPECT_EQ(Mounted().Read(sparse_, 5 * kBlockBytes, kBlockBytes), std::string(kBlockBytes, '\0'));
  ExpectNothingIsLost();
}

TEST_F(DamageTest, WithoutSpaceForACopyTheLaterFileGetsAHole) {
  VolumeTester small_volume(VolumeTester::NoMisses(4096));
  const Ino first = small_volume.File(kRootIno, "first");
  const Ino second = small_volume.File(kRootIno, "second");
  EXPECT_EQ(small_volume.Write(first, 0, Pattern(5, 64 << 10)), 0);
  EXPECT_EQ(small_volume.Write(second, 0, Pattern(6, 64 << 10)), 0);
  const Ino filler = small_volume.File(kRootIno, "filler");
  for (uint64_t at = 0; small_volume.Write(filler, at, std::string(64 << 10, 'f')) == 0;) at += 64 << 10;
  small_volume.Settle();
  small_volume.engine().MakeDurable();
  MemoryEngine engine(environment_, {.capacity_blocks = 4096}, small_volume.engine().Snapshot());
  Vandal vandal(engine);
  // Take the reserve, too.
  Allocator allocator(4096);
  vandal.Do([&](Transaction& tx) -> absl::Status {
    const absl::StatusOr<uint64_t> free = allocator.FreeBlocks(tx);
    for (uint64_t i = 0; free.ok() && i + 8 < *free; ++i) {
      const auto block = allocator.Allocate(tx, 1, 1, 0, SpaceUse::kFreeing);
      if (!block.ok()) return block.status();
      RETURN_IF_ERROR(tx.Zero(block->first * kBlockBytes, kBlockBytes));
      std::string bytes(kExtentBytes, '\0');
      EncodeExtent({.home = block->first, .count = 1}, bytes.data());
      RETURN_IF_ERROR(BTree(&vandal).Put(tx, ExtentKey(filler, (1 << 20) + i), bytes));
    }
    return absl::OkStatus();
  });
  vandal.PutExtent(second, 0, vandal.FirstExtent(first));
  ASSERT_TRUE(Check(engine, {.repair = true}).ok());
  const auto again = Check(engine, {.verify_data = true});
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->clean()) << Describe(*again);
  small_volume.Crash(engine.Snapshot());
  EXPECT_EQ(small_volume.Read(first, 0, 64 << 10), Pattern(5, 64 << 10));
}

TEST_F(DamageTest, AnExtentThatBeginsInsideAnotherKeepsTheRest) {
  // Blocks 1 and 2 of the file: the first is the extent's before.
  vandal().PutExtent(sparse_, 1, {.home = 20000, .count = 2});
  vandal().Do([](Transaction& tx) {
    RETURN_IF_ERROR(tx.Zero(20000 * kBlockBytes, 2 * kBlockBytes));
    return tx.Write(20001 * kBlockBytes, std::vector<std::byte>(kBlockBytes, std::byte{'k'}));
  });
  ExpectMended(ProblemKind::kExtent, {absl::StrCat("inode ", sparse_), "the one before it ends at 2"});
  EXPECT_EQ(Mounted().Read(sparse_, 8192, kBlockBytes), std::string(kBlockBytes, 'k'));
  ExpectNothingIsLost();
}

TEST_F(DamageTest, BytesBehindTheEndOfAFileAreZeroedWhenDataIsVerified) {
  const Extent extent = vandal().FirstExtent(large_);
  vandal().EditInode(large_, [](Inode& inode) { inode.size_bytes = (300 << 10) - 100; });
  const CheckReport report = Look({.repair = true, .verify_data = true});
  EXPECT_TRUE(Has(report, ProblemKind::kData)) << Describe(report);
  EXPECT_TRUE(Names(report, {absl::StrCat("inode ", large_), "behind its end"}));
  EXPECT_EQ(report.unrepaired_count(), 0u) << Describe(report);
  EXPECT_TRUE(Look({.verify_data = true}).clean());
  EXPECT_EQ(Mounted().Truncate(large_, 300 << 10), 0);
  EXPECT_EQ(tester_.Read(large_, (300 << 10) - 100, 1000), std::string(100, '\0'));
  EXPECT_GT(extent.count, 0u);
}

// --- Space ---

TEST_F(DamageTest, BitsThatStandForNoBlockAreCleared) {
  vandal().Poke<uint8_t>(AllocationLayout::BitmapBlock(0) * kBlockBytes, 0x02);  // the header's
  ExpectMended(ProblemKind::kSpace, {"group 0", "stand for no block"});
  Restart();
  vandal().Poke<uint8_t>(AllocationLayout::BitmapBlock(1) * kBlockBytes + 4095, 0x80);  // behind the device
  ExpectMended(ProblemKind::kSpace, {"group 1", "stand for no block"});
  ExpectUsable();
}

TEST_F(DamageTest, ASummaryThatCannotBeReadIsSaidOnce) {
  engine_->SpoilBlock(AllocationLayout::SummaryBlock(0));
  const CheckReport report = Look();
  EXPECT_EQ(report.problem_count, 1u) << Describe(report);
  ExpectMended(ProblemKind::kSpace, {absl::StrCat("block ", AllocationLayout::SummaryBlock(0)), "summary"});
  ExpectNothingIsLost();
}

// --- Orphans ---

TEST_F(DamageTest, ATruncationThatWouldRemoveContentIsSetRight) {
  std::string orphan(kOrphanBytes, '\0');
  EncodeOrphan({.what = Orphan::What::kTruncate, .from_block = 10}, orphan.data());
  vandal().Put(OrphanKey(large_), orphan);
  vandal().EditInode(large_, [](Inode& inode) { inode.flags |= kInodeTruncatePending; });
  ExpectMended(ProblemKind::kOrphan, {absl::StrCat("inode ", large_), "from block 10"});
  Mounted().Settle();
  ExpectNothingIsLost();
}

}  // namespace
}  // namespace stagefs::volume::testing

#include "fs/volume/header.h"

#include <sys/stat.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/allocator.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"
#include "sal/simulated_environment.h"
#include "sal/status_macros.h"

namespace stagefs::volume::testing {
namespace {

constexpr uint64_t kGroup = AllocationLayout::kGroupBlocks;

// Volumes of one group and of several keep the copy in different places.
class HeaderTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  HeaderTest() : tester_(VolumeTester::NoMisses(GetParam())), copy_(HeaderCopyBlock(GetParam())) {
    for (int i = 0; i < 300; ++i) EXPECT_NE(tester_.File(kRootIno, absl::StrCat("file ", i)), 0u);
    before_ = tester_.Fs();
  }

  VolumeHeader Read(core::Block block) {
    absl::StatusOr<VolumeHeader> header;
    EXPECT_TRUE(tester_.engine()
                    .RunAndWait([&](core::Transaction& tx) {
                      header = ReadHeader(tx, block);
                      return header.status();
                    })
                    .ok());
    return header.value_or(VolumeHeader());
  }
  void ExpectTheCopyFits() { EXPECT_TRUE(SameButForCounts(Read(copy_), HeaderCopyOf(Read(kHeaderBlock)))); }
  static bool SameButForCounts(VolumeHeader a, const VolumeHeader& b) {
    a.inode_count = b.inode_count;
    return a == b;
  }

  VolumeTester tester_;
  const core::Block copy_;
  StatFs before_;
};

TEST_P(HeaderTest, TheCopyFollowsTheRoot) {
  ASSERT_GE(Read(kHeaderBlock).root_height, 2u);
  ExpectTheCopyFits();
  for (int i = 0; i < 300; ++i) EXPECT_EQ(tester_.Unlink(kRootIno, absl::StrCat("file ", i)), 0);
  tester_.Settle();
  ASSERT_EQ(Read(kHeaderBlock).root_height, 1u);
  ExpectTheCopyFits();
}

TEST_P(HeaderTest, ALostHeaderIsWrittenAnewFromItsCopy) {
  tester_.engine().SpoilBlock(kHeaderBlock);
  tester_.Crash();
  EXPECT_EQ(tester_.Fs().inodes, before_.inodes);
  EXPECT_EQ(tester_.Fs().free_blocks, before_.free_blocks);
  EXPECT_EQ(tester_.Names(kRootIno).size(), 300u);
  EXPECT_GT(tester_.File(kRootIno, "new"), 301u);
  tester_.ExpectClean();
  ExpectTheCopyFits();
}

TEST_P(HeaderTest, AReadOnlyVolumeUsesTheCopyAsItIs) {
  tester_.engine().Poke(kHeaderBlock * core::kBlockBytes, {std::vector<std::byte>(64).data(), 64});
  tester_.Crash(tester_.engine().Snapshot(), /*read_only=*/true);
  EXPECT_EQ(tester_.Names(kRootIno).size(), 300u);
  EXPECT_EQ(tester_.Fs().total_blocks, before_.total_blocks);
}

TEST_P(HeaderTest, ALostCopyIsWrittenAnewWhenItChanges) {
  tester_.engine().SpoilBlock(copy_);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(tester_.Unlink(kRootIno, absl::StrCat("file ", i)), 0);
  tester_.Settle();
  ExpectTheCopyFits();
}

TEST_P(HeaderTest, ItsUserIsToldThatTheCopyWasUsed) {
  tester_.engine().SpoilBlock(kHeaderBlock);
  sal::SimulatedEnvironment environment(1);
  MemoryEngine engine(environment, {.capacity_blocks = GetParam()}, tester_.engine().Snapshot());
  std::vector<std::string> warnings;
  const auto volume = Volume::Open(engine, &warnings);
  ASSERT_TRUE(volume.ok()) << volume.status();
  (*volume)->Close();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("its copy is used"), std::string::npos) << warnings[0];
}

TEST_P(HeaderTest, AVolumeInRepairIsNotOpened) {
  ASSERT_TRUE(tester_.engine()
                  .RunAndWait([](core::Transaction& tx) {
                    return UpdateHeader(tx, [](VolumeHeader& header) { header.flags = kHeaderGathering; });
                  })
                  .ok());
  EXPECT_EQ(Read(copy_).flags, kHeaderGathering);
  sal::SimulatedEnvironment environment(1);
  MemoryEngine engine(environment, {.capacity_blocks = GetParam()}, tester_.engine().Snapshot());
  EXPECT_EQ(Volume::Open(engine).status().code(), absl::StatusCode::kFailedPrecondition);
}

INSTANTIATE_TEST_SUITE_P(Capacities, HeaderTest, ::testing::Values(4096, kGroup + 63, 3 * kGroup / 2));

TEST(HeaderCopyTest, ItsNextInodeIsAboveAllThatAreInUseAndChangesSeldom) {
  VolumeHeader header;
  for (const uint64_t next : {uint64_t{2}, uint64_t{65535}, uint64_t{65536}, uint64_t{131071}, kMaxIno}) {
    header.next_ino = next;
    EXPECT_TRUE(HeaderCopyOf(header).next_ino > next || next == kMaxIno);
  }
  header.next_ino = 65536;
  const VolumeHeader copy = HeaderCopyOf(header);
  header.next_ino = 131071;
  EXPECT_EQ(HeaderCopyOf(header), copy);
}

}  // namespace
}  // namespace stagefs::volume::testing

// Groups: what they write, in which order, and what they leave alone. The real engine's: group_engine_test.cc.

#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <vector>

#include "fs/volume/group_tester.h"
#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"

namespace stagefs::volume::testing {
namespace {

using Kind = ContentChange::Kind;

class GroupWriteTest : public ::testing::Test {
 protected:
  ~GroupWriteTest() override { tester_.ExpectClean(); }

  Ino FileWith(absl::string_view name, const std::string& content) {
    const Ino ino = tester_.File(kRootIno, name);
    for (uint64_t at = 0; at < content.size(); at += kMaxWriteBytes) {
      EXPECT_EQ(tester_.Write(ino, at, content.substr(at, kMaxWriteBytes)), 0);
    }
    return ino;
  }
  std::string All(Ino ino) { return tester_.Read(ino, 0, tester_.Stat(ino).size_bytes); }

  VolumeTester tester_;
};

TEST_F(GroupWriteTest, PartsOnSeveralFilesAreOneChange) {
  const Ino a = FileWith("a", Pattern(1, 10'000));
  const Ino b = FileWith("b", Pattern(2, 100));  // inline
  const Ino c = FileWith("c", "");
  const core::Lsn before = tester_.engine().accepted_lsn();
  const auto result =
      Group().Write(a, 5000, "xyz").Write(b, 50, "in").Write(c, 8190, "hole").Write(a, 0, "A").Run(tester_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->lsn, before + 1);
  EXPECT_EQ(tester_.engine().accepted_lsn(), before + 1);
  EXPECT_EQ(result->previous, std::vector<uint64_t>(4, 0));
  EXPECT_EQ(All(a), Pattern(1, 10'000).replace(5000, 3, "xyz").replace(0, 1, "A"));
  EXPECT_EQ(All(b), Pattern(2, 100).replace(50, 2, "in"));
  EXPECT_EQ(All(c), std::string(8190, '\0') + "hole");
}

TEST_F(GroupWriteTest, EachPartSeesTheOnesBefore) {
  const Ino a = FileWith("a", Pattern(1, 20'000));
  const auto result = Group()
                          .Write(a, 4096, Number(5) + Number(6))
                          .CompareAndSwap(a, 4096, 5, 7)
                          .CompareAndSwap(a, 4104, 5, 8)  // it is 6
                          .FetchAdd(a, 4096, 10)
                          .Write(a, 4100, "later")
                          .FetchAdd(a, 4104, ~uint64_t{0})
                          .Run(tester_);
  ASSERT_TRUE(result.ok()) << result.status();
  std::string middle = (Number(17) + Number(6)).replace(4, 5, "later");
  const uint64_t second = NumberAt(middle, 8);
  EXPECT_EQ(result->previous, (std::vector<uint64_t>{0, 5, 6, 7, 0, second}));
  middle.replace(8, 8, Number(second - 1));
  EXPECT_EQ(All(a), Pattern(1, 20'000).replace(4096, 16, middle));
}

TEST_F(GroupWriteTest, ANumberBehindTheEndCountsAsZero) {
  for (const std::string& content : {std::string(), std::string("12345"), Pattern(3, 5000)}) {
    SCOPED_TRACE(content.size());
    const Ino a = FileWith("a" + std::to_string(content.size()), content);
    const auto failed = Group().CompareAndSwap(a, 8192, 1, 2).FetchAdd(a, 16384, 0).Run(tester_);
    ASSERT_TRUE(failed.ok()) << failed.status();
    EXPECT_EQ(failed->previous, (std::vector<uint64_t>{0, 0}));
    EXPECT_EQ(All(a), content);
    const auto stored = Group().CompareAndSwap(a, 8192, 0, 2).FetchAdd(a, 16, 3).Run(tester_);
    ASSERT_TRUE(stored.ok()) << stored.status();
    std::string expected = content;
    expected.resize(8192);
    const uint64_t before = NumberAt(expected, 16);
    EXPECT_EQ(stored->previous, (std::vector<uint64_t>{0, before}));
    EXPECT_EQ(All(a), expected.replace(16, 8, Number(before + 3)) + Number(2));
  }
  // Across the end.
  const Ino b = FileWith("b", "123");
  const auto result = Group().FetchAdd(b, 0, 1).Run(tester_);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->previous[0], 0x333231u);
  EXPECT_EQ(All(b), Number(0x333232));
}

TEST_F(GroupWriteTest, AFailedComparisonChangesNothing) {
  const Ino a = FileWith("a", Pattern(1, 10'000));
  const Ino b = FileWith("b", "inline");
  const Attributes before_a = tester_.Stat(a), before_b = tester_.Stat(b);
  const core::Lsn lsn = tester_.engine().accepted_lsn();
  tester_.environment().Schedule(1000, [] {});
  tester_.Settle();
  const auto result = Group().CompareAndSwap(a, 8, 1, 2).CompareAndSwap(b, 0, 1, 2).CompareAndSwap(b, 1 << 20, 1, 2)
                          .Run(tester_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->lsn, lsn);
  EXPECT_EQ(tester_.engine().accepted_lsn(), lsn);
  EXPECT_EQ(tester_.Stat(a).mtime_ns, before_a.mtime_ns);
  EXPECT_EQ(tester_.Stat(a).ctime_ns, before_a.ctime_ns);
  EXPECT_EQ(tester_.Stat(b).mtime_ns, before_b.mtime_ns);
  EXPECT_EQ(tester_.Stat(b).size_bytes, before_b.size_bytes);
}

TEST_F(GroupWriteTest, WritingSetsTimesAndTakesSetIdBits) {
  const Ino a = tester_.File(kRootIno, "a", 06755);
  const Attributes before = tester_.Stat(a);
  tester_.environment().Schedule(1000, [] {});
  tester_.Settle();
  ASSERT_EQ(Group().CompareAndSwap(a, 0, 1, 2).Error(tester_), 0);
  EXPECT_EQ(tester_.Stat(a).mode, before.mode);
  ASSERT_EQ(Group().Write(a, 0, "x").Write(a, 1, "y").Error(tester_), 0);
  EXPECT_EQ(tester_.Stat(a).mode, uint32_t{S_IFREG | 0755});
  EXPECT_GT(tester_.Stat(a).mtime_ns, before.mtime_ns);
  EXPECT_EQ(tester_.Stat(a).ctime_ns, tester_.Stat(a).mtime_ns);
  EXPECT_EQ(tester_.Stat(a).atime_ns, before.atime_ns);
}

TEST_F(GroupWriteTest, WhatIsWrongWithOnePartIsWrongWithAll) {
  const Ino a = FileWith("a", Pattern(1, 10'000));
  const Ino gone = FileWith("gone", "x");
  ASSERT_EQ(tester_.Unlink(kRootIno, "gone"), 0);
  tester_.Settle();
  const core::Lsn lsn = tester_.engine().accepted_lsn();
  EXPECT_EQ(Group().Write(a, 0, "x").Write(gone, 0, "x").Error(tester_), ESTALE);
  EXPECT_EQ(Group().Write(a, 0, "x").Write(kRootIno, 0, "x").Error(tester_), EISDIR);
  EXPECT_EQ(Group().Write(a, 0, "x").FetchAdd(a, 4, 1).Error(tester_), EINVAL);
  EXPECT_EQ(Group().Write(a, 0, "x").WriteStaged(tester_, a, 512, Pattern(1, 4096)).Error(tester_), EINVAL);
  EXPECT_EQ(Group().Write(a, 0, "x").Write(a, kMaxFileBytes, "x").Error(tester_), EFBIG);
  EXPECT_EQ(Group().Write(a, 0, "x").FetchAdd(a, kMaxFileBytes / 8 * 8, 1).Error(tester_), EFBIG);
  ContentChange nothing_staged;
  nothing_staged.kind = Kind::kWriteStaged;
  nothing_staged.ino = a;
  EXPECT_EQ(ToErrno(tester_.Wait<GroupResult>([&](auto done) {
              tester_.volume().WriteGroup({nothing_staged}, std::move(done));
            }).status()),
            EINVAL);
  EXPECT_EQ(tester_.engine().accepted_lsn(), lsn);
  EXPECT_EQ(All(a), Pattern(1, 10'000));
}

TEST_F(GroupWriteTest, AnEmptyGroupChangesNothing) {
  const Ino a = FileWith("a", "content");
  const core::Lsn lsn = tester_.engine().accepted_lsn();
  const auto empty = Group().Run(tester_);
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->lsn, lsn);
  EXPECT_TRUE(empty->previous.empty());
  EXPECT_EQ(Group().Write(a, 100, "").Error(tester_), 0);
  EXPECT_EQ(All(a), "content");
  EXPECT_EQ(tester_.engine().accepted_lsn(), lsn);
}

TEST_F(GroupWriteTest, LargeUnalignedWritesOverlap) {
  const Ino a = FileWith("a", Pattern(1, 1 << 20));
  std::string expected = Pattern(1, 1 << 20);
  expected.resize(5'000'000 + 100'007);
  expected.replace(100'007, 5'000'000, Pattern(2, 5'000'000));
  expected.replace(3'000'000, 70'000, Pattern(3, 70'000));
  expected.replace(3'050'000, 100, Pattern(4, 100));
  ASSERT_EQ(Group()
                .Write(a, 100'007, Pattern(2, 5'000'000))
                .Write(a, 3'000'000, Pattern(3, 70'000))
                .Write(a, 3'050'000, Pattern(4, 100))
                .Error(tester_),
            0);
  EXPECT_TRUE(All(a) == expected);
}

TEST_F(GroupWriteTest, SmallWritesFindTheBlocksThatLargeOnesMoved) {
  const Ino a = FileWith("a", Pattern(1, 1 << 20));
  ASSERT_EQ(Group()
                .Write(a, 200'000, "one")
                .Write(a, 100'000, Pattern(2, 200'000))
                .Write(a, 200'010, "two")
                .WriteStaged(tester_, a, 200'704, Pattern(3, 8192))
                .Write(a, 204'000, "three")
                .FetchAdd(a, 204'800, 0)
                .Error(tester_),
            0);
  EXPECT_TRUE(All(a) == Pattern(1, 1 << 20)
                            .replace(100'000, 200'000, Pattern(2, 200'000))
                            .replace(200'010, 3, "two")
                            .replace(200'704, 8192, Pattern(3, 8192))
                            .replace(204'000, 5, "three"));
}

TEST_F(GroupWriteTest, SixteenMebibytesAreOneChangeAndNotAByteMore) {
  const Ino a = FileWith("a", "");
  const core::Lsn lsn = tester_.engine().accepted_lsn();
  EXPECT_EQ(Group().Write(a, 0, std::string(kMaxGroupBytes, 'x')).FetchAdd(a, 0, 1).Error(tester_), E2BIG);
  EXPECT_EQ(tester_.Stat(a).size_bytes, 0u);
  const std::string bytes = Pattern(1, kMaxGroupBytes);
  ASSERT_EQ(Group().Write(a, 3, bytes).Error(tester_), 0);
  EXPECT_EQ(tester_.engine().accepted_lsn(), lsn + 1);
  EXPECT_TRUE(tester_.Read(a, 3, bytes.size()) == bytes);
}

TEST_F(GroupWriteTest, StagedBlocksAreWrittenWithoutACopy) {
  const Ino a = FileWith("a", Pattern(1, 300'000));
  Group group;
  group.WriteStaged(tester_, a, 8192, Pattern(2, 40960)).Write(a, 10'000, "over").WriteStaged(tester_, a, 400 * 4096,
                                                                                             Pattern(3, 8192));
  ASSERT_EQ(group.Error(tester_), 0);
  std::string expected = Pattern(1, 300'000).replace(8192, 40960, Pattern(2, 40960)).replace(10'000, 4, "over");
  expected.resize(400 * 4096);
  EXPECT_TRUE(All(a) == expected + Pattern(3, 8192));
}

TEST_F(GroupWriteTest, StagedBlocksHideWhatWasWrittenBefore) {
  const Ino a = FileWith("a", Pattern(1, 100'000));
  const auto result = Group()
                          .Write(a, 4000, Pattern(2, 10'000))
                          .FetchAdd(a, 8192, 1)
                          .WriteStaged(tester_, a, 8192, Number(7) + Pattern(3, 4088))
                          .FetchAdd(a, 8192, 1)
                          .Run(tester_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->previous[1], NumberAt(Pattern(2, 10'000), 4192));
  EXPECT_EQ(result->previous[3], 7u);
  EXPECT_TRUE(All(a) == Pattern(1, 100'000).replace(4000, 10'000, Pattern(2, 10'000))
                            .replace(8192, 4096, Number(8) + Pattern(3, 4088)));
}

// --- More than one change can log: composed ---

TEST_F(GroupWriteTest, ManyHalfBlocksAreOneChange) {
  const Ino a = FileWith("a", Pattern(1, 4 << 20));
  std::string expected = Pattern(1, 4 << 20);
  Group group;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t offset = i * 4096 + i % 3 * 1000;
    group.Write(a, offset, Pattern(i, 2048));
    expected.replace(offset, 2048, Pattern(i, 2048));
  }
  const core::Lsn lsn = tester_.engine().accepted_lsn();
  const auto result = group.Run(tester_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->lsn, lsn + 1);
  EXPECT_EQ(tester_.engine().accepted_lsn(), lsn + 1);
  EXPECT_TRUE(All(a) == expected);
}

TEST_F(GroupWriteTest, MediumWritesOfWholeBlocksAreOneChange) {
  const Ino a = FileWith("a", Pattern(1, 3'000'000));
  const Ino b = FileWith("b", Pattern(5, 400));
  std::string of_a = Pattern(1, 3'000'000), of_b = Pattern(5, 400);
  of_b.resize(60 * 65536);
  Group group;
  for (int i = 0; i < 60; ++i) {
    group.Write(a, i * 40'960, Pattern(i, 40'000)).Write(b, i * 65536 + 70, Pattern(i + 100, 60'000));
    of_a.replace(i * 40'960, 40'000, Pattern(i, 40'000));
    of_b.replace(i * 65536 + 70, 60'000, Pattern(i + 100, 60'000));
  }
  of_b.resize(59 * 65536 + 70 + 60'000);
  ASSERT_EQ(group.Error(tester_), 0);
  EXPECT_TRUE(All(a) == of_a);
  EXPECT_TRUE(All(b) == of_b);
}

TEST_F(GroupWriteTest, ManyNumbersInOneSmallFile) {
  const Ino a = FileWith("a", Pattern(1, 300));  // inline
  Group group;
  for (uint64_t i = 0; i < 30'000; ++i) group.FetchAdd(a, 400, 1);
  group.CompareAndSwap(a, 400, 30'000, 5).CompareAndSwap(a, 5 << 20, 1, 1);
  const auto result = group.Run(tester_);
  ASSERT_TRUE(result.ok()) << result.status();
  for (uint64_t i = 0; i <= 30'000; ++i) ASSERT_EQ(result->previous[i], i);
  std::string expected = Pattern(1, 300);
  expected.resize(400);
  EXPECT_EQ(All(a), expected + Number(5));
}

TEST_F(GroupWriteTest, ManyFailedComparisonsChangeNothing) {
  const Ino a = FileWith("a", Pattern(1, 1 << 20));
  const Ino b = FileWith("b", "inline");
  const uint64_t free = tester_.Fs().free_blocks;
  const core::Lsn lsn = tester_.engine().accepted_lsn();
  Group group;
  for (uint64_t i = 0; i < 20'000; ++i) group.CompareAndSwap(i % 2 == 0 ? a : b, i * 32, 12345, 6);
  ASSERT_EQ(group.Error(tester_), 0);
  EXPECT_EQ(tester_.engine().accepted_lsn(), lsn);
  EXPECT_EQ(tester_.Fs().free_blocks, free);
  EXPECT_EQ(All(b), "inline");
}

TEST_F(GroupWriteTest, ComposedPartsGoOverStagedOnes) {
  const Ino a = FileWith("a", Pattern(1, 2 << 20));
  std::string expected = Pattern(1, 2 << 20);
  Group group;
  for (int i = 0; i < 500; ++i) {
    const uint64_t at = i * 4096;
    group.Write(a, at + 100, Pattern(i, 2000));
    expected.replace(at + 100, 2000, Pattern(i, 2000));
    if (i % 50 != 7) continue;
    group.WriteStaged(tester_, a, at, Pattern(i + 1000, 8192)).Write(a, at + 4000, Pattern(i + 2000, 200));
    expected.replace(at, 8192, Pattern(i + 1000, 8192)).replace(at + 4000, 200, Pattern(i + 2000, 200));
  }
  ASSERT_EQ(group.Error(tester_), 0);
  EXPECT_TRUE(All(a) == expected);
}

TEST_F(GroupWriteTest, ManyFilesAreOneChange) {
  std::vector<Ino> files;
  Group group;
  for (int i = 0; i < 300; ++i) {
    files.push_back(FileWith("f" + std::to_string(i), Pattern(i, i * 20)));
    group.Write(files.back(), 10, Pattern(i + 1000, 4000));
  }
  const core::Lsn lsn = tester_.engine().accepted_lsn();
  ASSERT_EQ(group.Error(tester_), 0);
  EXPECT_EQ(tester_.engine().accepted_lsn(), lsn + 1);
  for (int i = 0; i < 300; ++i) {
    std::string expected = Pattern(i, i * 20);
    if (expected.size() < 4010) expected.resize(4010);
    ASSERT_TRUE(All(files[i]) == expected.replace(10, 4000, Pattern(i + 1000, 4000))) << i;
  }
}

TEST_F(GroupWriteTest, AFileWithMuchToRemoveGrows) {
  // Scattered, so that its truncation takes several changes.
  const Ino a = tester_.File(kRootIno, "a");
  for (int i = 0; i < 300; ++i) ASSERT_EQ(tester_.Write(a, uint64_t(i) * 8192, Pattern(i, 4096)), 0);
  for (const int count : {1, 400}) {
    ASSERT_EQ(tester_.Truncate(a, 5000), 0);
    Group group;
    for (int i = 0; i < count; ++i) group.Write(a, 100'000 + i * 4096, Pattern(i, 2048));
    group.FetchAdd(a, 8192, 3);
    const auto result = group.Run(tester_);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->previous.back(), 0u);
    EXPECT_EQ(tester_.Read(a, 8192, 16), Number(3) + std::string(8, '\0'));
    EXPECT_EQ(tester_.Read(a, 5000, 100), std::string(100, '\0'));
    EXPECT_EQ(tester_.Read(a, 100'000, 2048), Pattern(0, 2048));
    tester_.Settle();
    for (int i = 0; i < 300; ++i) ASSERT_EQ(tester_.Write(a, uint64_t(i) * 8192, Pattern(i, 4096)), 0);
  }
}

// --- Little of everything ---

TEST(GroupSpaceTest, AFullVolumeTakesWhatLiesInPlaceAndRefusesTheRest) {
  VolumeTester tester(VolumeTester::NoMisses(4000));
  const Ino a = tester.File(kRootIno, "a");
  const std::string old = Pattern(1, 3 << 20);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(tester.Write(a, i << 20, old.substr(i << 20, 1 << 20)), 0);
  const Ino filler = tester.File(kRootIno, "filler");
  uint64_t end = 0;
  for (const uint64_t piece : {1 << 20, 65536, 4096}) {
    while (tester.Write(filler, end, std::string(piece, 'x')) == 0) end += piece;
  }
  // In place, and of the large ones as much as can be logged.
  EXPECT_EQ(Group().Write(a, 100, "small").FetchAdd(a, 8192, 1).Error(tester), 0);
  EXPECT_EQ(Group().Write(a, 5, Pattern(2, 900'000)).Error(tester), 0);
  EXPECT_EQ(tester.Read(a, 5, 900'000), Pattern(2, 900'000));
  const std::string before = tester.Read(a, 0, 3 << 20);
  EXPECT_EQ(Group().Write(a, 0, Pattern(3, 3 << 20)).Error(tester), ENOSPC);
  Group halves;
  for (int i = 0; i < 700; ++i) halves.Write(a, i * 4096, Pattern(i, 2048));
  EXPECT_EQ(halves.Error(tester), ENOSPC);
  EXPECT_EQ(Group().Write(a, 0, "x").Write(a, 3 << 20, Pattern(4, 4096)).Error(tester), ENOSPC);
  EXPECT_TRUE(tester.Read(a, 0, 4 << 20) == before);
  tester.ExpectClean();
}

TEST(GroupSpaceTest, GroupsOverwriteTheirOwnSpaceAgainAndAgain) {
  VolumeTester tester(VolumeTester::NoMisses(6000));
  const Ino a = tester.File(kRootIno, "a");
  for (int round = 0; round < 10; ++round) {
    Group large, halves;
    large.Write(a, 0, Pattern(round, 8 << 20));
    ASSERT_EQ(large.Error(tester), 0) << round;
    for (int i = 0; i < 2000; ++i) halves.Write(a, i * 4096, Pattern(i, 2048));
    ASSERT_EQ(halves.Error(tester), 0) << round;
  }
  tester.ExpectClean();
}

TEST(GroupSpaceTest, GroupsTakeTurnsForStagingMemory) {
  VolumeTester::Options options;
  options.engine = VolumeTester::Misses(3);
  options.engine.staging_blocks = 1100;
  options.engine.asynchronous = true;
  VolumeTester tester(options);
  const Ino a = tester.File(kRootIno, "a");
  std::vector<Group> groups(6);
  int over = 0;
  for (int i = 0; i < 6; ++i) {
    groups[i].Write(a, uint64_t(i) << 22, Pattern(i, 4 << 20));
    tester.volume().WriteGroup(groups[i].parts(), [&](const absl::StatusOr<GroupResult>& result) {
      EXPECT_TRUE(result.ok()) << result.status();
      ++over;
    });
  }
  tester.Settle();
  EXPECT_EQ(over, 6);
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(tester.Read(a, uint64_t(i) << 22, 4 << 20) == Pattern(i, 4 << 20)) << i;
}

// A composed group whose body has run and has to run again, for want of room or otherwise, must not write what it read
// the first time.
TEST(GroupSpaceTest, WhatOthersWriteBetweenTwoRunsIsNotLost) {
  for (int seed = 1; seed <= 20; ++seed) {
    VolumeTester::Options options = VolumeTester::NoMisses(65536);
    options.engine.seed = seed;
    options.engine.rerun_probability = 1;  // each body runs twice
    options.engine.asynchronous = true;
    VolumeTester tester(options);
    const Ino a = tester.File(kRootIno, "a");
    ASSERT_EQ(tester.Write(a, 0, Pattern(1, 800'000)), 0);
    std::string expected = Pattern(1, 800'000).replace(3000, 6, "before").replace(7100, 6, "before");
    Group group;
    for (int i = 0; i < 20'000; ++i) group.FetchAdd(a, 16 + i % 2 * 4096, 1);
    for (int i = 0; i < 2; ++i) {
      const uint64_t at = 16 + i * 4096;
      expected.replace(at, 8, Number(NumberAt(expected, at) + 10'000));
    }
    int over = 0;
    for (const uint64_t offset : {3000, 7100}) {
      tester.volume().Write(a, offset, AsBytes("before"), false, [&](const absl::StatusOr<size_t>&) { ++over; });
    }
    tester.volume().WriteGroup(group.parts(), [&](const absl::StatusOr<GroupResult>& result) {
      EXPECT_TRUE(result.ok()) << result.status();
      ++over;
    });
    tester.Settle();
    ASSERT_EQ(over, 3);
    EXPECT_TRUE(tester.Read(a, 0, 800'000) == expected) << "seed " << seed;
    tester.ExpectClean();
  }
}

TEST(GroupSpaceTest, StagedPartsDoNotWaitForMoreStagingMemory) {
  VolumeTester::Options options = VolumeTester::NoMisses(65536);
  options.engine.staging_blocks = 100;
  VolumeTester tester(options);
  const Ino a = tester.File(kRootIno, "a");
  Group mixed;
  mixed.WriteStaged(tester, a, 0, Pattern(1, 90 * 4096)).Write(a, 1 << 20, Pattern(2, 90'000));
  EXPECT_EQ(mixed.Error(tester), ENOMEM);
  EXPECT_EQ(tester.Stat(a).size_bytes, 0u);
  mixed = Group();  // its staged data are gone
  EXPECT_EQ(Group().Write(a, 1 << 20, Pattern(2, 90'000)).Error(tester), 0);
}

TEST(GroupSpaceTest, AFailedEngineRefusesGroups) {
  VolumeTester::Options options = VolumeTester::NoMisses(65536);
  options.engine.staging_blocks = 600;
  VolumeTester tester(options);
  const Ino a = tester.File(kRootIno, "a");
  const auto held = tester.engine().TryStage(400);
  tester.engine().Break(absl::InternalError("cable"));
  EXPECT_EQ(Group().Write(a, 0, "x").Error(tester), EROFS);
  EXPECT_EQ(Group().Write(a, 0, Pattern(1, 4 << 20)).Error(tester), EROFS);
}

}  // namespace
}  // namespace stagefs::volume::testing

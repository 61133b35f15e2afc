// Removal: unlinked files that are open, large files that go in many changes, and what a crash interrupts.

#include "fs/volume/orphans.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <vector>

#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"
#include "sal/random.h"

namespace stagefs::volume::testing {
namespace {

// A file of `count` extents, none of which joins another.
Ino FileOfPieces(VolumeTester& tester, absl::string_view name, int count) {
  const Ino file = tester.File(kRootIno, name);
  for (int i = 0; i < count; ++i) {
    EXPECT_EQ(tester.Write(file, uint64_t(i) * 8192, Pattern(i, 4096)), 0);
  }
  return file;
}

TEST(OrphansTest, AnOpenFileOutlivesItsName) {
  VolumeTester tester;
  const uint64_t free = tester.Fs().free_blocks;
  const Ino file = tester.File(kRootIno, "f");
  const std::string bytes = Pattern(1, 200'000);
  ASSERT_EQ(tester.Write(file, 0, bytes), 0);
  ASSERT_EQ(tester.Open(file), 0);
  ASSERT_EQ(tester.Open(file), 0);
  ASSERT_EQ(tester.Unlink(kRootIno, "f"), 0);
  EXPECT_EQ(tester.Stat(file).nlink, 0u);
  tester.volume().Release(file);
  tester.Settle();
  EXPECT_EQ(tester.Read(file, 0, 300'000), bytes);
  EXPECT_EQ(tester.Write(file, 200'000, "more"), 0);
  tester.volume().Release(file);
  tester.Settle();
  EXPECT_EQ(tester.StatError(file), ESTALE);
  EXPECT_EQ(tester.Fs().free_blocks, free);
  EXPECT_EQ(tester.Fs().inodes, 1u);
}

TEST(OrphansTest, AFileReplacedByRenameLivesWhileItIsOpen) {
  VolumeTester tester;
  const Ino old_file = tester.File(kRootIno, "f");
  ASSERT_EQ(tester.Write(old_file, 0, "old"), 0);
  ASSERT_EQ(tester.Open(old_file), 0);
  tester.File(kRootIno, "g");
  ASSERT_EQ(tester.Rename(kRootIno, "g", kRootIno, "f"), 0);
  EXPECT_EQ(tester.Read(old_file, 0, 10), "old");
  tester.volume().Release(old_file);
  tester.Settle();
  EXPECT_EQ(tester.StatError(old_file), ESTALE);
}

TEST(OrphansTest, CreateCanOpen) {
  VolumeTester tester;
  Ino file = 0;
  ASSERT_EQ(tester.Create(kRootIno, "f", {.mode = S_IFREG | 0600}, &file, /*open=*/true), 0);
  ASSERT_EQ(tester.Unlink(kRootIno, "f"), 0);
  EXPECT_EQ(tester.Write(file, 0, "x"), 0);
  tester.volume().Release(file);
  tester.Settle();
  EXPECT_EQ(tester.StatError(file), ESTALE);
}

TEST(OrphansTest, ACrashClosesAllFiles) {
  VolumeTester tester;
  const uint64_t free = tester.Fs().free_blocks;
  for (int i = 0; i < 50; ++i) {
    const std::string name = std::to_string(i);
    const Ino file = FileOfPieces(tester, name, i % 10);
    ASSERT_EQ(tester.Open(file), 0);
    ASSERT_EQ(tester.Unlink(kRootIno, name), 0);
  }
  EXPECT_EQ(tester.Fs().inodes, 51u);
  tester.ExpectClean();
  tester.Crash();
  tester.Settle();
  EXPECT_EQ(tester.Fs().inodes, 1u);
  EXPECT_EQ(tester.Fs().free_blocks, free);
}

TEST(OrphansTest, AReadOnlyVolumeKeepsItsOrphans) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  ASSERT_EQ(tester.Open(file), 0);
  ASSERT_EQ(tester.Unlink(kRootIno, "f"), 0);
  tester.Crash(tester.engine().Snapshot(), /*read_only=*/true);
  tester.Settle();
  EXPECT_EQ(tester.Fs().inodes, 2u);
  EXPECT_EQ(tester.StatError(file), ESTALE);
}

TEST(OrphansTest, UnlinkOfALargeFileIsOneChangeAndTheSpaceFollows) {
  VolumeTester tester;
  const uint64_t free = tester.Fs().free_blocks;
  const Ino file = FileOfPieces(tester, "f", 500);
  const core::Lsn before = tester.engine().accepted_lsn();
  ASSERT_EQ(tester.Unlink(kRootIno, "f"), 0);
  EXPECT_EQ(tester.Lookup(kRootIno, "f"), ENOENT);
  EXPECT_EQ(tester.StatError(file), ESTALE);
  tester.Settle();
  EXPECT_GE(tester.engine().accepted_lsn(), before + 500 / 64);
  EXPECT_EQ(tester.Fs().free_blocks, free);
  EXPECT_EQ(tester.Fs().inodes, 1u);
}

TEST(OrphansTest, RemovalGoesOnWhereverItWasCut) {
  for (uint64_t steps = 0; steps < 30; ++steps) {
    SCOPED_TRACE(steps);
    VolumeTester::Options options;
    options.engine = VolumeTester::Misses(steps + 1);
    VolumeTester tester(options);
    const uint64_t free = tester.Fs().free_blocks;
    FileOfPieces(tester, "unlinked", 300);
    const Ino cut = FileOfPieces(tester, "cut", 300);
    ASSERT_EQ(tester.Unlink(kRootIno, "unlinked"), 0);
    ASSERT_EQ(tester.Truncate(cut, 5000), 0);
    for (uint64_t i = 0; i < steps && tester.environment().RunOne(); ++i) {
    }
    tester.ExpectClean();
    tester.Crash();
    EXPECT_EQ(tester.Stat(cut).size_bytes, 5000u);
    tester.Settle();
    EXPECT_EQ(tester.Stat(cut).allocated_bytes, 4096u);
    EXPECT_EQ(tester.Read(cut, 0, 10'000), Pattern(0, 4096) + std::string(904, '\0'));
    ASSERT_EQ(tester.Unlink(kRootIno, "cut"), 0);
    EXPECT_EQ(tester.Fs().free_blocks, free);
    EXPECT_EQ(tester.Fs().inodes, 1u);
  }
}

TEST(OrphansTest, GrowthNeverShowsWhatATruncationLeftBehind) {
  VolumeTester tester;
  sal::Random64 random(7);
  for (int round = 0; round < 12; ++round) {
    SCOPED_TRACE(round);
    const std::string name = std::to_string(round);
    const Ino file = FileOfPieces(tester, name, 300);
    const uint64_t size = random.Below(1 << 20);
    const std::string head = tester.Read(file, 0, size);
    ASSERT_EQ(tester.Truncate(file, size), 0);
    // At once, while the removal is pending.
    std::string expected = head;
    switch (round % 4) {
      case 0:
        ASSERT_EQ(tester.Truncate(file, 300 * 8192), 0);
        break;
      case 1:
        ASSERT_EQ(tester.Write(file, 300 * 8192 - 3, "end"), 0);
        break;
      case 2:
        ASSERT_EQ(tester.Allocate(file, 0, 300 * 8192 - 10, 10), 0);
        break;
      case 3:
        ASSERT_EQ(tester.Truncate(file, size / 2), 0);
        ASSERT_EQ(tester.Truncate(file, 300 * 8192), 0);
        expected.resize(size / 2);
        break;
    }
    expected.resize(300 * 8192, '\0');
    if (round % 4 == 1) expected.replace(300 * 8192 - 3, 3, "end");
    ASSERT_EQ(tester.Read(file, 0, 300 * 8192 + 1), expected);
    tester.ExpectClean();
    ASSERT_EQ(tester.Unlink(kRootIno, name), 0);
  }
}

TEST(OrphansTest, WritesBelowTheEndNeedNotWaitForATruncation) {
  VolumeTester tester;
  const Ino file = FileOfPieces(tester, "f", 300);
  ASSERT_EQ(tester.Truncate(file, 100'000), 0);
  const core::Lsn before = tester.engine().accepted_lsn();
  bool done = false;
  const std::string bytes = "in between";
  tester.volume().Write(file, 50'000,
                        absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), false,
                        [&](absl::StatusOr<size_t> count) { done = count.ok(); });
  EXPECT_TRUE(done);
  EXPECT_EQ(tester.engine().accepted_lsn(), before + 1);
  tester.Settle();
  EXPECT_EQ(tester.Read(file, 50'000, 10), bytes);
}

TEST(OrphansTest, ATruncatedFileThatIsUnlinkedAndOpenCanStillGrow) {
  VolumeTester tester;
  const uint64_t free = tester.Fs().free_blocks;
  const Ino file = FileOfPieces(tester, "f", 300);
  ASSERT_EQ(tester.Open(file), 0);
  ASSERT_EQ(tester.Truncate(file, 10), 0);
  ASSERT_EQ(tester.Unlink(kRootIno, "f"), 0);
  tester.ExpectClean();
  ASSERT_EQ(tester.Truncate(file, 100'000), 0);
  EXPECT_EQ(tester.Read(file, 0, 100'000), Pattern(0, 10) + std::string(99'990, '\0'));
  tester.volume().Release(file);
  tester.Settle();
  EXPECT_EQ(tester.Fs().free_blocks, free);
}

TEST(OrphansTest, AFileWithoutANameIsGoneWhenClosedOrGetsOne) {
  VolumeTester tester;
  std::vector<Ino> files;
  for (int i = 0; i < 2; ++i) {
    const auto created = tester.Wait<Attributes>(
        [&](auto done) { tester.volume().CreateUnnamed({.mode = 0600}, std::move(done)); });
    ASSERT_TRUE(created.ok());
    EXPECT_EQ(created->nlink, 0u);
    files.push_back(created->ino);
    ASSERT_EQ(tester.Write(created->ino, 0, Pattern(i, 100'000)), 0);
  }
  EXPECT_EQ(tester.Link(files[0], kRootIno, "named"), 0);
  EXPECT_EQ(tester.Stat(files[0]).nlink, 1u);
  for (const Ino ino : files) tester.volume().Release(ino);
  tester.Settle();
  EXPECT_EQ(tester.StatError(files[1]), ESTALE);
  tester.Crash();
  tester.Settle();
  EXPECT_EQ(tester.Read(files[0], 0, 100'000), Pattern(0, 100'000));
  EXPECT_EQ(tester.Fs().inodes, 2u);
}

TEST(OrphansTest, PunchingALargeRangeIsSeveralChanges) {
  VolumeTester tester;
  const Ino file = FileOfPieces(tester, "f", 300);
  const core::Lsn before = tester.engine().accepted_lsn();
  ASSERT_EQ(tester.Allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 300 * 8192), 0);
  EXPECT_GT(tester.engine().accepted_lsn(), before + 3);
  EXPECT_EQ(tester.Read(file, 0, 300 * 8192), Pattern(0, 4096).substr(0, 100) + std::string(299 * 8192 + 3996, '\0'));
}

}  // namespace
}  // namespace stagefs::volume::testing

// A full volume: what is refused, what still works, and that nothing is lost on the way.

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

// Writes files of `size` bytes until there is no space; their names begin with `prefix`.
std::vector<std::string> Fill(VolumeTester& tester, const std::string& prefix, uint64_t size) {
  std::vector<std::string> names;
  while (true) {
    const std::string name = prefix + std::to_string(names.size());
    Ino file = 0;
    int error = tester.Create(kRootIno, name, {.mode = S_IFREG | 0644}, &file);
    if (error == 0) names.push_back(name);
    for (uint64_t offset = 0; error == 0 && offset < size; offset += 300'000) {
      error = tester.Write(file, offset, std::string(std::min<uint64_t>(300'000, size - offset), 'x'));
    }
    if (error == 0) continue;
    EXPECT_EQ(error, ENOSPC);
    return names;
  }
}

TEST(VolumeSpaceTest, FillDeleteAndFillAgain) {
  for (const uint64_t size : {uint64_t{400}, uint64_t{5000}, uint64_t{1'000'000}}) {
    SCOPED_TRACE(size);
    VolumeTester::Options options;
    options.engine = VolumeTester::Misses(size, 1200);
    options.engine.miss_probability = options.engine.rerun_probability = 0.02;
    VolumeTester tester(options);
    const uint64_t free = tester.Fs().free_blocks;
    std::vector<size_t> counts;
    for (int round = 0; round < 3; ++round) {
      const std::vector<std::string> names = Fill(tester, "f", size);
      EXPECT_LE(tester.Fs().available_blocks, 80u);
      counts.push_back(names.size());
      tester.ExpectClean();
      for (const std::string& name : names) ASSERT_EQ(tester.Unlink(kRootIno, name), 0);
      tester.Settle();
      ASSERT_EQ(tester.Fs().free_blocks, free);
      ASSERT_EQ(tester.Fs().inodes, 1u);
    }
    EXPECT_EQ(counts[1], counts[0]);
    EXPECT_EQ(counts[2], counts[0]);
  }
}

TEST(VolumeSpaceTest, OverwritingAllocatedSpaceNeverFailsForSpace) {
  VolumeTester tester(VolumeTester::NoMisses(3000));
  const Ino file = tester.File(kRootIno, "f");
  std::string bytes = Pattern(1, 1 << 20);
  ASSERT_EQ(tester.Write(file, 0, bytes), 0);
  Fill(tester, "a", 1'000'000);
  Fill(tester, "b", 4000);
  for (int i = 0; i < 20; ++i) {
    const std::string more = Pattern(i, 700'000);
    ASSERT_EQ(tester.Write(file, i * 10'001, more), 0);
    bytes.replace(i * 10'001, more.size(), more);
  }
  EXPECT_TRUE(tester.Read(file, 0, 1 << 20) == bytes);
}

TEST(VolumeSpaceTest, AFullVolumeStillRenamesAndDeletes) {
  VolumeTester tester(VolumeTester::NoMisses(800));
  const std::vector<std::string> names = Fill(tester, "f", 100);
  // Now not even metadata finds space.
  for (const std::string& name : names) {
    ASSERT_EQ(tester.Rename(kRootIno, name, kRootIno, "renamed-" + name), 0) << name;
  }
  for (const std::string& name : names) ASSERT_EQ(tester.Unlink(kRootIno, "renamed-" + name), 0);
}

TEST(VolumeSpaceTest, ARefusedWriteLeavesNoTrace) {
  VolumeTester tester(VolumeTester::NoMisses(1000));
  const Ino file = tester.File(kRootIno, "f");
  ASSERT_EQ(tester.Write(file, 0, "start"), 0);
  Fill(tester, "a", 1'000'000);
  const Attributes before = tester.Stat(file);
  const uint64_t free = tester.Fs().free_blocks;
  EXPECT_EQ(tester.Write(file, 0, std::string(1 << 20, 'y')), ENOSPC);
  EXPECT_EQ(tester.Stat(file).size_bytes, before.size_bytes);
  EXPECT_EQ(tester.Stat(file).mtime_ns, before.mtime_ns);
  EXPECT_EQ(tester.Read(file, 0, 100), "start");
  EXPECT_EQ(tester.Fs().free_blocks, free);
}

TEST(VolumeSpaceTest, WritersWaitForSpaceThatIsBeingFreed) {
  VolumeTester tester(VolumeTester::NoMisses(3000));
  const Ino file = tester.File(kRootIno, "old");
  // Scattered, so that its removal takes many changes.
  for (int i = 0; i < 1200; ++i) ASSERT_EQ(tester.Write(file, uint64_t(i) * 8192, std::string(4096, 'o')), 0);
  Fill(tester, "f", 100'000);
  const Ino target = tester.File(kRootIno, "new");
  ASSERT_EQ(tester.Unlink(kRootIno, "old"), 0);
  // Most of the space is still with the file that is going.
  ASSERT_EQ(tester.Write(target, 0, Pattern(1, 1 << 20)), 0);
  ASSERT_EQ(tester.Write(target, 1 << 20, Pattern(2, 1 << 20)), 0);
  ASSERT_EQ(tester.Write(target, 2 << 20, Pattern(3, 1 << 20)), 0);
  EXPECT_EQ(tester.Read(target, 1 << 20, 1 << 20), Pattern(2, 1 << 20));
}

TEST(VolumeSpaceTest, ScatteredFreeSpaceTakesLargeWrites) {
  VolumeTester tester(VolumeTester::NoMisses(3000));
  const std::vector<std::string> names = Fill(tester, "f", 4096);
  for (size_t i = 0; i < names.size(); i += 2) ASSERT_EQ(tester.Unlink(kRootIno, names[i]), 0);
  tester.Settle();
  const Ino file = tester.File(kRootIno, "large");
  for (int i = 0; i < 3; ++i) ASSERT_EQ(tester.Write(file, uint64_t(i) << 20, Pattern(i, 1 << 20)), 0);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(tester.Read(file, uint64_t(i) << 20, 1 << 20), Pattern(i, 1 << 20));
  tester.ExpectClean();
}

TEST(VolumeSpaceTest, AllocatingTooMuchIsRefused) {
  VolumeTester tester(VolumeTester::NoMisses(3000));
  const uint64_t free = tester.Fs().free_blocks;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.Allocate(file, 0, 0, uint64_t{1} << 30), ENOSPC);
  EXPECT_EQ(tester.Allocate(file, FALLOC_FL_KEEP_SIZE, 0, uint64_t{1} << 30), ENOSPC);
  EXPECT_EQ(tester.Unlink(kRootIno, "f"), 0);
  tester.Settle();
  EXPECT_EQ(tester.Fs().free_blocks, free);
}

}  // namespace
}  // namespace stagefs::volume::testing

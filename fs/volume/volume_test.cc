// Attributes, links, openers and failures of a volume as a whole. Content, names, renames, orphans and space have tests
// of their own.

#include "fs/volume/volume.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"

namespace stagefs::volume::testing {
namespace {

TEST(VolumeTest, ANewVolumeHoldsAnEmptyRoot) {
  VolumeTester tester;
  const Attributes root = tester.Stat(kRootIno);
  EXPECT_EQ(root.mode, uint32_t{S_IFDIR | 0755});
  EXPECT_EQ(root.nlink, 2u);
  EXPECT_TRUE(tester.Names(kRootIno).empty());
  EXPECT_EQ(tester.Fs().inodes, 1u);
}

TEST(VolumeTest, WhatWasMadeIsThereAfterReopening) {
  VolumeTester tester;
  const Ino directory = tester.Directory(kRootIno, "d");
  const Ino file = tester.File(directory, "f");
  const Ino link = tester.Symlink(directory, "l", "../somewhere");
  EXPECT_EQ(tester.Write(file, 0, "content"), 0);
  tester.Reopen();
  Ino found = 0;
  EXPECT_EQ(tester.Lookup(kRootIno, "d", &found), 0);
  EXPECT_EQ(found, directory);
  EXPECT_EQ(tester.Lookup(directory, "f", &found), 0);
  EXPECT_EQ(found, file);
  EXPECT_EQ(tester.Read(file, 0, 100), "content");
  const auto target =
      tester.Wait<std::string>([&](auto done) { tester.volume().ReadSymlink(link, std::move(done)); });
  EXPECT_EQ(*target, "../somewhere");
}

TEST(VolumeTest, DotAndDotDotAreFoundAnywhere) {
  VolumeTester tester;
  const Ino outer = tester.Directory(kRootIno, "outer");
  const Ino inner = tester.Directory(outer, "inner");
  Ino found = 0;
  EXPECT_EQ(tester.Lookup(inner, ".", &found), 0);
  EXPECT_EQ(found, inner);
  EXPECT_EQ(tester.Lookup(inner, "..", &found), 0);
  EXPECT_EQ(found, outer);
  EXPECT_EQ(tester.Lookup(kRootIno, "..", &found), 0);
  EXPECT_EQ(found, kRootIno);
}

TEST(VolumeTest, NamesAreChecked) {
  VolumeTester tester;
  EXPECT_EQ(tester.Create(kRootIno, std::string(256, 'n'), {.mode = S_IFREG | 0644}), ENAMETOOLONG);
  EXPECT_EQ(tester.Create(kRootIno, std::string(255, 'n'), {.mode = S_IFREG | 0644}), 0);
  EXPECT_EQ(tester.Create(kRootIno, "", {.mode = S_IFREG | 0644}), EINVAL);
  EXPECT_EQ(tester.Create(kRootIno, "a/b", {.mode = S_IFREG | 0644}), EINVAL);
  EXPECT_EQ(tester.Create(kRootIno, absl::string_view("a\0b", 3), {.mode = S_IFREG | 0644}), EINVAL);
  EXPECT_EQ(tester.Create(kRootIno, "..", {.mode = S_IFREG | 0644}), EEXIST);
  EXPECT_EQ(tester.Lookup(kRootIno, std::string(256, 'n')), ENAMETOOLONG);
  EXPECT_EQ(tester.Lookup(kRootIno, "nothing"), ENOENT);
  EXPECT_EQ(tester.Create(kRootIno, "\xff\x01 \n", {.mode = S_IFREG | 0644}), 0);
}

TEST(VolumeTest, TypesAreChecked) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  const Ino directory = tester.Directory(kRootIno, "d");
  tester.File(directory, "inside");
  EXPECT_EQ(tester.Create(kRootIno, "f", {.mode = S_IFREG | 0644}), EEXIST);
  EXPECT_EQ(tester.Create(file, "x", {.mode = S_IFREG | 0644}), ENOTDIR);
  EXPECT_EQ(tester.Lookup(file, "x"), ENOTDIR);
  EXPECT_EQ(tester.Unlink(kRootIno, "d"), EISDIR);
  EXPECT_EQ(tester.RemoveDirectory(kRootIno, "f"), ENOTDIR);
  EXPECT_EQ(tester.RemoveDirectory(kRootIno, "d"), ENOTEMPTY);
  EXPECT_EQ(tester.Link(directory, kRootIno, "hard"), EPERM);
  EXPECT_EQ(tester.Write(directory, 0, "x"), EISDIR);
  EXPECT_EQ(tester.Truncate(directory, 0), EISDIR);
  EXPECT_EQ(ToErrno(tester.Wait<std::string>([&](auto done) {
    tester.volume().ReadSymlink(file, std::move(done));
  }).status()), EINVAL);
}

TEST(VolumeTest, DevicesKeepTheirNumbers) {
  VolumeTester tester;
  Ino ino = 0;
  EXPECT_EQ(tester.Create(kRootIno, "null", {.mode = S_IFCHR | 0666, .rdev = 0x103}, &ino), 0);
  EXPECT_EQ(tester.Stat(ino).rdev, 0x103u);
  EXPECT_EQ(tester.Create(kRootIno, "fifo", {.mode = S_IFIFO | 0600, .rdev = 5}, &ino), 0);
  EXPECT_EQ(tester.Stat(ino).rdev, 0u);
  EXPECT_EQ(tester.Write(ino, 0, "x"), EINVAL);
}

TEST(VolumeTest, DirectoriesCountTheirSubdirectories) {
  VolumeTester tester;
  const Ino directory = tester.Directory(kRootIno, "d");
  tester.Directory(directory, "one");
  tester.Directory(directory, "two");
  tester.File(directory, "file");
  EXPECT_EQ(tester.Stat(directory).nlink, 4u);
  EXPECT_EQ(tester.RemoveDirectory(directory, "one"), 0);
  EXPECT_EQ(tester.Stat(directory).nlink, 3u);
}

TEST(VolumeTest, HardLinksShareOneFile) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "a");
  EXPECT_EQ(tester.Link(file, kRootIno, "b"), 0);
  EXPECT_EQ(tester.Link(file, kRootIno, "b"), EEXIST);
  EXPECT_EQ(tester.Stat(file).nlink, 2u);
  EXPECT_EQ(tester.Unlink(kRootIno, "a"), 0);
  EXPECT_EQ(tester.Stat(file).nlink, 1u);
  EXPECT_EQ(tester.Unlink(kRootIno, "b"), 0);
  EXPECT_EQ(tester.StatError(file), ESTALE);
  EXPECT_EQ(tester.Open(file), ESTALE);
  EXPECT_EQ(tester.Link(file, kRootIno, "c"), ESTALE);
}

TEST(VolumeTest, TimesFollowChanges) {
  VolumeTester tester;
  const Ino directory = tester.Directory(kRootIno, "d");
  const Attributes before = tester.Stat(directory);
  tester.environment().RunFor(1'000'000'000);
  const Ino file = tester.File(directory, "f");
  const Attributes after = tester.Stat(directory);
  EXPECT_GT(after.mtime_ns, before.mtime_ns);
  EXPECT_EQ(after.mtime_ns, after.ctime_ns);
  EXPECT_EQ(after.btime_ns, before.btime_ns);
  tester.environment().RunFor(1'000'000'000);
  EXPECT_EQ(tester.Write(file, 0, "x"), 0);
  EXPECT_GT(tester.Stat(file).mtime_ns, tester.Stat(file).btime_ns);
  EXPECT_EQ(tester.Stat(directory).mtime_ns, after.mtime_ns);
  AttributeChange change;
  change.atime_ns = 1;
  change.mtime_ns = -2'000'000'001;
  EXPECT_EQ(tester.Set(file, change), 0);
  EXPECT_EQ(tester.Stat(file).atime_ns, 1);
  EXPECT_EQ(tester.Stat(file).mtime_ns, -2'000'000'001);
  EXPECT_GT(tester.Stat(file).ctime_ns, tester.Stat(file).btime_ns);
}

TEST(VolumeTest, SetgidDirectoriesHandTheirGroupDown) {
  VolumeTester tester;
  const Ino directory = tester.Directory(kRootIno, "d");
  AttributeChange change;
  change.mode = 02775;
  change.gid = 77;
  EXPECT_EQ(tester.Set(directory, change), 0);
  Ino ino = 0;
  EXPECT_EQ(tester.Create(directory, "f", {.mode = S_IFREG | 0644, .gid = 5}, &ino), 0);
  EXPECT_EQ(tester.Stat(ino).gid, 77u);
  EXPECT_EQ(tester.MakeDirectory(directory, "sub", &ino), 0);
  EXPECT_EQ(tester.Stat(ino).gid, 77u);
  EXPECT_EQ(tester.Stat(ino).mode & 07777, 02755u);
}

TEST(VolumeTest, SetIdBitsGoWhenSomeoneWritesOrTheOwnerChanges) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f", 06755);
  EXPECT_EQ(tester.Write(file, 0, "x"), 0);
  EXPECT_EQ(tester.Stat(file).mode & 07777, 0755u);
  AttributeChange mode;
  mode.mode = 06745;  // setgid without execution by the group means mandatory locking, and stays
  EXPECT_EQ(tester.Set(file, mode), 0);
  AttributeChange owner;
  owner.uid = 12;
  EXPECT_EQ(tester.Set(file, owner), 0);
  EXPECT_EQ(tester.Stat(file).mode & 07777, 02745u);
  EXPECT_EQ(tester.Stat(file).uid, 12u);
}

TEST(VolumeTest, LongSymlinksLieInBlocks) {
  VolumeTester tester;
  for (const uint64_t length : {1, 512, 513, 1000, 1001, 4095}) {
    const std::string target(length, 't');
    const Ino link = tester.Symlink(kRootIno, std::to_string(length), target);
    EXPECT_EQ(tester.Stat(link).size_bytes, length);
    EXPECT_EQ(tester.Stat(link).allocated_bytes, length > 1000 ? 4096u : 0u);
    const auto read =
        tester.Wait<std::string>([&](auto done) { tester.volume().ReadSymlink(link, std::move(done)); });
    EXPECT_EQ(*read, target);
  }
  const auto too_long = tester.Wait<Attributes>([&](auto done) {
    tester.volume().MakeSymlink(kRootIno, "long", std::string(4096, 't'), {}, std::move(done));
  });
  EXPECT_EQ(ToErrno(too_long.status()), ENAMETOOLONG);
  tester.ExpectClean();
}

TEST(VolumeTest, SyncWaitsForDurability) {
  VolumeTester::Options options;
  options.engine.durability = MemoryEngine::Durability::kWhenAsked;
  VolumeTester tester(options);
  tester.File(kRootIno, "f");
  EXPECT_LT(tester.engine().durable_lsn(), tester.engine().accepted_lsn());
  EXPECT_TRUE(tester.WaitStatus([&](auto done) { tester.volume().Sync(std::move(done)); }).ok());
  EXPECT_EQ(tester.engine().durable_lsn(), tester.engine().accepted_lsn());
}

TEST(VolumeTest, AReadOnlyVolumeReadsAndRefusesChanges) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.Write(file, 0, std::string(10000, 'x')), 0);
  tester.Crash(tester.engine().Snapshot(), /*read_only=*/true);
  EXPECT_EQ(tester.Open(file), 0);
  EXPECT_EQ(tester.Read(file, 9990, 100), std::string(10, 'x'));
  EXPECT_EQ(tester.Write(file, 0, "y"), EROFS);
  EXPECT_EQ(tester.Create(kRootIno, "g", {.mode = S_IFREG | 0644}), EROFS);
  tester.volume().Release(file);
}

TEST(VolumeTest, AfterAFailureChangesAreRefusedAndReadsGoOn) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.Write(file, 0, std::string(10000, 'x')), 0);
  tester.engine().Break(absl::FailedPreconditionError("the log could not be written"));
  EXPECT_EQ(tester.Write(file, 0, "y"), EROFS);
  EXPECT_EQ(tester.Unlink(kRootIno, "f"), EROFS);
  EXPECT_EQ(tester.Read(file, 0, 3), "xxx");
}

TEST(VolumeTest, ADeviceWithoutAVolumeIsRefused) {
  sal::SimulatedEnvironment environment(1);
  MemoryEngine engine(environment, {});
  EXPECT_EQ(Volume::Open(engine).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(VolumeTest, ABadDataBlockIsAnErrorOfThatBlockOnly) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.Write(file, 0, std::string(128 << 10, 'x')), 0);
  // Blocks in use that hold nothing but x belong to the file.
  core::Block bad = 0;
  for (const auto& [block, slot] : tester.engine().Snapshot()) {
    if (slot.use == MemoryEngine::Slot::Use::kInUse && slot.image != nullptr &&
        (*slot.image)[0] == std::byte{'x'} && (*slot.image)[4095] == std::byte{'x'} && (bad == 0 || block < bad)) {
      bad = block;
    }
  }
  ASSERT_NE(bad, 0u);
  tester.engine().SpoilBlock(bad);
  std::string bytes(4096, ' ');
  int failed = 0;
  for (uint64_t offset = 0; offset < 128 << 10; offset += 4096) {
    const auto count = tester.Wait<size_t>([&](auto done) {
      tester.volume().Read(file, offset, absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()), bytes.size()),
                           std::move(done));
    });
    if (!count.ok()) {
      EXPECT_EQ(ToErrno(count.status()), EIO);
      ++failed;
    }
  }
  EXPECT_EQ(failed, 1);
}

TEST(VolumeTest, ABadNodeHidesOnlyWhatItHolds) {
  VolumeTester tester(VolumeTester::NoMisses(4096));
  const Ino directory = tester.Directory(kRootIno, "d");
  constexpr size_t kFiles = 400;
  for (size_t i = 0; i < kFiles; ++i) {
    ASSERT_EQ(tester.Write(tester.File(directory, std::to_string(i)), 0, std::string(300, 'x')), 0);
  }
  const MemoryEngine::State state = tester.engine().Snapshot();
  int without_attributes = 0, without_names = 0, unharmed = 0;
  for (const auto& [block, slot] : state) {
    SCOPED_TRACE(block);
    tester.Crash(state);
    tester.engine().SpoilBlock(block);
    const auto entries = tester.Wait<std::vector<DirectoryEntry>>([&, directory](auto done) {
      tester.volume().ReadDirectory(directory, 0, 1000, /*with_attributes=*/true, std::move(done));
    });
    if (!entries.ok()) {
      EXPECT_EQ(ToErrno(entries.status()), EIO);
      ++without_names;
      continue;
    }
    // Names that can be read are all there, and so are all attributes but those of the bad leaf.
    EXPECT_EQ(entries->size(), kFiles + 2);
    size_t missing = 0;
    for (const DirectoryEntry& entry : *entries) {
      EXPECT_TRUE(entry.attributes.ino == entry.ino || entry.attributes.ino == 0);
      missing += entry.attributes.ino == 0;
    }
    EXPECT_LT(missing, 40u);
    ++(missing > 0 ? without_attributes : unharmed);
  }
  EXPECT_GT(without_attributes, 10);
  EXPECT_GT(without_names, 2);  // the header, the root, leaves of the names
  EXPECT_GT(unharmed, 0);       // bitmaps
}

}  // namespace
}  // namespace stagefs::volume::testing

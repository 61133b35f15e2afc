// Every kind of rename onto every kind of target, and the rules about directories.

#include <stdio.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>

#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"

namespace stagefs::volume::testing {
namespace {

enum class Kind { kNothing, kFile, kEmptyDirectory, kFullDirectory, kSymlink };
constexpr Kind kKinds[] = {Kind::kNothing, Kind::kFile, Kind::kEmptyDirectory, Kind::kFullDirectory, Kind::kSymlink};

bool IsDirectoryKind(Kind kind) { return kind == Kind::kEmptyDirectory || kind == Kind::kFullDirectory; }

Ino Make(VolumeTester& tester, Ino directory, absl::string_view name, Kind kind) {
  switch (kind) {
    case Kind::kNothing:
      return 0;
    case Kind::kFile:
      return tester.File(directory, name);
    case Kind::kSymlink:
      return tester.Symlink(directory, name, "target");
    default: {
      const Ino ino = tester.Directory(directory, name);
      if (kind == Kind::kFullDirectory) tester.File(ino, "inside");
      return ino;
    }
  }
}

int Expected(Kind source, Kind target, uint32_t flags) {
  if (source == Kind::kNothing) return ENOENT;
  if (flags == RENAME_NOREPLACE && target != Kind::kNothing) return EEXIST;
  if (flags == RENAME_EXCHANGE) return target == Kind::kNothing ? ENOENT : 0;
  if (target == Kind::kNothing) return 0;
  if (IsDirectoryKind(source) && !IsDirectoryKind(target)) return ENOTDIR;
  if (!IsDirectoryKind(source) && IsDirectoryKind(target)) return EISDIR;
  return target == Kind::kFullDirectory ? ENOTEMPTY : 0;
}

Ino Find(VolumeTester& tester, Ino directory, absl::string_view name) {
  Ino ino = 0;
  tester.Lookup(directory, name, &ino);
  return ino;
}

TEST(DirectoryRenameTest, EveryKindOntoEveryKind) {
  VolumeTester tester;
  int number = 0;
  for (const uint32_t flags : {0u, uint32_t{RENAME_NOREPLACE}, uint32_t{RENAME_EXCHANGE}}) {
    for (const bool same_directory : {true, false}) {
      for (const Kind source : kKinds) {
        for (const Kind target : kKinds) {
          const std::string label = std::to_string(++number);
          SCOPED_TRACE(label + ": flags " + std::to_string(flags) + ", from kind " +
                       std::to_string(static_cast<int>(source)) + " onto " +
                       std::to_string(static_cast<int>(target)) + (same_directory ? " here" : " elsewhere"));
          const Ino from = tester.Directory(kRootIno, "from" + label);
          const Ino to = same_directory ? from : tester.Directory(kRootIno, "to" + label);
          const Ino moved = Make(tester, from, "a", source);
          const Ino replaced = Make(tester, to, "b", target);
          const int expected = Expected(source, target, flags);
          ASSERT_EQ(tester.Rename(from, "a", to, "b", flags), expected);
          if (expected != 0) {
            EXPECT_EQ(Find(tester, from, "a"), moved);
            EXPECT_EQ(Find(tester, to, "b"), replaced);
          } else if (flags == RENAME_EXCHANGE) {
            EXPECT_EQ(Find(tester, from, "a"), replaced);
            EXPECT_EQ(Find(tester, to, "b"), moved);
          } else {
            EXPECT_EQ(Find(tester, from, "a"), 0u);
            EXPECT_EQ(Find(tester, to, "b"), moved);
            EXPECT_EQ(replaced == 0 ? ESTALE : tester.StatError(replaced), ESTALE);
          }
          // Link counts and parents follow.
          for (const Ino directory : {from, to}) {
            uint32_t subdirectories = 0;
            for (const DirectoryEntry& entry : tester.List(directory)) {
              if (entry.name[0] == '.' || entry.type != S_IFDIR) continue;
              ++subdirectories;
              EXPECT_EQ(Find(tester, entry.ino, ".."), directory);
            }
            EXPECT_EQ(tester.Stat(directory).nlink, 2 + subdirectories);
          }
        }
      }
    }
  }
  tester.ExpectClean();
}

TEST(DirectoryRenameTest, ADirectoryDoesNotMoveIntoItself) {
  VolumeTester tester;
  const Ino a = tester.Directory(kRootIno, "a");
  const Ino b = tester.Directory(a, "b");
  const Ino c = tester.Directory(b, "c");
  const Ino other = tester.Directory(kRootIno, "other");
  EXPECT_EQ(tester.Rename(kRootIno, "a", a, "x"), EINVAL);
  EXPECT_EQ(tester.Rename(kRootIno, "a", c, "x"), EINVAL);
  EXPECT_EQ(tester.Rename(kRootIno, "a", b, "c", RENAME_EXCHANGE), EINVAL);
  EXPECT_EQ(tester.Rename(b, "c", kRootIno, "a", RENAME_EXCHANGE), EINVAL);
  EXPECT_EQ(tester.Rename(b, "c", kRootIno, "a"), ENOTEMPTY);
  EXPECT_EQ(tester.Rename(a, "b", other, "b"), 0);
  EXPECT_EQ(tester.Rename(kRootIno, "a", c, "a"), 0);
  Ino found = 0;
  EXPECT_EQ(tester.Lookup(a, "..", &found), 0);
  EXPECT_EQ(found, c);
}

TEST(DirectoryRenameTest, NamesOfOneFileStayBoth) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "a");
  ASSERT_EQ(tester.Link(file, kRootIno, "b"), 0);
  EXPECT_EQ(tester.Rename(kRootIno, "a", kRootIno, "b"), 0);
  EXPECT_EQ(tester.Rename(kRootIno, "a", kRootIno, "a"), 0);
  EXPECT_EQ(tester.Names(kRootIno).size(), 2u);
  EXPECT_EQ(tester.Stat(file).nlink, 2u);
}

TEST(DirectoryRenameTest, ALinkedFileThatIsReplacedLosesOneName) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "a");
  ASSERT_EQ(tester.Link(file, kRootIno, "b"), 0);
  tester.File(kRootIno, "c");
  EXPECT_EQ(tester.Rename(kRootIno, "c", kRootIno, "a"), 0);
  EXPECT_EQ(tester.Stat(file).nlink, 1u);
}

TEST(DirectoryRenameTest, ARenameIsOneChange) {
  VolumeTester tester;
  tester.File(kRootIno, "a");
  tester.File(kRootIno, "b");
  const core::Lsn before = tester.engine().accepted_lsn();
  EXPECT_EQ(tester.Rename(kRootIno, "a", kRootIno, "b"), 0);
  EXPECT_EQ(tester.engine().accepted_lsn(), before + 1);
}

TEST(DirectoryRenameTest, BadRequestsAreRefused) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  const Ino directory = tester.Directory(kRootIno, "d");
  EXPECT_EQ(tester.Rename(kRootIno, "f", kRootIno, "g", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
  EXPECT_EQ(tester.Rename(kRootIno, "f", kRootIno, "g", RENAME_WHITEOUT), EINVAL);
  EXPECT_EQ(tester.Rename(kRootIno, "f", file, "g"), ENOTDIR);
  EXPECT_EQ(tester.Rename(kRootIno, "f", kRootIno, std::string(256, 'x')), ENAMETOOLONG);
  ASSERT_EQ(tester.Open(directory), 0);
  ASSERT_EQ(tester.RemoveDirectory(kRootIno, "d"), 0);
  EXPECT_EQ(tester.Rename(kRootIno, "f", directory, "g"), ENOENT);
  tester.volume().Release(directory);
}

}  // namespace
}  // namespace stagefs::volume::testing

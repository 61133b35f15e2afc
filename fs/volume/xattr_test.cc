#include "fs/volume/xattr.h"

#include <sys/xattr.h>

#include <cerrno>
#include <set>
#include <string>

#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"

namespace stagefs::volume::testing {
namespace {

std::set<std::string> Names(VolumeTester& tester, Ino ino) {
  const auto list = tester.Wait<std::string>([&](auto done) { tester.volume().ListXattrs(ino, std::move(done)); });
  EXPECT_TRUE(list.ok()) << list.status();
  std::set<std::string> names;
  std::string name;
  for (const char c : *list) {
    if (c != '\0') {
      name += c;
      continue;
    }
    EXPECT_TRUE(names.insert(name).second);
    name.clear();
  }
  EXPECT_TRUE(name.empty());
  return names;
}

TEST(XattrTest, ValuesOfEverySizeComeBack) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  for (const uint64_t size : {0, 1, 800, 801, 1023, 1024, 1025, 4096, 65535, 65536}) {
    const std::string name = "user." + std::to_string(size);
    EXPECT_EQ(tester.SetXattr(file, name, Pattern(size, size)), 0);
    std::string value;
    EXPECT_EQ(tester.GetXattr(file, name, &value), 0);
    EXPECT_EQ(value, Pattern(size, size));
  }
  tester.Reopen();
  std::string value;
  EXPECT_EQ(tester.GetXattr(file, "user.65536", &value), 0);
  EXPECT_EQ(value, Pattern(65536, 65536));
  EXPECT_EQ(Names(tester, file).size(), 10u);
  tester.ExpectClean();
}

TEST(XattrTest, FlagsSayWhetherTheNameMustBeThere) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.SetXattr(file, "user.a", "1", XATTR_REPLACE), ENODATA);
  EXPECT_EQ(tester.SetXattr(file, "user.a", "1", XATTR_CREATE), 0);
  EXPECT_EQ(tester.SetXattr(file, "user.a", "2", XATTR_CREATE), EEXIST);
  EXPECT_EQ(tester.SetXattr(file, "user.a", "3", XATTR_REPLACE), 0);
  EXPECT_EQ(tester.SetXattr(file, "user.a", "4", 64), EINVAL);
  std::string value;
  EXPECT_EQ(tester.GetXattr(file, "user.a", &value), 0);
  EXPECT_EQ(value, "3");
}

TEST(XattrTest, LimitsAreKept) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.SetXattr(file, std::string(255, 'n'), std::string(800, 'v')), 0);
  EXPECT_EQ(tester.SetXattr(file, std::string(256, 'n'), ""), ERANGE);
  EXPECT_EQ(tester.SetXattr(file, "", ""), EINVAL);
  EXPECT_EQ(tester.SetXattr(file, "user.big", std::string(65537, 'v')), E2BIG);
  std::string value;
  EXPECT_EQ(tester.GetXattr(file, "user.none", &value), ENODATA);
  EXPECT_EQ(tester.RemoveXattr(file, "user.none"), ENODATA);
  EXPECT_EQ(tester.SetXattr(4711, "user.a", ""), ESTALE);
}

TEST(XattrTest, ReplacingAndRemovingGivesTheSpaceBack) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  const uint64_t free = tester.Fs().free_blocks;
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(tester.SetXattr(file, "user.a", Pattern(i, i % 2 == 0 ? 60'000 : 10)), 0);
    std::string value;
    EXPECT_EQ(tester.GetXattr(file, "user.a", &value), 0);
    EXPECT_EQ(value, Pattern(i, i % 2 == 0 ? 60'000 : 10));
  }
  EXPECT_EQ(tester.RemoveXattr(file, "user.a"), 0);
  EXPECT_TRUE(Names(tester, file).empty());
  EXPECT_EQ(tester.Fs().free_blocks, free);
}

TEST(XattrTest, AttributesGoWithTheirFile) {
  VolumeTester tester;
  const uint64_t free = tester.Fs().free_blocks;
  const Ino file = tester.File(kRootIno, "f");
  for (int i = 0; i < 30; ++i) {
    EXPECT_EQ(tester.SetXattr(file, "user." + std::to_string(i), Pattern(i, 20'000)), 0);
  }
  EXPECT_EQ(tester.Unlink(kRootIno, "f"), 0);
  tester.Settle();
  EXPECT_EQ(tester.Fs().free_blocks, free);
  EXPECT_EQ(tester.Fs().inodes, 1u);
}

TEST(XattrTest, NamesOfOneHashLiveTogether) {
  VolumeTester::Options options;
  options.hash_mask = 1;
  VolumeTester tester(options);
  const Ino file = tester.File(kRootIno, "f");
  for (int i = 0; i < 4; ++i) EXPECT_EQ(tester.SetXattr(file, "user." + std::to_string(i), Pattern(i, 700)), 0);
  for (int i = 0; i < 4; ++i) {
    std::string value;
    EXPECT_EQ(tester.GetXattr(file, "user." + std::to_string(i), &value), 0);
    EXPECT_EQ(value, Pattern(i, 700));
  }
  EXPECT_EQ(tester.RemoveXattr(file, "user.1"), 0);
  EXPECT_EQ(Names(tester, file), (std::set<std::string>{"user.0", "user.2", "user.3"}));
}

TEST(XattrTest, DirectoriesAndSymlinksHaveThemToo) {
  VolumeTester tester;
  const Ino directory = tester.Directory(kRootIno, "d");
  const Ino link = tester.Symlink(kRootIno, "l", "t");
  for (const Ino ino : {kRootIno, directory, link}) {
    EXPECT_EQ(tester.SetXattr(ino, "trusted.x", "v"), 0);
    EXPECT_EQ(Names(tester, ino), (std::set<std::string>{"trusted.x"}));
  }
  EXPECT_EQ(tester.RemoveDirectory(kRootIno, "d"), 0);
}

}  // namespace
}  // namespace stagefs::volume::testing

// What a program sees of names and attributes on a mount.

#include <dirent.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <time.h>

#include <algorithm>
#include <set>

#include "fs/fuse/testing/mounted_test.h"

namespace stagefs::fuse::testing {
namespace {

class MountNamesTest : public MountedTest {
 protected:
  static std::set<std::string> List(const std::string& path) {
    std::set<std::string> names;
    DIR* directory = opendir(path.c_str());
    EXPECT_NE(directory, nullptr) << errno;
    if (directory == nullptr) return names;
    while (const dirent* entry = readdir(directory)) {
      EXPECT_TRUE(names.insert(entry->d_name).second) << entry->d_name << " was seen twice";
    }
    closedir(directory);
    return names;
  }
};

TEST_F(MountNamesTest, ADirectoryListsEachOfItsNamesOnce) {
  std::set<std::string> expected = {".", ".."};
  for (int i = 0; i < 1000; ++i) {
    const std::string name = absl::StrCat("name-", i, std::string(i % 200, 'x'));
    WriteFile(Path(name), "");
    expected.insert(name);
  }
  EXPECT_EQ(List(directory_), expected);
  EXPECT_EQ(List(directory_), expected) << "a second time, from the kernel's cache";
  ASSERT_EQ(unlink(Path("name-0").c_str()), 0);
  WriteFile(Path("late"), "");
  expected.erase("name-0");
  expected.insert("late");
  EXPECT_EQ(List(directory_), expected) << "after a change";
}

TEST_F(MountNamesTest, ReadingOnWhileNamesAreRemovedSeesTheOthers) {
  for (int i = 0; i < 600; ++i) WriteFile(Path(absl::StrCat("n", i)), "");
  DIR* directory = opendir(directory_.c_str());
  ASSERT_NE(directory, nullptr);
  std::set<std::string> seen;
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] == '.') continue;
    EXPECT_TRUE(seen.insert(entry->d_name).second);
    EXPECT_EQ(unlink(Path(entry->d_name).c_str()), 0) << entry->d_name;
  }
  closedir(directory);
  EXPECT_EQ(seen.size(), 600u);
  EXPECT_EQ(List(directory_), (std::set<std::string>{".", ".."}));
}

TEST_F(MountNamesTest, NamesMayHaveAnyBytesAndUpTo255OfThem) {
  std::string odd;
  for (int c = 1; c < 256; ++c) {
    if (c != '/') odd += static_cast<char>(c);
  }
  WriteFile(Path(odd), "odd");
  EXPECT_EQ(ReadFile(Path(odd)), "odd");
  WriteFile(Path(std::string(255, 'n')), "long");
  EXPECT_EQ(Errno(open(Path(std::string(256, 'n')).c_str(), O_CREAT | O_WRONLY, 0644)), ENAMETOOLONG);
  EXPECT_EQ(List(directory_).size(), 4u);
}

TEST_F(MountNamesTest, MissingNamesAreRememberedUntilTheyAreMade) {
  struct stat status;
  EXPECT_EQ(Errno(stat(Path("f").c_str(), &status)), ENOENT);
  const uint64_t lookups = RequestCount("lookup");
  EXPECT_EQ(Errno(stat(Path("f").c_str(), &status)), ENOENT);
  EXPECT_EQ(RequestCount("lookup"), lookups);
  WriteFile(Path("f"), "there");
  EXPECT_EQ(ReadFile(Path("f")), "there");
  EXPECT_EQ(Errno(open(Path("f").c_str(), O_CREAT | O_EXCL | O_WRONLY, 0644)), EEXIST);
}

TEST_F(MountNamesTest, RenameReplacesExchangesOrRefuses) {
  WriteFile(Path("a"), "a");
  WriteFile(Path("b"), "b");
  EXPECT_EQ(Errno(renameat2(AT_FDCWD, Path("a").c_str(), AT_FDCWD, Path("b").c_str(), RENAME_NOREPLACE)), EEXIST);
  ASSERT_EQ(renameat2(AT_FDCWD, Path("a").c_str(), AT_FDCWD, Path("b").c_str(), RENAME_EXCHANGE), 0) << errno;
  EXPECT_EQ(ReadFile(Path("a")), "b");
  ASSERT_EQ(rename(Path("a").c_str(), Path("b").c_str()), 0);
  EXPECT_EQ(ReadFile(Path("b")), "b");
  EXPECT_EQ(List(directory_).count("a"), 0u);
  EXPECT_EQ(Errno(renameat2(AT_FDCWD, Path("b").c_str(), AT_FDCWD, Path("c").c_str(), RENAME_WHITEOUT)), EINVAL);
}

TEST_F(MountNamesTest, DirectoriesMoveAndKnowTheirParent) {
  ASSERT_EQ(mkdir(Path("one").c_str(), 0755), 0);
  ASSERT_EQ(mkdir(Path("two").c_str(), 0755), 0);
  ASSERT_EQ(mkdir(Path("one/sub").c_str(), 0755), 0);
  EXPECT_EQ(Stat(Path("one")).st_nlink, 3u);
  ASSERT_EQ(rename(Path("one/sub").c_str(), Path("two/sub").c_str()), 0);
  EXPECT_EQ(Stat(Path("one")).st_nlink, 2u);
  EXPECT_EQ(Stat(Path("two/sub/..")).st_ino, Stat(Path("two")).st_ino);
  EXPECT_EQ(Errno(rename(Path("two").c_str(), Path("two/sub/x").c_str())), EINVAL);
  EXPECT_EQ(Errno(rmdir(Path("two").c_str())), ENOTEMPTY);
  EXPECT_EQ(Errno(unlink(Path("two").c_str())), EISDIR);
  ASSERT_EQ(rmdir(Path("two/sub").c_str()), 0);
  ASSERT_EQ(rmdir(Path("two").c_str()), 0);
}

TEST_F(MountNamesTest, HardLinksShareTheFile) {
  WriteFile(Path("a"), "one");
  ASSERT_EQ(link(Path("a").c_str(), Path("b").c_str()), 0);
  EXPECT_EQ(Stat(Path("a")).st_nlink, 2u);
  EXPECT_EQ(Stat(Path("a")).st_ino, Stat(Path("b")).st_ino);
  WriteFile(Path("b"), "two");
  EXPECT_EQ(ReadFile(Path("a")), "two");
  ASSERT_EQ(unlink(Path("a").c_str()), 0);
  EXPECT_EQ(Stat(Path("b")).st_nlink, 1u);
  EXPECT_EQ(Errno(link(directory_.c_str(), Path("d").c_str())), EPERM);
}

TEST_F(MountNamesTest, SymbolicLinksHoldAnyTargetUpTo4095Bytes) {
  for (const std::string& target : {std::string("f"), std::string(59, 's'), std::string(4095, 't')}) {
    ASSERT_EQ(symlink(target.c_str(), Path("l").c_str()), 0) << errno;
    char buffer[5000];
    EXPECT_EQ(readlink(Path("l").c_str(), buffer, sizeof(buffer)), static_cast<ssize_t>(target.size()));
    EXPECT_EQ(std::string(buffer, target.size()), target);
    EXPECT_EQ(Stat(Path("l")).st_size, static_cast<off_t>(target.size()));
    ASSERT_EQ(unlink(Path("l").c_str()), 0);
  }
}

TEST_F(MountNamesTest, SpecialFilesKeepTypeAndDevice) {
  ASSERT_EQ(mknod(Path("pipe").c_str(), S_IFIFO | 0600, 0), 0);
  ASSERT_EQ(mknod(Path("null").c_str(), S_IFCHR | 0600, makedev(1, 3)), 0) << errno;
  ASSERT_EQ(mknod(Path("disk").c_str(), S_IFBLK | 0600, makedev(259, 70000)), 0) << errno;
  EXPECT_TRUE(S_ISFIFO(Stat(Path("pipe")).st_mode));
  EXPECT_EQ(Stat(Path("null")).st_rdev, makedev(1, 3));
  EXPECT_EQ(Stat(Path("disk")).st_rdev, makedev(259, 70000));
  struct statx extended;
  ASSERT_EQ(statx(AT_FDCWD, Path("disk").c_str(), 0, STATX_ALL, &extended), 0);
  EXPECT_EQ(makedev(extended.stx_rdev_major, extended.stx_rdev_minor), makedev(259, 70000));
}

TEST_F(MountNamesTest, AnUnlinkedFileLivesUntilItIsClosed) {
  File file(Path("f"), O_RDWR | O_CREAT);
  ASSERT_EQ(write(file.fd(), "before", 6), 6);
  ASSERT_EQ(unlink(Path("f").c_str()), 0);
  ASSERT_EQ(write(file.fd(), "after", 5), 5);
  char buffer[20];
  EXPECT_EQ(pread(file.fd(), buffer, sizeof(buffer), 0), 11);
  EXPECT_EQ(std::string(buffer, 11), "beforeafter");
  struct stat status;
  ASSERT_EQ(fstat(file.fd(), &status), 0);
  EXPECT_EQ(status.st_nlink, 0u);
}

TEST_F(MountNamesTest, AFileWithoutANameCanGetOne) {
  const File file(directory_, O_TMPFILE | O_RDWR);
  ASSERT_EQ(write(file.fd(), "unnamed", 7), 7);
  EXPECT_EQ(List(directory_).size(), 2u);
  ASSERT_EQ(linkat(AT_FDCWD, absl::StrCat("/proc/self/fd/", file.fd()).c_str(), AT_FDCWD, Path("f").c_str(),
                   AT_SYMLINK_FOLLOW),
            0)
      << errno;
  EXPECT_EQ(ReadFile(Path("f")), "unnamed");
  EXPECT_EQ(Stat(Path("f")).st_nlink, 1u);
}

TEST_F(MountNamesTest, TimesHaveNanosecondsAndMayLieBefore1970) {
  WriteFile(Path("f"), "x");
  const timespec times[] = {{-5, 999999999}, {1234567890, 123456789}};
  ASSERT_EQ(utimensat(AT_FDCWD, Path("f").c_str(), times, 0), 0) << errno;
  const struct stat status = Stat(Path("f"));
  EXPECT_EQ(status.st_atim.tv_sec, -5);
  EXPECT_EQ(status.st_atim.tv_nsec, 999999999);
  EXPECT_EQ(status.st_mtim.tv_sec, 1234567890);
  EXPECT_EQ(status.st_mtim.tv_nsec, 123456789);
  const timespec now_and_keep[] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
  ASSERT_EQ(utimensat(AT_FDCWD, Path("f").c_str(), now_and_keep, 0), 0);
  EXPECT_EQ(Stat(Path("f")).st_atim.tv_sec, -5);
  EXPECT_LE(std::abs(Stat(Path("f")).st_mtim.tv_sec - time(nullptr)), 2);
}

TEST_F(MountNamesTest, TimesThatNanosecondsDoNotReachAreTheNearest) {
  WriteFile(Path("f"), "x");
  const timespec times[] = {{-100'000'000'000, 0}, {100'000'000'000, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, Path("f").c_str(), times, 0), 0) << errno;
  EXPECT_EQ(Stat(Path("f")).st_atim.tv_sec, -9'223'372'037);  // 1677
  EXPECT_EQ(Stat(Path("f")).st_mtim.tv_sec, 9'223'372'036);   // 2262
}

TEST_F(MountNamesTest, TheTimeOfBirthStays) {
  WriteFile(Path("f"), "x");
  struct statx born, later;
  ASSERT_EQ(statx(AT_FDCWD, Path("f").c_str(), 0, STATX_BTIME, &born), 0);
  ASSERT_TRUE(born.stx_mask & STATX_BTIME);
  const timespec times[] = {{1, 0}, {1, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, Path("f").c_str(), times, 0), 0);
  ASSERT_EQ(statx(AT_FDCWD, Path("f").c_str(), 0, STATX_BTIME | STATX_MTIME, &later), 0);
  EXPECT_EQ(later.stx_btime.tv_sec, born.stx_btime.tv_sec);
  EXPECT_EQ(later.stx_btime.tv_nsec, born.stx_btime.tv_nsec);
  EXPECT_EQ(later.stx_mtime.tv_sec, 1);
  EXPECT_LE(std::abs(born.stx_btime.tv_sec - time(nullptr)), 50);
}

TEST_F(MountNamesTest, OwnerAndModeChange) {
  WriteFile(Path("f"), "x");
  ASSERT_EQ(chmod(Path("f").c_str(), 01640), 0);
  EXPECT_EQ(Stat(Path("f")).st_mode, S_IFREG | 01640u);
  ASSERT_EQ(chown(Path("f").c_str(), 12, 34), 0);
  EXPECT_EQ(Stat(Path("f")).st_uid, 12u);
  EXPECT_EQ(Stat(Path("f")).st_gid, 34u);
  ASSERT_EQ(chown(Path("f").c_str(), -1, 35), 0);
  EXPECT_EQ(Stat(Path("f")).st_uid, 12u);
}

TEST_F(MountNamesTest, SetuidAndCapabilitiesAreLostWhenTheFileChanges) {
  const auto run_as_nobody = [this](const std::string& command) {
    return Shell(absl::StrCat("setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'cd ", directory_, " && ",
                              command, "'"));
  };
  WriteFile(Path("f"), std::string(100, 'x'));
  for (const std::string& command : {std::string("echo more >> f"), std::string("echo new > f"),
                                     std::string("truncate -s 10 f"), std::string("fallocate -l 9000 f")}) {
    ASSERT_EQ(chmod(Path("f").c_str(), 06777), 0);
    ASSERT_EQ(setxattr(Path("f").c_str(), "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0), 0)
        << errno;
    ASSERT_EQ(run_as_nobody(command), 0) << command;
    struct statx mode_only;
    ASSERT_EQ(statx(AT_FDCWD, Path("f").c_str(), 0, STATX_MODE, &mode_only), 0);
    EXPECT_EQ(mode_only.stx_mode & 07777, 0777) << command;
    EXPECT_EQ(Errno(getxattr(Path("f").c_str(), "security.capability", nullptr, 0)), ENODATA) << command;
  }
  ASSERT_EQ(chmod(Path("f").c_str(), 06777), 0);
  ASSERT_EQ(chown(Path("f").c_str(), 65534, 65534), 0);
  EXPECT_EQ(Stat(Path("f")).st_mode & 07777, 0777u);
}

TEST_F(MountNamesTest, ManyWritesAskForNoPrivilegesInBetween) {
  const File file(Path("f"), O_WRONLY | O_CREAT);
  ASSERT_EQ(write(file.fd(), "x", 1), 1);
  const uint64_t questions = RequestCount("getxattr");
  for (int i = 0; i < 50; ++i) ASSERT_EQ(write(file.fd(), "x", 1), 1);
  EXPECT_LE(RequestCount("getxattr"), questions + 2) << "the statistics themselves are one";
}

TEST_F(MountNamesTest, PermissionsAreTheKernels) {
  WriteFile(Path("secret"), "x");
  ASSERT_EQ(chmod(Path("secret").c_str(), 0600), 0);
  EXPECT_NE(Shell(absl::StrCat("setpriv --reuid=65534 --regid=65534 --clear-groups cat ", Path("secret"),
                               " > /dev/null 2>&1")),
            0);
  EXPECT_EQ(Shell(absl::StrCat("setpriv --reuid=65534 --regid=65534 --clear-groups touch ", Path("mine"))), 0);
  EXPECT_EQ(Stat(Path("mine")).st_uid, 65534u);
}

TEST_F(MountNamesTest, ExtendedAttributesComeAndGo) {
  WriteFile(Path("f"), "x");
  const std::string path = Path("f"), large = Pattern(60000);
  EXPECT_EQ(Errno(getxattr(path.c_str(), "user.a", nullptr, 0)), ENODATA);
  ASSERT_EQ(setxattr(path.c_str(), "user.a", "value", 5, XATTR_CREATE), 0) << errno;
  EXPECT_EQ(Errno(setxattr(path.c_str(), "user.a", "value", 5, XATTR_CREATE)), EEXIST);
  EXPECT_EQ(Errno(setxattr(path.c_str(), "user.b", "value", 5, XATTR_REPLACE)), ENODATA);
  ASSERT_EQ(setxattr(path.c_str(), "user.b", "", 0, 0), 0);
  EXPECT_EQ(getxattr(path.c_str(), "user.a", nullptr, 0), 5);
  char small[3];
  EXPECT_EQ(Errno(getxattr(path.c_str(), "user.a", small, sizeof(small))), ERANGE);
  EXPECT_EQ(getxattr(path.c_str(), "user.b", small, sizeof(small)), 0);
  ASSERT_EQ(setxattr(path.c_str(), "user.large", large.data(), large.size(), 0), 0) << errno;
  std::string back(65536, '\0');
  EXPECT_EQ(getxattr(path.c_str(), "user.large", back.data(), back.size()), 60000);
  EXPECT_TRUE(back.substr(0, 60000) == large);
  char names[100];
  const ssize_t size = listxattr(path.c_str(), names, sizeof(names));
  EXPECT_EQ(size, static_cast<ssize_t>(7 + 7 + 11));
  EXPECT_EQ(listxattr(path.c_str(), nullptr, 0), size);
  EXPECT_EQ(Errno(listxattr(path.c_str(), names, 5)), ERANGE);
  ASSERT_EQ(removexattr(path.c_str(), "user.a"), 0);
  EXPECT_EQ(Errno(removexattr(path.c_str(), "user.a")), ENODATA);
  EXPECT_EQ(Errno(setxattr(path.c_str(), "system.nfs4_acl", "x", 1, 0)), EOPNOTSUPP);
}

TEST_F(MountNamesTest, StatisticsAreAHiddenAttributeOfTheRoot) {
  char text[65536];
  const std::string root = mount_->directory();
  EXPECT_GT(getxattr(root.c_str(), kStatisticsXattr, text, sizeof(text)), 20);
  EXPECT_EQ(text[0], '{');
  EXPECT_EQ(listxattr(root.c_str(), text, sizeof(text)), 0);
  EXPECT_EQ(Errno(getxattr(directory_.c_str(), kStatisticsXattr, text, sizeof(text))), EOPNOTSUPP);
  EXPECT_EQ(Errno(setxattr(root.c_str(), kStatisticsXattr, "x", 1, 0)), EOPNOTSUPP);
}

TEST_F(MountNamesTest, StatfsTellsOfSpaceAndNames) {
  struct statvfs numbers;
  ASSERT_EQ(statvfs(directory_.c_str(), &numbers), 0);
  EXPECT_EQ(numbers.f_bsize, 4096u);
  EXPECT_EQ(numbers.f_namemax, 255u);
  EXPECT_GT(numbers.f_blocks, numbers.f_bfree);
  EXPECT_GE(numbers.f_bfree, numbers.f_bavail);
  EXPECT_GT(numbers.f_bavail, 0u);
  EXPECT_GT(numbers.f_files, numbers.f_ffree);
}

TEST_F(MountNamesTest, LocksWorkWithinTheMachine) {
  const File one(Path("f"), O_RDWR | O_CREAT), two(Path("f"), O_RDWR);
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  ASSERT_EQ(fcntl(one.fd(), F_OFD_SETLK, &lock), 0) << errno;
  EXPECT_EQ(Errno(fcntl(two.fd(), F_OFD_SETLK, &lock)), EAGAIN);
}

}  // namespace
}  // namespace stagefs::fuse::testing

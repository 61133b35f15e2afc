#include "fs/dsa/access.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/dsa/protocol.h"
#include "fs/volume/errno.h"
#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

using volume::Ino;
using volume::kRootIno;
using volume::Sharing;

const Identity kRoot = {};
const Identity kOwner = {.uid = 10, .gid = 99, .groups = {}, .read_only = false};
const Identity kInGroup = {.uid = 11, .gid = 20, .groups = {}, .read_only = false};
const Identity kInGroupToo = {.uid = 11, .gid = 99, .groups = {98, 20}, .read_only = false};
const Identity kOther = {.uid = 12, .gid = 99, .groups = {98}, .read_only = false};

class AccessTest : public testing::Test {
 protected:
  ~AccessTest() override { volume_.ExpectClean(); }

  absl::StatusOr<OpenedFile> Open(const Identity& who, const std::string& path, uint32_t flags, uint32_t mode = 0644,
                                  bool read_only = false) {
    return volume_.Wait<OpenedFile>([&](auto done) {
      OpenPath(volume_.volume(), sharing_, Executor(), {who, path, flags, mode, read_only}, std::move(done));
    });
  }
  int Error(const Identity& who, const std::string& path, uint32_t flags, uint32_t mode = 0644,
            bool read_only = false) {
    return volume::ToErrno(Open(who, path, flags, mode, read_only).status());
  }
  int Error(const std::string& path, uint32_t flags) { return Error(kRoot, path, flags); }

  // Runs each task through the environment; `meddle` before the one of number `meddle_at_`.
  dsa::Executor Executor() {
    return [this](absl::AnyInvocable<void() &&> task) {
      volume_.environment().Post([this, task = std::move(task)]() mutable {
        if (steps_++ == meddle_at_) meddle_();
        std::move(task)();
      });
    };
  }

  // Of user 10, group 20.
  Ino File(Ino directory, const std::string& name, uint32_t mode) { return Own(volume_.File(directory, name, mode)); }
  Ino Directory(Ino directory, const std::string& name, uint32_t mode) {
    const Ino ino = Own(volume_.Directory(directory, name));
    SetMode(ino, mode);
    return ino;
  }
  Ino Own(Ino ino) {
    volume::AttributeChange change;
    change.uid = 10;
    change.gid = 20;
    EXPECT_EQ(volume_.Set(ino, change), 0);
    return ino;
  }
  void SetMode(Ino ino, uint32_t mode) {
    volume::AttributeChange change;
    change.mode = mode;
    EXPECT_EQ(volume_.Set(ino, change), 0);
  }
  Ino InoOf(const std::string& name) {
    Ino ino = 0;
    volume_.Lookup(kRootIno, name, &ino);
    return ino;
  }

  volume::testing::VolumeTester volume_{volume::testing::VolumeTester::NoMisses(4096)};
  Sharing sharing_;
  int steps_ = 0, meddle_at_ = -1;
  std::function<void()> meddle_;
};

// The class that counts is the first that fits, and only that: the others have the opposite bits.
TEST_F(AccessTest, TheModeBitsOfOneClassDecide) {
  const Ino file = File(kRootIno, "f", 0);
  const std::vector<std::pair<Identity, int>> whos = {{kOwner, 6}, {kInGroup, 3}, {kInGroupToo, 3}, {kOther, 0}};
  for (const auto& [who, shift] : whos) {
    for (uint32_t bits = 0; bits < 8; ++bits) {
      const uint32_t others = (7 ^ bits) * 0111 & ~(7u << shift);
      SetMode(file, others | bits << shift);
      const bool reads = (bits & 4) != 0, writes = (bits & 2) != 0;
      EXPECT_EQ(Error(who, "f", O_RDONLY), reads ? 0 : EACCES) << who.uid << " " << bits;
      EXPECT_EQ(Error(who, "f", O_WRONLY), writes ? 0 : EACCES) << who.uid << " " << bits;
      EXPECT_EQ(Error(who, "f", O_RDWR), reads && writes ? 0 : EACCES) << who.uid << " " << bits;
      EXPECT_EQ(Error(kRoot, "f", O_RDWR), 0);
    }
  }
}

TEST_F(AccessTest, CapabilitiesGoBeforeTheFirstDirectWrite) {
  const Ino file = File(kRootIno, "program", 0777);
  ASSERT_EQ(volume_.SetXattr(file, "security.capability", "all of them"), 0);
  ASSERT_EQ(volume_.SetXattr(file, "user.note", "stays"), 0);
  std::string value;
  EXPECT_EQ(Error(kOther, "program", O_RDONLY), 0);
  EXPECT_EQ(volume_.GetXattr(file, "security.capability", &value), 0);
  EXPECT_EQ(Error(kOther, "program", O_RDWR), 0);
  EXPECT_EQ(volume_.GetXattr(file, "security.capability", &value), ENODATA);
  EXPECT_EQ(volume_.GetXattr(file, "user.note", &value), 0);
}

TEST_F(AccessTest, TheOwnerIsNotHelpedByTheGroup) {
  File(kRootIno, "f", 0077);
  Identity owner = kOwner;
  owner.gid = 20;
  EXPECT_EQ(Error(owner, "f", O_RDONLY), EACCES);
}

TEST_F(AccessTest, EachDirectoryMustBeSearchable) {
  const Ino outer = Directory(kRootIno, "outer", 0711);
  const Ino inner = Directory(outer, "inner", 0776);
  File(inner, "f", 0666);
  EXPECT_EQ(Error(kOwner, "outer/inner/f", O_RDWR), 0);
  EXPECT_EQ(Error(kOther, "outer/inner/f", O_RDONLY), EACCES);
  EXPECT_EQ(Error(kOther, "outer/inner/../inner/f", O_RDONLY), EACCES);
  EXPECT_EQ(Error(kOther, "outer/inner/.", O_RDONLY), EACCES);
  EXPECT_EQ(Error(kOther, "outer/inner/none", O_RDONLY), EACCES);  // not even that there is none
  EXPECT_EQ(Error(kRoot, "outer/inner/f", O_RDONLY), 0);
  SetMode(kRootIno, 0700);
  EXPECT_EQ(Error(kOwner, "outer/inner/f", O_RDWR), EACCES);
}

TEST_F(AccessTest, APathIsReadAsOpenReadsIt) {
  const Ino directory = Directory(kRootIno, "d", 0777);
  const Ino file = File(directory, "f", 0666);
  for (const char* path : {"d/f", "/d/f", "//d///f", "./d/./f", "d/../d/f"}) {
    const auto opened = Open(kOther, path, O_RDONLY);
    ASSERT_TRUE(opened.ok()) << path << opened.status();
    EXPECT_EQ(opened->file->ino(), file);
    EXPECT_EQ(opened->attributes.mode, S_IFREG | 0666u);
  }
  EXPECT_EQ(Error("", O_RDONLY), ENOENT);
  EXPECT_EQ(Error("/", O_RDONLY), EISDIR);
  EXPECT_EQ(Error("d", O_RDONLY), EISDIR);
  EXPECT_EQ(Error("d/", O_RDONLY | O_DIRECTORY), EISDIR);
  EXPECT_EQ(Error("d/.", O_WRONLY), EISDIR);
  EXPECT_EQ(Error("d/f/", O_RDONLY), ENOTDIR);
  EXPECT_EQ(Error("d/f/g", O_RDONLY), ENOTDIR);
  EXPECT_EQ(Error("d/f/..", O_RDONLY), ENOTDIR);
  EXPECT_EQ(Error("d/f", O_RDONLY | O_DIRECTORY), ENOTDIR);
  EXPECT_EQ(Error("d/g", O_RDONLY), ENOENT);
  EXPECT_EQ(Error("e/f", O_RDWR | O_CREAT), ENOENT);
  EXPECT_EQ(Error(std::string(256, 'x'), O_RDONLY), ENAMETOOLONG);
  EXPECT_EQ(Error(std::string("d/f\0g", 5), O_RDONLY), EINVAL);
  EXPECT_EQ(Error(std::string(4095, '/'), O_RDONLY), EISDIR);
  EXPECT_EQ(Error(std::string(4096, '/'), O_RDONLY), ENAMETOOLONG);
}

TEST_F(AccessTest, NothingLeadsOutOfTheVolume) {
  const Ino directory = Directory(kRootIno, "d", 0777);
  File(kRootIno, "f", 0666);
  volume_.Symlink(kRootIno, "absolute", "/f");
  volume_.Symlink(directory, "up", "../f");
  volume_.Symlink(directory, "out", "../../f");
  EXPECT_EQ(Error("..", O_RDONLY), EXDEV);
  EXPECT_EQ(Error("d/../../f", O_RDONLY), EXDEV);
  EXPECT_EQ(Error("absolute", O_RDONLY), EXDEV);
  EXPECT_EQ(Error("d/out", O_RDONLY), EXDEV);
  EXPECT_EQ(Error("d/up", O_RDONLY), 0);
}

TEST_F(AccessTest, SymbolicLinksAreFollowedFortyTimes) {
  File(kRootIno, "l0", 0666);
  for (int i = 1; i <= 41; ++i) volume_.Symlink(kRootIno, absl::StrCat("l", i), absl::StrCat("l", i - 1));
  EXPECT_EQ(Error("l40", O_RDONLY), 0);
  EXPECT_EQ(Error("l41", O_RDONLY), ELOOP);
  volume_.Symlink(kRootIno, "loop", "loop/x");
  EXPECT_EQ(Error("loop", O_RDONLY), ELOOP);
  EXPECT_EQ(Error("l1", O_RDONLY | O_NOFOLLOW), ELOOP);
  const Ino directory = Directory(kRootIno, "d", 0700);
  File(directory, "f", 0666);
  volume_.Symlink(kRootIno, "to_d", "d");
  EXPECT_EQ(Error("to_d/f", O_RDONLY | O_NOFOLLOW), 0);
  EXPECT_EQ(Error(kOther, "to_d/f", O_RDONLY), EACCES);
  EXPECT_EQ(Error("to_d", O_RDONLY), EISDIR);
  volume_.Symlink(kRootIno, "to_f", "d/f/");
  EXPECT_EQ(Error("to_f", O_RDONLY), ENOTDIR);
}

TEST_F(AccessTest, OnlyRegularFilesAreOpened) {
  for (const uint32_t type : {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK}) {
    ASSERT_EQ(volume_.Create(kRootIno, absl::StrCat("special", type), {.mode = type | 0666}), 0);
    EXPECT_EQ(Error(absl::StrCat("special", type), O_RDWR), EINVAL);
  }
}

TEST_F(AccessTest, FlagsWithoutAMeaningAreRefused) {
  File(kRootIno, "f", 0666);
  for (const uint32_t flags : {uint32_t{O_ACCMODE}, uint32_t{O_RDONLY | O_TRUNC}, uint32_t{O_RDWR | O_APPEND},
                               uint32_t{O_RDWR | O_CREAT | O_DIRECTORY}, uint32_t{O_PATH}, 0x80000000u}) {
    EXPECT_EQ(Error("f", flags), EINVAL) << flags;
  }
  EXPECT_EQ(Error(kRoot, "g", O_RDWR | O_CREAT, 0100644), EINVAL);
  EXPECT_EQ(Error("f", O_RDWR | O_CLOEXEC | O_DIRECT | O_EXCL | kShared), 0);
}

TEST_F(AccessTest, ANewFileIsItsMakers) {
  Directory(kRootIno, "d", 0777);
  const auto opened = Open(kOther, "d/new", O_RDWR | O_CREAT | O_EXCL, 0400);  // its own mode does not count now
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(opened->file->writes());
  EXPECT_TRUE(opened->file->reads());
  const volume::Attributes made = volume_.Stat(opened->file->ino());
  EXPECT_EQ(made.mode, S_IFREG | 0400u);
  EXPECT_EQ(made.uid, 12u);
  EXPECT_EQ(made.gid, 99u);
  EXPECT_EQ(Error(kOther, "d/new", O_RDWR | O_CREAT), EACCES);
  EXPECT_EQ(Error(kOther, "d/new", O_RDONLY | O_CREAT), 0);
  EXPECT_EQ(Error(kOther, "d/new", O_RDONLY | O_CREAT | O_EXCL), EEXIST);
  EXPECT_EQ(Error(kOther, "d", O_RDONLY | O_CREAT | O_EXCL), EEXIST);
  EXPECT_EQ(Error(kOther, "d", O_RDONLY | O_CREAT), EISDIR);
  EXPECT_EQ(Error(kOther, "d/none/", O_RDWR | O_CREAT), EISDIR);
}

TEST_F(AccessTest, ANewFileNeedsTheDirectorysPermission) {
  Directory(kRootIno, "d", 0731);
  EXPECT_EQ(Error(kOther, "d/new", O_RDWR | O_CREAT), EACCES);
  EXPECT_EQ(Error(kInGroup, "d/new", O_RDWR | O_CREAT), 0);
  EXPECT_EQ(Error(kOther, "new", O_RDWR | O_CREAT), EACCES);
}

TEST_F(AccessTest, NobodyMakesAProgramOfAGroupThatIsNotTheirs) {
  Directory(kRootIno, "d", 02777);
  const auto mode_of = [&](const Identity& who, const std::string& name, uint32_t mode) {
    const auto opened = Open(who, name, O_WRONLY | O_CREAT | O_EXCL, mode);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return volume_.Stat(opened->file->ino()).mode & 07777;
  };
  EXPECT_EQ(mode_of(kOther, "d/1", 02755), 0755u);
  EXPECT_EQ(mode_of(kOther, "d/2", 02745), 02745u);  // without execution it means something else
  EXPECT_EQ(mode_of(kInGroup, "d/3", 02755), 02755u);
  EXPECT_EQ(mode_of(kRoot, "d/4", 02755), 02755u);
  EXPECT_EQ(volume_.Stat(Open(kOther, "d/1", O_RDONLY)->file->ino()).gid, 20u);
}

TEST_F(AccessTest, ALinkToNothingIsMadeWhereItLeads) {
  Directory(kRootIno, "d", 0777);
  volume_.Symlink(kRootIno, "link", "d/new");
  EXPECT_EQ(Error("link", O_RDWR | O_CREAT | O_EXCL), EEXIST);
  EXPECT_EQ(Error("link", O_RDWR | O_CREAT | O_NOFOLLOW), ELOOP);
  EXPECT_EQ(Error("link", O_RDWR), ENOENT);
  EXPECT_EQ(Error(kOther, "link", O_RDWR | O_CREAT), 0);
  EXPECT_EQ(Error(kOther, "d/new", O_RDWR), 0);
}

TEST_F(AccessTest, AReadOnlyVolumeOrClientChangesNothing) {
  File(kRootIno, "f", 0666);
  Identity who = kRoot;
  for (const bool by_volume : {true, false}) {
    who.read_only = !by_volume;
    EXPECT_EQ(Error(who, "f", O_RDONLY, 0, by_volume), 0);
    EXPECT_EQ(Error(who, "f", O_RDONLY | O_CREAT, 0, by_volume), 0);
    EXPECT_EQ(Error(who, "f", O_RDWR, 0, by_volume), EROFS);
    EXPECT_EQ(Error(who, "f", O_WRONLY | O_TRUNC, 0, by_volume), EROFS);
    EXPECT_EQ(Error(who, "new", O_RDONLY | O_CREAT, 0, by_volume), EROFS);
  }
  EXPECT_EQ(InoOf("new"), 0u);
}

TEST_F(AccessTest, TruncatingIsForWhoMayWrite) {
  const Ino file = File(kRootIno, "f", 0644);
  ASSERT_EQ(volume_.Write(file, 0, "content"), 0);
  EXPECT_EQ(Error(kOther, "f", O_WRONLY | O_TRUNC), EACCES);
  EXPECT_EQ(volume_.Stat(file).size_bytes, 7u);
  const auto opened = Open(kOwner, "f", O_WRONLY | O_TRUNC);
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->attributes.size_bytes, 0u);
  EXPECT_EQ(volume_.Stat(file).size_bytes, 0u);
}

TEST_F(AccessTest, AWriterAtTheMountKeepsDirectWritersOut) {
  const Ino file = File(kRootIno, "f", 0666);
  ASSERT_EQ(volume_.Write(file, 0, "content"), 0);
  const Sharing::Opener at_mount = {.door = Sharing::Door::kMount, .writes = true, .shared = false};
  ASSERT_TRUE(sharing_.Open(file, at_mount).ok());
  EXPECT_EQ(Error("f", O_RDWR), EBUSY);
  EXPECT_EQ(Error("f", O_RDWR | O_TRUNC), EBUSY);
  EXPECT_EQ(volume_.Stat(file).size_bytes, 7u);
  EXPECT_EQ(Error("f", O_RDWR | kShared), 0);
  EXPECT_EQ(Error("f", O_RDONLY), 0);
  sharing_.Close(file, at_mount);
  {
    const auto opened = Open(kRoot, "f", O_RDWR);
    ASSERT_TRUE(opened.ok());
    EXPECT_EQ(volume::ToErrno(sharing_.Open(file, at_mount)), EBUSY);
  }
  EXPECT_TRUE(sharing_.Open(file, at_mount).ok());  // the last reference is gone
  sharing_.Close(file, at_mount);
}

TEST_F(AccessTest, AFileLivesUntilItsLastReferenceIsGone) {
  auto opened = Open(kRoot, "new", O_RDWR | O_CREAT);
  ASSERT_TRUE(opened.ok());
  const Ino ino = opened->file->ino();
  ASSERT_EQ(volume_.Unlink(kRootIno, "new"), 0);
  EXPECT_EQ(volume_.StatError(ino), 0);
  opened = absl::CancelledError("");
  volume_.Settle();
  EXPECT_NE(volume_.StatError(ino), 0);
}

// Whatever step somebody else's unlink, creation or removal of the directory comes before, the outcome is one that
// open(2) can have, and nothing stays open.
TEST_F(AccessTest, RacesEndAsIfOneHadBeenFirst) {
  const auto race = [&](int step, uint32_t flags, const std::function<void()>& meddle) {
    steps_ = 0;
    meddle_at_ = step;
    meddle_ = meddle;
    const int error = Error(kRoot, "d/f", flags);
    const Ino directory = InoOf("d");
    Ino ino = 0;
    if (directory != 0) volume_.Lookup(directory, "f", &ino);
    if (ino != 0) {
      const Sharing::Opener at_mount = {.door = Sharing::Door::kMount, .writes = true, .shared = false};
      EXPECT_TRUE(sharing_.Open(ino, at_mount).ok());
      sharing_.Close(ino, at_mount);
      EXPECT_EQ(volume_.Unlink(directory, "f"), 0);
    }
    if (directory != 0) {
      EXPECT_EQ(volume_.RemoveDirectory(kRootIno, "d"), 0);
    }
    meddle_at_ = -1;
    return error;
  };
  const auto prepare = [&](bool with_file) {
    const Ino directory = volume_.Directory(kRootIno, "d");
    if (with_file) volume_.File(directory, "f");
    return directory;
  };
  for (int step = 0; step < 8; ++step) {
    Ino directory = prepare(true);
    const int unlinked = race(step, O_RDWR | O_TRUNC, [&] { volume_.Unlink(directory, "f"); });
    EXPECT_TRUE(unlinked == 0 || unlinked == ENOENT) << step << ": " << unlinked;
    directory = prepare(true);
    EXPECT_EQ(race(step, O_RDWR | O_CREAT, [&] { volume_.Unlink(directory, "f"); }), 0) << step;
    directory = prepare(false);
    EXPECT_EQ(race(step, O_RDWR | O_CREAT, [&] { volume_.Create(directory, "f", {.mode = S_IFREG | 0600}); }), 0) << step;
    directory = prepare(false);
    const int made = race(step, O_RDWR | O_CREAT | O_EXCL,
                          [&] { volume_.Create(directory, "f", {.mode = S_IFREG | 0600}); });
    EXPECT_TRUE(made == 0 || made == EEXIST) << step << ": " << made;
    directory = prepare(false);
    const int removed = race(step, O_RDWR | O_CREAT, [&] { volume_.RemoveDirectory(kRootIno, "d"); });
    EXPECT_TRUE(removed == 0 || removed == ENOENT) << step << ": " << removed;
  }
}

TEST_F(AccessTest, OfManyWhoMakeAFileForThemselvesOneGetsIt) {
  std::vector<absl::StatusOr<OpenedFile>> results;
  for (int i = 0; i < 8; ++i) {
    OpenPath(volume_.volume(), sharing_, Executor(), {kRoot, "new", O_RDWR | O_CREAT | O_EXCL | kShared, 0600, false},
             [&](absl::StatusOr<OpenedFile> result) { results.push_back(std::move(result)); });
  }
  volume_.Settle();
  ASSERT_EQ(results.size(), 8u);
  int made = 0;
  for (const auto& result : results) {
    if (result.ok()) ++made;
    EXPECT_TRUE(result.ok() || volume::ToErrno(result.status()) == EEXIST);
  }
  EXPECT_EQ(made, 1);
}

}  // namespace
}  // namespace stagefs::dsa

#include "fs/volume/sharing.h"

#include <errno.h>
#include <sched.h>

#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fs/volume/errno.h"
#include "gtest/gtest.h"

namespace stagefs::volume {
namespace {

constexpr Ino kFile = 7, kOther = 8;
constexpr Sharing::Door kMount = Sharing::Door::kMount, kDirect = Sharing::Door::kDirect;
constexpr Sharing::Opener kMountReader = {kMount, false, false}, kMountWriter = {kMount, true, false};
constexpr Sharing::Opener kDirectReader = {kDirect, false, false}, kDirectWriter = {kDirect, true, false};
constexpr Sharing::Opener kSharedDirectWriter = {kDirect, true, true};

// Notes what it is told, and keeps `done` until Finish().
class Hearer : public Sharing::KernelCache, public Sharing::Viewer {
 public:
  void DropContent(Ino ino, uint64_t offset, uint64_t length, Sharing::Done done) override {
    Note(ino, offset, length, std::move(done));
  }
  void DropName(Ino directory, absl::string_view name, Sharing::Done done) override {
    names_.emplace_back(directory, std::string(name));
    pending_.push_back(std::move(done));
  }
  void ContentChanged(Ino ino, uint64_t offset, uint64_t length, Sharing::Done done) override {
    Note(ino, offset, length, std::move(done));
  }
  void Finish() {
    for (Sharing::Done& done : std::exchange(pending_, {})) std::move(done)();
  }

  struct Range {
    Ino ino;
    uint64_t offset, length;
    bool operator==(const Range&) const = default;
  };
  std::vector<Range> ranges_;
  std::vector<std::pair<Ino, std::string>> names_;

 private:
  void Note(Ino ino, uint64_t offset, uint64_t length, Sharing::Done done) {
    ranges_.push_back({ino, offset, length});
    pending_.push_back(std::move(done));
  }
  std::vector<Sharing::Done> pending_;
};

class SharingTest : public ::testing::Test {
 protected:
  SharingTest() { sharing_.SetKernelCache(&kernel_); }
  ~SharingTest() override {
    kernel_.Finish();
    sharing_.SetKernelCache(nullptr);
  }

  int Open(const Sharing::Opener& opener, Ino ino = kFile) { return ToErrno(sharing_.Open(ino, opener)); }
  void Close(const Sharing::Opener& opener, Ino ino = kFile) { sharing_.Close(ino, opener); }
  Sharing::Done CountDone() {
    return [this] { ++done_; };
  }
  void Change(Sharing::Door door, Ino ino = kFile) { sharing_.Changed(ino, 100, 10, door, CountDone()); }

  Sharing sharing_;
  Hearer kernel_, viewer_;
  int done_ = 0;
};

TEST_F(SharingTest, AnExclusiveDirectWriterKeepsWritersFromTheMountAndNobodyElse) {
  EXPECT_EQ(Open(kDirectWriter), 0);
  EXPECT_EQ(Open(kMountWriter), EBUSY);
  EXPECT_EQ(Open(kMountWriter, kOther), 0);
  EXPECT_EQ(Open(kMountReader), 0);
  EXPECT_EQ(Open(kDirectWriter), 0);
  EXPECT_EQ(Open(kSharedDirectWriter), 0);
  Close(kDirectWriter);
  EXPECT_EQ(Open(kMountWriter), EBUSY);
  Close(kDirectWriter);
  EXPECT_EQ(Open(kMountWriter), 0);
}

TEST_F(SharingTest, AWriterAtTheMountKeepsExclusiveDirectWritersOut) {
  EXPECT_EQ(Open(kMountWriter), 0);
  EXPECT_EQ(Open(kDirectWriter), EBUSY);
  EXPECT_FALSE(sharing_.DirectlyWritten(kFile));
  EXPECT_EQ(Open(kDirectReader), 0);
  EXPECT_EQ(Open(kSharedDirectWriter), 0);
  EXPECT_EQ(Open(kMountWriter), 0);
  Close(kMountWriter);
  EXPECT_EQ(Open(kDirectWriter), EBUSY);
  Close(kMountWriter);
  EXPECT_EQ(Open(kDirectWriter), 0);
}

TEST_F(SharingTest, ReadersExcludeNobody) {
  EXPECT_EQ(Open(kMountReader), 0);
  EXPECT_EQ(Open(kDirectReader), 0);
  EXPECT_EQ(Open(kDirectWriter), 0);
  Close(kDirectWriter);
  EXPECT_EQ(Open(kMountWriter), 0);
}

TEST_F(SharingTest, AFileIsDirectlyWrittenUntilTheKernelHasForgottenWhatItKeptMeanwhile) {
  EXPECT_FALSE(sharing_.DirectlyWritten(kFile));
  ASSERT_EQ(Open(kDirectWriter), 0);
  EXPECT_TRUE(sharing_.DirectlyWritten(kFile));
  EXPECT_FALSE(sharing_.DirectlyWritten(kOther));
  ASSERT_EQ(Open(kSharedDirectWriter), 0);
  Close(kDirectWriter);
  EXPECT_TRUE(kernel_.ranges_.empty());
  Close(kSharedDirectWriter);
  EXPECT_EQ(kernel_.ranges_, (std::vector<Hearer::Range>{{kFile, 0, 0}}));
  EXPECT_TRUE(sharing_.DirectlyWritten(kFile));
  EXPECT_EQ(Open(kMountWriter), 0) << "what is left to forget excludes nobody";
  kernel_.Finish();
  EXPECT_FALSE(sharing_.DirectlyWritten(kFile));
}

TEST_F(SharingTest, ADirectWriterWhoComesBackBeforeTheKernelHasForgottenIsNotLost) {
  ASSERT_EQ(Open(kDirectWriter), 0);
  Close(kDirectWriter);
  ASSERT_EQ(Open(kDirectWriter), 0);
  kernel_.Finish();
  EXPECT_TRUE(sharing_.DirectlyWritten(kFile));
  Close(kDirectWriter);
  kernel_.Finish();
  EXPECT_FALSE(sharing_.DirectlyWritten(kFile));
}

TEST_F(SharingTest, WithoutAMountADirectWriterLeavesNothingBehind) {
  sharing_.SetKernelCache(nullptr);
  ASSERT_EQ(Open(kDirectWriter), 0);
  sharing_.DirectWritingBegins(kFile, CountDone());
  sharing_.NameChanged(kFile, "name", kDirect, CountDone());
  EXPECT_EQ(done_, 2);
  Close(kDirectWriter);
  EXPECT_FALSE(sharing_.DirectlyWritten(kFile));
}

TEST_F(SharingTest, DirectWritingBeginsWhenTheKernelHasForgotten) {
  ASSERT_EQ(Open(kDirectWriter), 0);
  sharing_.DirectWritingBegins(kFile, CountDone());
  EXPECT_EQ(kernel_.ranges_, (std::vector<Hearer::Range>{{kFile, 0, 0}}));
  EXPECT_EQ(done_, 0);
  kernel_.Finish();
  EXPECT_EQ(done_, 1);
}

TEST_F(SharingTest, TheKernelHearsOfDirectChangesToWhatIsOpenAtTheMount) {
  ASSERT_EQ(Open(kDirectWriter), 0);
  Change(kDirect);
  EXPECT_EQ(done_, 1);
  ASSERT_EQ(Open(kMountReader), 0);
  Change(kDirect);
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(kernel_.ranges_, (std::vector<Hearer::Range>{{kFile, 100, 10}}));
  kernel_.Finish();
  EXPECT_EQ(done_, 2);
  Close(kMountReader);
  Change(kDirect);
  EXPECT_EQ(done_, 3);
  EXPECT_EQ(kernel_.ranges_.size(), 1u);
}

TEST_F(SharingTest, TheKernelDoesNotHearOfTheMountsOwnChanges) {
  ASSERT_EQ(Open(kSharedDirectWriter), 0);
  ASSERT_EQ(Open(kMountWriter), 0);
  Change(kMount);
  sharing_.NameChanged(kFile, "name", kMount, CountDone());
  EXPECT_EQ(done_, 2);
  EXPECT_TRUE(kernel_.ranges_.empty());
  EXPECT_TRUE(kernel_.names_.empty());
}

TEST_F(SharingTest, AViewerHearsOfChangesThroughEitherDoorWhileItLooks) {
  sharing_.AddViewer(kFile, &viewer_);
  Change(kMount);
  Change(kDirect);
  Change(kMount, kOther);
  EXPECT_EQ(done_, 1) << "only the other file's change is over";
  EXPECT_EQ(viewer_.ranges_, (std::vector<Hearer::Range>{{kFile, 100, 10}, {kFile, 100, 10}}));
  viewer_.Finish();
  EXPECT_EQ(done_, 3);
  sharing_.RemoveViewer(kFile, &viewer_);
  Change(kMount);
  EXPECT_EQ(done_, 4);
}

TEST_F(SharingTest, AViewerAddedTwiceHearsOnceUntilItIsRemovedTwice) {
  sharing_.AddViewer(kFile, &viewer_);
  sharing_.AddViewer(kFile, &viewer_);
  Change(kMount);
  EXPECT_EQ(viewer_.ranges_.size(), 1u);
  sharing_.RemoveViewer(kFile, &viewer_);
  Change(kMount);
  EXPECT_EQ(viewer_.ranges_.size(), 2u);
  sharing_.RemoveViewer(kFile, &viewer_);
  Change(kMount);
  EXPECT_EQ(viewer_.ranges_.size(), 2u);
  viewer_.Finish();
  EXPECT_EQ(done_, 3);
}

TEST_F(SharingTest, AChangeIsOverWhenTheKernelAndEveryViewerAreDone) {
  Hearer second;
  sharing_.AddViewer(kFile, &viewer_);
  sharing_.AddViewer(kFile, &second);
  ASSERT_EQ(Open(kMountReader), 0);
  Change(kDirect);
  viewer_.Finish();
  kernel_.Finish();
  EXPECT_EQ(done_, 0);
  second.Finish();
  EXPECT_EQ(done_, 1);
}

TEST_F(SharingTest, TheKernelForgetsNamesThatTheDirectDoorMade) {
  sharing_.NameChanged(1, "name", kDirect, CountDone());
  EXPECT_EQ(kernel_.names_, (std::vector<std::pair<Ino, std::string>>{{1, "name"}}));
  EXPECT_EQ(done_, 0);
  kernel_.Finish();
  EXPECT_EQ(done_, 1);
}

TEST_F(SharingTest, WhatWasOpenAtAMountThatIsGoneExcludesNobody) {
  ASSERT_EQ(Open(kMountWriter), 0);
  ASSERT_EQ(Open(kDirectReader), 0);
  sharing_.SetKernelCache(nullptr);
  EXPECT_EQ(Open(kDirectWriter), 0);
  Change(kDirect);
  EXPECT_EQ(done_, 1);
  Close(kDirectReader);
}

// Waits inside DropContent().
class SlowKernel final : public Hearer {
 public:
  void DropContent(Ino ino, uint64_t offset, uint64_t length, Sharing::Done done) override {
    inside_.store(true);
    inside_.notify_all();
    go_on_.wait(false);
    Hearer::DropContent(ino, offset, length, std::move(done));
    left_.store(true);
  }
  std::atomic<bool> inside_ = false, go_on_ = false, left_ = false;
};

TEST_F(SharingTest, SetKernelCacheWaitsForCallsInTheOldOne) {
  SlowKernel slow;
  sharing_.SetKernelCache(&slow);
  std::thread caller([this] { sharing_.DirectWritingBegins(kFile, CountDone()); });
  slow.inside_.wait(false);
  bool left = false;
  std::thread setter([this, &slow, &left] {
    sharing_.SetKernelCache(nullptr);
    left = slow.left_.load();
  });
  // The setter has got as far as it can, or not: either way it must not return before the call does.
  for (int i = 0; i < 1000; ++i) sched_yield();
  slow.go_on_.store(true);
  slow.go_on_.notify_all();
  caller.join();
  setter.join();
  EXPECT_TRUE(left);
  slow.Finish();
  EXPECT_EQ(done_, 1);
}

}  // namespace
}  // namespace stagefs::volume

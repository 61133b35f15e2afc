#include "fs/fuse/kernel_cache.h"

#include <errno.h>
#include <sched.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace stagefs::fuse {
namespace {

constexpr volume::Ino kFile = 5;
constexpr volume::Sharing::Opener kDirectWriter = {volume::Sharing::Door::kDirect, true, false};

// A kernel that writes down what it is told.
class FakeKernel final : public KernelNotifier {
 public:
  int ForgetContent(volume::Ino ino, uint64_t offset, uint64_t length) override {
    MutexLock lock(&mutex_);
    told_.push_back(absl::StrCat("content ", ino, " ", offset, " ", length));
    changed_.SignalAll();
    while (stopped_) changed_.Wait(&mutex_);
    if (unknown_ == 0) return 0;
    --unknown_;
    return ENOENT;
  }
  int ForgetName(volume::Ino directory, absl::string_view name) override {
    MutexLock lock(&mutex_);
    told_.push_back(absl::StrCat("name ", directory, " ", name));
    changed_.SignalAll();
    while (directory_held_) changed_.Wait(&mutex_);
    return ENOENT;
  }

  // The inode is not known for so many times.
  void SetUnknown(uint64_t times) {
    MutexLock lock(&mutex_);
    unknown_ = times;
  }
  // Whether it waits, as for a page that is locked.
  void SetStopped(bool stopped) {
    MutexLock lock(&mutex_);
    stopped_ = stopped;
    changed_.SignalAll();
  }
  // Whether it waits for the lock of a directory.
  void SetDirectoryHeld(bool held) {
    MutexLock lock(&mutex_);
    directory_held_ = held;
    changed_.SignalAll();
  }
  void WaitUntilTold(size_t count) {
    MutexLock lock(&mutex_);
    while (told_.size() < count) changed_.Wait(&mutex_);
  }
  std::vector<std::string> told() {
    MutexLock lock(&mutex_);
    return told_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  uint64_t unknown_ ABSL_GUARDED_BY(mutex_) = 0;
  bool directory_held_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::string> told_ ABSL_GUARDED_BY(mutex_);
};

class KernelCacheTest : public ::testing::Test {
 protected:
  // Returns when `done` has run.
  void DropContent(uint64_t offset, uint64_t length) {
    std::atomic<bool> done = false;
    cache_->DropContent(kFile, offset, length, [&done] {
      done.store(true);
      done.notify_all();
    });
    done.wait(false);
  }
  bool MayKeep(uint64_t generation) { return cache_->MayKeepAttributes(kFile, generation); }

  volume::Sharing sharing_;
  FakeKernel kernel_;
  std::unique_ptr<KernelCache> cache_ = std::make_unique<KernelCache>(sharing_, kernel_);
};

TEST_F(KernelCacheTest, ContentIsDroppedBeforeDone) {
  DropContent(4096, 10);
  EXPECT_EQ(kernel_.told(), (std::vector<std::string>{"content 5 4096 10"}));
}

TEST_F(KernelCacheTest, ANameIsDroppedBeforeItsDirectory) {
  std::atomic<bool> done = false;
  cache_->DropName(1, "new", [&done] {
    done.store(true);
    done.notify_all();
  });
  done.wait(false);
  EXPECT_EQ(kernel_.told(), (std::vector<std::string>{"name 1 new", "content 1 0 0"}));
}

TEST_F(KernelCacheTest, WhoHoldsADirectoryHoldsUpNoContent) {
  kernel_.SetDirectoryHeld(true);
  std::atomic<bool> done = false;
  cache_->DropName(1, "new", [&done] { done.store(true); });
  kernel_.WaitUntilTold(1);
  DropContent(0, 0);
  EXPECT_FALSE(done.load());
  kernel_.SetDirectoryHeld(false);
  cache_.reset();
  EXPECT_TRUE(done.load());
}

TEST_F(KernelCacheTest, AnInodeThatTheKernelCannotGetToKnowIsTriedOnce) {
  kernel_.SetUnknown(1000000);
  DropContent(0, 0);
  EXPECT_EQ(kernel_.told().size(), 1u);
}

TEST_F(KernelCacheTest, WhileAnAnswerIsUnderWayItIsTriedUntilTheKernelKnowsTheInode) {
  ASSERT_TRUE(MayKeep(cache_->generation()));
  kernel_.SetUnknown(3);
  DropContent(0, 0);
  EXPECT_EQ(kernel_.told().size(), 4u);
}

TEST_F(KernelCacheTest, AnAnswerIsNotUnderWayForEver) {
  ASSERT_TRUE(MayKeep(cache_->generation()));
  kernel_.SetUnknown(1000000);
  DropContent(0, 0);
  EXPECT_GT(kernel_.told().size(), 1u);
}

TEST_F(KernelCacheTest, AWaitForAnAnswerHoldsUpNoOtherDrop) {
  ASSERT_TRUE(MayKeep(cache_->generation()));
  kernel_.SetUnknown(1000000);
  std::atomic<bool> done = false;
  cache_->DropContent(kFile, 0, 0, [&done] { done.store(true); });
  kernel_.WaitUntilTold(1);
  DropContent(4096, 1);
  EXPECT_FALSE(done.load());
  cache_.reset();
  EXPECT_TRUE(done.load());
}

TEST_F(KernelCacheTest, AttributesOfAFileThatIsDirectlyWrittenAreNotKept) {
  ASSERT_TRUE(sharing_.Open(kFile, kDirectWriter).ok());
  EXPECT_FALSE(MayKeep(cache_->generation()));
  sharing_.Close(kFile, kDirectWriter);
  EXPECT_TRUE(MayKeep(cache_->generation()));
}

TEST_F(KernelCacheTest, AttributesAskedForBeforeADirectWriterCameAndWentAreNotKept) {
  sharing_.SetKernelCache(cache_.get());
  const uint64_t before = cache_->generation();
  ASSERT_TRUE(sharing_.Open(kFile, kDirectWriter).ok());
  const uint64_t meanwhile = cache_->generation();
  sharing_.Close(kFile, kDirectWriter);
  while (sharing_.DirectlyWritten(kFile)) sched_yield();
  EXPECT_FALSE(MayKeep(before));
  EXPECT_FALSE(MayKeep(meanwhile));
  EXPECT_TRUE(MayKeep(cache_->generation()));
  sharing_.SetKernelCache(nullptr);
}

TEST_F(KernelCacheTest, AtTheEndEverythingThatWaitsIsDone) {
  constexpr int kDrops = 10;
  kernel_.SetStopped(true);
  std::atomic<int> done = 0;
  for (int i = 0; i < kDrops; ++i) cache_->DropContent(kFile, 0, 0, [&done] { ++done; });
  kernel_.WaitUntilTold(1);
  EXPECT_EQ(done.load(), 0);
  kernel_.SetStopped(false);
  cache_.reset();
  EXPECT_EQ(done.load(), kDrops);
}

}  // namespace
}  // namespace stagefs::fuse

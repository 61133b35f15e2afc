#include "fs/dsa/mapped_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fs/dsa/client/mapping.h"
#include "fs/fuse/testing/memory_volume.h"
#include "fs/volume/errno.h"
#include "fs/volume/testing/memory_engine.h"
#include "gtest/gtest.h"
#include "sal/mutex.h"
#include "sal/real_environment.h"

namespace stagefs::dsa {
namespace {

using volume::Attributes;
using volume::Ino;

constexpr uint64_t kPage = MappedFiles::kPageBytes;
constexpr MappedFiles::User kUser = 1000, kOther = 1001;

// A volume whose reads can be held up after the bytes have been read, and made to fail.
class HeldVolume : public fuse::testing::MemoryVolume {
 public:
  void Read(Ino ino, uint64_t offset, absl::Span<std::byte> destination, volume::Callback<size_t> done) override {
    ++reads;
    if (fail) return std::move(done)(volume::ErrnoStatus(EIO));
    if (!hold) return MemoryVolume::Read(ino, offset, destination, std::move(done));
    MemoryVolume::Read(ino, offset, destination, [this, done = std::move(done)](absl::StatusOr<size_t> size) mutable {
      held.push_back([done = std::move(done), size]() mutable { std::move(done)(size); });
    });
  }
  void LetGo() {
    auto all = std::exchange(held, {});
    for (auto& one : all) std::move(one)();
  }

  bool hold = false, fail = false;
  int reads = 0;
  std::vector<absl::AnyInvocable<void() &&>> held;
};

class CountingRegistry : public MappedFiles::Registry {
 public:
  void AddViewer(Ino ino, volume::Sharing::Viewer*) override {
    MutexLock lock(&mutex_);
    ++viewers_[ino];
  }
  void RemoveViewer(Ino ino, volume::Sharing::Viewer*) override {
    MutexLock lock(&mutex_);
    --viewers_[ino];
  }
  int viewers(Ino ino) {
    MutexLock lock(&mutex_);
    return viewers_[ino];
  }

 private:
  Mutex mutex_;
  std::map<Ino, int> viewers_;
};

Ino MakeFile(volume::Volume& volume, const std::string& name) {
  std::promise<Ino> made;
  volume.Create(volume::kRootIno, name, {.mode = S_IFREG | 0600}, /*open=*/true,
                [&](absl::StatusOr<Attributes> attributes) { made.set_value(attributes.ok() ? attributes->ino : 0); });
  return made.get_future().get();
}

void Write(volume::Volume& volume, Ino ino, uint64_t offset, const void* bytes, size_t size) {
  std::promise<bool> written;
  volume.Write(ino, offset, absl::MakeConstSpan(static_cast<const std::byte*>(bytes), size), /*append=*/false,
               [&](absl::StatusOr<size_t> count) { written.set_value(count.ok() && *count == size); });
  EXPECT_TRUE(written.get_future().get());
}

// Whole pages of the file, each full of a letter.
void WriteLetters(volume::Volume& volume, Ino ino, uint64_t first, const std::string& letters) {
  std::string bytes;
  for (const char letter : letters) bytes.append(kPage, letter);
  Write(volume, ino, first * kPage, bytes.data(), bytes.size());
}

int PopulateAndWait(MappedFiles& files, Ino ino, MappedFiles::User user, uint64_t offset, uint64_t length) {
  std::promise<int> done;
  files.Populate(ino, user, offset, length, [&](absl::Status status) { done.set_value(volume::ToErrno(status)); });
  return done.get_future().get();
}

void ChangedAndWait(MappedFiles& files, Ino ino, uint64_t offset, uint64_t length) {
  std::promise<void> done;
  files.ContentChanged(ino, offset, length, [&] { done.set_value(); });
  done.get_future().get();
}

// A letter for each page that is all of one letter, '.' for holes and zeros, '?' for anything else.
std::string Letters(int memfd, uint64_t first, uint64_t count) {
  std::string letters;
  for (uint64_t page = first; page < first + count; ++page) {
    std::string bytes(kPage, '!');
    EXPECT_EQ(pread(memfd, bytes.data(), kPage, static_cast<off_t>(page * kPage)), static_cast<ssize_t>(kPage));
    const char letter = bytes[0];
    letters += bytes != std::string(kPage, letter) ? '?' : letter == 0 ? '.' : letter;
  }
  return letters;
}

uint64_t AllocatedBytes(int memfd) {
  struct stat attributes;
  EXPECT_EQ(fstat(memfd, &attributes), 0);
  return static_cast<uint64_t>(attributes.st_blocks) * 512;
}

class MappedFilesTest : public ::testing::Test {
 protected:
  MappedFilesTest() : ino_(MakeFile(volume_, "file")) { WriteLetters(volume_, ino_, 0, "abcdefgh"); }
  ~MappedFilesTest() override {
    for (const int descriptor : descriptors_) close(descriptor);
  }

  int Map(MappedFiles::User user, uint64_t pages) {
    const absl::StatusOr<int> descriptor = files_.Map(ino_, user, 0, pages * kPage);
    EXPECT_TRUE(descriptor.ok()) << descriptor.status();
    descriptors_.push_back(descriptor.value_or(-1));
    return descriptors_.back();
  }
  int Populate(uint64_t first, uint64_t count, MappedFiles::User user = kUser) {
    return PopulateAndWait(files_, ino_, user, first * kPage, count * kPage);
  }

  HeldVolume volume_;
  CountingRegistry registry_;
  const Ino ino_;
  std::vector<int> descriptors_;
  MappedFiles files_{volume_, registry_, {.memory_bytes = MappedFiles::kMinMemoryBytes}};
};

TEST_F(MappedFilesTest, PagesAreHolesUntilAskedFor) {
  const int memfd = Map(kUser, 8);
  EXPECT_EQ(AllocatedBytes(memfd), 0u);
  EXPECT_EQ(Populate(2, 3), 0);
  EXPECT_EQ(Letters(memfd, 0, 8), "..cde...");
  EXPECT_EQ(volume_.reads, 1);
  EXPECT_EQ(Populate(1, 5), 0);
  EXPECT_EQ(Letters(memfd, 0, 8), ".bcdef..");
  EXPECT_EQ(volume_.reads, 3) << "what was there is not read again";
}

TEST_F(MappedFilesTest, BeyondTheEndAreZerosThatCount) {
  Write(volume_, ino_, 8 * kPage, "x", 1);
  const int memfd = Map(kUser, 20);
  EXPECT_EQ(Populate(7, 13), 0);
  EXPECT_EQ(Letters(memfd, 7, 13), "h?...........");
  EXPECT_EQ(AllocatedBytes(memfd), 13 * kPage);
}

TEST_F(MappedFilesTest, ProgramsCannotWrite) {
  const int memfd = Map(kUser, 8);
  EXPECT_EQ(write(memfd, "x", 1), -1);
  EXPECT_EQ(ftruncate(memfd, 0), -1);
  EXPECT_EQ(mmap(nullptr, kPage, PROT_WRITE, MAP_SHARED, memfd, 0), MAP_FAILED);
  struct stat attributes;
  ASSERT_EQ(fstat(memfd, &attributes), 0);
  EXPECT_EQ(attributes.st_mode & 07777, 0u);
}

TEST_F(MappedFilesTest, RangesThatCannotBeAreRefused) {
  EXPECT_EQ(volume::ToErrno(files_.Map(ino_, kUser, 0, 0).status()), EINVAL);
  EXPECT_EQ(volume::ToErrno(files_.Map(ino_, kUser, UINT64_MAX, 2).status()), EINVAL);
  EXPECT_EQ(volume::ToErrno(files_.Map(ino_, kUser, 0, volume::kMaxFileBytes).status()), EINVAL);
  EXPECT_EQ(Populate(0, 1), EINVAL) << "not mapped";
  Map(kUser, 8);
  EXPECT_EQ(Populate(8, 1), EINVAL);
  EXPECT_EQ(Populate(0, 1, kOther), EINVAL);
  EXPECT_EQ(PopulateAndWait(files_, ino_, kUser, 0, 0), EINVAL);
  EXPECT_EQ(PopulateAndWait(files_, ino_, kUser, 7 * kPage, UINT64_MAX), 0);
  EXPECT_EQ(PopulateAndWait(files_, ino_, kUser, UINT64_MAX, UINT64_MAX), EINVAL);
}

TEST_F(MappedFilesTest, AMappingGrowsTheMemfd) {
  const int memfd = Map(kUser, 2);
  const int larger = Map(kUser, 8);
  EXPECT_EQ(Populate(7, 1), 0);
  EXPECT_EQ(Letters(memfd, 7, 1), "h");
  EXPECT_EQ(Letters(larger, 7, 1), "h");
}

TEST_F(MappedFilesTest, AChangeIsSeenWhenDone) {
  const int memfd = Map(kUser, 8), other = Map(kOther, 8);
  Populate(0, 4);
  Populate(1, 1, kOther);
  WriteLetters(volume_, ino_, 0, "ABCDEFGH");
  ChangedAndWait(files_, ino_, kPage + 5, 2 * kPage);
  EXPECT_EQ(Letters(memfd, 0, 8), "aBCD....");
  EXPECT_EQ(Letters(other, 0, 8), ".B......");
}

TEST_F(MappedFilesTest, WhatNobodyHasCostsNoRead) {
  Map(kUser, 8);
  ChangedAndWait(files_, ino_, 0, 0);
  ChangedAndWait(files_, ino_ + 1, 0, 0);
  EXPECT_EQ(volume_.reads, 0);
}

TEST_F(MappedFilesTest, ATruncatedFileIsZeros) {
  const int memfd = Map(kUser, 8);
  Populate(0, 8);
  volume::AttributeChange shorter;
  shorter.size_bytes = 2 * kPage;
  volume_.SetAttributes(ino_, shorter, [](absl::StatusOr<Attributes>) {});
  ChangedAndWait(files_, ino_, 2 * kPage, 0);
  EXPECT_EQ(Letters(memfd, 0, 8), "ab......");
}

TEST_F(MappedFilesTest, WhatChangesWhileItIsReadIsReadAgain) {
  const int memfd = Map(kUser, 8);
  volume_.hold = true;
  bool populated = false, changed = false;
  files_.Populate(ino_, kUser, 0, 2 * kPage, [&](absl::Status status) { populated = status.ok(); });
  WriteLetters(volume_, ino_, 1, "X");
  files_.ContentChanged(ino_, kPage, kPage, [&] { changed = true; });
  EXPECT_FALSE(populated);
  volume_.LetGo();
  EXPECT_TRUE(populated);
  EXPECT_FALSE(changed) << "the old content was read";
  volume_.LetGo();
  EXPECT_TRUE(changed);
  EXPECT_EQ(Letters(memfd, 0, 2), "aX");
}

TEST_F(MappedFilesTest, ChangesThatNeverEndHoldUpNobody) {
  const int memfd = Map(kUser, 8);
  Populate(0, 1);
  volume_.hold = true;
  std::vector<bool> changed(10);
  for (size_t round = 0; round < changed.size(); ++round) {
    WriteLetters(volume_, ino_, 0, std::string(1, static_cast<char>('0' + round)));
    files_.ContentChanged(ino_, 0, 1, [&changed, round] { changed[round] = true; });
    volume_.LetGo();
    if (round > 0) {
      EXPECT_TRUE(changed[round - 1]) << round;
    }
  }
  volume_.LetGo();
  EXPECT_TRUE(changed.back());
  EXPECT_EQ(Letters(memfd, 0, 1), "9");
}

TEST_F(MappedFilesTest, WhatCannotBeReadIsNotShown) {
  const int memfd = Map(kUser, 8);
  Populate(0, 2);
  volume_.fail = true;
  ChangedAndWait(files_, ino_, 0, 1);
  EXPECT_EQ(Letters(memfd, 0, 2), ".b");
  EXPECT_EQ(Populate(0, 2), EIO);
  volume_.fail = false;
  EXPECT_EQ(Populate(0, 2), 0);
  EXPECT_EQ(Letters(memfd, 0, 2), "ab");
}

TEST_F(MappedFilesTest, UsersDoNotShareMemory) {
  struct stat one, same, other;
  fstat(Map(kUser, 8), &one);
  fstat(Map(kUser, 8), &same);
  fstat(Map(kOther, 8), &other);
  EXPECT_EQ(one.st_ino, same.st_ino);
  EXPECT_NE(one.st_ino, other.st_ino);
}

TEST_F(MappedFilesTest, TheLastUnmapTakesEverythingAway) {
  const int memfd = Map(kUser, 8);
  Map(kUser, 8);
  EXPECT_EQ(registry_.viewers(ino_), 1);
  Populate(0, 8);
  files_.Unmap(ino_, kUser);
  EXPECT_EQ(files_.present_bytes(), 8 * kPage);
  files_.Unmap(ino_, kUser);
  EXPECT_EQ(registry_.viewers(ino_), 0);
  EXPECT_EQ(files_.present_bytes(), 0u);
  EXPECT_EQ(AllocatedBytes(memfd), 0u);
  EXPECT_EQ(Populate(0, 1), EINVAL);
}

TEST_F(MappedFilesTest, WhatIsReadWhenItIsUnmappedComesToNothing) {
  const int memfd = Map(kUser, 8);
  volume_.hold = true;
  int result = 0;
  files_.Populate(ino_, kUser, 0, kPage, [&](absl::Status status) { result = volume::ToErrno(status); });
  files_.Unmap(ino_, kUser);
  const int again = Map(kUser, 8);
  volume_.LetGo();
  EXPECT_EQ(result, ESTALE);
  EXPECT_EQ(AllocatedBytes(memfd), 0u);
  EXPECT_EQ(AllocatedBytes(again), 0u);
  EXPECT_EQ(files_.present_bytes(), 0u);
}

TEST_F(MappedFilesTest, MemoryIsBounded) {
  constexpr uint64_t kPages = 4 * MappedFiles::kMinMemoryBytes / kPage;
  std::string letters;
  for (uint64_t page = 0; page < kPages; ++page) letters += static_cast<char>('a' + page % 26);
  for (uint64_t page = 0; page < kPages; page += 256) WriteLetters(volume_, ino_, page, letters.substr(page, 256));
  const int memfd = Map(kUser, kPages);
  for (int round = 0; round < 2; ++round) {
    for (uint64_t page = 0; page < kPages; page += 128) {
      ASSERT_EQ(Populate(page, 128), 0);
      ASSERT_EQ(Letters(memfd, page, 128), letters.substr(page, 128));
      ASSERT_LE(AllocatedBytes(memfd), MappedFiles::kMinMemoryBytes);
      ASSERT_EQ(files_.present_bytes(), AllocatedBytes(memfd));
    }
  }
}

TEST_F(MappedFilesTest, AskingForALotBringsSomeOfIt) {
  constexpr uint64_t kLarge = uint64_t{1} << 40;
  const absl::StatusOr<int> memfd = files_.Map(ino_, kUser, 0, kLarge);
  ASSERT_TRUE(memfd.ok()) << memfd.status();
  EXPECT_EQ(PopulateAndWait(files_, ino_, kUser, 0, kLarge), 0);
  EXPECT_EQ(AllocatedBytes(*memfd), MappedFiles::kMaxPopulateBytes);
  close(*memfd);
}

// The real volume over an engine in memory that answers from its own threads.
class MappedVolumeTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kBytes = 3 * MappedFiles::kMinMemoryBytes;

  MappedVolumeTest() : engine_(environment_, EngineOptions()) {
    EXPECT_TRUE(volume::Volume::Format(engine_, {}).ok());
    absl::StatusOr<std::unique_ptr<volume::Volume>> opened = volume::Volume::Open(engine_);
    EXPECT_TRUE(opened.ok());
    volume_ = *std::move(opened);
    ino_ = MakeFile(*volume_, "file");
    files_ = std::make_unique<MappedFiles>(*volume_, registry_, MappedFiles::Options{.memory_bytes = 0});
  }
  ~MappedVolumeTest() override {
    files_.reset();
    volume_->Release(ino_);
    volume_->Close();
  }

  static volume::testing::MemoryEngine::Options EngineOptions() {
    volume::testing::MemoryEngine::Options options;
    options.capacity_blocks = 64 << 10;
    options.miss_probability = 0.05;
    options.asynchronous = true;
    return options;
  }

  sal::RealEnvironment environment_;
  volume::testing::MemoryEngine engine_;
  std::unique_ptr<volume::Volume> volume_;
  Ino ino_ = 0;
  CountingRegistry registry_;
  std::unique_ptr<MappedFiles> files_;
};

// Each thread has pages of its own, and knows what they must show; their changes and reads meet in the same Fills.
TEST_F(MappedVolumeTest, TheNewestContentIsShownWhateverHappensAtOnce) {
  constexpr uint64_t kThreads = 4, kPages = 64;
  const absl::StatusOr<int> memfd = files_->Map(ino_, kUser, 0, kPages * kPage);
  ASSERT_TRUE(memfd.ok()) << memfd.status();
  const auto work = [&](uint64_t mine) {
    std::mt19937_64 random(mine);
    for (int round = 0; round < 300; ++round) {
      const uint64_t page = random() % (kPages / kThreads) * kThreads + mine;
      const std::string letter(1, static_cast<char>('a' + random() % 26));
      WriteLetters(*volume_, ino_, page, letter);
      ChangedAndWait(*files_, ino_, page * kPage, kPage);
      ASSERT_EQ(PopulateAndWait(*files_, ino_, kUser, random() % kPages * kPage, 8 * kPage), 0);
      ASSERT_EQ(PopulateAndWait(*files_, ino_, kUser, page * kPage, kPage), 0);
      ASSERT_EQ(Letters(*memfd, page, 1), letter) << "round " << round << " page " << page;
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t mine = 0; mine < kThreads; ++mine) threads.emplace_back(work, mine);
  for (std::thread& thread : threads) thread.join();
  close(*memfd);
}

// What a program's library and the server's session do together.
class Session : public MappingBackend {
 public:
  Session(volume::Volume& volume, MappedFiles& files, Ino ino) : volume_(volume), files_(files), ino_(ino) {}
  int Populate(uint64_t offset, uint64_t length) override {
    return -PopulateAndWait(files_, ino_, kUser, offset, length);
  }
  int Persist(const std::vector<ChangedBytes>& pieces, bool, uint64_t* lsn) override {
    for (const ChangedBytes& piece : pieces) {
      Write(volume_, ino_, piece.offset, piece.bytes, piece.length);
      ChangedAndWait(files_, ino_, piece.offset, piece.length);
    }
    *lsn = 1;
    return 0;
  }

 private:
  volume::Volume& volume_;
  MappedFiles& files_;
  const Ino ino_;
};

TEST_F(MappedVolumeTest, TwoProgramsChangeTheSamePagesWhileMemoryIsShort) {
  Session session(*volume_, *files_, ino_);
  std::vector<char> last(kBytes);
  std::atomic<bool> forbidden = false;
  const auto work = [&](uint64_t parity) {
    const absl::StatusOr<int> memfd = files_->Map(ino_, kUser, 0, kBytes);
    ASSERT_TRUE(memfd.ok()) << memfd.status();
    std::unique_ptr<Mapping> mapping;
    const int created = Mapping::Create(*memfd, 0, kBytes, session, &mapping);
    close(*memfd);
    const char* const ci = getenv("CI");
    if (created == -EPERM && (ci == nullptr || ci != std::string("true"))) {
      forbidden = true;
      return;
    }
    ASSERT_EQ(created, 0);
    std::mt19937_64 random(parity);
    char* const memory = static_cast<char*>(mapping->address());
    for (int round = 0; round < 2000; ++round) {
      // A few pages that both want, among many.
      const uint64_t pages = random() % 2 == 0 ? 4 : kBytes / kPage;
      const uint64_t at = random() % pages * kPage + random() % 32 * 2 + parity;
      // Relaxed: ThreadSanitizer holds a lock of its own during others, and serving the fault may need it.
      std::atomic_ref<char> byte(memory[at]);
      ASSERT_EQ(byte.load(std::memory_order_relaxed), last[at]) << "round " << round << " at " << at;
      byte.store(last[at] = static_cast<char>(random()), std::memory_order_relaxed);
      if (round % 5 == 0) {
        ASSERT_EQ(mapping->Persist(0, kBytes, false, nullptr), 0);
      }
    }
    ASSERT_EQ(mapping->Persist(0, kBytes, false, nullptr), 0);
  };
  std::thread even([&] { work(0); }), odd([&] { work(1); });
  even.join();
  odd.join();
  if (forbidden.load()) GTEST_SKIP() << "userfaultfd is not permitted here";
  EXPECT_LE(files_->present_bytes(), MappedFiles::kMinMemoryBytes);
  const absl::StatusOr<int> memfd = files_->Map(ino_, kUser, 0, kBytes);
  ASSERT_TRUE(memfd.ok());
  std::vector<char> shown(kPage);
  for (uint64_t at = 0; at < kBytes; at += kPage) {
    ASSERT_EQ(session.Populate(at, kPage), 0);
    ASSERT_EQ(pread(*memfd, shown.data(), kPage, static_cast<off_t>(at)), static_cast<ssize_t>(kPage));
    ASSERT_EQ(memcmp(shown.data(), last.data() + at, kPage), 0) << at;
  }
  close(*memfd);
}

}  // namespace
}  // namespace stagefs::dsa

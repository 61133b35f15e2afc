#include "fs/dsa/client/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

constexpr uint64_t kPage = Mapping::kPageBytes;

#ifdef __has_feature
constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer);
#else
constexpr bool kThreadSanitizer = false;
#endif

// A server of one file: its content, and the memfd that shows the pages of it that were asked for.
class FakeServer : public MappingBackend {
 public:
  explicit FakeServer(uint64_t pages) : content_(pages * kPage), present_(pages) {
    for (uint64_t at = 0; at < content_.size(); ++at) content_[at] = static_cast<char>(at * 7 + at / kPage);
    memfd_ = memfd_create("mapping_test", MFD_CLOEXEC);
    EXPECT_EQ(ftruncate(memfd_, static_cast<off_t>(content_.size())), 0);
    const std::string path = "/proc/self/fd/" + std::to_string(memfd_);
    shown_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_GE(shown_, 0);
  }
  ~FakeServer() override {
    close(memfd_);
    close(shown_);
  }

  int Populate(uint64_t offset, uint64_t length) override {
    std::lock_guard<std::mutex> lock(mutex_);
    asked_.push_back(length / kPage);
    if (populate_error.load() != 0) return -populate_error.load();
    for (uint64_t page = offset / kPage; page < (offset + length) / kPage; ++page) {
      present_[page] = true;
      Show(page * kPage, kPage);
    }
    return 0;
  }

  int Persist(const std::vector<ChangedBytes>& pieces, bool durable, uint64_t* lsn) override {
    if (before_persist) before_persist();
    std::lock_guard<std::mutex> lock(mutex_);
    if (persist_error.load() != 0) return -persist_error.load();
    for (const ChangedBytes& piece : pieces) {
      memcpy(content_.data() + piece.offset, piece.bytes, piece.length);
      for (uint64_t page = piece.offset / kPage; page * kPage < piece.offset + piece.length; ++page) {
        if (present_[page]) Show(page * kPage, kPage);
      }
      ranges.emplace_back(piece.offset, piece.length);
    }
    durable_changes += durable;
    *lsn = ++lsn_;
    return 0;
  }

  void Evict(uint64_t page) {
    std::lock_guard<std::mutex> lock(mutex_);
    present_[page] = false;
    constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    EXPECT_EQ(fallocate(memfd_, kPunch, static_cast<off_t>(page * kPage), kPage), 0);
  }

  char At(uint64_t offset) {
    std::lock_guard<std::mutex> lock(mutex_);
    return content_[offset];
  }
  std::vector<std::pair<uint64_t, uint64_t>> TakeRanges() {
    std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(ranges, {});
  }
  // How many pages each Populate() was about.
  std::vector<uint64_t> TakeAsked() {
    std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(asked_, {});
  }
  int shown() const { return shown_; }

  std::atomic<int> populate_error = 0, persist_error = 0;
  std::function<void()> before_persist;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // of all pieces
  int durable_changes = 0;

 private:
  void Show(uint64_t offset, uint64_t length) {
    EXPECT_EQ(pwrite(memfd_, content_.data() + offset, length, static_cast<off_t>(offset)),
              static_cast<ssize_t>(length));
  }

  int memfd_, shown_;
  std::mutex mutex_;
  std::vector<char> content_;
  std::vector<bool> present_;
  std::vector<uint64_t> asked_;
  uint64_t lsn_ = 0;
};

// What a test stores and loads goes through these: the compiler keeps each of them, and threads may meet. Relaxed:
// ThreadSanitizer holds a lock of its own during others, and serving the fault may need it.
char Load(const Mapping& mapping, uint64_t at) {
  return std::atomic_ref<char>(static_cast<char*>(mapping.address())[at]).load(std::memory_order_relaxed);
}
void Store(const Mapping& mapping, uint64_t at, char value) {
  std::atomic_ref<char>(static_cast<char*>(mapping.address())[at]).store(value, std::memory_order_relaxed);
}

// In a child that must be killed: by no handler of a sanitizer, and rather by the alarm than to hang.
void DieOfSigbus() {
  signal(SIGBUS, SIG_DFL);
  alarm(30);
}

using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;

class MappingTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 512;

  void SetUp() override {
    std::unique_ptr<Mapping> mapping;
    const int result = Mapping::Create(server_.shown(), 0, kPage, server_, &mapping);
    const char* const ci = getenv("CI");
    const bool must_work = ci != nullptr && ci == std::string("true");
    if (must_work || (result != -EPERM && result != -ENOSYS && result != -EOPNOTSUPP)) {
      ASSERT_EQ(result, 0) << strerror(-result);
    } else {
      GTEST_SKIP() << "userfaultfd is not permitted here, or the kernel is older than 6.6: " << strerror(-result);
    }
  }

  std::unique_ptr<Mapping> Map(uint64_t offset = 0, uint64_t length = kPages * kPage) {
    std::unique_ptr<Mapping> mapping;
    EXPECT_EQ(Mapping::Create(server_.shown(), offset, length, server_, &mapping), 0);
    return mapping;
  }
  static uint64_t PersistAll(Mapping& mapping, bool durable = false) {
    uint64_t lsn = 0;
    EXPECT_EQ(mapping.Persist(0, mapping.length(), durable, &lsn), 0);
    return lsn;
  }

  FakeServer server_{kPages};
};

TEST_F(MappingTest, LoadsShowTheFile) {
  const auto mapping = Map(3 * kPage, 100 * kPage);
  for (uint64_t at = 0; at < mapping->length(); ++at) ASSERT_EQ(Load(*mapping, at), server_.At(3 * kPage + at)) << at;
}

TEST_F(MappingTest, MoreAndMoreIsAskedForInSequence) {
  const auto mapping = Map();
  for (uint64_t page = 0; page < kPages; ++page) Load(*mapping, page * kPage);
  EXPECT_LT(server_.TakeAsked().size(), 20u);
  const auto scattered = Map();
  for (uint64_t page = 0; page < kPages; ++page) server_.Evict(page);
  for (const uint64_t page : {100, 50, 400, 7}) Load(*scattered, page * kPage);
  EXPECT_EQ(server_.TakeAsked(), std::vector<uint64_t>({1, 1, 1, 1}));
}

TEST_F(MappingTest, NothingIsAskedForThatTheMemfdHas) {
  server_.Populate(0, kPages * kPage);
  server_.TakeAsked();
  const auto mapping = Map();
  for (uint64_t page = 0; page < kPages; page += 3) Load(*mapping, page * kPage);
  for (uint64_t page = 0; page < kPages; page += 5) Store(*mapping, page * kPage, 'x');
  EXPECT_TRUE(server_.TakeAsked().empty());
}

TEST_F(MappingTest, StoresAreSeenByOthersOncePersisted) {
  const auto one = Map(), other = Map();
  const char before = Load(*other, 5000);
  Store(*one, 5000, static_cast<char>(before + 1));
  EXPECT_EQ(Load(*one, 5000), static_cast<char>(before + 1));
  EXPECT_EQ(Load(*other, 5000), before);
  EXPECT_GT(PersistAll(*one), 0u);
  EXPECT_EQ(Load(*other, 5000), static_cast<char>(before + 1));
  EXPECT_EQ(Load(*one, 5000), static_cast<char>(before + 1));
}

TEST_F(MappingTest, ExactlyTheChangedBytesAreSent) {
  const auto mapping = Map(kPage, 10 * kPage);
  for (const uint64_t at : {10u, 11u, 13u, 4095u, 4096u, 8192u + 64u}) {
    Store(*mapping, at, static_cast<char>(Load(*mapping, at) + 1));
  }
  const uint64_t lsn = PersistAll(*mapping);
  EXPECT_EQ(server_.TakeRanges(), Ranges({{kPage + 10, 2}, {kPage + 13, 1}, {kPage + 4095, 1}, {kPage + 4096, 1},
                                          {kPage + 8192 + 64, 1}}));
  EXPECT_EQ(PersistAll(*mapping), lsn) << "nothing has changed since";
  EXPECT_TRUE(server_.TakeRanges().empty());
}

TEST_F(MappingTest, OnlyTheRangeIsSentAndTheRestStaysForLater) {
  const auto mapping = Map();
  for (const uint64_t at : {100u, 200u, 300u}) Store(*mapping, at, static_cast<char>(Load(*mapping, at) + 1));
  EXPECT_EQ(mapping->Persist(150, 100, false, nullptr), 0);
  EXPECT_EQ(server_.TakeRanges(), Ranges({{200, 1}}));
  PersistAll(*mapping);
  EXPECT_EQ(server_.TakeRanges(), Ranges({{100, 1}, {300, 1}}));
}

TEST_F(MappingTest, StoresOfTheSameBytesCostNothing) {
  const auto mapping = Map();
  for (uint64_t at = 0; at < 3 * kPage; ++at) Store(*mapping, at, Load(*mapping, at));
  EXPECT_EQ(PersistAll(*mapping), 0u);
  EXPECT_TRUE(server_.TakeRanges().empty());
  // The pages are shared again.
  const auto other = Map();
  Store(*other, 0, static_cast<char>(Load(*other, 0) + 1));
  PersistAll(*other);
  EXPECT_EQ(Load(*mapping, 0), server_.At(0));
}

TEST_F(MappingTest, DurableReachesTheBackendEvenIfNothingChanged) {
  const auto mapping = Map();
  EXPECT_EQ(PersistAll(*mapping, /*durable=*/true), 1u);
  EXPECT_EQ(server_.durable_changes, 1);
}

TEST_F(MappingTest, RangesOutsideAreRefused) {
  const auto mapping = Map(0, 5000);
  EXPECT_EQ(mapping->Persist(0, 5001, false, nullptr), -EINVAL);
  EXPECT_EQ(mapping->Persist(5001, 0, false, nullptr), -EINVAL);
  EXPECT_EQ(mapping->Persist(UINT64_MAX, 2, false, nullptr), -EINVAL);
  EXPECT_EQ(mapping->Persist(5000, 0, false, nullptr), 0);
  std::unique_ptr<Mapping> none;
  EXPECT_EQ(Mapping::Create(server_.shown(), 100, kPage, server_, &none), -EINVAL);
  EXPECT_EQ(Mapping::Create(server_.shown(), 0, 0, server_, &none), -EINVAL);
}

TEST_F(MappingTest, AfterAnErrorEverythingIsSentAgain) {
  const auto mapping = Map();
  const char value = static_cast<char>(Load(*mapping, 77) + 1);
  Store(*mapping, 77, value);
  server_.persist_error = ENOSPC;
  EXPECT_EQ(mapping->Persist(0, kPage, false, nullptr), -ENOSPC);
  EXPECT_EQ(Load(*mapping, 77), value);
  Store(*mapping, 78, static_cast<char>(Load(*mapping, 78) + 1));
  server_.persist_error = 0;
  PersistAll(*mapping);
  EXPECT_EQ(server_.TakeRanges(), Ranges({{77, 2}}));
}

TEST_F(MappingTest, MoreThanAChangeCanHoldIsRefusedAndNothingIsLost) {
  constexpr uint64_t kLength = Mapping::kMaxPersistBytes + kPage;
  FakeServer large(kLength / kPage);
  std::unique_ptr<Mapping> mapping;
  ASSERT_EQ(Mapping::Create(large.shown(), 0, kLength, large, &mapping), 0);
  for (uint64_t at = 0; at < kLength; ++at) Store(*mapping, at, static_cast<char>(large.At(at) + 1));
  EXPECT_EQ(mapping->Persist(0, kLength, false, nullptr), -E2BIG);
  EXPECT_TRUE(large.TakeRanges().empty());
  EXPECT_EQ(mapping->Persist(0, Mapping::kMaxPersistBytes, false, nullptr), 0);
  EXPECT_EQ(mapping->Persist(0, kLength, false, nullptr), 0);
  for (uint64_t at = 0; at < kLength; at += 511) {
    ASSERT_EQ(large.At(at), static_cast<char>(static_cast<char>(at * 7 + at / kPage) + 1)) << at;
  }
}

// Two programs, a page, each its own bytes of it, all at once.
TEST_F(MappingTest, ChangesOfTwoProgramsToOnePageBothSurvive) {
  constexpr int kRounds = 5000;
  const auto work = [&](uint64_t parity, std::vector<char>& last) {
    const auto mapping = Map(0, 2 * kPage);
    std::mt19937_64 random(parity);
    for (uint64_t at = parity; at < 2 * kPage; at += 2) last[at] = Load(*mapping, at);
    for (int round = 0; round < kRounds; ++round) {
      for (int store = 0; store < 3; ++store) {
        const uint64_t at = random() % kPage * 2 + parity;
        ASSERT_EQ(Load(*mapping, at), last[at]) << "round " << round << " at " << at;
        Store(*mapping, at, last[at] = static_cast<char>(random()));
      }
      PersistAll(*mapping);
    }
  };
  std::vector<char> last(2 * kPage);
  std::thread even([&] { work(0, last); });
  std::thread odd([&] { work(1, last); });
  even.join();
  odd.join();
  for (uint64_t at = 0; at < last.size(); ++at) ASSERT_EQ(server_.At(at), last[at]) << at;
}

TEST_F(MappingTest, StoresDuringPersistAreNotLost) {
  constexpr uint64_t kBytes = 3 * kPage;
  const auto mapping = Map(0, kBytes);
  std::atomic<bool> over = false, stopped = false;
  std::vector<char> last(kBytes);
  for (uint64_t at = 0; at < kBytes; ++at) last[at] = server_.At(at);
  std::atomic<uint64_t> stores = 0;
  std::thread storing([&] {
    std::mt19937_64 random(1);
    while (!over.load()) {
      const uint64_t at = random() % kBytes;
      stopped = Load(*mapping, at) != last[at];
      ASSERT_FALSE(stopped.load()) << at;
      Store(*mapping, at, last[at] = static_cast<char>(random()));
      ++stores;
    }
  });
  // Some of them fall into the time when the change is under way, or they would not go on.
  int sent = 0;
  server_.before_persist = [&] {
    ++sent;
    const uint64_t before = stores.load();
    while (stores.load() < before + 5 && !stopped.load()) std::this_thread::yield();
  };
  while (sent < 500 && !stopped.load()) PersistAll(*mapping);
  over = true;
  storing.join();
  server_.before_persist = nullptr;
  PersistAll(*mapping);
  for (uint64_t at = 0; at < kBytes; ++at) ASSERT_EQ(server_.At(at), last[at]) << at;
}

TEST_F(MappingTest, PersistsOfTheSamePageByTwoThreadsFollowOneAnother) {
  const auto mapping = Map(0, kPage);
  std::atomic<int> sending = 0;
  server_.before_persist = [&] {
    EXPECT_EQ(++sending, 1);
    for (int pause = 0; pause < 5; ++pause) std::this_thread::yield();
    --sending;
  };
  const auto work = [&](uint64_t from) {
    for (int round = 0; round < 2000; ++round) {
      const uint64_t at = from + round % (kPage / 2);
      Store(*mapping, at, static_cast<char>(round));
      ASSERT_EQ(mapping->Persist(from, kPage / 2, false, nullptr), 0);
      ASSERT_EQ(server_.At(at), static_cast<char>(round));
    }
  };
  std::thread one([&] { work(0); }), other([&] { work(kPage / 2); });
  one.join();
  other.join();
}

TEST_F(MappingTest, PagesMayBeTakenAwayAtAnyTime) {
  constexpr uint64_t kFew = 8;
  const auto mapping = Map(0, kFew * kPage), reader = Map(0, kFew * kPage);
  std::atomic<bool> over = false;
  std::thread evicting([&] {
    std::mt19937_64 random(2);
    while (!over.load()) server_.Evict(random() % kFew);
  });
  // Bytes at odd offsets are never changed: whoever sees another value there, or zeros, has seen a page that is not
  // there.
  std::thread reading([&] {
    std::mt19937_64 random(3);
    while (!over.load()) {
      const uint64_t at = random() % (kFew * kPage) | 1;
      ASSERT_EQ(Load(*reader, at), static_cast<char>(at * 7 + at / kPage)) << at;
    }
  });
  std::mt19937_64 random(4);
  std::map<uint64_t, char> last;
  for (int round = 0; round < 20000; ++round) {
    const uint64_t at = random() % (kFew * kPage) & ~uint64_t{1};
    const auto known = last.find(at);
    if (known != last.end()) {
      ASSERT_EQ(Load(*mapping, at), known->second) << at;
    }
    Store(*mapping, at, last[at] = static_cast<char>(random()));
    if (round % 4 == 0) PersistAll(*mapping);
  }
  PersistAll(*mapping);
  over = true;
  evicting.join();
  reading.join();
  for (const auto& [at, value] : last) ASSERT_EQ(server_.At(at), value) << at;
  for (uint64_t at = 1; at < kFew * kPage; at += 2) ASSERT_EQ(server_.At(at), static_cast<char>(at * 7 + at / kPage));
}

// What a mapping has to be: private pages with their twins over the server's content.
class Model {
 public:
  explicit Model(std::vector<char>& content) : content_(content) {}
  char Load(uint64_t at) {
    const auto page = pages_.find(at / kPage);
    return page == pages_.end() ? content_[at] : page->second.now[at % kPage];
  }
  void Store(uint64_t at, char value) {
    const auto start = content_.begin() + static_cast<ptrdiff_t>(at / kPage * kPage);
    const std::vector<char> page(start, start + kPage);
    pages_.try_emplace(at / kPage, Private{page, page}).first->second.now[at % kPage] = value;
  }
  void Persist(uint64_t begin, uint64_t end) {
    for (uint64_t at = begin; at < end; ++at) {
      const auto page = pages_.find(at / kPage);
      if (page == pages_.end()) continue;
      auto& [twin, now] = page->second;
      if (twin[at % kPage] != now[at % kPage]) content_[at] = twin[at % kPage] = now[at % kPage];
    }
    for (auto page = pages_.begin(); page != pages_.end();) {
      const bool touched = page->first * kPage < end && begin < (page->first + 1) * kPage;
      page = touched && page->second.twin == page->second.now ? pages_.erase(page) : std::next(page);
    }
  }

 private:
  struct Private {
    std::vector<char> twin, now;
  };
  std::vector<char>& content_;
  std::map<uint64_t, Private> pages_;
};

TEST_F(MappingTest, TwoMappingsBehaveAsTheModel) {
  constexpr uint64_t kBytes = 4 * kPage;
  const std::unique_ptr<Mapping> mappings[] = {Map(0, kBytes), Map(0, kBytes)};
  std::vector<char> content(kBytes);
  for (uint64_t at = 0; at < kBytes; ++at) content[at] = server_.At(at);
  Model models[] = {Model(content), Model(content)};
  std::mt19937_64 random(5);
  for (int round = 0; round < 50000; ++round) {
    const int who = static_cast<int>(random() % 2);
    const uint64_t at = random() % kBytes;
    const uint64_t end = at + 1 + random() % (kBytes - at);
    switch (random() % 16) {
      case 0:
        ASSERT_EQ(mappings[who]->Persist(at, end - at, false, nullptr), 0);
        models[who].Persist(at, end);
        break;
      case 1:
        server_.Evict(at / kPage);
        break;
      case 2: case 3: case 4: case 5: {
        const char value = static_cast<char>(random() % 4);
        Store(*mappings[who], at, value);
        models[who].Store(at, value);
        break;
      }
      default:
        ASSERT_EQ(Load(*mappings[who], at), models[who].Load(at)) << "round " << round << " at " << at;
    }
  }
  for (int who = 0; who < 2; ++who) {
    PersistAll(*mappings[who]);
    models[who].Persist(0, kBytes);
  }
  for (uint64_t at = 0; at < kBytes; ++at) ASSERT_EQ(server_.At(at), content[at]) << at;
}

TEST_F(MappingTest, SystemCallsTakePointersIntoIt) {
  const auto mapping = Map();
  if (!mapping->kernel_faults()) GTEST_SKIP() << "no privilege to serve faults of the kernel";
  char* const memory = static_cast<char*>(mapping->address());
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  std::vector<char> bytes(3 * kPage);
  ASSERT_EQ(write(ends[1], memory + 100, bytes.size()), static_cast<ssize_t>(bytes.size()));
  ASSERT_EQ(read(ends[0], bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  for (uint64_t at = 0; at < bytes.size(); ++at) ASSERT_EQ(bytes[at], server_.At(100 + at)) << at;
  ASSERT_EQ(write(ends[1], "hello", 5), 5);
  ASSERT_EQ(read(ends[0], memory + 20 * kPage - 2, 5), 5);
  close(ends[0]);
  close(ends[1]);
  PersistAll(*mapping);
  EXPECT_EQ(server_.At(20 * kPage + 2), 'o');
}

TEST_F(MappingTest, AnotherProcessSeesWhatWasPersisted) {
  if (kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer knows no threads of a child of fork()";
  const auto mapping = Map();
  EXPECT_EQ(Load(*mapping, 0), server_.At(0));
  const pid_t child = fork();
  if (child == 0) {
    unsigned char resident;
    if (mincore(mapping->address(), kPage, &resident) == 0 || errno != ENOMEM) _exit(1);
    std::unique_ptr<Mapping> own;
    if (Mapping::Create(server_.shown(), 0, kPages * kPage, server_, &own) != 0) _exit(2);
    Store(*own, 0, 'c');
    if (own->Persist(0, kPage, false, nullptr) != 0) _exit(3);
    own.reset();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(Load(*mapping, 0), 'c');
}

TEST_F(MappingTest, AChildOfForkMayDestroyWhatItHasInherited) {
  if (kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer knows no threads of a child of fork()";
  auto mapping = Map();
  Load(*mapping, 0);
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);
    mapping.reset();
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(Load(*mapping, 9 * kPage), server_.At(9 * kPage));
}

TEST_F(MappingTest, PagesThatCannotBeHadAreSigbus) {
  const auto access = [&](bool store) {
    DieOfSigbus();
    FakeServer server(16);
    std::unique_ptr<Mapping> mapping;
    if (Mapping::Create(server.shown(), 0, 16 * kPage, server, &mapping) != 0) _exit(1);
    Load(*mapping, 0);
    server.populate_error = EIO;
    int ends[2];
    if (pipe(ends) != 0 || write(ends[1], static_cast<char*>(mapping->address()) + 15 * kPage, 1) != -1) _exit(2);
    if (errno != EFAULT) _exit(3);
    if (Load(*mapping, 0) != server.At(0)) _exit(4);
    Store(*mapping, 1, 'x');
    if (store) Store(*mapping, 15 * kPage, 'x');
    Load(*mapping, 14 * kPage);
    _exit(5);
  };
  EXPECT_EXIT(access(false), ::testing::KilledBySignal(SIGBUS), "");
  EXPECT_EXIT(access(true), ::testing::KilledBySignal(SIGBUS), "");
}

// Storing to a page that was shared and has been taken away needs it anew.
TEST_F(MappingTest, AStoreToAPageThatIsGoneForGoodIsSigbus) {
  const auto access = [&] {
    DieOfSigbus();
    FakeServer server(16);
    std::unique_ptr<Mapping> mapping;
    if (Mapping::Create(server.shown(), 0, 16 * kPage, server, &mapping) != 0) _exit(1);
    Load(*mapping, 0);
    server.Evict(0);
    server.populate_error = EIO;
    Store(*mapping, 0, 'x');
    _exit(5);
  };
  EXPECT_EXIT(access(), ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(MappingTest, AServerThatPromisesPagesItDoesNotBringIsSigbus) {
  class Liar : public FakeServer {
   public:
    using FakeServer::FakeServer;
    int Populate(uint64_t, uint64_t) override { return 0; }
  };
  const auto access = [&] {
    DieOfSigbus();
    Liar server(16);
    std::unique_ptr<Mapping> mapping;
    if (Mapping::Create(server.shown(), 0, 16 * kPage, server, &mapping) != 0) _exit(1);
    Load(*mapping, 0);
    _exit(5);
  };
  EXPECT_EXIT(access(), ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace stagefs::dsa

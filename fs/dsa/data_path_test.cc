#include "fs/dsa/data_path.h"

#include <errno.h>

#include <future>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/dsa/protocol.h"
#include "fs/dsa/testing/raw_queue.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "gtest/gtest.h"
#include "sal/check.h"
#include "sal/real_environment.h"

namespace stagefs::dsa {
namespace {

using testing::Atomic;
using testing::InlineWrite;
using testing::Plain;
using testing::RawCompletion;
using testing::RawQueue;
using testing::ReadTo;
using testing::WriteFrom;
using volume::Sharing;

constexpr size_t kMemoryBytes = 24 << 20;

// A volume that misses blocks and answers from other threads, with one client's data path.
class DataPathTest : public ::testing::TestWithParam<std::string> {
 protected:
  explicit DataPathTest(uint64_t staging_blocks = 1 << 20)
      : engine_(environment_, EngineOptions(staging_blocks)), memory_(kMemoryBytes) {
    STAGEFS_CHECK(volume::Volume::Format(engine_, {}).ok());
    volume_ = *volume::Volume::Open(engine_);
    Start({});
  }
  ~DataPathTest() override {
    queue_.reset();
    path_.reset();
    volume_->Close();
  }

  static volume::testing::MemoryEngine::Options EngineOptions(uint64_t staging_blocks) {
    volume::testing::MemoryEngine::Options options;
    options.staging_blocks = staging_blocks;
    options.capacity_blocks = 64 << 10;
    options.miss_probability = 0.05;
    options.asynchronous = true;
    options.durability = volume::testing::MemoryEngine::Durability::kWhenAsked;
    return options;
  }

  void Start(DataPathOptions options, uint32_t depth = 64) {
    queue_.reset();
    path_.reset();
    options.provider = GetParam();
    options.address = "127.0.0.1";
    options.queue_broken = [this](uint32_t) { broken_.set_value(); };
    path_ = *DataPath::Start(*volume_, sharing_, handles_, options);
    queue_ = std::make_unique<RawQueue>(*path_, GetParam(), depth);
    mr_ = queue_->Register(handles_, memory_.data(), memory_.size());
  }

  uint32_t NewFile(const std::string& name, bool reads = true, bool writes = true) {
    std::promise<volume::Ino> made;
    volume_->Create(volume::kRootIno, name, {.mode = 0644}, /*open=*/true,
                    [&](absl::StatusOr<volume::Attributes> file) { made.set_value(file.ok() ? file->ino : 0); });
    const volume::Ino ino = made.get_future().get();
    STAGEFS_CHECK(ino != 0);
    const Sharing::Opener opener = {.door = Sharing::Door::kDirect, .writes = writes, .shared = false};
    STAGEFS_CHECK(sharing_.Open(ino, opener).ok());
    inos_.push_back(ino);
    return handles_.files.Add(std::make_shared<OpenFile>(*volume_, sharing_, ino, reads, opener), 100);
  }

  // What the volume holds, not asked through the queue.
  std::string Content(volume::Ino ino, uint64_t offset, size_t length) {
    std::string bytes(length, '\0');
    std::promise<size_t> read;
    volume_->Read(ino, offset, absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()), length),
                  [&](absl::StatusOr<size_t> count) { read.set_value(count.value_or(0)); });
    bytes.resize(read.get_future().get());
    return bytes;
  }
  void FillMemory(size_t at, size_t length, uint32_t seed) {
    std::mt19937 random(seed);
    for (size_t i = 0; i < length; ++i) memory_[at + i] = static_cast<char>(random());
  }
  std::string InMemory(size_t at, size_t length) { return std::string(memory_.data() + at, length); }

  sal::RealEnvironment environment_;
  volume::testing::MemoryEngine engine_;
  std::unique_ptr<volume::Volume> volume_;
  Sharing sharing_;
  ClientHandles handles_;
  std::vector<char> memory_;
  std::unique_ptr<DataPath> path_;
  std::unique_ptr<RawQueue> queue_;
  uint32_t mr_ = 0;
  std::vector<volume::Ino> inos_;
  std::promise<void> broken_;
};

TEST_P(DataPathTest, SmallWritesAreThereWhenTheyComplete) {
  const uint32_t file = NewFile("a");
  const RawCompletion first = queue_->Do(InlineWrite(file, 0, 5), "hello");
  EXPECT_EQ(first.entry.status, 0);
  EXPECT_EQ(first.entry.length, 5u);
  EXPECT_GT(first.entry.lsn, 0u);
  const RawCompletion second = queue_->Do(InlineWrite(file, 5, 6, kDurable), " world");
  EXPECT_EQ(second.entry.status, 0);
  EXPECT_GT(second.entry.lsn, first.entry.lsn);
  EXPECT_GE(engine_.durable_lsn(), second.entry.lsn);
  EXPECT_EQ(Content(inos_[0], 0, 100), "hello world");
  const RawCompletion read = queue_->Do(ReadTo(file, 3, mr_, 0, 100));
  EXPECT_EQ(read.entry.status, 0);
  EXPECT_EQ(read.entry.length, 8u);
  EXPECT_EQ(read.data, "lo world");
}

TEST_P(DataPathTest, AnyOffsetAndLengthComesBackAsItWentOut) {
  const uint32_t file = NewFile("a");
  const uint64_t sizes[] = {1, 1024, 1025, 4096, 65'536, 100'001, 1 << 20, (1 << 20) + 1, (5 << 20) + 777};
  uint64_t offset = 3;
  for (const uint64_t size : sizes) {
    FillMemory(0, size, static_cast<uint32_t>(size));
    const RawCompletion write = queue_->Do(WriteFrom(file, offset, mr_, 0, size));
    ASSERT_EQ(write.entry.status, 0) << size;
    EXPECT_EQ(write.entry.length, size);
    EXPECT_TRUE(Content(inos_[0], offset, size) == InMemory(0, size)) << size;
    std::fill(memory_.begin() + (12 << 20), memory_.end(), '#');
    const RawCompletion read = queue_->Do(ReadTo(file, offset, mr_, 12 << 20, size));
    ASSERT_EQ(read.entry.status, 0) << size;
    EXPECT_EQ(read.entry.length, size);
    if (size > kMaxInlineBytes) {
      EXPECT_TRUE(InMemory(12 << 20, size) == InMemory(0, size)) << size;
      EXPECT_EQ(memory_[(12 << 20) + size], '#');
    } else {
      EXPECT_EQ(read.data, InMemory(0, size));
    }
    offset += size + 4095;
  }
}

TEST_P(DataPathTest, ReadsEndWithTheFile) {
  const uint32_t file = NewFile("a");
  FillMemory(0, 3 << 20, 1);
  ASSERT_EQ(queue_->Do(WriteFrom(file, 0, mr_, 0, (2 << 20) + 100)).entry.status, 0);
  const RawCompletion read = queue_->Do(ReadTo(file, 100, mr_, 8 << 20, 8 << 20));
  EXPECT_EQ(read.entry.status, 0);
  EXPECT_EQ(read.entry.length, uint64_t{2} << 20);
  EXPECT_TRUE(InMemory(8 << 20, 2 << 20) == InMemory(100, 2 << 20));
  EXPECT_EQ(queue_->Do(ReadTo(file, 4 << 20, mr_, 0, 10'000)).entry.length, 0u);
}

// Changes become visible in the order of their posting, whatever the volume misses and however long bytes take to fetch.
TEST_P(DataPathTest, OrderedWritesGetRisingLsns) {
  const uint32_t file = NewFile("a");
  FillMemory(0, 2 << 20, 1);
  for (int round = 0; round < 20; ++round) {
    std::vector<uint64_t> cookies;
    for (int i = 0; i < 60; ++i) {
      const uint64_t offset = static_cast<uint64_t>((i * 37 + round) % 50) * 40'000;
      cookies.push_back(i % 3 == 0 ? queue_->Post({WriteFrom(file, offset, mr_, 0, i % 2 == 0 ? 300'000 : 5000)})
                                   : queue_->Post({InlineWrite(file, offset, 8)}, {"12345678"}));
    }
    uint64_t last = 0;
    for (const uint64_t cookie : cookies) {
      const RawCompletion completion = queue_->Wait(cookie);
      ASSERT_EQ(completion.entry.status, 0);
      ASSERT_GT(completion.entry.lsn, last);
      last = completion.entry.lsn;
    }
  }
}

TEST_P(DataPathTest, ReadSeesWritesPostedBefore) {
  const uint32_t file = NewFile("a");
  for (int i = 0; i < 200; ++i) {
    const std::string text = absl::StrCat("round ", i, " of many");
    const uint64_t write = queue_->Post({InlineWrite(file, 4090, text.size()), ReadTo(file, 4090, mr_, 0, text.size())},
                                        {text, ""});
    const RawCompletion read = queue_->Wait(write + 1);
    ASSERT_EQ(read.data, text);
    queue_->Wait(write);
  }
}

TEST_P(DataPathTest, UnorderedWritesAreAllCarriedOut) {
  const uint32_t file = NewFile("a");
  for (uint64_t i = 0; i < 50; ++i) {
    queue_->Post({InlineWrite(file, i * 4096, 3, kUnordered)}, {"abc"});
  }
  const uint64_t flush = queue_->Post({Plain(Opcode::kFlush, kFence)});
  EXPECT_EQ(queue_->Wait(flush).entry.status, 0);
  EXPECT_EQ(queue_->arrived().size(), 51u);
  EXPECT_EQ(queue_->arrived().back(), flush) << "a fence begins when everything before has completed";
  for (uint64_t i = 0; i < 50; ++i) EXPECT_EQ(Content(inos_[0], i * 4096, 3), "abc");
}

TEST_P(DataPathTest, FenceWaitsForReadsBefore) {
  const uint32_t file = NewFile("a");
  FillMemory(0, 4 << 20, 9);
  ASSERT_EQ(queue_->Do(WriteFrom(file, 0, mr_, 0, 4 << 20)).entry.status, 0);
  for (int round = 0; round < 5; ++round) {
    const uint64_t read = queue_->Post({ReadTo(file, 0, mr_, 8 << 20, 4 << 20)});
    const uint64_t write = queue_->Post({InlineWrite(file, (3 << 20) + 5, 4, kFence)}, {"late"});
    EXPECT_EQ(queue_->Wait(write).entry.status, 0);
    EXPECT_EQ(queue_->Wait(read).entry.status, 0);
    EXPECT_TRUE(InMemory(8 << 20, 4 << 20) == InMemory(0, 4 << 20)) << "the read saw what was behind the fence";
    ASSERT_EQ(queue_->Do(WriteFrom(file, 0, mr_, 0, 4 << 20)).entry.status, 0);
  }
}

TEST_P(DataPathTest, AtomicsReturnWhatWasThere) {
  const uint32_t file = NewFile("a");
  EXPECT_EQ(queue_->Do(Atomic(Opcode::kFetchAdd, file, 8, 5)).entry.value, 0u);
  EXPECT_EQ(queue_->Do(Atomic(Opcode::kFetchAdd, file, 8, 7)).entry.value, 5u);
  EXPECT_EQ(queue_->Do(Atomic(Opcode::kCompareSwap, file, 8, 100, 11)).entry.value, 12u) << "did not match";
  EXPECT_EQ(queue_->Do(Atomic(Opcode::kCompareSwap, file, 8, 100, 12)).entry.value, 12u);
  EXPECT_EQ(queue_->Do(Atomic(Opcode::kFetchAdd, file, 8, 0)).entry.value, 100u);
  EXPECT_EQ(queue_->Do(Atomic(Opcode::kFetchAdd, file, 4, 1)).entry.status, -EINVAL);
}

TEST_P(DataPathTest, GroupIsOneChangeAndInvisibleBefore) {
  const uint32_t a = NewFile("a"), b = NewFile("b");
  FillMemory(0, 3 << 20, 4);
  ASSERT_EQ(queue_->Do(Plain(Opcode::kBegin)).entry.status, 0);
  EXPECT_EQ(queue_->Do(InlineWrite(a, 10, 3), "one").entry.status, 0);
  EXPECT_EQ(queue_->Do(WriteFrom(b, 5, mr_, 0, 3 << 20)).entry.status, 0);
  EXPECT_EQ(queue_->Do(InlineWrite(a, 11, 3), "two").entry.status, 0);
  EXPECT_EQ(Content(inos_[0], 0, 100), "");
  EXPECT_EQ(Content(inos_[1], 0, 100), "");
  const core::Lsn before = engine_.accepted_lsn();
  const RawCompletion commit = queue_->Do(Plain(Opcode::kCommit, kDurable));
  EXPECT_EQ(commit.entry.status, 0);
  EXPECT_EQ(commit.entry.lsn, before + 1) << "one change";
  EXPECT_EQ(Content(inos_[0], 10, 100), "otwo");
  EXPECT_TRUE(Content(inos_[1], 5, 3 << 20) == InMemory(0, 3 << 20));
}

// What a group holds is what its bytes take, however small its parts are.
TEST_P(DataPathTest, GroupsOfManySmallPartsAreKeptTogether) {
  const uint32_t file = NewFile("a");
  FillMemory(0, 1 << 20, 6);
  ASSERT_EQ(queue_->Do(Plain(Opcode::kBegin)).entry.status, 0);
  std::string expected(600'000, '\0');
  for (size_t i = 0; i < 3000; ++i) {
    const size_t length = i % 50 == 0 ? 20'000 : 1 + i % 3;
    const size_t at = i * 180;
    const uint64_t cookie = length > 1000 ? queue_->Post({WriteFrom(file, at, mr_, i, length)})
                                          : queue_->Post({InlineWrite(file, at, length)}, {InMemory(i, length)});
    expected.replace(at, length, InMemory(i, length));
    ASSERT_EQ(queue_->Wait(cookie).entry.status, 0) << i;
  }
  ASSERT_EQ(queue_->Do(Plain(Opcode::kCommit)).entry.status, 0);
  const std::string content = Content(inos_[0], 0, expected.size());
  EXPECT_TRUE(content == expected.substr(0, content.size()));
  EXPECT_GE(content.size(), 2999u * 180);
}

TEST_P(DataPathTest, GroupsAreBoundedByWhatTheyTake) {
  DataPathOptions options;
  options.max_bytes = 1 << 20;
  Start(options);
  const uint32_t file = NewFile("a");
  ASSERT_EQ(queue_->Do(Plain(Opcode::kBegin)).entry.status, 0);
  int status = 0;
  size_t parts = 0;
  for (; parts < 20'000 && status == 0; ++parts) status = queue_->Do(InlineWrite(file, 2 * parts, 1), "x").entry.status;
  EXPECT_EQ(status, -ENOMEM) << "after " << parts << " parts of a byte each";
  EXPECT_EQ(queue_->Do(Plain(Opcode::kCommit)).entry.status, -ENOMEM);
  EXPECT_EQ(queue_->Do(WriteFrom(file, 0, mr_, 0, 1 << 20)).entry.status, 0) << "what it held is given back";
}

TEST_P(DataPathTest, FencedWriteMayComeFromWhereTheReadBeforeGoes) {
  const uint32_t file = NewFile("a");
  for (uint32_t round = 0; round < 5; ++round) {
    FillMemory(0, 3 << 20, round);
    const std::string bytes = InMemory(0, 3 << 20);
    ASSERT_EQ(queue_->Do(WriteFrom(file, 0, mr_, 0, 3 << 20)).entry.status, 0);
    std::fill(memory_.begin(), memory_.end(), '#');
    const uint64_t read = queue_->Post({ReadTo(file, 0, mr_, 100, 3 << 20)});
    const uint64_t write = queue_->Post({WriteFrom(file, 8 << 20, mr_, 100, 3 << 20, kFence)});
    EXPECT_EQ(queue_->Wait(read).entry.status, 0);
    EXPECT_EQ(queue_->Wait(write).entry.status, 0);
    EXPECT_TRUE(Content(inos_[0], 8 << 20, 3 << 20) == bytes);
  }
}

TEST_P(DataPathTest, AbortedFailedAndOversizedGroupsLeaveNothing) {
  const uint32_t file = NewFile("a");
  queue_->Do(Plain(Opcode::kBegin));
  queue_->Do(InlineWrite(file, 0, 3), "one");
  EXPECT_EQ(queue_->Do(Plain(Opcode::kAbort)).entry.status, 0);
  EXPECT_EQ(queue_->Do(Plain(Opcode::kCommit)).entry.status, -EINVAL) << "there is no group any more";

  queue_->Do(Plain(Opcode::kBegin));
  queue_->Do(InlineWrite(file, 0, 3), "one");
  EXPECT_EQ(queue_->Do(InlineWrite(999, 0, 3), "bad").entry.status, -EBADF);
  EXPECT_EQ(queue_->Do(Plain(Opcode::kCommit)).entry.status, -EBADF);

  queue_->Do(Plain(Opcode::kBegin));
  queue_->Do(InlineWrite(file, 0, 3), "one");
  EXPECT_EQ(queue_->Do(WriteFrom(file, 0, mr_, 0, 17 << 20)).entry.status, -E2BIG);
  EXPECT_EQ(queue_->Do(Plain(Opcode::kCommit)).entry.status, -E2BIG);
  EXPECT_EQ(Content(inos_[0], 0, 10), "");
  EXPECT_EQ(queue_->Do(InlineWrite(file, 0, 3), "two").entry.status, 0) << "outside of any group";
  EXPECT_EQ(Content(inos_[0], 0, 10), "two");
}

TEST_P(DataPathTest, WhatTheClientSaysIsChecked) {
  const uint32_t file = NewFile("a"), read_only = NewFile("r", true, false), write_only = NewFile("w", false, true);
  const uint32_t secret = queue_->Register(handles_, memory_.data(), 4096, kMayRead);
  struct Case {
    WorkEntry work;
    int status;
    const char* what;
  };
  WorkEntry flags = InlineWrite(file, 0, 3), opcode = Plain(static_cast<Opcode>(77));
  flags.flags = 0x80;
  WorkEntry both = InlineWrite(file, 0, 3);
  both.memory = mr_;
  WorkEntry half = InlineWrite(file, 0, 3);
  half.length = 4;
  const Case cases[] = {
      {opcode, -EINVAL, "no such operation"},
      {ReadTo(file + 77, 0, mr_, 0, 10), -EBADF, "no such file"},
      {ReadTo(file, 0, mr_ + 77, 0, 10), -EINVAL, "no such memory"},
      {ReadTo(file, 0, mr_, kMemoryBytes, 1), -EFAULT, "behind the memory"},
      {ReadTo(file, 0, mr_, kMemoryBytes - 1, 2), -EFAULT, "over its end"},
      {ReadTo(file, 0, mr_, ~uint64_t{0}, 2), -EFAULT, "overflow"},
      {ReadTo(file, 0, mr_, 0, 0), -EINVAL, "nothing"},
      {ReadTo(file, 0, mr_, 0, (uint64_t{1} << 30) + 1), -EINVAL, "too much"},
      {ReadTo(file, ~uint64_t{0} - 5, mr_, 0, 10), -EINVAL, "an offset that overflows"},
      {WriteFrom(file, volume::kMaxFileBytes - 5, mr_, 0, 10), -EFBIG, "behind the largest file"},
      {ReadTo(file, 0, secret, 0, 10), -EFAULT, "memory that the server may not write"},
      {WriteFrom(read_only, 0, mr_, 0, 10), -EBADF, "a file opened for reading"},
      {ReadTo(write_only, 0, mr_, 0, 10), -EBADF, "a file opened for writing"},
      {Atomic(Opcode::kFetchAdd, write_only, 0, 1), -EBADF, "atomics read, too"},
      {Atomic(Opcode::kFetchAdd, file, volume::kMaxFileBytes - 7, 1), -EFBIG, "an atomic there"},
  };
  for (const Case& wrong : cases) EXPECT_EQ(queue_->Do(wrong.work).entry.status, wrong.status) << wrong.what;
  EXPECT_EQ(queue_->Do(flags, "abc").entry.status, -EINVAL);
  EXPECT_EQ(queue_->Do(both, "abc").entry.status, -EINVAL);
  EXPECT_EQ(queue_->Do(half, "abc").entry.status, -EINVAL);
  EXPECT_EQ(queue_->Do(InlineWrite(file, 0, 3), "abc").entry.status, 0) << "the queue goes on";
}

TEST_P(DataPathTest, ForeignTokensAreIgnoredAndGarbageEndsTheQueue) {
  const uint32_t file = NewFile("a");
  BatchHeader header = {queue_->token() + 1, 1, 0};
  std::string message(sizeof(header) + sizeof(WorkEntry), '\0');
  std::memcpy(message.data(), &header, sizeof(header));
  queue_->SendRaw(message);
  EXPECT_EQ(queue_->Do(InlineWrite(file, 0, 3), "abc").entry.status, 0);
  header = {queue_->token(), 2, 0};
  std::memcpy(message.data(), &header, sizeof(header));
  queue_->SendRaw(message);
  EXPECT_EQ(broken_.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  RawQueue other(*path_, GetParam(), 8);
  EXPECT_EQ(other.Do(InlineWrite(file, 0, 3), "def").entry.status, 0) << "other queues are served";
}

TEST_P(DataPathTest, MoreThanTheDepthEndsTheQueue) {
  Start({}, /*depth=*/4);
  NewFile("a");
  std::vector<WorkEntry> works(5, Plain(Opcode::kFlush));
  queue_->Post(works);
  EXPECT_EQ(broken_.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
}

TEST_P(DataPathTest, WorkInMemoryThatIsGoneFailsAlone) {
  const uint32_t file = NewFile("a");
  std::vector<char> gone(8192);
  const uint32_t handle = queue_->Register(handles_, gone.data(), gone.size());
  if (GetParam() == "shm") {
    // The provider looks at the process's memory, not at keys.
    handles_.memories.Remove(handle);
    const uint32_t wild = handles_.memories.Add(std::make_shared<Memory>(1, 4096, 1 << 20, kMayRead | kMayWrite), 100);
    EXPECT_EQ(queue_->Do(WriteFrom(file, 0, wild, 0, 8192)).entry.status, -EFAULT);
  } else {
    // The provider never answers: the work ends with its queue.
    queue_->Unregister(1);
    queue_->Post({WriteFrom(file, 0, handle, 0, 8192)});
    {
      RawQueue other(*path_, GetParam(), 8);
      EXPECT_EQ(other.Do(InlineWrite(file, 10, 3), "abc").entry.status, 0) << "others are served";
    }
    queue_.reset();
    EXPECT_EQ(Content(inos_[0], 0, 4), std::string(4, '\0'));
    return;
  }
  EXPECT_EQ(Content(inos_[0], 0, 1), "");
  EXPECT_EQ(queue_->Do(InlineWrite(file, 0, 3), "abc").entry.status, 0);
}

// Dropping a queue drops its group, lets go of files and memory, and leaves the rest alone.
TEST_P(DataPathTest, RemovedQueueLetsGoOfEverything) {
  const uint32_t file = NewFile("a");
  queue_->Do(Plain(Opcode::kBegin));
  queue_->Do(InlineWrite(file, 0, 3), "abc");
  std::promise<void> gone;
  handles_.memories.Find(mr_)->SetGone([&] { gone.set_value(); });
  for (int i = 0; i < 20; ++i) queue_->Post({WriteFrom(file, 0, mr_, 0, 1 << 20)});
  std::promise<absl::Status> removed;
  path_->RemoveQueue(queue_->id(), [&](absl::Status status) { removed.set_value(status); });
  EXPECT_TRUE(removed.get_future().get().ok());
  handles_.memories.Remove(mr_);
  EXPECT_EQ(gone.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  EXPECT_EQ(Content(inos_[0], 0, 1), "");
}

TEST_P(DataPathTest, ThereIsAnEndToQueues) {
  DataPathOptions options;
  options.max_queues = 2;
  Start(options);
  RawQueue second(*path_, GetParam(), 8);
  std::promise<absl::Status> refused;
  path_->AddQueue(8, {std::byte{1}}, [&](absl::StatusOr<QueueGrant> grant) { refused.set_value(grant.status()); });
  EXPECT_FALSE(refused.get_future().get().ok());
}

TEST_P(DataPathTest, SleepingServerAndClientWakeEachOther) {
  const uint32_t file = NewFile("a");
  for (int i = 0; i < 200; ++i) {
    const auto pause = std::chrono::steady_clock::now() + std::chrono::microseconds(i % 4 * 60);
    while (std::chrono::steady_clock::now() < pause) {
    }
    const uint64_t cookie = queue_->Post({InlineWrite(file, 0, 3)}, {"abc"});
    const auto begin = std::chrono::steady_clock::now();
    while (queue_->arrived().empty() || queue_->arrived().back() != cookie) {
      queue_->SleepUntilSomethingComes(5000);
      ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(4)) << "slept through it";
    }
    queue_->Wait(cookie);
  }
}

// What is posted behind a group is no part of it, even if it overtakes the group's end.
TEST_P(DataPathTest, UnorderedWorksBehindAGroupAreNotOfTheGroup) {
  const uint32_t file = NewFile("a");
  FillMemory(0, 4 << 20, 1);
  for (const Opcode end : {Opcode::kAbort, Opcode::kCommit}) {
    const uint64_t first = queue_->Post(
        {Plain(Opcode::kBegin), WriteFrom(file, 0, mr_, 0, 2 << 20), Plain(end),
         InlineWrite(file, 4 << 20, 5, kUnordered), WriteFrom(file, 8 << 20, mr_, 0, 128 << 10, kUnordered)},
        {"", "", "", "hello", ""});
    for (uint64_t i = 0; i < 5; ++i) {
      const RawCompletion over = queue_->Wait(first + i);
      EXPECT_EQ(over.entry.status, 0) << i;
      EXPECT_EQ(over.entry.lsn > 0, i >= 3 || (i == 2 && end == Opcode::kCommit)) << i;
    }
    EXPECT_EQ(Content(inos_[0], 4 << 20, 5), "hello");
    EXPECT_TRUE(Content(inos_[0], 8 << 20, 128 << 10) == InMemory(0, 128 << 10));
  }
}

class LittleStagingTest : public DataPathTest {
 protected:
  LittleStagingTest() : DataPathTest(/*staging_blocks=*/1536) {}
};

// What comes behind a group must not take the staging memory that the group needs.
TEST_P(LittleStagingTest, GroupsGetWhatTheyNeed) {
  const uint32_t file = NewFile("a");
  FillMemory(0, 12 << 20, 1);
  std::vector<WorkEntry> works = {Plain(Opcode::kBegin), WriteFrom(file, 0, mr_, 0, 4 << 20), Plain(Opcode::kCommit)};
  for (uint64_t at = 4 << 20; at < 12 << 20; at += 1 << 20) works.push_back(WriteFrom(file, at, mr_, at, 1 << 20));
  const uint64_t first = queue_->Post(works);
  for (uint64_t i = 0; i < works.size(); ++i) ASSERT_EQ(queue_->Wait(first + i).entry.status, 0) << i;
  EXPECT_TRUE(Content(inos_[0], 0, 12 << 20) == InMemory(0, 12 << 20));
}

INSTANTIATE_TEST_SUITE_P(Providers, DataPathTest, ::testing::Values("shm", "tcp"),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(Providers, LittleStagingTest, ::testing::Values("shm", "tcp"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace stagefs::dsa

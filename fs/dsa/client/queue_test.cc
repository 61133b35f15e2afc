// Work and completions, with a server that behaves and one that does not.

#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "fs/dsa/client/testing/client_fixture.h"

namespace stagefs::dsa {
namespace {

using Queue = FakeServer::Queue;

bool IsReadable(int descriptor, int timeout_ms) {
  pollfd ready = {descriptor, POLLIN, 0};
  return ::poll(&ready, 1, timeout_ms) == 1;
}

class QueueTest : public ClientTest {
 protected:
  void Restart() {
    dsa_disconnect(connection_);
    server_.reset();
    server_ = std::make_unique<FakeServer>(GetParam(), path_);
    held_.clear();
    held_count_ = 0;
  }
  // The server keeps the works that come instead of carrying them out.
  void HoldWorks() {
    server_->on_work = [this](Queue&, const FakeServer::Work& work) {
      held_.push_back(work);
      ++held_count_;
      return true;
    };
  }
  void AwaitHeld(int count) {
    while (held_count_ < count) ASSERT_GE(dsa_poll(queue_, nullptr, 0), 0);
  }
  Queue& ServersQueue() { return server_->queue(3); }
  CompletionEntry Answer(size_t index) const {
    CompletionEntry entry = {};
    entry.cookie = held_[index].entry.cookie;
    entry.length = held_[index].entry.length;
    return entry;
  }
  // Posts a READ of 64 bytes, answers with what `spoil` makes of a right answer, and sees the connection end without a
  // byte of the memory changed.
  void ExpectNonsense(std::function<void(CompletionEntry*)> spoil, size_t data_bytes = 0, uint64_t token = 0,
                      dsa_opcode opcode = DSA_READ) {
    HoldWorks();
    Open();
    const dsa_work work = Work(opcode, 0, text(), opcode == DSA_READ ? 64 : 2048);
    ASSERT_EQ(dsa_post(queue_, &work, 1), 1);
    AwaitHeld(1);
    server_->Run([&] {
      CompletionEntry entry = Answer(0);
      spoil(&entry);
      const std::vector<std::byte> data(data_bytes, std::byte{0x55});
      entry.inline_bytes = static_cast<uint16_t>(data_bytes);
      server_->Complete(ServersQueue(), entry, data, token);
    });
    EXPECT_EQ(Next().status, -ECONNRESET);
    EXPECT_EQ(dsa_poll(queue_, nullptr, 0), -ECONNRESET);
    EXPECT_EQ(dsa_post(queue_, &work, 1), -ECONNRESET);
    struct dsa_stat stat;
    EXPECT_EQ(dsa_stat(file_, &stat), -ECONNRESET);
    EXPECT_EQ(bytes_, std::vector<std::byte>(bytes_.size()));
  }
  dsa_work Plain(dsa_opcode opcode) const { return Work(opcode, 0, nullptr, 0); }

  std::vector<FakeServer::Work> held_;
  std::atomic<int> held_count_ = 0;
};

// --- A server that behaves ---

TEST_P(QueueTest, SmallWritesGoInlineWithAndWithoutMemory) {
  std::atomic<int> inline_bytes = 0;
  server_->on_work = [&](Queue&, const FakeServer::Work& work) {
    inline_bytes += static_cast<int>(work.data.size());
    return false;
  };
  Open();
  memcpy(text(), "hello", 5);
  EXPECT_EQ(Do(Work(DSA_WRITE, 0, text(), 5, 42)).user_data, 42u);
  char local[] = "world";
  dsa_work work = Work(DSA_WRITE, 5, local, 5);
  work.memory = nullptr;
  const dsa_completion done = Do(work);
  EXPECT_EQ(done.status, 0);
  EXPECT_EQ(done.length, 5u);
  EXPECT_EQ(done.opcode, DSA_WRITE);
  EXPECT_EQ(inline_bytes, 10);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(server_->file().data()), 10), "helloworld");
}

TEST_P(QueueTest, LargeTransfersGoThroughRegisteredMemory) {
  Open();
  const size_t size = 1 << 20;
  for (size_t i = 0; i < size; ++i) bytes_[i] = static_cast<std::byte>(i * 7 >> 3);
  ASSERT_EQ(Do(Work(DSA_WRITE, 100, text(), size)).status, 0);
  const dsa_completion read = Do(Work(DSA_READ, 100, text(size), size + 50));
  EXPECT_EQ(read.status, 0);
  EXPECT_EQ(read.length, size);
  EXPECT_EQ(memcmp(text(), text(size), size), 0);
}

TEST_P(QueueTest, ShortReadsMayComeWithTheirCompletion) {
  server_->on_work = [this](Queue& queue, const FakeServer::Work& work) {
    CompletionEntry entry = {};
    entry.cookie = work.entry.cookie;
    entry.length = 5;
    entry.inline_bytes = 5;
    server_->Complete(queue, entry, std::as_bytes(std::span("hello").first(5)));
    return true;
  };
  Open();
  EXPECT_EQ(Do(Work(DSA_READ, 0, text(3), 100)).length, 5u);
  EXPECT_STREQ(text(3), "hello");
}

TEST_P(QueueTest, WorksOfOnePostTravelTogether) {
  HoldWorks();
  Open(64);
  std::vector<dsa_work> works(32, Plain(DSA_FLUSH));
  ASSERT_EQ(dsa_post(queue_, works.data(), 32), 32);
  AwaitHeld(32);
  size_t batches = 0;
  server_->Run([&] { batches = ServersQueue().received_batches; });
  EXPECT_EQ(batches, 2u) << "a greeting, and the works";
}

TEST_P(QueueTest, FullQueueTakesNoMoreUntilCompletionsArePolled) {
  Open(4);
  std::vector<dsa_work> works(6, Plain(DSA_FLUSH));
  ASSERT_EQ(dsa_post(queue_, works.data(), 6), 4);
  EXPECT_EQ(dsa_post(queue_, works.data(), 1), -EAGAIN);
  ASSERT_EQ(dsa_wait(queue_, 5000), 1);
  dsa_completion completion;
  ASSERT_EQ(dsa_poll(queue_, &completion, 1), 1);
  EXPECT_EQ(dsa_post(queue_, works.data(), 6), 1);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Next().status, 0);
}

TEST_P(QueueTest, UnsignaledWorkGivesACompletionOnlyIfItFails) {
  server_->on_work = [this](Queue& queue, const FakeServer::Work& work) {
    CompletionEntry entry = {};
    entry.cookie = work.entry.cookie;
    entry.status = work.entry.opcode == static_cast<uint8_t>(Opcode::kAbort) ? -EINVAL : 0;
    server_->Complete(queue, entry);
    return true;
  };
  Open(4);
  dsa_work quiet = Plain(DSA_FLUSH);
  quiet.flags = 0;
  for (int i = 0; i < 20; ++i) {
    int posted = 0;
    while ((posted = dsa_post(queue_, &quiet, 1)) == -EAGAIN) ASSERT_EQ(dsa_poll(queue_, nullptr, 0), 0);
    ASSERT_EQ(posted, 1);
    dsa_completion none;
    ASSERT_EQ(dsa_poll(queue_, &none, 1), 0);
  }
  dsa_work failing = Plain(DSA_ABORT);
  failing.flags = 0;
  failing.user_data = 9;
  int posted = 0;
  while ((posted = dsa_post(queue_, &failing, 1)) == -EAGAIN) ASSERT_EQ(dsa_poll(queue_, nullptr, 0), 0);
  ASSERT_EQ(posted, 1);
  const dsa_completion failed = Next();
  EXPECT_EQ(failed.status, -EINVAL);
  EXPECT_EQ(failed.user_data, 9u);
}

TEST_P(QueueTest, NumbersOfAtomicsGoThrough) {
  server_->on_work = [this](Queue& queue, const FakeServer::Work& work) {
    CompletionEntry entry = {};
    entry.cookie = work.entry.cookie;
    entry.length = 8;
    entry.lsn = work.entry.operand;
    entry.value = work.entry.expected;
    server_->Complete(queue, entry);
    return true;
  };
  Open();
  dsa_work swap = Work(DSA_COMPARE_SWAP, 8, nullptr, 0);
  swap.operand = 11;
  swap.expected = 12;
  const dsa_completion done = Do(swap);
  EXPECT_EQ(done.lsn, 11u);
  EXPECT_EQ(done.value, 12u);
}

TEST_P(QueueTest, WrongWorkIsRefusedAndWhatWasBeforeItIsSent) {
  Open();
  char local[2048] = {};
  dsa_work without_memory = Work(DSA_WRITE, 0, local, DSA_MAX_INLINE + 1);
  without_memory.memory = nullptr;
  dsa_work read_without_memory = Work(DSA_READ, 0, local, 8);
  read_without_memory.memory = nullptr;
  dsa_work no_file = Work(DSA_WRITE, 0, text(), 8);
  no_file.file = nullptr;
  dsa_work odd_flags = Plain(DSA_FLUSH);
  odd_flags.flags = 16;
  const std::vector<dsa_work> wrong = {
      without_memory,
      read_without_memory,
      no_file,
      odd_flags,
      Plain(static_cast<dsa_opcode>(0)),
      Plain(static_cast<dsa_opcode>(9)),
      Work(DSA_WRITE, 0, text(), 0),
      Work(DSA_WRITE, 0, nullptr, 8),
      Work(DSA_WRITE, 0, local, 8),
      Work(DSA_READ, 0, text(), (1 << 30) + 1),
      Work(DSA_READ, 0, text(), bytes_.size() + 1),
      Work(DSA_READ, 0, text(bytes_.size() - 4), 8),
      Work(DSA_READ, uint64_t{1} << 63, text(), 8),
      Work(DSA_READ, (uint64_t{1} << 63) - 8, text(), 8),
      Work(DSA_FETCH_ADD, 4, nullptr, 0),
  };
  for (const dsa_work& work : wrong) {
    const dsa_work works[] = {Plain(DSA_FLUSH), work, Plain(DSA_FLUSH)};
    EXPECT_EQ(dsa_post(queue_, works, 3), 1);
    EXPECT_EQ(Next().status, 0);
    EXPECT_EQ(dsa_post(queue_, &work, 1), -EINVAL) << &work - wrong.data();
    EXPECT_STRNE(dsa_error(), "");
  }
  EXPECT_EQ(dsa_post(queue_, wrong.data(), -1), -EINVAL);
}

TEST_P(QueueTest, MemoryServesOnlyWhatItWasRegisteredFor) {
  Open();
  std::vector<char> bytes(4096);
  dsa_memory* source = nullptr;
  ASSERT_EQ(dsa_register(connection_, bytes.data(), bytes.size(), DSA_LOCAL_READ, &source), 0);
  dsa_work read = Work(DSA_READ, 0, bytes.data(), 4096);
  read.memory = source;
  EXPECT_EQ(dsa_post(queue_, &read, 1), -EINVAL);
  read.opcode = DSA_WRITE;
  EXPECT_EQ(Do(read).status, 0);
  EXPECT_EQ(dsa_deregister(source), 0);
}

TEST_P(QueueTest, ManyWorksInAnyMixture) {
  Open(256);
  size_t posted = 0, completed = 0;
  const size_t total = 20'000;
  std::vector<bool> seen(total);
  while (completed < total) {
    if (posted < total) {
      const uint64_t length = posted % 3 == 0 ? 1500 : 8 + posted % 1000;
      const dsa_opcode opcode = posted % 5 == 0 ? DSA_READ : DSA_WRITE;
      const dsa_work work = Work(opcode, posted % 4096, text(posted % 65536), length, posted);
      const int taken = dsa_post(queue_, &work, 1);
      ASSERT_TRUE(taken == 1 || taken == -EAGAIN) << taken;
      posted += taken == 1 ? 1 : 0;
    }
    dsa_completion completions[7];
    const int count = dsa_poll(queue_, completions, 7);
    ASSERT_GE(count, 0);
    for (int i = 0; i < count; ++i) {
      ASSERT_EQ(completions[i].status, 0);
      ASSERT_FALSE(seen.at(completions[i].user_data));
      seen[completions[i].user_data] = true;
    }
    completed += static_cast<size_t>(count);
  }
}

// --- Waiting ---

TEST_P(QueueTest, WaitingEndsWhenTheTimeIsOver) {
  Open();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(dsa_wait(queue_, 30), 0);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(30));
  EXPECT_EQ(dsa_wait(queue_, 0), 0);
}

TEST_P(QueueTest, SleeperIsWokenByACompletion) {
  HoldWorks();
  Open();
  const dsa_work flush = Plain(DSA_FLUSH);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(dsa_post(queue_, &flush, 1), 1);
    AwaitHeld(i + 1);
    std::thread later([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(i % 4));
      server_->Run([&] { server_->Complete(ServersQueue(), Answer(i)); });
    });
    EXPECT_EQ(Next().status, 0);
    later.join();
  }
}

TEST_P(QueueTest, SleeperMovesTheServersTransfers) {
  Open();
  // Many, so that some are begun while the client sleeps: with tcp they go on only if it wakes for them.
  for (int i = 0; i < 50; ++i) ASSERT_EQ(Do(Work(DSA_WRITE, 0, text(), 1 << 20)).status, 0);
}

TEST_P(QueueTest, DescriptorTellsAfterArming) {
  HoldWorks();
  Open();
  ASSERT_EQ(dsa_arm(queue_), 0);
  EXPECT_FALSE(IsReadable(dsa_queue_fd(queue_), 0));
  const dsa_work flush = Plain(DSA_FLUSH);
  ASSERT_EQ(dsa_post(queue_, &flush, 1), 1);
  AwaitHeld(1);
  int armed = 0;
  while ((armed = dsa_arm(queue_)) == 0 && IsReadable(dsa_queue_fd(queue_), 20)) (void)dsa_poll(queue_, nullptr, 0);
  ASSERT_EQ(armed, 0);
  server_->Run([&] { server_->Complete(ServersQueue(), Answer(0)); });
  dsa_completion completion;
  int count = 0;
  while (count == 0) {
    ASSERT_TRUE(IsReadable(dsa_queue_fd(queue_), 5000));
    count = dsa_poll(queue_, &completion, 1);
    if (count == 0 && dsa_arm(queue_) == 1) count = dsa_poll(queue_, &completion, 1);
  }
  EXPECT_EQ(count, 1);
}

TEST_P(QueueTest, ArmingTellsWhatIsThereAlready) {
  Open();
  const dsa_work flush = Plain(DSA_FLUSH);
  ASSERT_EQ(dsa_post(queue_, &flush, 1), 1);
  ASSERT_EQ(dsa_wait(queue_, 5000), 1);
  EXPECT_EQ(dsa_arm(queue_), 1);
}

// --- Servers that die ---

TEST_P(QueueTest, DeadServerWakesASleeperAndAllWorkComesBack) {
  HoldWorks();
  Open();
  dsa_work works[] = {Plain(DSA_FLUSH), Work(DSA_READ, 0, text(), 100, 5), Plain(DSA_FLUSH)};
  works[2].flags = 0;
  ASSERT_EQ(dsa_post(queue_, works, 3), 3);
  AwaitHeld(3);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    server_->Die();
  });
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Next().status, -ECONNRESET);
  EXPECT_EQ(dsa_wait(queue_, 5000), -ECONNRESET);
  dsa_completion completion;
  EXPECT_EQ(dsa_poll(queue_, &completion, 1), -ECONNRESET);
  EXPECT_EQ(dsa_arm(queue_), -ECONNRESET);
  EXPECT_EQ(dsa_deregister(memory_), -ECONNRESET);
  later.join();
}

TEST_P(QueueTest, DeadServerIsNoticedByPolling) {
  HoldWorks();
  Open();
  const dsa_work flush = Plain(DSA_FLUSH);
  ASSERT_EQ(dsa_post(queue_, &flush, 1), 1);
  AwaitHeld(1);
  server_->Die();
  dsa_completion completion;
  int count = 0;
  while ((count = dsa_poll(queue_, &completion, 1)) == 0) continue;
  ASSERT_EQ(count, 1);
  EXPECT_EQ(completion.status, -ECONNRESET);
}

TEST_P(QueueTest, DeadServerMakesTheDescriptorReadable) {
  Open();
  ASSERT_EQ(dsa_arm(queue_), 0);
  server_->Die();
  EXPECT_TRUE(IsReadable(dsa_queue_fd(queue_), 5000));
}

TEST_P(QueueTest, WhatTheServerSaidBeforeItDiedCounts) {
  HoldWorks();
  Open();
  const dsa_work flush = Plain(DSA_FLUSH);
  ASSERT_EQ(dsa_post(queue_, &flush, 1), 1);
  AwaitHeld(1);
  server_->Run([&] {
    server_->Complete(ServersQueue(), Answer(0));
    // As it would in its last moments: what is sent has left.
    for (int i = 0; i < 1000; ++i) (void)ServersQueue().endpoint->Poll();
    server_->CloseControl();
  });
  EXPECT_EQ(Next().status, 0);
  EXPECT_EQ(dsa_wait(queue_, 5000), -ECONNRESET);
}

// --- Servers that lie ---

TEST_P(QueueTest, UnknownCookieIsNonsense) {
  ExpectNonsense([](CompletionEntry* entry) { entry->cookie = 99; });
}

TEST_P(QueueTest, CookieOfAFreeSlotIsNonsense) {
  ExpectNonsense([](CompletionEntry* entry) { entry->cookie += 1; });
}

TEST_P(QueueTest, CookieOfAnotherTurnIsNonsense) {
  ExpectNonsense([](CompletionEntry* entry) { entry->cookie += uint64_t{1} << 32; });
}

TEST_P(QueueTest, MoreBytesThanAskedForAreNonsense) {
  ExpectNonsense([](CompletionEntry* entry) { entry->length = 65; }, 65);
}

TEST_P(QueueTest, InlineBytesThatAreNotTheLengthAreNonsense) {
  ExpectNonsense([](CompletionEntry* entry) { entry->length = 63; }, 64);
}

TEST_P(QueueTest, BytesForAWriteAreNonsense) {
  ExpectNonsense([](CompletionEntry* entry) { entry->length = 64; }, 64, 0, DSA_WRITE);
}

TEST_P(QueueTest, BytesOfAFailedReadAreNonsense) {
  ExpectNonsense([](CompletionEntry* entry) { entry->status = -EIO; }, 64);
}

TEST_P(QueueTest, StatusThatIsNoneIsNonsense) {
  ExpectNonsense([](CompletionEntry* entry) { entry->status = 1; });
}

TEST_P(QueueTest, BatchWithATokenIsNonsense) {
  ExpectNonsense([](CompletionEntry*) {}, 0, 7);
}

TEST_P(QueueTest, GarbageIsNonsense) {
  for (const size_t size : {size_t{1}, sizeof(BatchHeader), sizeof(BatchHeader) + 8, size_t{4096}}) {
    Restart();
    HoldWorks();
    Open();
    const dsa_work flush = Plain(DSA_FLUSH);
    ASSERT_EQ(dsa_post(queue_, &flush, 1), 1);
    AwaitHeld(1);
    server_->Run([&] {
      std::vector<std::byte> garbage(size);
      for (size_t i = 0; i < size; ++i) garbage[i] = static_cast<std::byte>(i * 37 % 251);
      if (size == sizeof(BatchHeader)) garbage.assign(size, std::byte{0});  // no completion at all
      server_->SendMessage(ServersQueue(), garbage);
    });
    EXPECT_EQ(Next().status, -ECONNRESET) << size;
  }
}

TEST_P(QueueTest, CompletionThatComesTwiceIsNonsense) {
  HoldWorks();
  Open();
  const dsa_work flush = Plain(DSA_FLUSH);
  ASSERT_EQ(dsa_post(queue_, &flush, 1), 1);
  AwaitHeld(1);
  server_->Run([&] {
    server_->Complete(ServersQueue(), Answer(0));
    server_->Complete(ServersQueue(), Answer(0));
  });
  EXPECT_EQ(Next().status, 0);
  EXPECT_EQ(dsa_wait(queue_, 5000), -ECONNRESET);
}

// --- Memory and queues that end with work under way ---

TEST_P(QueueTest, DeregisteringMovesWhatTheServerWaitsFor) {
  bool carried_out = false;
  server_->on_request = [&](const FakeServer::Request& request) {
    if (request.header.type != static_cast<uint16_t>(ControlType::kDeregister) || held_.empty()) return false;
    // The transfer begins now, while the only thread of the client waits for this reply.
    server_->CarryOut(ServersQueue(), held_[0]);
    carried_out = true;
    return false;
  };
  HoldWorks();
  Open();
  const dsa_work write = Work(DSA_WRITE, 0, text(), 1 << 20);
  ASSERT_EQ(dsa_post(queue_, &write, 1), 1);
  AwaitHeld(1);
  EXPECT_EQ(dsa_deregister(memory_), 0) << dsa_error();
  EXPECT_TRUE(carried_out);
  EXPECT_EQ(Next().status, 0);
}

TEST_P(QueueTest, DeregisteringWaitsForTheBytesThatAreOnTheirWay) {
  HoldWorks();
  Open();
  const dsa_work read = Work(DSA_READ, 0, text(), 64);
  ASSERT_EQ(dsa_post(queue_, &read, 1), 1);
  AwaitHeld(1);
  std::thread late([&] {
    while (server_->count(ControlType::kDeregister) == 0) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    server_->Run([&] {
      CompletionEntry entry = Answer(0);
      entry.inline_bytes = 64;
      server_->Complete(ServersQueue(), entry, std::vector<std::byte>(64, std::byte{0x55}));
    });
  });
  EXPECT_EQ(dsa_deregister(memory_), 0);
  EXPECT_EQ(bytes_[63], std::byte{0x55});
  late.join();
  EXPECT_EQ(Next().status, 0);
}

TEST_P(QueueTest, FailureInMemoryThatGoesIsACancellation) {
  HoldWorks();
  server_->on_request = [&](const FakeServer::Request& request) {
    if (request.header.type != static_cast<uint16_t>(ControlType::kDeregister)) return false;
    CompletionEntry entry = Answer(0);
    entry.status = -EINVAL;
    entry.length = 0;
    server_->Complete(ServersQueue(), entry);
    return false;
  };
  Open();
  const dsa_work read = Work(DSA_READ, 0, text(), 64);
  ASSERT_EQ(dsa_post(queue_, &read, 1), 1);
  AwaitHeld(1);
  EXPECT_EQ(dsa_deregister(memory_), 0);
  EXPECT_EQ(Next().status, -ECANCELED);
}

TEST_P(QueueTest, ServerThatNeverCompletesCannotKeepMemory) {
  HoldWorks();
  Open();
  const dsa_work read = Work(DSA_READ, 0, text(), 64);
  ASSERT_EQ(dsa_post(queue_, &read, 1), 1);
  AwaitHeld(1);
  EXPECT_EQ(dsa_deregister(memory_), -ETIMEDOUT);
  EXPECT_EQ(Next().status, -ECONNRESET);
}

TEST_P(QueueTest, AnotherThreadsDeregisteringWakesTheSleeper) {
  HoldWorks();
  server_->on_request = [&](const FakeServer::Request& request) {
    if (request.header.type != static_cast<uint16_t>(ControlType::kDeregister)) return false;
    server_->Complete(ServersQueue(), Answer(0));
    for (int i = 0; i < 1000; ++i) (void)ServersQueue().endpoint->Poll();
    return false;
  };
  Open();
  dsa_memory* other = nullptr;
  std::vector<char> bytes(4096);
  ASSERT_EQ(dsa_register(connection_, bytes.data(), bytes.size(), DSA_LOCAL_READ, &other), 0);
  const dsa_work flush = Plain(DSA_FLUSH);
  ASSERT_EQ(dsa_post(queue_, &flush, 1), 1);
  AwaitHeld(1);
  std::thread thread([&] { EXPECT_EQ(dsa_deregister(other), 0); });
  EXPECT_EQ(Next().status, 0);
  thread.join();
}

TEST_P(QueueTest, DestroyingWithWorkUnderWayTellsTheServerFirst) {
  HoldWorks();
  Open();
  const dsa_work read = Work(DSA_READ, 0, text(), 1 << 20);
  ASSERT_EQ(dsa_post(queue_, &read, 1), 1);
  AwaitHeld(1);
  dsa_destroy_queue(queue_);
  EXPECT_EQ(server_->count(ControlType::kDestroyQueue), 1);
  ASSERT_EQ(dsa_create_queue(connection_, 4, &queue_), 0) << dsa_error();
}

TEST_P(QueueTest, QueuesOfTwoThreadsAreIndependent) {
  Open();
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      dsa_queue* queue = nullptr;
      if (dsa_create_queue(connection_, 8, &queue) != 0) ++failures;
      for (int j = 0; j < 200; ++j) {
        const dsa_work work = Work(DSA_WRITE, 0, text(static_cast<size_t>(i) << 16), j % 2 == 0 ? 100 : 5000, j);
        dsa_completion completion;
        if (dsa_post(queue, &work, 1) != 1 || dsa_wait(queue, 10'000) != 1 || dsa_poll(queue, &completion, 1) != 1 ||
            completion.status != 0 || completion.user_data != static_cast<uint64_t>(j)) {
          ++failures;
        }
      }
      dsa_destroy_queue(queue);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(Providers, QueueTest, testing::Values("shm", "tcp"));

}  // namespace
}  // namespace stagefs::dsa

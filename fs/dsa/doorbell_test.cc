#include "fs/dsa/doorbell.h"

#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

struct Pair {
  Pair() {
    EXPECT_EQ(Doorbell::Create(&server), 0);
    std::array<int, 3> copies;
    for (int i = 0; i < 3; ++i) copies[i] = dup(server->descriptors()[i]);
    EXPECT_EQ(Doorbell::Attach(copies, &client), 0);
  }
  std::unique_ptr<Doorbell> server, client;
};

bool Readable(int fd, int timeout_ms) {
  pollfd wait = {fd, POLLIN, 0};
  return poll(&wait, 1, timeout_ms) == 1;
}

TEST(DoorbellTest, RingingSomebodyAwakeCostsNothing) {
  Pair pair;
  pair.client->Ring();
  EXPECT_FALSE(Readable(pair.server->descriptor(), 0));
}

TEST(DoorbellTest, RingWakesWhoAnnouncedOnce) {
  Pair pair;
  pair.server->Announce();
  pair.client->Ring();
  pair.client->Ring();
  EXPECT_TRUE(Readable(pair.server->descriptor(), 0));
  EXPECT_FALSE(Readable(pair.client->descriptor(), 0));
  pair.server->Awake();
  EXPECT_FALSE(Readable(pair.server->descriptor(), 0));
}

// The other side was interrupted in the midst of Ring(): what comes late must not keep us awake for ever.
TEST(DoorbellTest, ALateRingWakesOnce) {
  Pair pair;
  pair.server->Announce();
  void* const page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, pair.client->descriptors()[0], 0);
  ASSERT_NE(page, MAP_FAILED);
  static_cast<std::atomic<uint32_t>*>(page)->store(0);
  pair.server->Awake();
  const uint64_t one = 1;
  ASSERT_EQ(write(pair.client->descriptors()[1], &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  pair.server->Announce();
  EXPECT_TRUE(Readable(pair.server->descriptor(), 0));
  pair.server->Awake();
  pair.server->Announce();
  EXPECT_FALSE(Readable(pair.server->descriptor(), 0));
  munmap(page, 4096);
}

TEST(DoorbellTest, PageOfAnotherSizeIsRefused) {
  std::unique_ptr<Doorbell> server, client;
  ASSERT_EQ(Doorbell::Create(&server), 0);
  EXPECT_NE(ftruncate(server->descriptors()[0], 0), 0) << "the client could take our page away";
  const int empty = memfd_create("empty", 0);
  EXPECT_NE(Doorbell::Attach({empty, dup(server->descriptors()[1]), dup(server->descriptors()[2])}, &client), 0);
}

// Two that sleep whenever they have nothing to do never wait for each other.
TEST(DoorbellTest, NoMessageIsSleptThrough) {
  constexpr int kRounds = 20000;
  Pair pair;
  std::atomic<int> to_server = 0, to_client = 0;
  const auto await = [](Doorbell& bell, std::atomic<int>& messages, int round) {
    while (messages.load(std::memory_order_acquire) < round) {
      bell.Announce();
      if (messages.load(std::memory_order_acquire) < round) {
        ASSERT_TRUE(Readable(bell.descriptor(), 10'000)) << "slept through message " << round;
      }
      bell.Awake();
    }
  };
  std::thread server([&] {
    for (int round = 1; round <= kRounds && !testing::Test::HasFatalFailure(); ++round) {
      await(*pair.server, to_server, round);
      to_client.store(round, std::memory_order_release);
      pair.server->Ring();
    }
  });
  for (int round = 1; round <= kRounds && !HasFatalFailure(); ++round) {
    to_server.store(round, std::memory_order_release);
    pair.client->Ring();
    await(*pair.client, to_client, round);
  }
  server.join();
}

}  // namespace
}  // namespace stagefs::dsa

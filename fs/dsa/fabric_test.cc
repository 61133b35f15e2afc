#include "fs/dsa/fabric.h"

#include <errno.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

// Remembers what its endpoint told it.
class Ear : public Endpoint::Owner {
 public:
  void Received(std::span<const std::byte> message) override {
    messages.emplace_back(reinterpret_cast<const char*>(message.data()), message.size());
  }
  void Broken(int status) override { broken = status; }

  std::vector<std::string> messages;
  int broken = 0;
};

struct WaitedTransfer : Transfer {
  WaitedTransfer() {
    done = [](Transfer* transfer, int status) {
      static_cast<WaitedTransfer*>(transfer)->over = true;
      static_cast<WaitedTransfer*>(transfer)->status = status;
    };
  }
  bool over = false;
  int status = 0;
};

// Two fabrics with an endpoint each, in one process.
class FabricTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    for (int i = 0; i < 2; ++i) {
      ASSERT_EQ(Fabric::Open(GetParam(), "127.0.0.1", &fabric_[i], &error_), 0) << error_;
      ASSERT_EQ(Endpoint::Create(*fabric_[i], 64, ear_[i], &endpoint_[i], &error_), 0) << error_;
    }
    for (int i = 0; i < 2; ++i) ASSERT_EQ(endpoint_[i]->SetPeer(endpoint_[1 - i]->name(), &error_), 0) << error_;
  }

  template <typename Condition>
  bool Until(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      if (endpoint_[0]->Poll() < 0 || endpoint_[1]->Poll() < 0 || std::chrono::steady_clock::now() > end) return false;
    }
    return true;
  }
  void Say(int from, const std::string& text) {
    ASSERT_TRUE(Until([&] { return endpoint_[from]->SendBuffer() != nullptr; }));
    std::memcpy(endpoint_[from]->SendBuffer(), text.data(), text.size());
    int code = 0;
    ASSERT_TRUE(Until([&] { return (code = endpoint_[from]->Send(text.size())) != -EAGAIN; }));
    ASSERT_EQ(code, 0);
  }

  // Starts a transfer, and again if the endpoint is not ready for it, and waits for its end.
  template <typename Start>
  int Carry(Start start) {
    WaitedTransfer transfer;
    int code = 0;
    EXPECT_TRUE(Until([&] { return (code = start(&transfer)) != -EAGAIN; }));
    if (code != 0) return code;
    EXPECT_TRUE(Until([&] { return transfer.over; }));
    return transfer.status;
  }

  std::string error_;
  std::unique_ptr<Fabric> fabric_[2];
  Ear ear_[2];
  std::unique_ptr<Endpoint> endpoint_[2];
};

TEST_P(FabricTest, MessagesArriveInOrderBothWays) {
  std::vector<std::string> sent[2];
  for (int i = 0; i < 500; ++i) {
    const int from = i % 2;
    sent[from].push_back(std::string(1 + (i * 37) % kMaxMessageBytes, static_cast<char>('a' + i % 26)));
    Say(from, sent[from].back());
  }
  EXPECT_TRUE(Until([&] { return ear_[0].messages.size() == 250 && ear_[1].messages.size() == 250; }));
  EXPECT_EQ(ear_[1].messages, sent[0]);
  EXPECT_EQ(ear_[0].messages, sent[1]);
}

// However fast they come: more than there is room for, from a sender that asks for the next buffer before it sends.
TEST_P(FabricTest, BurstsArriveOnceAndInOrder) {
  constexpr uint32_t kMessages = 20000;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (uint32_t sent = 0; sent < kMessages && std::chrono::steady_clock::now() < end;) {
    if (endpoint_[0]->SendBuffer() == nullptr) {
      ASSERT_GE(endpoint_[0]->Poll(), 0);
      ASSERT_GE(endpoint_[1]->Poll(), 0);
      continue;
    }
    std::memset(endpoint_[0]->SendBuffer(), 0, 80);
    std::memcpy(endpoint_[0]->SendBuffer(), &sent, sizeof(sent));
    int code;
    while ((code = endpoint_[0]->Send(sent % 2 == 0 ? 80 : 56)) == -EAGAIN) {
      ASSERT_GE(endpoint_[0]->Poll(), 0);
      ASSERT_GE(endpoint_[1]->Poll(), 0);
    }
    ASSERT_EQ(code, 0);
    ++sent;
  }
  ASSERT_TRUE(Until([&] { return ear_[1].messages.size() >= kMessages; }));
  for (uint32_t i = 0; i < kMessages; ++i) {
    uint32_t number;
    std::memcpy(&number, ear_[1].messages[i].data(), sizeof(number));
    ASSERT_EQ(number, i);
  }
  EXPECT_EQ(ear_[1].messages.size(), kMessages);
}

TEST_P(FabricTest, BytesMoveBetweenOneSidesMemoryAndTheOthersRegion) {
  std::vector<char> remote(3 << 20), local(3 << 20);
  for (size_t i = 0; i < remote.size(); ++i) remote[i] = static_cast<char>(i * 7 + i / 4096);
  std::unique_ptr<Region> region;
  ASSERT_EQ(fabric_[1]->Register(remote.data(), remote.size(), kMayRead | kMayWrite, &region, &error_), 0) << error_;
  for (const size_t size : {1ul, 8ul, 4097ul, 1ul << 20, (3ul << 20) - 5}) {
    EXPECT_EQ(Carry([&](Transfer* transfer) {
      return endpoint_[0]->Read(local.data(), size, region->remote_address() + 5, region->key(), transfer);
    }), 0);
    EXPECT_EQ(std::memcmp(local.data(), remote.data() + 5, size), 0) << size;
  }
  std::memset(local.data(), 'x', local.size());
  EXPECT_EQ(Carry([&](Transfer* transfer) {
    return endpoint_[0]->Write(local.data(), 100'000, region->remote_address() + 10, region->key(), transfer);
  }), 0);
  EXPECT_TRUE(Until([&] { return remote[10] == 'x' && remote[100'009] == 'x'; }));
  EXPECT_NE(remote[9], 'x');
  EXPECT_NE(remote[100'010], 'x');
}

TEST_P(FabricTest, NonsenseForANameIsRefused) {
  const std::vector<std::byte> empty, long_one(1000);
  EXPECT_NE(endpoint_[0]->SetPeer(empty, &error_), 0);
  EXPECT_NE(endpoint_[0]->SetPeer(long_one, &error_), 0);
}

INSTANTIATE_TEST_SUITE_P(Providers, FabricTest, testing::Values("shm", "tcp"),
                         [](const auto& info) { return info.param; });

TEST(FabricOpenTest, NothingIsLeftOfPeers) {
  const auto file_of = [](const Endpoint& endpoint) {
    const std::string name = reinterpret_cast<const char*>(endpoint.name().data());
    return "/dev/shm/" + name.substr(name.find("//") + 2);
  };
  Ear ear;
  std::string error;
  std::unique_ptr<Fabric> fabric;
  ASSERT_EQ(Fabric::Open("shm", "", &fabric, &error), 0) << error;
  std::unique_ptr<Endpoint> endpoint, peer;
  ASSERT_EQ(Endpoint::Create(*fabric, 8, ear, &endpoint, &error), 0) << error;
  ASSERT_EQ(Endpoint::Create(*fabric, 8, ear, &peer, &error), 0) << error;
  const std::string own = file_of(*endpoint), of_peer = file_of(*peer);
  EXPECT_TRUE(std::filesystem::exists(own));
  EXPECT_TRUE(std::filesystem::exists(of_peer));
  ASSERT_EQ(endpoint->SetPeer(peer->name(), &error), 0) << error;
  endpoint.reset();
  EXPECT_FALSE(std::filesystem::exists(own));
  EXPECT_FALSE(std::filesystem::exists(of_peer)) << "as if the peer had been killed";
}

TEST(FabricOpenTest, UnknownProviderIsNotSupported) {
  std::unique_ptr<Fabric> fabric;
  std::string error;
  EXPECT_EQ(Fabric::Open("pigeon", "127.0.0.1", &fabric, &error), -EOPNOTSUPP);
  EXPECT_EQ(error, "libfabric has no provider pigeon for the address 127.0.0.1");
}

}  // namespace
}  // namespace stagefs::dsa

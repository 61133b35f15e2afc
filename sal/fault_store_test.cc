#include "sal/fault_store.h"

#include <cstring>
#include <memory>

#include "gtest/gtest.h"
#include "sal/blocking_io.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"

namespace stagefs::sal {
namespace {

constexpr uint64_t kBlock = 4096;

class FaultStoreTest : public testing::Test {
 protected:
  absl::Status Write(uint64_t block, int value, uint64_t blocks = 1) {
    std::memset(memory_, value, blocks * kBlock);
    return BlockingWrite(store_, environment_, block * kBlock, memory_, blocks * kBlock);
  }
  absl::Status Read(uint64_t block) { return BlockingRead(store_, environment_, block * kBlock, memory_, kBlock); }
  int ValueAt(uint64_t offset) {
    std::byte value;
    device_.ReadRaw(offset, &value, 1);
    return static_cast<int>(value);
  }
  void Inject(absl::string_view spec) { store_.Add(ParseFault(spec).value()); }

  SimulatedEnvironment environment_{1};
  SimulatedStore device_{environment_, {}};
  FaultStore store_{device_, &environment_};
  alignas(kBlock) std::byte memory_[4 * kBlock];
};

TEST_F(FaultStoreTest, WithoutFaultsEverythingPasses) {
  EXPECT_EQ(Write(1, 7), absl::OkStatus());
  EXPECT_EQ(Read(1), absl::OkStatus());
  EXPECT_EQ(memory_[0], std::byte{7});
  EXPECT_EQ(store_.request_count(), 2u);
  EXPECT_EQ(store_.hits(), 0u);
}

TEST_F(FaultStoreTest, FailedWritesDoNothing) {
  Inject("write-eio@4096+8192");
  EXPECT_EQ(Write(0, 1), absl::OkStatus());
  EXPECT_EQ(Write(2, 1).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Write(0, 1, 4).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Write(3, 1), absl::OkStatus());
  EXPECT_EQ(ValueAt(2 * kBlock), 0);
  EXPECT_EQ(store_.hits(), 2u);
}

TEST_F(FaultStoreTest, FailedReadsAreDataLoss) {
  Inject("read-eio@1M+4K");
  EXPECT_EQ(Read(256).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read(257), absl::OkStatus());
}

TEST_F(FaultStoreTest, AfterAndCountLimitWhatIsHit) {
  Inject("flush-eio-after=2-count=1");
  EXPECT_EQ(BlockingFlush(store_, environment_), absl::OkStatus());
  EXPECT_EQ(BlockingFlush(store_, environment_), absl::OkStatus());
  EXPECT_EQ(BlockingFlush(store_, environment_).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(BlockingFlush(store_, environment_), absl::OkStatus());
}

TEST_F(FaultStoreTest, OneRequestCanBeChosenByNumber) {
  store_.Add({.request_number = 2});
  EXPECT_EQ(Write(1, 1), absl::OkStatus());
  EXPECT_EQ(Write(2, 1).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Write(3, 1), absl::OkStatus());
}

TEST_F(FaultStoreTest, LostWritesAreAcknowledgedAndNotThere) {
  Inject("write-lose");
  EXPECT_EQ(Write(1, 1), absl::OkStatus());
  EXPECT_EQ(ValueAt(kBlock), 0);
}

TEST_F(FaultStoreTest, TornWritesArriveInHalf) {
  Inject("write-tear");
  EXPECT_EQ(Write(1, 1), absl::OkStatus());
  EXPECT_EQ(ValueAt(kBlock + 2047), 1);
  EXPECT_EQ(ValueAt(kBlock + 2048), 0);
}

TEST_F(FaultStoreTest, MisdirectedWritesArriveElsewhere) {
  Inject("write-misdirect");
  EXPECT_EQ(Write(1, 1), absl::OkStatus());
  EXPECT_EQ(ValueAt(kBlock), 0);
  EXPECT_EQ(ValueAt(2 * kBlock), 1);
}

TEST_F(FaultStoreTest, FlippedReadsDifferInOneBit) {
  ASSERT_EQ(Write(1, 0), absl::OkStatus());
  Inject("read-flip-count=1");
  EXPECT_EQ(Read(1), absl::OkStatus());
  EXPECT_EQ(memory_[0], std::byte{0x10});
  EXPECT_EQ(Read(1), absl::OkStatus());
  EXPECT_EQ(memory_[0], std::byte{0});
}

TEST_F(FaultStoreTest, DelayedRequestsArriveLater) {
  store_.Add({.action = Fault::Action::kDelay, .delay_ns = 1'000'000'000});
  const uint64_t start_ns = environment_.NowNs();
  EXPECT_EQ(Write(1, 1), absl::OkStatus());
  EXPECT_GE(environment_.NowNs() - start_ns, 1'000'000'000u);
  EXPECT_EQ(ValueAt(kBlock), 1);
}

TEST_F(FaultStoreTest, ClearEndsAllFaults) {
  Inject("any-eio");
  EXPECT_EQ(Write(1, 1).code(), absl::StatusCode::kUnavailable);
  store_.Clear();
  EXPECT_EQ(Write(1, 1), absl::OkStatus());
}

TEST(ParseFaultTest, WhatIsNoFaultIsInvalid) {
  for (const char* spec : {"", "write", "write-", "write-burn", "push-eio", "read-eio@5", "read-eio@x+1",
                           "read-eio-after", "read-eio-until=3", "read-eio@1+1-count=x"}) {
    EXPECT_EQ(ParseFault(spec).status().code(), absl::StatusCode::kInvalidArgument) << spec;
  }
}

}  // namespace
}  // namespace stagefs::sal

#include "sal/simulated_store.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::sal {
namespace {

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kUnits = kBlock / 512;

// A store, and blocks that are each filled with one value.
class SimulatedStoreTest : public testing::Test {
 protected:
  void Start(const SimulatedStoreOptions& options = {}, SimulatedDisk disk = {}) {
    environment_.RunUntilIdle();
    store_ = std::make_unique<SimulatedStore>(environment_, options, std::move(disk));
  }
  ~SimulatedStoreTest() override { environment_.RunUntilIdle(); }

  struct Call {
    Request request;
    alignas(kBlock) std::byte memory[kBlock];
    bool done = false;
    absl::Status status;
  };

  Call* Submit(Request::Op op, uint64_t block = 0, int value = 0, bool fua = false) {
    calls_.push_back(std::make_unique<Call>());
    Call* call = calls_.back().get();
    std::memset(call->memory, value, kBlock);
    call->request.op = op;
    call->request.fua = fua;
    if (op != Request::Op::kFlush) {
      call->request.offset_bytes = block * kBlock;
      call->request.length_bytes = kBlock;
    }
    if (op == Request::Op::kRead || op == Request::Op::kWrite) call->request.buffers = {iovec{call->memory, kBlock}};
    call->request.done = [this, call](absl::Status status) {
      call->done = true;
      call->status = std::move(status);
      order_.push_back(call);
    };
    store_->Submit(&call->request);
    return call;
  }
  Call* SubmitWrite(uint64_t block, int value) { return Submit(Request::Op::kWrite, block, value); }

  void Write(uint64_t block, int value, bool fua = false) {
    Call* call = Submit(Request::Op::kWrite, block, value, fua);
    environment_.RunUntilIdle();
    ASSERT_TRUE(call->done);
    ASSERT_EQ(call->status, absl::OkStatus());
  }
  void Flush() {
    Call* call = Submit(Request::Op::kFlush);
    environment_.RunUntilIdle();
    ASSERT_EQ(call->status, absl::OkStatus());
  }

  // The value of each atomic unit of `block`.
  static std::vector<int> Units(const SimulatedImage& image, uint64_t block) {
    std::byte bytes[kBlock];
    image.Read(block * kBlock, kBlock, bytes);
    std::vector<int> units;
    for (uint64_t i = 0; i < kUnits; ++i) units.push_back(static_cast<int>(bytes[i * 512]));
    return units;
  }
  static std::vector<int> All(int value) { return std::vector<int>(kUnits, value); }

  // What `block` may hold after a crash, over many seeds.
  std::set<std::vector<int>> Outcomes(uint64_t block, SimulatedStore::CrashKind kind) {
    std::set<std::vector<int>> outcomes;
    for (uint64_t seed = 0; seed < 300; ++seed) outcomes.insert(Units(store_->Crash(seed, kind).current, block));
    return outcomes;
  }

  SimulatedEnvironment environment_{1};
  std::unique_ptr<SimulatedStore> store_;
  std::vector<std::unique_ptr<Call>> calls_;
  std::vector<Call*> order_;

  static constexpr auto kPowerCut = SimulatedStore::CrashKind::kPowerCut;
  static constexpr auto kKill = SimulatedStore::CrashKind::kKill;
};

TEST_F(SimulatedStoreTest, RequestsInFlightTogetherAreReordered) {
  Start();
  for (int i = 0; i < 20; ++i) SubmitWrite(i, 1);
  environment_.RunUntilIdle();
  ASSERT_EQ(order_.size(), 20u);
  bool reordered = false;
  for (size_t i = 0; i < order_.size(); ++i) reordered |= order_[i] != calls_[i].get();
  EXPECT_TRUE(reordered);
}

TEST_F(SimulatedStoreTest, TheSameSeedGivesTheSameRun) {
  const auto run = [] {
    SimulatedEnvironment environment(5);
    SimulatedStore store(environment, {.seed = 9});
    std::vector<uint64_t> times;
    alignas(4096) std::byte memory[kBlock] = {};
    std::vector<Request> requests(30);
    for (Request& request : requests) {
      request.op = Request::Op::kRead;
      request.length_bytes = kBlock;
      request.buffers = {iovec{memory, kBlock}};
      request.done = [&](absl::Status) { times.push_back(environment.NowNs()); };
      store.Submit(&request);
    }
    environment.RunUntilIdle();
    return times;
  };
  EXPECT_EQ(run(), run());
}

TEST_F(SimulatedStoreTest, FlushedWritesSurvivePowerCuts) {
  Start();
  Write(3, 1);
  Flush();
  EXPECT_EQ(Outcomes(3, kPowerCut), (std::set<std::vector<int>>{All(1)}));
  EXPECT_EQ(store_->unflushed_writes(), 0u);
}

TEST_F(SimulatedStoreTest, UnflushedWritesAreKeptDroppedOrTorn) {
  Start();
  Write(3, 1);
  Flush();
  Write(3, 2);
  const auto outcomes = Outcomes(3, kPowerCut);
  EXPECT_TRUE(outcomes.count(All(1)));
  EXPECT_TRUE(outcomes.count(All(2)));
  EXPECT_GT(outcomes.size(), 10u);
  for (const auto& outcome : outcomes) {
    for (int value : outcome) EXPECT_TRUE(value == 1 || value == 2);
  }
}

TEST_F(SimulatedStoreTest, WhoChoosesAmongTheWritesAtRiskGetsJustThoseOnTopOfWhatIsDurable) {
  Start();
  Write(3, 1);
  Flush();
  Write(3, 2);
  SubmitWrite(4, 3);
  const std::vector<SimulatedWrite> at_risk = store_->AtRisk();
  ASSERT_EQ(at_risk.size(), 2u);
  SimulatedImage image = store_->durable();
  at_risk[1].ApplyTo(image);
  EXPECT_EQ(Units(image, 3), All(1));
  EXPECT_EQ(Units(image, 4), All(3));
  std::vector<uint64_t> pages;
  image.ForEachPage([&](uint64_t page, const std::byte*) { pages.push_back(page); });
  EXPECT_EQ(pages, (std::vector<uint64_t>{3, 4}));
  environment_.RunUntilIdle();
}

TEST_F(SimulatedStoreTest, AFlushCoversOnlyWhatHadCompletedWhenItWasSubmitted) {
  Start({.shortest_latency_ns = 1000, .longest_latency_ns = 100'000});
  bool seen = false;
  for (int i = 0; i < 50 && !seen; ++i) {
    Call* write = SubmitWrite(100 + i, 1);
    Call* flush = Submit(Request::Op::kFlush);
    while (!flush->done) ASSERT_TRUE(environment_.RunOne());
    if (write->done) {
      // It completed before the flush did, but not before the flush was submitted.
      seen = true;
      EXPECT_TRUE(Outcomes(100 + i, kPowerCut).count(All(0)));
    }
    environment_.RunUntilIdle();
  }
  EXPECT_TRUE(seen);
}

TEST_F(SimulatedStoreTest, FuaWritesAreDurableAndNotOverwrittenByOlderUnflushedOnes) {
  Start();
  Write(3, 1);
  Write(3, 2, /*fua=*/true);
  EXPECT_EQ(Outcomes(3, kPowerCut), (std::set<std::vector<int>>{All(2)}));
  Flush();
  EXPECT_EQ(Outcomes(3, kPowerCut), (std::set<std::vector<int>>{All(2)}));
}

TEST_F(SimulatedStoreTest, FuaSaysNothingOfOtherWrites) {
  Start();
  Write(3, 1);
  Write(4, 2, /*fua=*/true);
  EXPECT_TRUE(Outcomes(3, kPowerCut).count(All(0)));
}

TEST_F(SimulatedStoreTest, AStoreWithoutFuaRefusesIt) {
  Start({.fua = false});
  Call* call = Submit(Request::Op::kWrite, 1, 1, /*fua=*/true);
  environment_.RunUntilIdle();
  EXPECT_EQ(call->status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SimulatedStoreTest, ALyingFlushAndALyingFuaLoseWrites) {
  Start({.lie_about_flush = true, .lie_about_fua = true});
  Write(3, 1);
  Write(4, 2, /*fua=*/true);
  Flush();
  EXPECT_TRUE(Outcomes(3, kPowerCut).count(All(0)));
  EXPECT_TRUE(Outcomes(4, kPowerCut).count(All(0)));
}

TEST_F(SimulatedStoreTest, AfterACutEverythingFailsAndNothingTakesEffect) {
  Start();
  Write(1, 1);
  store_->CutAt(3);
  Call* second = SubmitWrite(2, 2);
  Call* third = SubmitWrite(3, 3);
  Call* fourth = SubmitWrite(4, 4);
  environment_.RunUntilIdle();
  EXPECT_TRUE(store_->power_off());
  EXPECT_EQ(store_->request_count(), 4u);
  for (Call* call : {second, third, fourth, Submit(Request::Op::kRead, 1), Submit(Request::Op::kFlush)}) {
    environment_.RunUntilIdle();
    ASSERT_TRUE(call->done);
    EXPECT_EQ(call->status.code(), absl::StatusCode::kUnavailable);
  }
  // The request that power failed at may have reached the medium; the next one did not.
  EXPECT_TRUE(Outcomes(3, kPowerCut).count(All(3)));
  EXPECT_TRUE(Outcomes(3, kPowerCut).count(All(0)));
  EXPECT_EQ(Outcomes(4, kPowerCut), (std::set<std::vector<int>>{All(0)}));
}

TEST_F(SimulatedStoreTest, AKillKeepsCompletedWritesAndLandsSomeOfThoseInFlight) {
  Start();
  Write(1, 1);
  store_->CutAt(store_->request_count() + 1);
  SubmitWrite(2, 2);
  environment_.RunUntilIdle();
  EXPECT_EQ(Outcomes(1, kKill), (std::set<std::vector<int>>{All(1)}));
  const auto in_flight = Outcomes(2, kKill);
  EXPECT_TRUE(in_flight.count(All(0)));
  EXPECT_TRUE(in_flight.count(All(2)));
  EXPECT_GT(in_flight.size(), 5u);
}

TEST_F(SimulatedStoreTest, TheCacheStaysVolatileAfterAKill) {
  Start();
  Write(1, 1);
  store_->CutNow();
  Start({}, store_->Crash(1, kKill));
  EXPECT_TRUE(Outcomes(1, kPowerCut).count(All(0)));
  Flush();
  EXPECT_EQ(Outcomes(1, kPowerCut), (std::set<std::vector<int>>{All(1)}));
}

TEST_F(SimulatedStoreTest, ImagesShareNothingThatChanges) {
  Start();
  Write(1, 1);
  Flush();
  const SimulatedDisk before = store_->Image();
  Write(1, 2);
  Flush();
  EXPECT_EQ(Units(before.current, 1), All(1));
  EXPECT_EQ(Units(store_->Image().current, 1), All(2));
  Start({}, before);
  EXPECT_EQ(Units(store_->Image().durable, 1), All(1));
}

TEST_F(SimulatedStoreTest, CorruptionStaysAfterAFlush) {
  Start();
  Write(1, 0x11);
  store_->CorruptByte(kBlock + 512);
  Flush();
  auto expected = All(0x11);
  expected[1] = 0x51;
  EXPECT_EQ(Outcomes(1, kPowerCut), (std::set<std::vector<int>>{expected}));
}

TEST_F(SimulatedStoreTest, ZeroingIsAWriteLikeOthers) {
  Start();
  Write(1, 1);
  Flush();
  Submit(Request::Op::kZero, 1);
  environment_.RunUntilIdle();
  EXPECT_EQ(Units(store_->Image().current, 1), All(0));
  const auto outcomes = Outcomes(1, kPowerCut);
  EXPECT_TRUE(outcomes.count(All(0)));
  EXPECT_TRUE(outcomes.count(All(1)));
  Flush();
  EXPECT_EQ(Outcomes(1, kPowerCut), (std::set<std::vector<int>>{All(0)}));
}

// A plan that hits every request that `fault` can hit.
SimulatedFaultPlan Always(SimulatedFault fault) {
  SimulatedFaultPlan plan;
  plan[fault] = 1;
  return plan;
}

TEST_F(SimulatedStoreTest, RequestsThatFailSayHow) {
  Start();
  Write(1, 7);
  store_->SetFaults(Always(SimulatedFault::kReadError));
  Call* const read = Submit(Request::Op::kRead, 1);
  environment_.RunUntilIdle();
  EXPECT_TRUE(absl::IsDataLoss(read->status));
  store_->SetFaults(Always(SimulatedFault::kWriteError));
  Call* const write = SubmitWrite(1, 8);
  environment_.RunUntilIdle();
  EXPECT_TRUE(absl::IsUnavailable(write->status));
  store_->SetFaults(Always(SimulatedFault::kFlushError));
  Call* const flush = Submit(Request::Op::kFlush);
  environment_.RunUntilIdle();
  EXPECT_TRUE(absl::IsUnavailable(flush->status));
  EXPECT_EQ(Units(store_->Image().durable, 1), All(0));  // it has made nothing durable
  EXPECT_EQ(store_->fault_count(SimulatedFault::kReadError), 1);
  EXPECT_EQ(store_->fault_count(SimulatedFault::kWriteError), 1);
  EXPECT_EQ(store_->fault_count(SimulatedFault::kFlushError), 1);
}

TEST_F(SimulatedStoreTest, AFullDeviceTakesWritesToWhereSomethingIsAlone) {
  Start();
  Write(1, 7);
  store_->SetFaults(Always(SimulatedFault::kDeviceFull));
  Write(1, 8);
  Call* const fresh = SubmitWrite(2, 8);
  environment_.RunUntilIdle();
  EXPECT_TRUE(absl::IsUnavailable(fresh->status));
  EXPECT_EQ(Units(store_->Image().current, 1), All(8));
  EXPECT_EQ(Units(store_->Image().current, 2), All(0));
}

TEST_F(SimulatedStoreTest, WritesThatGoWrongInSilenceAreAnsweredWithOk) {
  Start();
  const auto written = [this](SimulatedFault fault) {
    Write(1, 7);
    store_->SetFaults(Always(fault));
    Write(1, 8);
    store_->SetFaults({});
    EXPECT_EQ(store_->fault_count(fault), 1);
    return Units(store_->Image().current, 1);
  };
  EXPECT_EQ(written(SimulatedFault::kLostWrite), All(7));
  const std::vector<int> torn = written(SimulatedFault::kTornWrite);
  EXPECT_NE(torn, All(8));
  for (const int unit : torn) EXPECT_TRUE(unit == 7 || unit == 8);
  written(SimulatedFault::kCorruptedWrite);
  std::byte bytes[kBlock];
  store_->ReadRaw(kBlock, bytes, kBlock);
  int wrong_bits = 0;
  for (const std::byte byte : bytes) wrong_bits += std::popcount(static_cast<unsigned>(byte ^ std::byte{8}));
  EXPECT_EQ(wrong_bits, 1);
}

TEST_F(SimulatedStoreTest, AMisdirectedWriteLandsElsewhereAndOnlyWhereItMay) {
  Start({.size_bytes = 1 << 20});
  SimulatedFaultPlan plan = Always(SimulatedFault::kMisdirectedWrite);
  store_->SetFaults(plan);
  for (int i = 0; i < 50; ++i) Write(1, 8);
  uint64_t landed = 0;
  for (uint64_t block = 2; block < 256; ++block) landed += Units(store_->Image().current, block) == All(8);
  EXPECT_GT(landed, 3u);
  Start({.size_bytes = 1 << 20});
  plan.may_hit = [](SimulatedFault, uint64_t offset_bytes, uint64_t) { return offset_bytes == kBlock; };
  store_->SetFaults(plan);
  for (int i = 0; i < 50; ++i) Write(1, 8);
  for (uint64_t block = 2; block < 256; ++block) EXPECT_EQ(Units(store_->Image().current, block), All(0));
}

TEST_F(SimulatedStoreTest, DecayTurnsABitOfWhatWasWrittenAndIsDurable) {
  Start();
  Write(1, 7);
  Flush();
  store_->SetFaults({});
  SimulatedFaultPlan plan = Always(SimulatedFault::kDecay);
  plan.may_hit = [](SimulatedFault, uint64_t offset_bytes, uint64_t) { return offset_bytes / kBlock == 1; };
  store_->SetFaults(plan);
  Write(3, 9);
  EXPECT_EQ(store_->fault_count(SimulatedFault::kDecay), 1);
  std::byte bytes[kBlock];
  store_->Crash(1, kPowerCut).durable.Read(kBlock, kBlock, bytes);
  int wrong_bits = 0;
  for (const std::byte byte : bytes) wrong_bits += std::popcount(static_cast<unsigned>(byte ^ std::byte{7}));
  EXPECT_EQ(wrong_bits, 1);
}

TEST_F(SimulatedStoreTest, OverlapsWithWritesInFlightAreCounted) {
  Start();
  SubmitWrite(1, 1);
  SubmitWrite(2, 1);
  Submit(Request::Op::kRead, 3);
  Submit(Request::Op::kRead, 3);
  EXPECT_EQ(store_->overlapping_requests(), 0u);
  Submit(Request::Op::kRead, 2);
  EXPECT_EQ(store_->overlapping_requests(), 1u);
}

TEST_F(SimulatedStoreTest, ChangingMemoryInFlightIsFatal) {
  Start();
  Call* call = SubmitWrite(1, 1);
  call->memory[7] = std::byte{9};
  EXPECT_DEATH(environment_.RunUntilIdle(), "check failed: std::memcmp");
  call->memory[7] = std::byte{1};
}

TEST(SimulatedImageTest, BehavesLikeAnArrayUnderRandomChanges) {
  const uint64_t seed = 11;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random64 random(seed);
  constexpr uint64_t kBytes = 3 << 20;
  SimulatedImage image;
  std::vector<std::byte> model(kBytes), old_model, bytes(kBytes);
  SimulatedImage old_image;
  for (int i = 0; i < 400; ++i) {
    if (i % 50 == 0) {
      old_image = image;
      old_model = model;
    }
    const uint64_t offset = random.Below(kBytes);
    const uint64_t length = random.Below(std::min<uint64_t>(kBytes - offset, random.OneIn(8) ? kBytes : 20'000)) + 1;
    if (random.OneIn(3)) {
      image.Zero(offset, length);
      std::memset(model.data() + offset, 0, length);
    } else {
      const int value = static_cast<int>(random.Below(3));
      std::memset(model.data() + offset, value, length);
      image.Write(offset, length, model.data() + offset);
    }
    if (i % 10 == 9) {
      image.Read(0, kBytes, bytes.data());
      ASSERT_EQ(bytes, model);
      old_image.Read(0, kBytes, bytes.data());
      ASSERT_EQ(bytes, old_model);
    }
  }
}

}  // namespace
}  // namespace stagefs::sal

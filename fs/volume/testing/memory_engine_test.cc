#include "fs/volume/testing/memory_engine.h"

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "sal/simulated_environment.h"

namespace stagefs::volume::testing {
namespace {

using core::kBlockBytes;
using core::Transaction;

class MemoryEngineTest : public ::testing::Test {
 protected:
  absl::Status Run(MemoryEngine& engine, core::Engine::Body body) {
    return engine.RunAndWait(std::move(body)).status();
  }
  // The first byte of `block`.
  int ByteOf(MemoryEngine& engine, core::Block block) {
    int value = -1;
    EXPECT_TRUE(Run(engine, [&](Transaction& tx) {
                  const auto bytes = tx.Read(block);
                  if (!bytes.ok()) return bytes.status();
                  value = static_cast<int>((*bytes)[0]);
                  return absl::OkStatus();
                }).ok());
    return value;
  }
  static core::Engine::Body Fill(core::Block block, int value) {
    return [=](Transaction& tx) {
      const auto bytes = tx.Fresh(block);
      if (!bytes.ok()) return bytes.status();
      std::memset(*bytes, value, kBlockBytes);
      return absl::OkStatus();
    };
  }
  static core::Engine::Body ReleaseOf(core::BlockRange range) {
    return [=](Transaction& tx) {
      tx.Release(range);
      return absl::OkStatus();
    };
  }

  sal::SimulatedEnvironment environment_{1};
};

TEST_F(MemoryEngineTest, FailedBodiesLeaveNoTrace) {
  MemoryEngine engine(environment_, {});
  ASSERT_TRUE(Run(engine, Fill(5, 1)).ok());
  EXPECT_EQ(engine.accepted_lsn(), 1u);
  const absl::Status status = Run(engine, [](Transaction& tx) {
    std::memset(*tx.Modify(5), 9, kBlockBytes);
    tx.Release({5, 1});
    return absl::NotFoundError("");
  });
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(ByteOf(engine, 5), 1);
  EXPECT_EQ(engine.accepted_lsn(), 1u);
}

TEST_F(MemoryEngineTest, MissedBodiesRunAgainUntilAllIsThere) {
  for (const bool asynchronous : {false, true}) {
    MemoryEngine engine(environment_, {.miss_probability = 1, .asynchronous = asynchronous});
    ASSERT_TRUE(Run(engine, [](Transaction& tx) {
                  for (core::Block block = 10; block < 20; ++block) {
                    const auto bytes = tx.Fresh(block);
                    if (!bytes.ok()) return bytes.status();
                    (*bytes)[0] = std::byte{7};
                  }
                  return absl::OkStatus();
                }).ok());
    EXPECT_EQ(engine.body_runs(), 11u);
    EXPECT_EQ(ByteOf(engine, 19), 7);
    const uint64_t before = engine.body_runs();
    ASSERT_TRUE(Run(engine, [](Transaction& tx) {
                  for (core::Block block = 10; block < 20; ++block) tx.Prefetch(block);
                  for (core::Block block = 10; block < 20; ++block) {
                    const auto bytes = tx.Read(block);
                    if (!bytes.ok()) return bytes.status();
                  }
                  return absl::OkStatus();
                }).ok());
    EXPECT_EQ(engine.body_runs(), before + 2);
  }
}

TEST_F(MemoryEngineTest, ReleasedRangesAreQuarantinedUntilDurable) {
  MemoryEngine engine(environment_, {.durability = MemoryEngine::Durability::kHeld});
  ASSERT_TRUE(Run(engine, Fill(5, 1)).ok());
  ASSERT_TRUE(Run(engine, ReleaseOf({5, 1})).ok());
  EXPECT_EQ(ByteOf(engine, 5), 0xDB);
  bool durable = false;
  engine.WhenDurable(2, [&](absl::Status status) { durable = status.ok(); });
  EXPECT_FALSE(durable);
  std::optional<core::BlockRange> quarantined;
  const auto ask = [&](Transaction& tx) {
    quarantined = tx.Quarantined({0, 100});
    return absl::OkStatus();
  };
  ASSERT_TRUE(Run(engine, ask).ok());
  EXPECT_EQ(quarantined, (core::BlockRange{5, 1}));
  engine.MakeDurable();
  EXPECT_TRUE(durable);
  ASSERT_TRUE(Run(engine, ask).ok());
  EXPECT_EQ(quarantined, std::nullopt);
}

TEST_F(MemoryEngineTest, NoSpaceEndsQuarantinesAndTriesAgain) {
  MemoryEngine engine(environment_, {.durability = MemoryEngine::Durability::kWhenAsked});
  ASSERT_TRUE(Run(engine, Fill(5, 1)).ok());
  ASSERT_TRUE(Run(engine, ReleaseOf({5, 1})).ok());
  ASSERT_TRUE(Run(engine, [](Transaction& tx) {
                if (tx.Quarantined({5, 1})) return absl::ResourceExhaustedError("");
                return tx.Fresh(5).status();
              }).ok());
}

TEST_F(MemoryEngineTest, ExtentsZeroAndReadsSeeEachOther) {
  MemoryEngine engine(environment_, {});
  auto data = engine.TryStage(2);
  std::memset(data->bytes().data(), 3, 2 * kBlockBytes);
  data->Seal();
  std::vector<std::byte> read(2 * kBlockBytes);
  bool never = false;
  ASSERT_TRUE(Run(engine, [&](Transaction& tx) {
                absl::Status status = tx.WriteExtent({40, 2}, data, 0);
                if (!status.ok()) return status;
                status = tx.Zero(40 * kBlockBytes, kBlockBytes + 10);
                if (!status.ok()) return status;
                tx.ReadInto(40 * kBlockBytes, read.size(), read.data());
                never = *tx.NeverWritten(40) && !*tx.NeverWritten(41);
                return absl::OkStatus();
              }).ok());
  EXPECT_TRUE(never);
  EXPECT_EQ(read[kBlockBytes + 9], std::byte{0});
  EXPECT_EQ(read[kBlockBytes + 10], std::byte{3});
}

TEST_F(MemoryEngineTest, TooLargeTransactionsAreRefused) {
  MemoryEngine engine(environment_, {});
  EXPECT_TRUE(absl::IsInvalidArgument(Run(engine, [](Transaction& tx) {
    for (core::Block block = 0; block < 513; ++block) std::memset(*tx.Fresh(block), 1, kBlockBytes);
    return absl::OkStatus();
  })));
  EXPECT_EQ(engine.accepted_lsn(), 0u);
}

TEST_F(MemoryEngineTest, SpoiledBlocksAreDataLossUntilOverwritten) {
  MemoryEngine engine(environment_, {});
  ASSERT_TRUE(Run(engine, Fill(5, 1)).ok());
  engine.SpoilBlock(5);
  const auto read = [](Transaction& tx) { return tx.Read(5).status(); };
  EXPECT_TRUE(absl::IsDataLoss(Run(engine, read)));
  EXPECT_TRUE(absl::IsDataLoss(Run(engine, [](Transaction& tx) { return tx.Modify(5).status(); })));
  ASSERT_TRUE(Run(engine, [](Transaction& tx) { return tx.Zero(5 * kBlockBytes, kBlockBytes); }).ok());
  EXPECT_TRUE(Run(engine, read).ok());
}

using MemoryEngineDeathTest = MemoryEngineTest;

TEST_F(MemoryEngineDeathTest, WhatBodiesMustNotDoAborts) {
  MemoryEngine engine(environment_, {.durability = MemoryEngine::Durability::kHeld});
  ASSERT_TRUE(Run(engine, Fill(5, 1)).ok());
  auto data = engine.TryStage(1);
  EXPECT_DEATH((void)Run(engine, [&](Transaction& tx) { return tx.WriteExtent({5, 1}, data, 0); }), "kInUse");
  EXPECT_DEATH((void)Run(engine, ReleaseOf({6, 1})), "kInUse");
  ASSERT_TRUE(Run(engine, ReleaseOf({5, 1})).ok());
  EXPECT_DEATH((void)Run(engine, ReleaseOf({5, 1})), "kInUse");
  EXPECT_DEATH((void)Run(engine, [&](Transaction& tx) { return tx.WriteExtent({5, 1}, data, 0); }), "Quarantined");
  EXPECT_DEATH((void)Run(engine, [](Transaction& tx) { return tx.Modify(5).status(); }), "kReleased");
  EXPECT_DEATH((void)Run(engine, [](Transaction&) { return absl::UnavailableError(""); }), "missed");
}

}  // namespace
}  // namespace stagefs::volume::testing

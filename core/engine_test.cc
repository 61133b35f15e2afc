// The engine on a simulated disk: what it promises, one rule a test. The crash sweep is in tests/.

#include "core/engine.h"

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/aligned_memory.h"
#include "core/format.h"
#include "gtest/gtest.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "sal/status_macros.h"

namespace stagefs::core {
namespace {

class EngineTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kStoreBytes = 64 << 20;

  void SetUp() override {
    Power();
    FormatOptions format;
    format.log_bytes = 4 << 20;
    ASSERT_EQ(Engine::Format(*store_, environment_, format), absl::OkStatus());
    Open();
  }
  void TearDown() override {
    if (engine_ != nullptr) engine_->Abandon();
    engine_.reset();
    environment_.RunUntilIdle();
    store_.reset();
  }

  // A disk that holds `disk`, switched on.
  void Power(sal::SimulatedDisk disk = {}) {
    sal::SimulatedStoreOptions options;
    options.size_bytes = kStoreBytes;
    options.fua = fua_;
    store_ = std::make_unique<sal::SimulatedStore>(environment_, options, std::move(disk));
  }
  void Open() {
    report_ = RecoveryReport();
    auto engine = Engine::Open(*store_, environment_, options_, &report_);
    ASSERT_EQ(engine.status(), absl::OkStatus());
    engine_ = *std::move(engine);
  }
  // Power fails now, comes back, and the engine recovers.
  void Crash(uint64_t seed = 1) {
    store_->CutNow();
    engine_->Abandon();
    engine_.reset();
    environment_.RunUntilIdle();
    Power(store_->Crash(seed, sal::SimulatedStore::CrashKind::kPowerCut));
    Open();
  }

  absl::StatusOr<Lsn> Run(Engine::Body body) {
    absl::StatusOr<Lsn> result = absl::UnknownError("not called");
    const auto over = environment_.NewEvent();
    engine_->Run(std::move(body), [&](absl::StatusOr<Lsn> r) {
      result = std::move(r);
      over->Set();
    });
    over->Wait();
    return result;
  }
  absl::StatusOr<Lsn> Write(uint64_t address, std::string bytes) {
    return Run([=](Transaction& tx) {
      return tx.Write(address, {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
    });
  }
  absl::StatusOr<Lsn> WriteExtent(Block first, uint64_t count, char fill) {
    std::shared_ptr<StagedData> data = engine_->TryStage(count);
    std::memset(data->bytes().data(), fill, data->bytes().size());
    data->Seal();
    return Run([=](Transaction& tx) { return tx.WriteExtent({first, count}, data, 0); });
  }
  absl::Status Durable() {
    absl::Status result = absl::UnknownError("not called");
    const auto over = environment_.NewEvent();
    engine_->WhenDurable(engine_->accepted_lsn(), [&](absl::Status s) {
      result = std::move(s);
      over->Set();
    });
    over->Wait();
    return result;
  }
  absl::Status Checkpoint() {
    absl::Status result = absl::UnknownError("not called");
    const auto over = environment_.NewEvent();
    engine_->Checkpoint([&](absl::Status s) {
      result = std::move(s);
      over->Set();
    });
    over->Wait();
    return result;
  }
  absl::StatusOr<std::string> Read(uint64_t address, uint64_t length) {
    std::string bytes(length, '?');
    const absl::StatusOr<Lsn> lsn = Run([&](Transaction& tx) {
      tx.ReadInto(address, length, reinterpret_cast<std::byte*>(bytes.data()));
      return absl::OkStatus();
    });
    if (!lsn.ok()) return lsn.status();
    return bytes;
  }
  uint64_t HomeOffset(Block block) { return engine_->info().home_start_bytes + block * kBlockBytes; }

  bool fua_ = true;
  EngineOptions options_;
  RecoveryReport report_;
  sal::SimulatedEnvironment environment_{1};
  std::unique_ptr<sal::SimulatedStore> store_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, AFreshVolumeReadsAsZeros) {
  EXPECT_EQ(*Read(12345, 10000), std::string(10000, '\0'));
  EXPECT_TRUE(report_.clean);
}

TEST_F(EngineTest, WhatWasWrittenIsReadBack) {
  ASSERT_TRUE(Write(4000, "hello, across a block boundary" + std::string(5000, 'x')).ok());
  EXPECT_EQ(*Read(4000, 30), "hello, across a block boundary");
  EXPECT_EQ(*Read(4030, 5000), std::string(5000, 'x'));
  EXPECT_EQ(*Read(9030, 2), std::string(2, '\0'));
}

TEST_F(EngineTest, LsnsAscendByOne) {
  const Lsn first = *Write(0, "a");
  EXPECT_EQ(*Write(0, "b"), first + 1);
  EXPECT_EQ(*Write(0, "c"), first + 2);
}

TEST_F(EngineTest, AChangeThatChangesNothingTakesNoLsn) {
  const Lsn lsn = *Write(100, "same");
  EXPECT_EQ(*Write(100, "same"), lsn);
}

TEST_F(EngineTest, DurableChangesSurviveACrash) {
  ASSERT_TRUE(Write(1000, "durable").ok());
  ASSERT_EQ(Durable(), absl::OkStatus());
  Crash();
  EXPECT_EQ(*Read(1000, 7), "durable");
  EXPECT_EQ(report_.warnings, std::vector<std::string>());
}

TEST_F(EngineTest, DurableChangesSurviveACrashOnAStoreWithoutFua) {
  TearDown();
  fua_ = false;
  SetUp();
  ASSERT_TRUE(Write(1000, "durable").ok());
  ASSERT_TRUE(WriteExtent(500, 64, 'e').ok());
  ASSERT_EQ(Durable(), absl::OkStatus());
  Crash();
  EXPECT_EQ(*Read(1000, 7), "durable");
  EXPECT_EQ(*Read(500 * kBlockBytes, 8), "eeeeeeee");
}

TEST_F(EngineTest, ExtentsAreVisibleAtOnceAndSurvive) {
  ASSERT_TRUE(WriteExtent(300, 256, 'x').ok());
  EXPECT_EQ(*Read(300 * kBlockBytes, 256 * kBlockBytes), std::string(256 * kBlockBytes, 'x'));
  ASSERT_TRUE(Write(300 * kBlockBytes + 5, "patch").ok());
  ASSERT_EQ(Durable(), absl::OkStatus());
  Crash();
  EXPECT_EQ(*Read(300 * kBlockBytes, 12), "xxxxxpatchxx");
  EXPECT_EQ(*Read(555 * kBlockBytes, kBlockBytes), std::string(kBlockBytes, 'x'));
}

TEST_F(EngineTest, AColdReadAsksForItsBlocksAndTheirTableBlockAtOnce) {
  ASSERT_TRUE(WriteExtent(100, 4, 'e').ok());
  ASSERT_EQ(engine_->Close(), absl::OkStatus());
  engine_.reset();
  Open();
  const AlignedMemory memory(2 * kBlockBytes);
  const auto over = environment_.NewEvent();
  const uint64_t before = store_->request_count();
  engine_->Run(
      [&](Transaction& tx) {
        tx.ReadInto(101 * kBlockBytes, 2 * kBlockBytes, memory.data());
        return absl::OkStatus();
      },
      [&](const absl::StatusOr<Lsn>& lsn) {
        EXPECT_TRUE(lsn.ok()) << lsn.status();
        over->Set();
      });
  EXPECT_EQ(store_->request_count() - before, 2u);
  over->Wait();
  EXPECT_EQ(store_->request_count() - before, 2u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(memory.data()), 2 * kBlockBytes),
            std::string(2 * kBlockBytes, 'e'));
}

TEST_F(EngineTest, DecayIsSeenInWhatIsReadAlongWithItsTableBlock) {
  ASSERT_TRUE(WriteExtent(100, 4, 'e').ok());
  ASSERT_EQ(engine_->Close(), absl::OkStatus());
  store_->CorruptByte(HomeOffset(101) + 5);
  engine_.reset();
  Open();
  const AlignedMemory memory(kBlockBytes);
  const auto read = [&](Block block) {
    return Run([&](Transaction& tx) {
             tx.ReadInto(block * kBlockBytes, kBlockBytes, memory.data());
             return absl::OkStatus();
           }).status();
  };
  EXPECT_TRUE(absl::IsDataLoss(read(101)));
  EXPECT_EQ(read(102), absl::OkStatus());
}

TEST_F(EngineTest, ZeroedBlocksReadAsZerosAfterACrash) {
  ASSERT_TRUE(Write(8 * kBlockBytes, std::string(3 * kBlockBytes, 'z')).ok());
  ASSERT_EQ(Checkpoint(), absl::OkStatus());
  ASSERT_TRUE(Run([](Transaction& tx) { return tx.Zero(8 * kBlockBytes + 10, 2 * kBlockBytes); }).ok());
  const std::string expected =
      std::string(10, 'z') + std::string(2 * kBlockBytes, '\0') + std::string(kBlockBytes - 10, 'z');
  EXPECT_EQ(*Read(8 * kBlockBytes, 3 * kBlockBytes), expected);
  ASSERT_EQ(Durable(), absl::OkStatus());
  Crash();
  EXPECT_EQ(*Read(8 * kBlockBytes, 3 * kBlockBytes), expected);
}

TEST_F(EngineTest, ACheckpointEmptiesTheLog) {
  ASSERT_TRUE(Write(1000, "home").ok());
  ASSERT_EQ(Checkpoint(), absl::OkStatus());
  EXPECT_EQ(engine_->stats().dirty_blocks, 0);
  EXPECT_EQ(engine_->stats().log_used_bytes, 0);
  Crash();
  EXPECT_EQ(report_.changes, 0);
  EXPECT_EQ(*Read(1000, 4), "home");
}

TEST_F(EngineTest, CloseLeavesACleanVolume) {
  ASSERT_TRUE(Write(1000, "closed").ok());
  ASSERT_EQ(engine_->Close(), absl::OkStatus());
  engine_.reset();
  Open();
  EXPECT_TRUE(report_.clean);
  EXPECT_EQ(*Read(1000, 6), "closed");
}

TEST_F(EngineTest, LsnsAreNeverUsedTwice) {
  const Lsn before = *Write(0, "lost");
  Crash();
  EXPECT_GT(*Write(0, "new"), before);
}

TEST_F(EngineTest, TheFlushIntervalMakesChangesDurableUnasked) {
  const Lsn lsn = *Write(0, "patience");
  EXPECT_LT(engine_->durable_lsn(), lsn);
  environment_.RunFor(2 * options_.flush_interval_ns);
  EXPECT_GE(engine_->durable_lsn(), lsn);
}

TEST_F(EngineTest, ManyMoreChangesThanTheLogHolds) {
  const std::string page(kBlockBytes, 'p');
  for (int i = 0; i < 5000; ++i) ASSERT_TRUE(Write((i * 7 % 3000) * kBlockBytes, page + absl::StrCat(i)).ok());
  EXPECT_GT(engine_->stats().checkpoints, 1);
  ASSERT_EQ(Durable(), absl::OkStatus());
  Crash();
  EXPECT_EQ(*Read((4999 * 7 % 3000) * kBlockBytes, kBlockBytes), page);
}

TEST_F(EngineTest, ALargeChangeGetsRoomInASmallLogThatIsLessThanHalfFull) {
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(Write(i * 64 * kBlockBytes, std::string(64 * kBlockBytes, 's')).ok());
  ASSERT_EQ(Durable(), absl::OkStatus());
  ASSERT_LT(engine_->stats().log_used_bytes * 2, engine_->stats().log_capacity_bytes);
  EXPECT_EQ(Write(0, std::string(550 * kBlockBytes, 'l')).status(), absl::OkStatus());
}

TEST_F(EngineTest, ReleasedSpaceIsQuarantinedUntilItsReleaseIsDurable) {
  ASSERT_TRUE(WriteExtent(300, 16, 'a').ok());
  ASSERT_TRUE(Run([](Transaction& tx) {
                tx.Release({300, 16});
                return absl::OkStatus();
              }).ok());
  const auto quarantined = [&] {
    std::optional<BlockRange> found;
    Run([&](Transaction& tx) {
      found = tx.Quarantined({290, 100});
      return absl::OkStatus();
    }).IgnoreError();
    return found;
  };
  EXPECT_EQ(quarantined(), (BlockRange{300, 16}));
  ASSERT_EQ(Durable(), absl::OkStatus());
  environment_.RunUntilIdle();
  EXPECT_EQ(quarantined(), std::nullopt);
}

TEST_F(EngineTest, ResourceExhaustedIsBelievedOnlyWhenNoReleaseIsPending) {
  ASSERT_TRUE(WriteExtent(300, 16, 'a').ok());
  ASSERT_TRUE(Run([](Transaction& tx) {
                tx.Release({300, 16});
                return absl::OkStatus();
              }).ok());
  const absl::StatusOr<Lsn> lsn = Run([](Transaction& tx) -> absl::Status {
    if (tx.Quarantined({300, 16}).has_value()) return absl::ResourceExhaustedError("full");
    return absl::OkStatus();
  });
  EXPECT_EQ(lsn.status(), absl::OkStatus());
}

TEST_F(EngineTest, DecayIsSeenAndCostsOneBlock) {
  ASSERT_TRUE(WriteExtent(300, 3, 'a').ok());
  ASSERT_EQ(Checkpoint(), absl::OkStatus());
  store_->CorruptByte(HomeOffset(301) + 17);
  EXPECT_EQ(Read(301 * kBlockBytes, 10).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(*Read(300 * kBlockBytes, 2), "aa");
  EXPECT_EQ(*Read(302 * kBlockBytes, 2), "aa");
  EXPECT_EQ(Write(301 * kBlockBytes + 5, "part").status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(Write(301 * kBlockBytes, std::string(kBlockBytes, 'w')).ok());
  EXPECT_EQ(*Read(301 * kBlockBytes, 3), "www");
  EXPECT_GE(engine_->stats().checksum_errors, 1);
}

TEST_F(EngineTest, ADecayedBaseStaysLostUntilTheBlockIsOverwritten) {
  ASSERT_TRUE(Write(301 * kBlockBytes, std::string(kBlockBytes, 'b')).ok());
  ASSERT_EQ(Checkpoint(), absl::OkStatus());
  ASSERT_TRUE(Write(301 * kBlockBytes + 100, "redo").ok());
  ASSERT_EQ(Durable(), absl::OkStatus());
  store_->CorruptByte(HomeOffset(301));
  Crash();
  EXPECT_EQ(report_.lost_blocks, std::vector<Block>{301});
  EXPECT_EQ(Read(301 * kBlockBytes, 4).status().code(), absl::StatusCode::kDataLoss);
  Crash();
  EXPECT_EQ(Read(301 * kBlockBytes, 4).status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(Write(301 * kBlockBytes, std::string(kBlockBytes, 'n')).ok());
  EXPECT_EQ(*Read(301 * kBlockBytes, 4), "nnnn");
}

TEST_F(EngineTest, AFailedWriteStopsChangesAndLetsReadsGoOn) {
  ASSERT_TRUE(Write(1000, "before").ok());
  ASSERT_EQ(Durable(), absl::OkStatus());
  store_->CutNow();
  ASSERT_TRUE(Write(1000, "after!").ok());
  EXPECT_EQ(Durable().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Write(2000, "refused").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*Read(1000, 6), "after!");
  EXPECT_EQ(engine_->health().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(engine_->stats().read_only);
}

// Zeros have no redo but the Zero record: an intent for them would promise a home that replay cannot write.
TEST_F(EngineTest, AFreshBlockLeftAllZerosSurvivesACrashAtAnyRequestOfACheckpoint) {
  for (uint64_t cut = 1; cut <= 12; ++cut) {
    ASSERT_TRUE(WriteExtent(300, 1, 'x').ok());
    ASSERT_TRUE(Write(400 * kBlockBytes, std::string(kBlockBytes, 'y') + std::to_string(cut)).ok());
    ASSERT_TRUE(Run([](Transaction& tx) {
                  tx.Release({300, 1});
                  return absl::OkStatus();
                }).ok());
    ASSERT_EQ(Durable(), absl::OkStatus());
    environment_.RunUntilIdle();
    ASSERT_TRUE(Run([](Transaction& tx) { return tx.Fresh(300).status(); }).ok());
    ASSERT_EQ(Durable(), absl::OkStatus());
    store_->CutAt(store_->request_count() + cut);
    Checkpoint().IgnoreError();
    Crash(cut);
    EXPECT_EQ(Read(300 * kBlockBytes, kBlockBytes).value_or("lost"), std::string(kBlockBytes, '\0')) << "cut " << cut;
    Crash(cut);
    EXPECT_EQ(Read(300 * kBlockBytes, kBlockBytes).value_or("lost"), std::string(kBlockBytes, '\0')) << "cut " << cut;
    ASSERT_TRUE(Run([](Transaction& tx) {
                  tx.Release({300, 1});
                  return absl::OkStatus();
                }).ok());
    ASSERT_EQ(Durable(), absl::OkStatus());
    environment_.RunUntilIdle();
  }
}

TEST_F(EngineTest, ATableBlockThatCannotBeReadIsAnErrorAndIsNotReadForEver) {
  ASSERT_TRUE(WriteExtent(300, 3, 'a').ok());
  ASSERT_EQ(Durable(), absl::OkStatus());
  ASSERT_EQ(Checkpoint(), absl::OkStatus());
  Crash();
  store_->CutNow();
  EXPECT_EQ(Read(300 * kBlockBytes, 10).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Write(300 * kBlockBytes + 5, "part").status().code(), absl::StatusCode::kUnavailable);
}

// A load that follows another one is dropped when the engine stops; what it held must be freed all the same.
TEST_F(EngineTest, AbandonWithLoadsUnderWayLeavesNothingBehind) {
  ASSERT_TRUE(WriteExtent(300, 3, 'a').ok());
  ASSERT_EQ(Durable(), absl::OkStatus());
  Crash();
  std::string bytes(3 * kBlockBytes, '?');
  engine_->Run([](Transaction& tx) { return tx.Read(301).status(); }, [](const absl::StatusOr<Lsn>&) {});
  engine_->Run(
      [&](Transaction& tx) {
        tx.ReadInto(300 * kBlockBytes, bytes.size(), reinterpret_cast<std::byte*>(bytes.data()));
        return absl::OkStatus();
      },
      [](const absl::StatusOr<Lsn>&) {});
  engine_->Abandon();
  engine_.reset();  // checks that every image came back
}

TEST_F(EngineTest, OneBadSuperblockIsReportedAndRepaired) {
  ASSERT_TRUE(Write(1000, "kept").ok());
  ASSERT_EQ(engine_->Close(), absl::OkStatus());
  engine_.reset();
  store_->CorruptByte(100);
  Open();
  EXPECT_EQ(report_.warnings.size(), 1);
  EXPECT_EQ(*Read(1000, 4), "kept");
  Crash();
  EXPECT_EQ(report_.warnings.size(), 0);
}

TEST_F(EngineTest, AStoreThatCannotBeReadIsNotCalledADamagedVolume) {
  ASSERT_EQ(engine_->Close(), absl::OkStatus());
  engine_.reset();
  store_->CutNow();
  EXPECT_EQ(Engine::Open(*store_, environment_, options_, nullptr).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, BothSuperblocksBadIsDataLoss) {
  ASSERT_EQ(engine_->Close(), absl::OkStatus());
  engine_.reset();
  store_->CorruptByte(100);
  store_->CorruptByte(16 * kBlockBytes + 100);
  EXPECT_EQ(Engine::Open(*store_, environment_, options_, nullptr).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(EngineTest, ARottenLogIsNotTakenForACrash) {
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(Write(1000, absl::StrCat("change ", i)).ok());
    ASSERT_EQ(Durable(), absl::OkStatus());
  }
  // The third frame of the epoch decays; later frames record that it had been durable.
  store_->CorruptByte(engine_->info().log_start_bytes + 2 * kBlockBytes + 50);
  Crash();
  EXPECT_TRUE(engine_->stats().read_only);
  EXPECT_EQ(report_.warnings.size(), 1);
  EXPECT_EQ(*Read(1000, 8), "change 1");
  EXPECT_EQ(Write(0, "x").status().code(), absl::StatusCode::kFailedPrecondition);
  options_.accept_log_loss = true;
  Crash();
  EXPECT_EQ(*Read(1000, 8), "change 1");
  EXPECT_TRUE(Write(0, "x").ok());
}

// Invariant 10, and that it is what makes the difference: without it the decay of the last frame looks like a crash.
TEST_F(EngineTest, DecayOfTheLastFrameIsSeenOnceTheVolumeHasBeenIdle) {
  for (const Broken broken : {Broken::kNothing, Broken::kNoDurableRecord}) {
    options_.broken = broken;
    Crash();
    ASSERT_TRUE(Write(1000, "last").ok());
    ASSERT_EQ(Durable(), absl::OkStatus());
    environment_.RunFor(3 * options_.flush_interval_ns);
    environment_.RunUntilIdle();
    store_->CorruptByte(engine_->info().log_start_bytes + 50);
    Crash();
    EXPECT_EQ(engine_->stats().read_only, broken == Broken::kNothing);
    TearDown();
    SetUp();
  }
}

TEST_F(EngineTest, AnIdleVolumeNoticesThatItsLastFrameDecayed) {
  for (const bool fua : {true, false}) {
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      TearDown();
      fua_ = fua;
      SetUp();
      ASSERT_TRUE(Write(1000, "durable").ok());
      ASSERT_EQ(Durable(), absl::OkStatus());
      environment_.RunFor(3 * options_.flush_interval_ns);
      EXPECT_EQ(store_->unflushed_writes(), 0);  // what records the durable LSN is durable itself
      store_->CorruptByte(engine_->info().log_start_bytes + 50);
      Crash(seed);
      EXPECT_TRUE(engine_->stats().read_only) << "seed " << seed;
    }
  }
}

TEST_F(EngineTest, ReadOnlyWritesNothing) {
  ASSERT_TRUE(Write(1000, "seen").ok());
  ASSERT_EQ(Durable(), absl::OkStatus());
  options_.read_only = true;
  Crash();
  const uint64_t requests = store_->request_count();
  EXPECT_EQ(*Read(1000, 4), "seen");
  EXPECT_EQ(Write(1000, "x").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(engine_->Close(), absl::OkStatus());
  EXPECT_EQ(store_->unflushed_writes(), 0);
  EXPECT_EQ(store_->request_count(), requests);
}

// The worked example of docs/format.md, byte for byte but for what is random.
TEST_F(EngineTest, TheLogHoldsWhatTheFormatsDescriptionShows) {
  const VolumeInfo& info = engine_->info();
  EXPECT_EQ(info.log_start_bytes, 32 * kBlockBytes);
  EXPECT_EQ(info.table_start_bytes, 1056 * kBlockBytes);
  EXPECT_EQ(info.home_start_bytes, 1087 * kBlockBytes);
  EXPECT_EQ(info.capacity_bytes, 15297 * kBlockBytes);
  ASSERT_TRUE(Write(5000, "hello").ok());
  ASSERT_EQ(Durable(), absl::OkStatus());

  std::byte block[kBlockBytes];
  store_->ReadRaw(32 * kBlockBytes, block, sizeof(block));
  const FrameHeader header = Load<FrameHeader>(block);
  EXPECT_EQ(header.magic, kFrameMagic);
  EXPECT_EQ(header.frame_blocks, 1);
  EXPECT_EQ(header.payload_bytes, 0x38);
  EXPECT_EQ(header.change_count, 1);
  EXPECT_EQ(std::memcmp(header.uuid, info.uuid.data(), sizeof(header.uuid)), 0);
  EXPECT_EQ(header.epoch, 2);
  EXPECT_EQ(header.sequence, 1);
  EXPECT_EQ(header.position, 0);
  EXPECT_EQ(header.first_lsn, 0x100000000);
  EXPECT_EQ(header.durable_lsn, 0xffffffff);
  EXPECT_EQ(header.reserved, 0);
  const uint8_t payload[0x38] = {
      0x38, 0, 0, 0, 2, 0, 0, 0, 0,    0,    0, 0, 1, 0, 0, 0,  // change: 56 bytes, 2 records, LSN 0x100000000
      2,    0, 0, 0, 1, 0, 0, 0, 1,    0,    0, 0, 0, 0, 0, 0,  // Zero: 1 block from home block 1
      1,    0, 8, 0, 0, 0, 0, 0, 0x88, 0x13, 0, 0, 0, 0, 0, 0,  // Write: 8 bytes at byte 5000
      'h', 'e', 'l', 'l', 'o', 0, 0, 0};
  EXPECT_EQ(std::memcmp(block + sizeof(FrameHeader), payload, sizeof(payload)), 0);
  for (size_t i = sizeof(FrameHeader) + sizeof(payload); i < kBlockBytes; ++i) ASSERT_EQ(block[i], std::byte{0});
}

TEST_F(EngineTest, AStoreSmallerThanTheVolumeIsRefused) {
  ASSERT_EQ(engine_->Close(), absl::OkStatus());
  engine_.reset();
  sal::SimulatedStoreOptions options;
  options.size_bytes = kStoreBytes / 2;
  sal::SimulatedStore truncated(environment_, options, store_->Image());
  EXPECT_EQ(Engine::Open(truncated, environment_, options_, nullptr).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(EngineTest, NoRequestEverOverlapsAWriteInFlight) {
  uint64_t x = 1;
  for (int i = 0; i < 2000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    ASSERT_TRUE(Write((x >> 33) % (900 * kBlockBytes), std::string((x >> 20) % 6000 + 1, 'o')).ok());
  }
  ASSERT_EQ(Checkpoint(), absl::OkStatus());
  EXPECT_EQ(store_->overlapping_requests(), 0);
}

}  // namespace
}  // namespace stagefs::core

// The sweep must bite: with one invariant of docs/recovery.md violated (core/broken.h) it has to find a violation.

#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/crash/engine_run.h"
#include "tests/crash/engine_sweep.h"

namespace stagefs::crash {
namespace {

using core::Broken;

// The first violation that the sweep finds with `broken`, or nothing. Options that are not given are the usual ones.
std::string FirstViolation(const std::vector<Workload>& workloads, SweepOptions options, bool* with_fua = nullptr) {
  for (const bool fua : {true, false}) {
    options.fua = fua;
    EngineSweep sweep(options);
    for (const Workload& workload : workloads) {
      const absl::Status status = sweep.Sweep(workload);
      if (status.ok()) continue;
      if (with_fua != nullptr) *with_fua = fua;
      return std::string(status.message());
    }
  }
  return "";
}

void ExpectViolation(const std::vector<Workload>& workloads, Broken broken, SweepOptions options = {}) {
  options.broken = broken;
  const std::string violation = FirstViolation(workloads, options);
  EXPECT_NE(violation, "") << "the sweep does not notice";
  std::cout << "found: " << violation << "\n";
}

// Many crashes of each kind, and recovery cut at each of its requests.
SweepOptions Thorough() {
  SweepOptions options;
  options.crash_seeds = 12;
  options.cut_every_request_of = 1;
  options.generations = 1;
  return options;
}

TEST(EngineBrokenTest, DurableBeforeFlushIsFound) { ExpectViolation(ShortWorkloads(), Broken::kDurableBeforeFlush); }

TEST(EngineBrokenTest, FrameBeforeExtentsIsFound) { ExpectViolation(ShortWorkloads(), Broken::kFrameBeforeExtents); }

TEST(EngineBrokenTest, ReuseBeforeDurableIsFound) { ExpectViolation(ShortWorkloads(), Broken::kReuseBeforeDurable); }

TEST(EngineBrokenTest, SamePlaceInLapIsFound) { ExpectViolation(ShortWorkloads(), Broken::kSamePlaceInLap); }

TEST(EngineBrokenTest, NoZeroForFreshBlocksIsFound) {
  ExpectViolation(ShortWorkloads(), Broken::kNoZeroForFreshBlocks);
}

TEST(EngineBrokenTest, NoRevocationIsFound) { ExpectViolation(ShortWorkloads(), Broken::kNoRevocation); }

TEST(EngineBrokenTest, DestageBeforeDurableIsFound) {
  ExpectViolation(DestageWorkloads(), Broken::kDestageBeforeDurable);
}

TEST(EngineBrokenTest, NoIntentsIsFound) { ExpectViolation(DestageWorkloads(), Broken::kNoIntents); }

TEST(EngineBrokenTest, TailBeforeFlushIsFound) { ExpectViolation(DestageWorkloads(), Broken::kTailBeforeFlush); }

TEST(EngineBrokenTest, SameSaltAgainIsFound) {
  ExpectViolation(TwoFramesInFlightWorkloads(), Broken::kSameSaltAgain, Thorough());
}

TEST(EngineBrokenTest, NoChainIsFound) { ExpectViolation(TwoFramesInFlightWorkloads(), Broken::kNoChain, Thorough()); }

TEST(EngineBrokenTest, NoFlushBeforeReplayIsFound) {
  ExpectViolation(ShortWorkloads(), Broken::kNoFlushBeforeReplay);
}

TEST(EngineBrokenTest, ReuseBeforeSuperblocksIsFound) {
  SweepOptions options = Thorough();
  options.decay_newest_superblock = true;
  ExpectViolation(FullLogWorkloads(), Broken::kReuseBeforeSuperblocks, options);
}

// A block whose home decays while the log holds part of it. What is wrong with how `broken` treats it, or nothing.
std::string DecayViolation(Broken broken) {
  constexpr core::Block kDecayed = 493;  // the second block of the first slot
  const Workload workload{"decay", {CreateWhole(0, 3), Checkpoint(), Patch(0, 1), Durable()}};
  EngineModel model(workload.arena_blocks);
  sal::SimulatedDisk disk;
  {
    EngineRun run({.seed = 1, .broken = broken}, StartOf(workload));
    if (!run.Open().ok() || !run.Execute(&model, workload.ops).ok()) return "the workload fails";
    if (!model.current().blocks.contains(kDecayed)) return "block 493 is not in use";
    run.store().CorruptByte(run.engine().info().home_start_bytes + kDecayed * core::kBlockBytes + 5);
    disk = run.Crash(1, sal::SimulatedStore::CrashKind::kPowerCut);
  }
  // Recovery is cut at one request after the other; then it is left alone twice.
  for (uint64_t cut = 1;; ++cut) {
    EngineRun run({.seed = 1 + cut, .broken = broken}, disk);
    run.store().CutAt(cut);
    const bool opened = run.Open().ok();
    run.store().CutNow();
    const sal::SimulatedDisk after = run.Crash(cut, sal::SimulatedStore::CrashKind::kPowerCut);
    for (const uint64_t seed : {100, 101}) {
      EngineRun again({.seed = cut + seed, .broken = broken}, after);
      if (!again.Open().ok()) return absl::StrCat("recovery fails after a cut at request ", cut);
      std::string bytes;
      const absl::Status status = again.Read({kDecayed, 1}, &bytes);
      if (!absl::IsDataLoss(status)) return absl::StrCat("cut at ", cut, ": read of a lost block: ", status.ToString());
      if (!again.Read({kDecayed - 1, 1}, &bytes).ok()) return "a neighbour is lost too";
      EngineModel mended = model;
      if (!again.Execute(&mended, {Overwrite(0, core::kBlockBytes, core::kBlockBytes), Durable()}).ok()) {
        return "the lost block cannot be overwritten";
      }
      const absl::Status verified = again.Verify(mended.current());
      if (!verified.ok()) return absl::StrCat("overwritten: ", verified.message());
    }
    if (opened) return "";
  }
}

TEST(EngineBrokenTest, ADecayedBaseIsLostUntilItIsOverwritten) { EXPECT_EQ(DecayViolation(Broken::kNothing), ""); }

TEST(EngineBrokenTest, NoPoisonIsFound) { EXPECT_NE(DecayViolation(Broken::kNoPoison), ""); }

}  // namespace
}  // namespace stagefs::crash

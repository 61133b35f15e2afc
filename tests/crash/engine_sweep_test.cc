// The engine, cut at every request of many workloads. See engine_sweep.h and docs/crash_testing.md.

#include "tests/crash/engine_sweep.h"

#include <chrono>
#include <cstdlib>
#include <iostream>

#include "gtest/gtest.h"

namespace stagefs::crash {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

void Report(const EngineSweep& sweep) {
  const SweepCounts& c = sweep.counts();
  std::cout << c.workloads << " workloads, " << c.cuts << " cuts, " << c.crash_states << " crash states, "
            << c.recoveries << " recoveries\n";
}

class EngineSweepTest : public ::testing::TestWithParam<bool> {
 protected:
  void SweepAll(const std::vector<Workload>& workloads) {
    SweepOptions options;
    options.fua = GetParam();
    options.seed = FromEnvironment("STAGEFS_CRASH_SEED", 1);
    EngineSweep sweep(options);
    for (const Workload& workload : workloads) {
      const absl::Status status = sweep.Sweep(workload);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    Report(sweep);
  }
};

TEST_P(EngineSweepTest, ShortWorkloadsRecoverToAPrefix) { SweepAll(ShortWorkloads()); }

TEST_P(EngineSweepTest, ChangesDuringADestageRecoverToAPrefix) { SweepAll(DestageWorkloads()); }

TEST_P(EngineSweepTest, TwoFramesInFlightRecoverToAPrefix) { SweepAll(TwoFramesInFlightWorkloads()); }

TEST_P(EngineSweepTest, FramesAroundTheEndOfTheRingRecoverToAPrefix) { SweepAll(WrapWorkloads()); }

// Ring space is reused only up to the tail that both superblocks know: so either of them may be lost.
TEST_P(EngineSweepTest, EitherSuperblockMayBeLostInACrash) {
  SweepOptions options;
  options.fua = GetParam();
  options.decay_newest_superblock = true;
  EngineSweep sweep(options);
  for (const std::vector<Workload>& workloads : {FullLogWorkloads(), WrapWorkloads()}) {
    for (const Workload& workload : workloads) {
      const absl::Status status = sweep.Sweep(workload);
      EXPECT_TRUE(status.ok()) << status.message();
    }
  }
  EXPECT_GT(sweep.counts().crash_states, 0);
  Report(sweep);
}

// STAGEFS_CRASH_SECONDS: how long to go on with new seeds.
TEST_P(EngineSweepTest, RandomWorkloadsRecoverToAPrefix) {
  const uint64_t first = FromEnvironment("STAGEFS_CRASH_SEED", 1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(FromEnvironment("STAGEFS_CRASH_SECONDS", 0));
  SweepOptions options;
  options.fua = GetParam();
  options.crash_seeds = 1;
  EngineSweep sweep(options);
  for (uint64_t seed = first; seed < first + 24 || std::chrono::steady_clock::now() < end; ++seed) {
    const absl::Status status = sweep.Sweep(RandomWorkload(seed, 3 + seed % 18));
    ASSERT_TRUE(status.ok()) << "STAGEFS_CRASH_SEED=" << seed << ": " << status.message();
  }
  Report(sweep);
}

INSTANTIATE_TEST_SUITE_P(Stores, EngineSweepTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "WithFua" : "WithoutFua"; });

}  // namespace
}  // namespace stagefs::crash

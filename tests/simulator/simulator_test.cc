// The simulator over many seeds, as much as fits the time that CI has for it. Longer: the simulator's --seconds.

#include <cstdint>
#include <iostream>
#include <string>

#include "gtest/gtest.h"
#include "tests/simulator/simulation.h"

namespace stagefs::simulator {
namespace {

constexpr uint64_t kOperationsOfASeed = 10'000;
constexpr uint64_t kOperations = 1'000'000;  // of each of two shards
constexpr uint64_t kCrashes = 1'000;

void RunSeedsFrom(uint64_t first) {
  Counts counts;
  for (uint64_t seed = first; counts.operations < kOperations || counts.crashes < kCrashes; ++seed) {
    SimulationOptions options = {.seed = seed, .operations = kOperationsOfASeed};
    Trace trace(/*verbose=*/false);
    const absl::Status status = Simulate(options, &trace, &counts);
    ASSERT_TRUE(status.ok()) << "replay: simulator --seed " << seed << " --operations " << kOperationsOfASeed << "\n"
                             << status.message();
  }
  std::cout << counts.ToString() << "\n";
  EXPECT_GE(counts.operations, kOperations);
  EXPECT_GE(counts.crashes, kCrashes);
  EXPECT_GT(counts.cut_recoveries, 0);
  EXPECT_GT(counts.closes, 0);
  EXPECT_GT(counts.checks, 0);
  EXPECT_GT(counts.parked, 0);
  EXPECT_GT(counts.reported_losses, 0);
  for (size_t i = 0; i < counts.faults.size(); ++i) {
    EXPECT_GT(counts.faults[i], 0) << FaultName(static_cast<sal::SimulatedFault>(i)) << " was never injected";
  }
}

// Two tests, so that Bazel can run them side by side.
TEST(SimulatorTest, EveryAnswerAndEveryRecoveryIsWhatTheModelSays) { RunSeedsFrom(1); }
TEST(SimulatorTest, EveryAnswerAndEveryRecoveryIsWhatTheModelSaysWithOtherSeeds) { RunSeedsFrom(1'000); }

}  // namespace
}  // namespace stagefs::simulator

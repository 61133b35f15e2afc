// That the simulator notices when something is wrong: an invariant of the engine that is switched off (core/broken.h),
// a disk that lies, a volume that differs from the model.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <iostream>

#include "core/engine.h"
#include "gtest/gtest.h"
#include "tests/simulator/simulation.h"

namespace stagefs::simulator {
namespace {

using core::Broken;
using SimulateLevel = absl::Status (*)(const SimulationOptions&, Trace*, Counts*);

// Whether something wrong is noticed within `most_operations`: by the simulator, or by a check that ends the process.
bool IsNoticed(SimulateLevel simulate, SimulationOptions options, uint64_t most_operations) {
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    Counts counts;
    options.operations = 4'000;
    for (options.seed = 1; counts.operations < most_operations; ++options.seed) {
      Trace trace(/*verbose=*/false);
      const absl::Status status = simulate(options, &trace, &counts);
      if (status.ok()) continue;
      std::cout << "after " << counts.operations << " operations: " << status.message() << std::endl;
      _exit(1);
    }
    _exit(0);
  }
  int end = 0;
  EXPECT_EQ(waitpid(child, &end, 0), child);
  return end != 0;
}

struct BrokenEngine {
  const char* name;
  Broken broken;
  const char* faults;  // of the disk, without which nobody would notice
};

class BrokenEngineTest : public ::testing::TestWithParam<BrokenEngine> {};

TEST_P(BrokenEngineTest, IsNoticed) {
  const SimulationOptions options = {.faults = *ParseFaults(GetParam().faults), .broken = GetParam().broken};
  EXPECT_TRUE(IsNoticed(SimulateEngine, options, 1'000'000));
}

// The others take moments that chance does not find so soon; tests/crash, which cuts at every request, finds them.
INSTANTIATE_TEST_SUITE_P(
    Invariants, BrokenEngineTest,
    ::testing::Values(BrokenEngine{"DurableBeforeFlush", Broken::kDurableBeforeFlush, "none"},
                      BrokenEngine{"FrameBeforeExtents", Broken::kFrameBeforeExtents, "none"},
                      BrokenEngine{"ReuseBeforeDurable", Broken::kReuseBeforeDurable, "none"},
                      BrokenEngine{"SamePlaceInLap", Broken::kSamePlaceInLap, "none"},
                      BrokenEngine{"NoZeroForFreshBlocks", Broken::kNoZeroForFreshBlocks, "none"},
                      BrokenEngine{"NoRevocation", Broken::kNoRevocation, "none"},
                      BrokenEngine{"DestageBeforeDurable", Broken::kDestageBeforeDurable, "none"},
                      BrokenEngine{"NoIntents", Broken::kNoIntents, "none"},
                      BrokenEngine{"TailBeforeFlush", Broken::kTailBeforeFlush, "none"},
                      BrokenEngine{"NoPoison", Broken::kNoPoison, "decay"}),
    [](const auto& info) { return info.param.name; });

class WrongModelTest : public ::testing::TestWithParam<ModelBug> {};

TEST_P(WrongModelTest, IsNoticed) {
  EXPECT_TRUE(IsNoticed(SimulateVolume, {.faults = {}, .model_bug = GetParam()}, 20'000));
}

INSTANTIATE_TEST_SUITE_P(Rules, WrongModelTest,
                         ::testing::Values(ModelBug::kTruncateKeepsTail, ModelBug::kRenameKeepsOldTarget,
                                           ModelBug::kAppendGoesToOldOffset, ModelBug::kUnlinkForgetsTime));

}  // namespace
}  // namespace stagefs::simulator

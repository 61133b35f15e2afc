// The volume, cut at every request of many workloads. See volume_sweep.h and docs/crash_testing.md.

#include "tests/crash/volume_sweep.h"

#include <chrono>
#include <cstdlib>
#include <iostream>

#include "gtest/gtest.h"
#include "tests/crash/volume_workloads.h"

namespace stagefs::crash {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

void Report(const VolumeSweep& sweep) {
  const VolumeSweepCounts& c = sweep.counts();
  std::cout << c.workloads << " workloads, " << c.cuts << " cuts, " << c.crash_states << " crash states, "
            << c.recoveries << " recoveries\n";
}

class VolumeSweepTest : public ::testing::TestWithParam<bool> {
 protected:
  void SweepAll(const std::vector<FileWorkload>& workloads) {
    VolumeSweepOptions options;
    options.fua = GetParam();
    options.seed = FromEnvironment("STAGEFS_CRASH_SEED", 1);
    VolumeSweep sweep(options);
    for (const FileWorkload& workload : workloads) {
      const absl::Status status = sweep.Sweep(workload);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    Report(sweep);
  }
};

TEST_P(VolumeSweepTest, SingleOperationsRecoverToAPrefix) { SweepAll(SingleOperations()); }

TEST_P(VolumeSweepTest, GroupsAreThereWholeOrNotAtAll) { SweepAll(GroupWorkloads()); }

TEST_P(VolumeSweepTest, ReusedSpaceAndReplacedNamesRecoverToAPrefix) { SweepAll(DirectedFileWorkloads()); }

// STAGEFS_CRASH_SECONDS: how long to go on with new seeds.
TEST_P(VolumeSweepTest, RandomOperationsRecoverToAPrefix) {
  const uint64_t first = FromEnvironment("STAGEFS_CRASH_SEED", 1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(FromEnvironment("STAGEFS_CRASH_SECONDS", 0));
  VolumeSweepOptions options;
  options.fua = GetParam();
  VolumeSweep sweep(options);
  for (uint64_t seed = first; seed < first + 20 || std::chrono::steady_clock::now() < end; ++seed) {
    const absl::Status status = sweep.Sweep(RandomFileWorkload(seed, 2 + seed % 12));
    ASSERT_TRUE(status.ok()) << "STAGEFS_CRASH_SEED=" << seed << ": " << status.message();
  }
  Report(sweep);
}

// The sweep must bite: what makes the engine wrong is seen in the files.
TEST(VolumeSweepBrokenTest, ViolatedInvariantsAreFound) {
  using core::Broken;
  for (const Broken broken : {Broken::kDurableBeforeFlush, Broken::kFrameBeforeExtents, Broken::kReuseBeforeDurable,
                              Broken::kNoRevocation, Broken::kNoIntents, Broken::kTailBeforeFlush}) {
    VolumeSweepOptions options;
    options.broken = broken;
    VolumeSweep sweep(options);
    std::string violation;
    for (const FileWorkload& workload : DirectedFileWorkloads()) {
      if (violation.empty()) violation = std::string(sweep.Sweep(workload).message());
    }
    EXPECT_NE(violation, "") << "violation " << static_cast<int>(broken) << " is not noticed";
    std::cout << "found: " << violation << "\n";
  }
}

TEST(VolumeSweepBrokenTest, AGroupInTwoChangesIsFound) {
  VolumeSweepOptions options;
  options.mistake = Mistake::kGroupInTwoChanges;
  VolumeSweep sweep(options);
  std::string violation;
  for (const FileWorkload& workload : GroupWorkloads()) {
    if (violation.empty()) violation = std::string(sweep.Sweep(workload).message());
  }
  EXPECT_NE(violation.find("cut at request"), std::string::npos) << violation;
  std::cout << "found: " << violation << "\n";
}

INSTANTIATE_TEST_SUITE_P(Stores, VolumeSweepTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "WithFua" : "WithoutFua"; });

}  // namespace
}  // namespace stagefs::crash

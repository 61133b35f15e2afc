// The search must bite: with one invariant of docs/recovery.md violated (core/broken.h), or with a mistake above the
// engine, it has to find a violation.

#include <iostream>
#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/crash/search.h"
#include "tests/crash/search_workloads.h"

namespace stagefs::crash {
namespace {

using core::Broken;

std::string FirstViolation(const SearchOptions& options) {
  Search search(options);
  for (const std::vector<SearchWorkload>& workloads : {AllOfOne(), Sample(3, 2000, 1)}) {
    for (const SearchWorkload& workload : workloads) {
      const absl::Status status = search.Try(workload);
      if (!status.ok()) return std::string(status.message());
    }
  }
  return "";
}

class SearchBrokenTest : public ::testing::TestWithParam<Broken> {};

TEST_P(SearchBrokenTest, AViolatedInvariantIsFound) {
  const std::string violation = FirstViolation({.broken = GetParam()});
  EXPECT_NE(violation, "") << "the search does not notice";
  std::cout << "found: " << violation << "\n";
}

INSTANTIATE_TEST_SUITE_P(Invariants, SearchBrokenTest,
                         ::testing::Values(Broken::kDurableBeforeFlush, Broken::kFrameBeforeExtents,
                                           Broken::kReuseBeforeDurable, Broken::kSamePlaceInLap,
                                           Broken::kNoZeroForFreshBlocks, Broken::kNoRevocation,
                                           Broken::kDestageBeforeDurable, Broken::kNoIntents,
                                           Broken::kTailBeforeFlush));

// Mistakes of the volume or its front end: the engine is right, and the tree is wrong.
class SearchMistakeTest : public ::testing::TestWithParam<Mistake> {};

TEST_P(SearchMistakeTest, AMistakeAboveTheEngineIsFound) {
  const std::string violation = FirstViolation({.mistake = GetParam()});
  EXPECT_TRUE(absl::StrContains(violation, "no prefix")) << violation;
  std::cout << "found: " << violation << "\n";
}

INSTANTIATE_TEST_SUITE_P(Mistakes, SearchMistakeTest,
                         ::testing::Values(Mistake::kReplaceInTwoChanges, Mistake::kWriteInTwoChanges,
                                           Mistake::kSyncDoesNotWait));

}  // namespace
}  // namespace stagefs::crash

// The part of the exhaustive crash search that is run each time: all workloads of one operation, and samples of those
// of two and three. //tests/crash:search runs all of two. See search.h and docs/testing.md.

#include "tests/crash/search.h"

#include <iostream>

#include "gtest/gtest.h"
#include "sal/random.h"
#include "tests/crash/search_workloads.h"

namespace stagefs::crash {
namespace {

// By the index of the start: each is a test of its own, so that they can be spread over shards.
class SearchTest : public ::testing::TestWithParam<size_t> {
 protected:
  void TryAll(const std::vector<SearchWorkload>& workloads) {
    Search search({});
    for (const SearchWorkload& workload : workloads) {
      if (workload.start != GetParam()) continue;
      const absl::Status status = search.Try(workload);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    const SearchCounts& c = search.counts();
    std::cout << c.workloads << " workloads, " << c.cuts << " cuts, " << c.states << " crash states, " << c.distinct
              << " distinct, " << c.checked << " checked\n";
  }
};

TEST_P(SearchTest, EveryWorkloadOfOneOperationRecoversToAPrefix) { TryAll(AllOfOne()); }

TEST_P(SearchTest, WorkloadsOfTwoOperationsRecoverToAPrefix) {
  const std::vector<SearchWorkload> all = AllOfTwo();
  sal::Random64 random(GetParam());
  std::vector<SearchWorkload> some;
  for (const SearchWorkload& workload : all) {
    if (random.OneIn(25)) some.push_back(workload);
  }
  TryAll(some);
}

TEST_P(SearchTest, WorkloadsOfThreeOperationsRecoverToAPrefix) { TryAll(Sample(3, 600, 1)); }

INSTANTIATE_TEST_SUITE_P(Starts, SearchTest, ::testing::Range<size_t>(0, 3),
                         [](const auto& info) { return SearchStarts()[info.param].name; });

TEST(SearchShortcutTest, StatesThatDifferInWhatIsNeverReadRecoverAlike) {
  Search quick({}), thorough({.check_alike = true});
  for (const SearchWorkload& workload : Sample(3, 200, 2)) {
    EXPECT_TRUE(quick.Try(workload).ok());
    const absl::Status status = thorough.Try(workload);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  EXPECT_LT(quick.counts().checked, quick.counts().distinct);
  EXPECT_EQ(thorough.counts().checked, thorough.counts().distinct);
}

TEST(SearchWorkloadTest, AWorkloadIsFoundAgainByItsName) {
  for (const SearchWorkload& workload : Sample(3, 50, 7)) {
    const absl::StatusOr<SearchWorkload> again = Parse(workload.name());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->name(), workload.name());
    EXPECT_EQ(again->start, workload.start);
  }
}

}  // namespace
}  // namespace stagefs::crash

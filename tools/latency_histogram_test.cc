#include "tools/latency_histogram.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

TEST(LatencyHistogramTest, NothingAddedIsZero) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.PercentileNs(50), 0);
  EXPECT_EQ(histogram.PercentileNs(100), 0);
}

TEST(LatencyHistogramTest, ShortDurationsAreExact) {
  LatencyHistogram histogram;
  for (int i = 1; i <= 100; ++i) histogram.Add(i);
  EXPECT_EQ(histogram.PercentileNs(0), 1);
  EXPECT_EQ(histogram.PercentileNs(1), 1);
  EXPECT_EQ(histogram.PercentileNs(50), 50);
  EXPECT_EQ(histogram.PercentileNs(99), 99);
  EXPECT_EQ(histogram.PercentileNs(100), 100);
}

TEST(LatencyHistogramTest, PercentilesAreThoseOfTheSortedDurationsWithinOneSixtyFourth) {
  std::mt19937_64 random(1);
  std::vector<int64_t> durations;
  LatencyHistogram histogram;
  for (int i = 0; i < 20000; ++i) {
    // As many in each order of magnitude, from 1 ns to 100 s.
    durations.push_back(std::pow(10, std::uniform_real_distribution<double>(0, 11)(random)));
    histogram.Add(durations.back());
  }
  std::sort(durations.begin(), durations.end());
  for (const double percent : {0.1, 1.0, 10.0, 50.0, 90.0, 99.0, 99.9}) {
    const int64_t exact = durations[std::ceil(durations.size() * percent / 100) - 1];
    EXPECT_GE(histogram.PercentileNs(percent), exact) << percent;
    EXPECT_LE(histogram.PercentileNs(percent), exact + exact / 64) << percent;
  }
  EXPECT_EQ(histogram.PercentileNs(100), durations.back());
  EXPECT_EQ(histogram.max_ns(), durations.back());
}

TEST(LatencyHistogramTest, AnyDurationHasABucket) {
  LatencyHistogram histogram;
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (const int64_t duration : {int64_t{-1}, int64_t{0}, kMost}) histogram.Add(duration);
  EXPECT_EQ(histogram.PercentileNs(60), 0);
  EXPECT_EQ(histogram.PercentileNs(100), kMost);
}

TEST(LatencyHistogramTest, MergedIsAsIfAddedToOne) {
  LatencyHistogram one, other, both;
  for (int i = 0; i < 1000; ++i) {
    (i % 3 == 0 ? one : other).Add(i * 997);
    both.Add(i * 997);
  }
  one.Merge(other);
  EXPECT_EQ(one.count(), both.count());
  EXPECT_EQ(one.max_ns(), both.max_ns());
  for (const double percent : {1.0, 50.0, 99.0}) EXPECT_EQ(one.PercentileNs(percent), both.PercentileNs(percent));
}

}  // namespace
}  // namespace stagefs::tools

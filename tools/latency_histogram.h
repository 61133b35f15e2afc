// LatencyHistogram: durations, counted in a fixed number of buckets, and the percentiles of them.
//
// Invariants:
//   * Memory does not depend on how much is added.
//   * A percentile is never below the duration that has that rank, and above it by at most 1/64 of it.
//
// Not thread-safe: each thread fills one of its own, and Merge() adds them up.

#ifndef STAGEFS_TOOLS_LATENCY_HISTOGRAM_H_
#define STAGEFS_TOOLS_LATENCY_HISTOGRAM_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace stagefs::tools {

class LatencyHistogram {
 public:
  LatencyHistogram();

  void Add(int64_t duration_ns);  // below 0 counts as 0
  void Merge(const LatencyHistogram& other);

  uint64_t count() const { return count_; }
  int64_t max_ns() const { return max_ns_; }
  // The shortest duration that at least `percent` of all do not exceed; 0 if there are none. `percent`: 0 to 100.
  int64_t PercentileNs(double percent) const;

 private:
  // Durations below 2 * kPerOctave ns have a bucket each; each doubling above them is divided into kPerOctave buckets.
  static constexpr int kPerOctaveBits = 6;
  static constexpr size_t kPerOctave = size_t{1} << kPerOctaveBits;
  static constexpr size_t kBuckets = (64 - kPerOctaveBits) * kPerOctave;

  static size_t BucketOf(uint64_t duration_ns);
  static uint64_t LastOf(size_t bucket);

  std::vector<uint64_t> buckets_;
  uint64_t count_ = 0;
  int64_t max_ns_ = 0;
};

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_LATENCY_HISTOGRAM_H_

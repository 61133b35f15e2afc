#include "tools/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace stagefs::tools {

LatencyHistogram::LatencyHistogram() : buckets_(kBuckets) {}

// The duration's highest kPerOctaveBits + 1 bits, and how far they had to be shifted.
size_t LatencyHistogram::BucketOf(uint64_t duration_ns) {
  const int shift = std::max(0, static_cast<int>(std::bit_width(duration_ns)) - kPerOctaveBits - 1);
  return shift * kPerOctave + (duration_ns >> shift);
}

uint64_t LatencyHistogram::LastOf(size_t bucket) {
  if (bucket < 2 * kPerOctave) return bucket;
  const size_t shift = bucket / kPerOctave - 1;
  return ((bucket - shift * kPerOctave + 1) << shift) - 1;
}

void LatencyHistogram::Add(int64_t duration_ns) {
  duration_ns = std::max<int64_t>(duration_ns, 0);
  ++buckets_[BucketOf(duration_ns)];
  ++count_;
  max_ns_ = std::max(max_ns_, duration_ns);
}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  for (size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  max_ns_ = std::max(max_ns_, other.max_ns_);
}

int64_t LatencyHistogram::PercentileNs(double percent) const {
  const double rank = std::max(1.0, std::ceil(count_ * percent / 100));
  uint64_t below = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    below += buckets_[i];
    if (below >= rank) return std::min<int64_t>(LastOf(i), max_ns_);
  }
  return max_ns_;
}

}  // namespace stagefs::tools

#include "tools/bench_meter.h"

#include <chrono>

namespace stagefs::tools {

namespace {

constexpr double kMiB = 1 << 20;

}  // namespace

double BenchResult::Rate(const BenchRow& row) const {
  if (busy_ns == 0) return 0;
  return (row.throughput ? bytes / kMiB : operations) * 1e9 / busy_ns;
}

void BenchResult::Add(const BenchResult& other) {
  operations += other.operations;
  bytes += other.bytes;
  busy_ns += other.busy_ns;
  latencies.Merge(other.latencies);
}

int64_t SteadyNowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace stagefs::tools

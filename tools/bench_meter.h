// What a row of `stagefs bench` is, how long it may take, and the clock that measures it.
//
// The time between two calls of a BenchMeter belongs to the operation that ends with the second one: one reading of the
// clock an operation, which also says whether there is time for another.
//
// Not thread-safe: threads have a meter each, with the same settings.

#ifndef STAGEFS_TOOLS_BENCH_METER_H_
#define STAGEFS_TOOLS_BENCH_METER_H_

#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/strings/string_view.h"
#include "tools/bench_directory.h"
#include "tools/latency_histogram.h"

namespace stagefs::tools {

struct BenchRow {
  absl::string_view name;  // as --only takes it
  absl::string_view what;
  bool throughput;         // counted in MiB/s, not in operations a second
  bool reads;              // depends on what is cached
};

struct BenchSettings {
  BenchScale scale;
  int64_t row_ns = 1'000'000'000;           // how long a row takes, not counting what it needs beforehand
  bool cold = false;                        // reads begin with the page cache dropped: for root alone
  const std::atomic<bool>* stop = nullptr;  // turns true to end a row early; not null
};

// What was measured.
struct BenchResult {
  uint64_t operations = 0;
  uint64_t bytes = 0;
  int64_t busy_ns = 0;
  LatencyHistogram latencies;  // of the single operations; in a row of several threads, of each thread's

  // MiB or operations a second.
  double Rate(const BenchRow& row) const;
  // One more round of the same row.
  void Add(const BenchResult& other);
};

int64_t SteadyNowNs();

// Adds up the time of a row. Resume() begins a stretch that counts: what happened since the last call does not.
class BenchMeter {
 public:
  // `settings` must outlive this object.
  explicit BenchMeter(const BenchSettings& settings) : settings_(settings) {}

  bool Going() const { return result_.busy_ns < settings_.row_ns && !Stopped(); }
  bool Stopped() const { return settings_.stop->load(std::memory_order_relaxed); }

  void Resume() { mark_ns_ = SteadyNowNs(); }
  // An operation has ended, and the next one begins.
  void Count(uint64_t bytes = 0) {
    result_.latencies.Add(Charge());
    ++result_.operations;
    result_.bytes += bytes;
  }
  // Something has ended that takes time, but is no operation.
  int64_t Charge() {
    const int64_t now_ns = SteadyNowNs();
    const int64_t took_ns = now_ns - std::exchange(mark_ns_, now_ns);
    result_.busy_ns += took_ns;
    return took_ns;
  }

  BenchResult& result() { return result_; }

 private:
  const BenchSettings& settings_;
  int64_t mark_ns_ = 0;
  BenchResult result_;
};

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_BENCH_METER_H_

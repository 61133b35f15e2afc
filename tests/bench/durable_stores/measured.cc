#include "tests/bench/durable_stores/measured.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "tools/latency_histogram.h"

namespace stagefs::bench {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

int64_t NsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(to - from).count();
}

}  // namespace

int MakeFile(const char* path) {
  const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd < 0) Die(path);
  const std::vector<char> piece(1 << 20, 'p');
  for (size_t written = 0; written < kFileBytes; written += piece.size()) {
    if (write(fd, piece.data(), piece.size()) != static_cast<ssize_t>(piece.size())) Die(path);
  }
  if (fsync(fd) != 0) Die(path);
  return fd;
}

int Measure(double seconds, const std::function<bool(uint64_t offset)>& store) {
  std::mt19937_64 random(1);
  tools::LatencyHistogram latencies;
  const Clock::time_point start = Clock::now();
  Clock::time_point now = start;
  while (NsBetween(start, now) < seconds * 1e9) {
    if (!store(random() % (kFileBytes / kStoreBytes) * kStoreBytes)) Die("store");
    const Clock::time_point before = now;
    now = Clock::now();
    latencies.Add(NsBetween(before, now));
  }
  std::printf("{\"operations\": %llu, \"rate\": %f, \"p50_us\": %f, \"p99_us\": %f}\n",
              static_cast<unsigned long long>(latencies.count()), latencies.count() * 1e9 / NsBetween(start, now),
              latencies.PercentileNs(50) / 1e3, latencies.PercentileNs(99) / 1e3);
  return 0;
}

double SecondsOf(int argc, char** argv) {
  const double seconds = argc == 3 ? std::atof(argv[2]) : 0;
  if (seconds > 0) return seconds;
  std::fprintf(stderr, "usage: %s FILE SECONDS\n", argv[0]);
  std::exit(1);
}

}  // namespace stagefs::bench

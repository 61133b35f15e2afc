// DsaBenchSession: a connection, a file, memory and a queue for `stagefs dsa-bench`, and the measuring of its cases.
//
// The file's content is replaced; it is left empty. Not thread-safe.

#ifndef STAGEFS_TOOLS_DSA_BENCH_SESSION_H_
#define STAGEFS_TOOLS_DSA_BENCH_SESSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/dsa/client/stagefs/dsa.h"
#include "tools/dsa_bench_case.h"
#include "tools/latency_histogram.h"

namespace stagefs::tools {

struct DsaBenchSettings {
  std::string provider;                  // empty: the fastest that the server allows
  std::string key_file;                  // empty: none
  // How much of the file is used; at least the largest size of a case. 0: for work of up to kSmallBytes what fits the
  // staging area easily, else so much that reads have to go to the store.
  uint64_t span_bytes = 0;
  int64_t case_ns = 1'000'000'000;       // how long a case takes
  bool sleep = false;                    // wait for completions in dsa_wait(), not by polling alone
};

inline constexpr uint64_t kSmallBytes = 32 << 10;
inline constexpr uint64_t kSmallSpanBytes = 4 << 20, kLargeSpanBytes = 256 << 20;

inline uint64_t SpanOf(const DsaBenchSettings& settings, const DsaCase& work) {
  if (settings.span_bytes > 0) return settings.span_bytes;
  return work.IsTransfer() && work.size_bytes > kSmallBytes ? kLargeSpanBytes : kSmallSpanBytes;
}

struct DsaBenchResult {
  uint64_t operations = 0;
  int64_t busy_ns = 0;
  LatencyHistogram latencies;  // from the posting of an operation to its completion in the program's hands

  double Rate() const { return busy_ns > 0 ? operations * 1e9 / busy_ns : 0; }  // a second
};

class DsaBenchSession {
 public:
  // Connects, and opens `path` (it is made if need be).
  static absl::StatusOr<std::unique_ptr<DsaBenchSession>> Open(const std::string& address, const std::string& path,
                                                               const DsaBenchSettings& settings);
  ~DsaBenchSession();
  DsaBenchSession(const DsaBenchSession&) = delete;
  DsaBenchSession& operator=(const DsaBenchSession&) = delete;

  // The provider in use.
  std::string provider() const;
  // Runs `work` for settings.case_ns on a queue of its own. Errors: those of the first operation that failed;
  // DeadlineExceeded: nothing has completed for half a minute.
  absl::StatusOr<DsaBenchResult> Measure(const DsaCase& work);
  // Empties the file and closes everything. Called once, at the end.
  absl::Status Close();

 private:
  class Run;

  explicit DsaBenchSession(const DsaBenchSettings& settings) : settings_(settings) {}
  absl::Status Connect(const std::string& address, const std::string& path);
  absl::Status Register(size_t size_bytes);
  // Sees to it that the file has `span_bytes` of data, durable: in small writes, so that it lies in the staging area
  // where that is large enough.
  absl::Status Fill(uint64_t span_bytes);

  const DsaBenchSettings settings_;
  std::string path_;
  uint64_t filled_bytes_ = 0;
  dsa_connection* connection_ = nullptr;
  dsa_file* file_ = nullptr;
  dsa_memory* memory_ = nullptr;
  std::vector<char> bytes_;  // what memory_ registers
};

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_DSA_BENCH_SESSION_H_

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
  uint64_t span_bytes = 64 << 20;        // how much of the file is used; at least the largest size of a case
  int64_t case_ns = 1'000'000'000;       // how long a case takes
  bool sleep = false;                    // wait for completions in dsa_wait(), not by polling alone
};

struct DsaBenchResult {
  uint64_t operations = 0;
  int64_t busy_ns = 0;
  LatencyHistogram latencies;  // from the posting of an operation to its completion in the program's hands

  double Rate() const { return busy_ns > 0 ? operations * 1e9 / busy_ns : 0; }  // a second
};

class DsaBenchSession {
 public:
  // Connects, opens `path` (it is made if need be) and fills it with settings.span_bytes of data, durable.
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
  absl::Status Fill();

  const DsaBenchSettings settings_;
  std::string path_;
  dsa_connection* connection_ = nullptr;
  dsa_file* file_ = nullptr;
  dsa_memory* memory_ = nullptr;
  std::vector<char> bytes_;  // what memory_ registers
};

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_DSA_BENCH_SESSION_H_

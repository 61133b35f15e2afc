// BenchReport: what `stagefs bench` has measured and on what, as a table for a person or as JSON.

#ifndef STAGEFS_TOOLS_BENCH_REPORT_H_
#define STAGEFS_TOOLS_BENCH_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tools/bench_meter.h"

namespace stagefs::tools {

// One row in one directory. Without any rounds: it failed.
class BenchCell {
 public:
  void AddRound(const BenchRow& row, const BenchResult& result);

  bool empty() const { return rates_.empty(); }
  const std::vector<double>& rates() const { return rates_; }  // a round each
  const BenchResult& total() const { return total_; }
  // The median of the rounds; 0 without any.
  double Rate() const;

 private:
  std::vector<double> rates_;
  BenchResult total_;
};

struct BenchReport {
  struct Directory {
    std::string path;
    std::string type;    // of the file system: "ext4"
    std::string source;  // "/dev/sda1"
  };

  int64_t wall_ns = 0;  // when it began
  std::string kernel;
  uint64_t cpus = 0;
  std::string cpu_model;

  uint64_t rounds = 1;
  BenchSettings settings;
  BenchScale wanted;  // more than in the settings if there was no room for it
  std::vector<Directory> directories;
  std::vector<const BenchRow*> rows;
  std::vector<std::vector<BenchCell>> cells;  // by row, then by directory

  std::string Table() const;
  std::string Json() const;
};

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_BENCH_REPORT_H_

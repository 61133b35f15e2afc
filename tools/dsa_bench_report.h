// DsaBenchReport: what `stagefs dsa-bench` has measured, as a table for a person or as JSON.

#ifndef STAGEFS_TOOLS_DSA_BENCH_REPORT_H_
#define STAGEFS_TOOLS_DSA_BENCH_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tools/dsa_bench_case.h"
#include "tools/dsa_bench_session.h"

namespace stagefs::tools {

struct DsaBenchReport {
  struct Row {
    DsaCase work;
    DsaBenchResult result;
  };

  int64_t wall_ns = 0;  // when it began
  std::string address;
  std::string provider;
  DsaBenchSettings settings;
  std::vector<Row> rows;

  std::string Table() const;
  std::string Json() const;
};

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_DSA_BENCH_REPORT_H_

// The measurements of `stagefs bench`: rows, each a small piece of work that is repeated until its time is up.
//
// What a row needs beforehand (a file laid out, a warm or a dropped cache) is made outside the time that it measures.
// Random places come in the same order in every run.

#ifndef STAGEFS_TOOLS_BENCH_WORK_H_
#define STAGEFS_TOOLS_BENCH_WORK_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/bench_directory.h"
#include "tools/bench_meter.h"

namespace stagefs::tools {

// All rows, in the order in which they run. They live as long as the process.
std::vector<const BenchRow*> AllBenchRows();
// The rows of a list such as "create,stat", in the order of AllBenchRows(). Errors: InvalidArgument, with all names.
absl::StatusOr<std::vector<const BenchRow*>> ParseBenchRows(absl::string_view list);

// Does the work of a row in `directory`. What later rows use again stays there: a file of the full size, small files.
// Errors: Cancelled (stopped), ResourceExhausted (no room), whatever else the file system answers; the message names
// the row and the directory.
absl::StatusOr<BenchResult> RunBenchRow(const BenchRow& row, const BenchDirectory& directory,
                                        const BenchSettings& settings);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_BENCH_WORK_H_

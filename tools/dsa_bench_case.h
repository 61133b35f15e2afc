// A case of `stagefs dsa-bench`: one kind of work, its size and how much of it is under way at once.

#ifndef STAGEFS_TOOLS_DSA_BENCH_CASE_H_
#define STAGEFS_TOOLS_DSA_BENCH_CASE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace stagefs::tools {

enum class DsaOperation { kRead, kWrite, kCompareSwap, kFetchAdd, kFlush, kGroup };

struct DsaCase {
  DsaOperation operation = DsaOperation::kWrite;
  uint64_t size_bytes = 64;  // of a read or write; of a group: of each of its writes; else unused
  uint64_t depth = 1;        // operations under way; a group is one
  bool durable = false;      // changes: timed until durable, not until staged

  // "write", "read", "cas", "add", "flush", "group".
  absl::string_view Name() const;
  bool IsTransfer() const;  // has a size
  bool IsChange() const;    // can be durable
  // Pieces of work posted for an operation.
  uint64_t works() const;
};

// How many writes a group has.
inline constexpr uint64_t kGroupWrites = 8;

// "write,read". Errors: InvalidArgument.
absl::StatusOr<std::vector<DsaOperation>> ParseDsaOperations(absl::string_view text);
// "64,4k,1M": 1 byte to 1 GiB each. Errors: InvalidArgument.
absl::StatusOr<std::vector<uint64_t>> ParseDsaSizes(absl::string_view text);
// "1,64". Errors: InvalidArgument.
absl::StatusOr<std::vector<uint64_t>> ParseDsaDepths(absl::string_view text);

// What is measured unless the command line says otherwise.
std::vector<DsaCase> StandardDsaCases();
// Each operation with each size (if it has one) and each depth. Errors: InvalidArgument, if a case has more work under
// way than a queue takes.
absl::StatusOr<std::vector<DsaCase>> CombineDsaCases(const std::vector<DsaOperation>& operations,
                                                     const std::vector<uint64_t>& sizes,
                                                     const std::vector<uint64_t>& depths, bool durable);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_DSA_BENCH_CASE_H_

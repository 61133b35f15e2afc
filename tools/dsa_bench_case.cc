#include "tools/dsa_bench_case.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "sal/open_store.h"
#include "sal/status_macros.h"
#include "tools/arguments.h"

namespace stagefs::tools {
namespace {

constexpr uint64_t kLargestQueue = 1024;
constexpr uint64_t kLargestSize = uint64_t{1} << 30;

struct Kind {
  DsaOperation operation;
  absl::string_view name;
};
constexpr Kind kKinds[] = {
    {DsaOperation::kRead, "read"},     {DsaOperation::kWrite, "write"}, {DsaOperation::kCompareSwap, "cas"},
    {DsaOperation::kFetchAdd, "add"},  {DsaOperation::kFlush, "flush"}, {DsaOperation::kGroup, "group"},
};

absl::StatusOr<DsaOperation> ParseOperation(absl::string_view text) {
  for (const Kind& kind : kKinds) {
    if (kind.name == text) return kind.operation;
  }
  return absl::InvalidArgumentError(absl::StrCat("no operation is called ", text));
}

}  // namespace

absl::string_view DsaCase::Name() const {
  return std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& kind) {
           return kind.operation == operation;
         })->name;
}

bool DsaCase::IsTransfer() const {
  return operation == DsaOperation::kRead || operation == DsaOperation::kWrite || operation == DsaOperation::kGroup;
}

bool DsaCase::IsChange() const { return operation != DsaOperation::kRead && operation != DsaOperation::kFlush; }

// A group begins and ends.
uint64_t DsaCase::works() const { return operation == DsaOperation::kGroup ? kGroupWrites + 2 : 1; }

absl::StatusOr<std::vector<DsaOperation>> ParseDsaOperations(absl::string_view text) {
  std::vector<DsaOperation> operations;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    ASSIGN_OR_RETURN(operations.emplace_back(), ParseOperation(part));
  }
  return operations;
}

absl::StatusOr<std::vector<uint64_t>> ParseDsaSizes(absl::string_view text) {
  std::vector<uint64_t> sizes;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    ASSIGN_OR_RETURN(sizes.emplace_back(), sal::ParseSize(part));
    if (sizes.back() < 1 || sizes.back() > kLargestSize) {
      return absl::InvalidArgumentError(absl::StrCat(part, " is not between 1 byte and 1 GiB"));
    }
  }
  return sizes;
}

absl::StatusOr<std::vector<uint64_t>> ParseDsaDepths(absl::string_view text) {
  std::vector<uint64_t> depths;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    ASSIGN_OR_RETURN(depths.emplace_back(), ParseCount(part));
    if (depths.back() < 1 || depths.back() > kLargestQueue) {
      return absl::InvalidArgumentError(absl::StrCat(part, " is not between 1 and ", kLargestQueue));
    }
  }
  return depths;
}

std::vector<DsaCase> StandardDsaCases() {
  using Do = DsaOperation;
  constexpr uint64_t k64 = 64, k4K = 4 << 10, k1M = 1 << 20;
  return {
      {Do::kWrite, k64, 1, false},  {Do::kWrite, k64, 64, false}, {Do::kWrite, k64, 1, true},
      {Do::kWrite, k64, 64, true},  {Do::kWrite, k4K, 1, false},  {Do::kWrite, k4K, 64, false},
      {Do::kWrite, k4K, 1, true},   {Do::kWrite, k4K, 64, true},  {Do::kWrite, k1M, 8, false},
      {Do::kRead, k64, 1, false},   {Do::kRead, k4K, 1, false},   {Do::kRead, k4K, 64, false},
      {Do::kRead, k1M, 8, false},   {Do::kCompareSwap, 0, 1, false},
      {Do::kFetchAdd, 0, 64, false}, {Do::kFlush, 0, 1, false},
      {Do::kGroup, k64, 1, false},  {Do::kGroup, k64, 16, false}, {Do::kGroup, k64, 16, true},
  };
}

absl::StatusOr<std::vector<DsaCase>> CombineDsaCases(const std::vector<DsaOperation>& operations,
                                                     const std::vector<uint64_t>& sizes,
                                                     const std::vector<uint64_t>& depths, bool durable) {
  std::vector<DsaCase> cases;
  for (const DsaOperation operation : operations) {
    const bool has_size = DsaCase{operation}.IsTransfer();
    for (const uint64_t size_bytes : has_size ? sizes : std::vector<uint64_t>{0}) {
      for (const uint64_t depth : depths) {
        DsaCase added = {operation, size_bytes, depth, durable};
        added.durable = durable && added.IsChange();
        if (added.works() * depth > kLargestQueue) {
          return absl::InvalidArgumentError(absl::StrCat(depth, " times ", added.works(), " pieces of work for ",
                                                         added.Name(), " are more than the ", kLargestQueue,
                                                         " of a queue"));
        }
        cases.push_back(added);
      }
    }
  }
  return cases;
}

}  // namespace stagefs::tools

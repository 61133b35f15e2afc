// Fuzzes the store with faults: whatever specifications and requests, each request completes exactly once, and what no
// fault touched is as on a store without faults. An input is a line of specifications, separated by spaces, and then
// requests.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "sal/check.h"
#include "sal/fault_store.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "tests/fuzz/input.h"

namespace stagefs::sal {
namespace {

constexpr uint64_t kStoreBytes = 128 << 10;
constexpr uint64_t kUnitBytes = 4096;
constexpr int kMostRequests = 64;

SimulatedStoreOptions StoreOptions() {
  SimulatedStoreOptions options;
  options.size_bytes = kStoreBytes;
  return options;
}

// A caller's request, with its memory, and a pattern in it.
struct Asked {
  Request request;
  std::unique_ptr<std::byte, decltype(&std::free)> memory{nullptr, &std::free};
  int completions = 0;
  absl::Status status;
};

std::unique_ptr<Asked> AnyRequest(fuzz::Input& input) {
  auto asked = std::make_unique<Asked>();
  Request& request = asked->request;
  request.op = static_cast<Request::Op>(input.Below(5));
  request.fua = request.op == Request::Op::kWrite && input.Bool();
  if (request.op != Request::Op::kFlush) {
    // Sometimes beyond the end.
    request.offset_bytes = input.Below(kStoreBytes / kUnitBytes + 2) * kUnitBytes;
    request.length_bytes = (1 + input.Below(8)) * kUnitBytes;
  }
  if (request.op == Request::Op::kRead || request.op == Request::Op::kWrite) {
    asked->memory.reset(static_cast<std::byte*>(std::aligned_alloc(kUnitBytes, request.length_bytes)));
    std::memset(asked->memory.get(), input.Byte(), request.length_bytes);
    const uint64_t first = input.Bool() ? request.length_bytes : kUnitBytes;
    request.buffers.push_back({asked->memory.get(), first});
    if (first < request.length_bytes) {
      request.buffers.push_back({asked->memory.get() + first, request.length_bytes - first});
    }
  }
  request.done = [raw = asked.get()](absl::Status status) {
    ++raw->completions;
    raw->status = std::move(status);
  };
  return asked;
}

std::vector<std::byte> ContentOf(const SimulatedStore& store) {
  std::vector<std::byte> content(kStoreBytes);
  store.ReadRaw(0, content.data(), kStoreBytes);
  return content;
}

void Fuzz(fuzz::Input input) {
  SimulatedEnvironment environment(1);
  SimulatedStore inner(environment, StoreOptions());
  FaultStore store(inner, &environment);
  const absl::string_view line = input.Bytes(std::min(input.rest().find('\n'), input.rest().size()));
  input.Byte();
  for (absl::string_view spec : absl::StrSplit(line, ' ', absl::SkipEmpty())) {
    const absl::StatusOr<Fault> fault = ParseFault(spec);
    STAGEFS_CHECK(fault.ok() || absl::IsInvalidArgument(fault.status()));
    if (fault.ok()) store.Add(*fault);
  }
  SimulatedEnvironment plain_environment(1);
  SimulatedStore plain(plain_environment, StoreOptions());
  uint64_t count = 0;
  bool may_differ = false;
  while (!input.empty() && count < kMostRequests) {
    const fuzz::Input same = input;
    const std::unique_ptr<Asked> asked = AnyRequest(input);
    fuzz::Input again = same;
    const std::unique_ptr<Asked> expected = AnyRequest(again);
    const uint64_t hits = store.hits();
    store.Submit(&asked->request);
    environment.RunUntilIdle();
    plain.Submit(&expected->request);
    plain_environment.RunUntilIdle();
    STAGEFS_CHECK(asked->completions == 1 && expected->completions == 1);
    STAGEFS_CHECK(store.request_count() == ++count);
    STAGEFS_CHECK(store.hits() == hits || store.hits() == hits + 1);
    if (store.hits() == hits) {
      STAGEFS_CHECK(asked->status.code() == expected->status.code());
      const uint64_t bytes = asked->memory == nullptr ? 0 : asked->request.length_bytes;
      STAGEFS_CHECK(may_differ || bytes == 0 || std::memcmp(asked->memory.get(), expected->memory.get(), bytes) == 0);
    } else if (asked->request.op != Request::Op::kRead) {
      may_differ = true;
    }
    if (asked->request.op == Request::Op::kDiscard) may_differ = true;  // reads as anything
  }
  STAGEFS_CHECK(may_differ || ContentOf(inner) == ContentOf(plain));
}

}  // namespace
}  // namespace stagefs::sal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::sal::Fuzz({data, size});
  return 0;
}

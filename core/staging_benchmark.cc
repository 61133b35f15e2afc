// What a buffer for an extent costs: taken and given back, with as much of the area in use below it as there may be.
//
//   bazel run //core:staging_benchmark

#include <cstdint>
#include <memory>
#include <vector>

#include "benchmark/benchmark.h"
#include "core/staging.h"
#include "sal/check.h"

namespace stagefs::core {
namespace {

constexpr uint64_t kSlabs = 64;

void BM_AllocateAndFree(benchmark::State& state) {
  const auto memory = std::make_shared<StagingMemory>(kSlabs * StagingMemory::kSlabBytes);
  std::vector<std::shared_ptr<StagedBuffer>> in_use;
  for (int64_t i = 0; i < state.range(1); ++i) {
    in_use.push_back(memory->Allocate(StagingMemory::kSlabBytes / kBlockBytes));
  }
  for (auto _ : state) STAGEFS_CHECK(memory->Allocate(state.range(0)) != nullptr);
}
BENCHMARK(BM_AllocateAndFree)->ArgNames({"blocks", "slabs_in_use"})->ArgsProduct({{1, 32, 512}, {0, kSlabs - 1}});

}  // namespace
}  // namespace stagefs::core

BENCHMARK_MAIN();

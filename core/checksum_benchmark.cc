// What checksums cost, beside copying the same bytes: the yardstick for what memory allows.
//
//   bazel run //core:checksum_benchmark

#include <cstdint>
#include <cstring>
#include <vector>

#include "benchmark/benchmark.h"
#include "core/bytes.h"
#include "core/checksum.h"
#include "core/format.h"
#include "sal/check.h"

namespace stagefs::core {
namespace {

constexpr uint64_t kSalt = 0x5a17;
constexpr int64_t kCachedBytes = 1 << 20;
constexpr int64_t kUncachedBytes = 256 << 20;

// Pieces of an area of memory, one after the other and from the start again. They come from a cache if it holds the
// area, and from memory if not.
class Pieces {
 public:
  Pieces(uint64_t piece_bytes, uint64_t area_bytes) : piece_bytes_(piece_bytes), area_(area_bytes, std::byte{0xa7}) {}

  const std::byte* Next() {
    if (at_ + piece_bytes_ > area_.size()) at_ = 0;
    const std::byte* const piece = area_.data() + at_;
    at_ += piece_bytes_;
    return piece;
  }

 private:
  const uint64_t piece_bytes_;
  const std::vector<std::byte> area_;
  uint64_t at_ = 0;
};

void BM_Copy(benchmark::State& state) {
  Pieces pieces(state.range(0), state.range(1));
  std::vector<std::byte> copy(state.range(0));
  for (auto _ : state) {
    std::memcpy(copy.data(), pieces.Next(), copy.size());
    benchmark::DoNotOptimize(copy.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void BM_Hash(benchmark::State& state) {
  Pieces pieces(state.range(0), state.range(1));
  for (auto _ : state) benchmark::DoNotOptimize(Hash(pieces.Next(), state.range(0), kSalt));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"bytes", "area"});
  benchmark->ArgsProduct({{64, 512, 4096, 64 << 10, 1 << 20}, {kCachedBytes, kUncachedBytes}});
}
BENCHMARK(BM_Copy)->Apply(Sizes);
BENCHMARK(BM_Hash)->Apply(Sizes);

void BM_ContentHash(benchmark::State& state) {
  Pieces blocks(kBlockBytes, state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(ContentHash(blocks.Next()));
  state.SetBytesProcessed(state.iterations() * kBlockBytes);
}
BENCHMARK(BM_ContentHash)->ArgName("area")->Arg(kCachedBytes)->Arg(kUncachedBytes);

void BM_TableEntry(benchmark::State& state) {
  Block block = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(TableEntry(kSalt, block, kSalt));
    ++block;
  }
}
BENCHMARK(BM_TableEntry);

// A block of the checksum table in which `sectors` sectors have entries.
std::vector<std::byte> TableBlock(int64_t sectors) {
  std::vector<std::byte> block(kBlockBytes);
  for (int64_t i = 0; i < sectors; ++i) {
    TableSector sector = {};
    for (uint64_t& entry : sector.entries) entry = TableEntry(kSalt, i, kSalt);
    Store(block.data() + i * kTableSectorBytes, sector);
  }
  return block;
}

void BM_SealTableBlock(benchmark::State& state) {
  std::vector<std::byte> block = TableBlock(state.range(0));
  for (auto _ : state) {
    SealTableBlock(block.data(), 1, kSalt);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kBlockBytes);
}
BENCHMARK(BM_SealTableBlock)->ArgName("sectors")->Arg(0)->Arg(kSectorsPerTableBlock);

void BM_CheckTableBlock(benchmark::State& state) {
  std::vector<std::byte> block = TableBlock(state.range(0));
  SealTableBlock(block.data(), 1, kSalt);
  for (auto _ : state) STAGEFS_CHECK(CheckTableBlock(block.data(), 1, kSalt) == 0);
  state.SetBytesProcessed(state.iterations() * kBlockBytes);
}
BENCHMARK(BM_CheckTableBlock)->ArgName("sectors")->Arg(0)->Arg(kSectorsPerTableBlock);

}  // namespace
}  // namespace stagefs::core

BENCHMARK_MAIN();

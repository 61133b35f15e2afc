// What the index of cached blocks costs, and the table of checksums beside it: what every block costs that is read,
// changed or brought home.
//
//   bazel run //core:block_cache_benchmark

#include <cstdint>
#include <utility>

#include "benchmark/benchmark.h"
#include "core/block_cache.h"
#include "core/checksum.h"
#include "core/checksum_table.h"
#include "core/format.h"
#include "core/image.h"
#include "sal/check.h"

namespace stagefs::core {
namespace {

constexpr uint64_t kFewBlocks = 1 << 10;
constexpr uint64_t kManyBlocks = 1 << 16;
constexpr uint64_t kStride = 7919;  // odd: its multiples visit every block of a power of two

// A cache that is full of clean blocks, numbered from 0.
class FullCache {
 public:
  explicit FullCache(uint64_t block_count)
      : images_(block_count),
        table_images_(3 * TableBlocks(block_count)),
        table_(&table_images_, TableBlocks(block_count)) {
    for (Block block = 0; block < block_count; ++block) cache_.InsertClean(block, images_.Allocate(), false);
    for (uint64_t i = 0; i < TableBlocks(block_count); ++i) table_.Insert(i, table_images_.Allocate());
  }

  BlockCache& operator*() { return cache_; }
  BlockCache* operator->() { return &cache_; }
  ChecksumTable& table() { return table_; }
  void MakeDirty(Block block) { cache_.SetDirty(block, cache_.Find(block)->image, /*lsn=*/1); }

 private:
  static uint64_t TableBlocks(uint64_t block_count) { return ChecksumTable::IndexOf(block_count) + 1; }

  ImagePool images_;
  ImagePool table_images_;
  ChecksumTable table_;
  BlockCache cache_{&images_, &table_};
};

void BM_Find(benchmark::State& state) {
  FullCache cache(state.range(0));
  uint64_t number = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(cache->Find(number % state.range(0)));
    number += kStride;
  }
}
BENCHMARK(BM_Find)->ArgName("cached")->Arg(kFewBlocks)->Arg(kManyBlocks);

void BM_FindMissing(benchmark::State& state) {
  FullCache cache(state.range(0));
  Block block = state.range(0);
  for (auto _ : state) benchmark::DoNotOptimize(cache->Find(block++));
}
BENCHMARK(BM_FindMissing)->ArgName("cached")->Arg(kFewBlocks)->Arg(kManyBlocks);

// The index alone: the entries have no image.
void BM_InsertAndErase(benchmark::State& state) {
  FullCache cache(state.range(0));
  Block block = state.range(0);
  for (auto _ : state) {
    cache->InsertClean(block, ImageRef(), false);
    cache->Erase({block, 1});
    ++block;
  }
}
BENCHMARK(BM_InsertAndErase)->ArgName("cached")->Arg(kFewBlocks)->Arg(kManyBlocks);

void BM_EvictAndInsert(benchmark::State& state) {
  FullCache cache(state.range(0));
  Block block = state.range(0);
  for (auto _ : state) {
    ImageRef image = cache->Allocate();
    STAGEFS_CHECK(bool{image});
    cache->InsertClean(block++, std::move(image), false);
  }
  STAGEFS_CHECK(cache->size() == static_cast<uint64_t>(state.range(0)));
}
BENCHMARK(BM_EvictAndInsert)->ArgName("cached")->Arg(kFewBlocks)->Arg(kManyBlocks);

// What a write of an extent, a release or a hole does to the cache when it holds nothing of the range.
void BM_EraseRangeNotCached(benchmark::State& state) {
  FullCache cache(kManyBlocks);
  for (auto _ : state) cache->Erase({kManyBlocks, static_cast<uint64_t>(state.range(0))});
}
BENCHMARK(BM_EraseRangeNotCached)->ArgName("range")->Arg(1)->Arg(256)->Arg(kManyBlocks)->Arg(16 * kManyBlocks);

// A block becomes dirty and goes home, beside others that are dirty.
void BM_SetDirtyAndMarkHome(benchmark::State& state) {
  FullCache cache(kManyBlocks);
  for (int64_t i = 0; i < state.range(0); ++i) cache.MakeDirty(2 * i);
  uint64_t number = 0;
  for (auto _ : state) {
    const Block block = number % kManyBlocks | 1;
    BlockCache::Entry* const entry = cache->SetDirty(block, cache->Find(block)->image, /*lsn=*/2);
    cache->MarkHome({block, entry->image, entry->lsn, entry->intent_lsn, entry->incarnation, entry});
    number += kStride;
  }
  STAGEFS_CHECK(cache->dirty_count() == static_cast<uint64_t>(state.range(0)));
}
BENCHMARK(BM_SetDirtyAndMarkHome)->ArgName("dirty")->Arg(0)->Arg(kManyBlocks / 4);

// The snapshot that a checkpoint begins with; the monitor's lock is held meanwhile.
void BM_DirtyImages(benchmark::State& state) {
  FullCache cache(kManyBlocks);
  for (int64_t i = 0; i < state.range(0); ++i) cache.MakeDirty(2 * i);
  std::vector<BlockCache::DirtyImage> images;
  for (auto _ : state) {
    cache->GetDirtyImages(&images);
    benchmark::DoNotOptimize(images.data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_DirtyImages)->ArgName("dirty")->Arg(kFewBlocks)->Arg(kManyBlocks / 4);

// What an extent pays for each of its blocks, with so many blocks of the table to be written.
void BM_SetTableEntry(benchmark::State& state) {
  FullCache cache(kManyBlocks);
  for (int64_t i = 0; i < state.range(0); ++i) cache.table().Hold(i);
  uint64_t number = 0;
  for (auto _ : state) {
    cache.table().Set(number % kManyBlocks, kFirstChecksum + number);
    ++number;
  }
}
BENCHMARK(BM_SetTableEntry)->ArgName("committed")->Arg(0)->Arg(kManyBlocks / kEntriesPerTableBlock);

void BM_SetTableRange(benchmark::State& state) {
  FullCache cache(kManyBlocks);
  for (auto _ : state) cache.table().SetRange({0, static_cast<uint64_t>(state.range(0))}, kNeverWritten);
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_SetTableRange)->ArgName("range")->Arg(1)->Arg(256)->Arg(kManyBlocks);

}  // namespace
}  // namespace stagefs::core

BENCHMARK_MAIN();

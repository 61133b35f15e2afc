// What a mapping costs over a server that does nothing: faults, loads and stores without them, and Persist().
//
//   bazel run //fs/dsa/client:mapping_benchmark

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <vector>

#include "benchmark/benchmark.h"
#include "fs/dsa/client/mapping.h"

namespace stagefs::dsa {
namespace {

constexpr uint64_t kPage = Mapping::kPageBytes;
constexpr uint64_t kPages = 16384;

class Server : public MappingBackend {
 public:
  Server() : memfd_(memfd_create("mapping_benchmark", MFD_CLOEXEC)) {
    if (memfd_ < 0 || ftruncate(memfd_, kPages * kPage) != 0) abort();
  }
  ~Server() override { close(memfd_); }
  int Populate(uint64_t offset, uint64_t length) override {
    const std::vector<char> bytes(length, 'x');
    return pwrite(memfd_, bytes.data(), length, static_cast<off_t>(offset)) > 0 ? 0 : -1;
  }
  int Persist(const std::vector<ChangedBytes>& pieces, bool, uint64_t* lsn) override {
    for (const ChangedBytes& piece : pieces) {
      if (pwrite(memfd_, piece.bytes, piece.length, static_cast<off_t>(piece.offset)) < 0) return -1;
    }
    *lsn = 1;
    return 0;
  }
  std::unique_ptr<Mapping> Map() {
    std::unique_ptr<Mapping> mapping;
    if (Mapping::Create(memfd_, 0, kPages * kPage, *this, &mapping) != 0) abort();
    return mapping;
  }

 private:
  const int memfd_;
};

std::atomic_ref<char> At(const std::unique_ptr<Mapping>& mapping, uint64_t at) {
  return std::atomic_ref<char>(static_cast<char*>(mapping->address())[at]);
}

// Touches a page per iteration, `step` pages on; begins anew with `renew` when all have been.
template <typename Renew, typename Touch>
void Pages(benchmark::State& state, uint64_t step, Renew renew, Touch touch) {
  uint64_t page = kPages;
  for (auto _ : state) {
    if (page >= kPages) {
      state.PauseTiming();
      renew();
      page = 0;
      state.ResumeTiming();
    }
    touch(page);
    page += step;
  }
}

// Pages that the server has to bring: scattered (1) or in sequence (0).
void BM_ColdLoad(benchmark::State& state) {
  std::unique_ptr<Server> server;
  std::unique_ptr<Mapping> mapping;
  Pages(
      state, state.range(0) ? 3 : 1,
      [&] {
        mapping.reset();
        server = std::make_unique<Server>();
        mapping = server->Map();
      },
      [&](uint64_t page) { benchmark::DoNotOptimize(At(mapping, page * kPage).load()); });
}
BENCHMARK(BM_ColdLoad)->Arg(0)->Arg(1);

// Pages that the memfd has: a fault each (32 pages apart), or a few per fault (0).
void BM_PresentLoad(benchmark::State& state) {
  Server server;
  server.Populate(0, kPages * kPage);
  std::unique_ptr<Mapping> mapping;
  Pages(
      state, state.range(0) ? 32 : 1,
      [&] {
        mapping.reset();
        mapping = server.Map();
      },
      [&](uint64_t page) { benchmark::DoNotOptimize(At(mapping, page * kPage).load()); });
}
BENCHMARK(BM_PresentLoad)->Arg(0)->Arg(1);

void BM_WarmLoad(benchmark::State& state) {
  Server server;
  server.Populate(0, kPages * kPage);
  const std::unique_ptr<Mapping> mapping = server.Map();
  for (uint64_t page = 0; page < kPages; ++page) At(mapping, page * kPage).load();
  Pages(state, 1, [] {}, [&](uint64_t page) { benchmark::DoNotOptimize(At(mapping, page * kPage).load()); });
}
BENCHMARK(BM_WarmLoad);

// The first store to a page that was loaded before.
void BM_FirstStore(benchmark::State& state) {
  Server server;
  server.Populate(0, kPages * kPage);
  std::unique_ptr<Mapping> mapping;
  Pages(
      state, 1,
      [&] {
        mapping.reset();
        mapping = server.Map();
        for (uint64_t page = 0; page < kPages; ++page) At(mapping, page * kPage).load();
      },
      [&](uint64_t page) { At(mapping, page * kPage).store('y'); });
}
BENCHMARK(BM_FirstStore);

// Stores to so many pages, 64 bytes each, and Persist() of them; the stores' faults are part of it.
void BM_StoreAndPersist(benchmark::State& state) {
  Server server;
  server.Populate(0, kPages * kPage);
  const std::unique_ptr<Mapping> mapping = server.Map();
  char value = 0;
  for (auto _ : state) {
    ++value;
    for (int64_t page = 0; page < state.range(0); ++page) {
      memset(static_cast<char*>(mapping->address()) + static_cast<uint64_t>(page) * kPage, value, 64);
    }
    if (mapping->Persist(0, kPages * kPage, false, nullptr) != 0) abort();
  }
}
BENCHMARK(BM_StoreAndPersist)->Arg(1)->Arg(16)->Arg(256);

// Persist() alone of 64 bytes in a page.
void BM_Persist64Bytes(benchmark::State& state) {
  Server server;
  server.Populate(0, kPages * kPage);
  const std::unique_ptr<Mapping> mapping = server.Map();
  char value = 0;
  for (auto _ : state) {
    state.PauseTiming();
    memset(mapping->address(), ++value, 64);
    state.ResumeTiming();
    if (mapping->Persist(0, kPage, false, nullptr) != 0) abort();
  }
}
BENCHMARK(BM_Persist64Bytes);

}  // namespace
}  // namespace stagefs::dsa

BENCHMARK_MAIN();

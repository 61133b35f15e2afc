// What operations of the tree cost, by the number of its items, over the engine in memory that the tests use.
//
//   bazel run //fs/volume:btree_benchmark              # trees of 1 thousand and 100 thousand items
//   bazel run //fs/volume:btree_benchmark -- --large   # and of 10 million: half a minute and a gigabyte
//
// As in the engine, a transaction copies a node when it first changes it: in a large tree, that is once for each item.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "benchmark/benchmark.h"
#include "core/transaction.h"
#include "fs/volume/btree.h"
#include "fs/volume/testing/memory_engine.h"
#include "sal/check.h"
#include "sal/simulated_environment.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::Transaction;
using testing::MemoryEngine;

constexpr int64_t kLargeItems = 10'000'000;
constexpr uint64_t kBatch = 100;   // operations in one transaction
constexpr uint64_t kScanned = 100;  // items
constexpr uint64_t kStride = 7919;  // prime: its multiples visit every item of the trees here
constexpr uint64_t kValueBytes = 32;  // about what an entry of a directory has

// Keeps the root in block 1. Blocks are never used again, so that none is in quarantine.
class Storage : public BTreeStorage {
 public:
  absl::StatusOr<Root> GetRoot(Transaction& tx) override {
    ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(1));
    Root root;
    std::memcpy(&root, bytes, sizeof(root));
    return root;
  }
  absl::Status SetRoot(Transaction& tx, Root root) override {
    ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(1));
    std::memcpy(bytes, &root, sizeof(root));
    return absl::OkStatus();
  }
  absl::StatusOr<Block> AllocateNode(Transaction&, Block) override { return next_++; }
  absl::Status FreeNode(Transaction& tx, Block block) override {
    tx.Release({block, 1});
    return absl::OkStatus();
  }

 private:
  Block next_ = 2;
};

// A tree with the items of even numbers: item i is there, item i + 1 is not.
class Bench {
 public:
  static Key KeyOf(uint64_t number) { return {.ino = number, .kind = 1, .offset = number}; }
  static Key Present(uint64_t i) { return KeyOf(2 * i); }
  static Key Missing(uint64_t i) { return KeyOf(2 * i + 1); }

  explicit Bench(uint64_t item_count)
      : engine_(environment_, {.capacity_blocks = uint64_t{1} << 40}), item_count_(item_count) {
    Run([this](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(const Block block, storage_.AllocateNode(tx, 0));
      return tree_.Format(tx, block);
    });
    // Neither in order nor all over the tree: in order would leave full nodes, which the next insertion splits.
    constexpr uint64_t kWindow = 10'000;
    std::mt19937_64 random(1);
    std::vector<uint64_t> window;
    for (uint64_t i = 0; i < item_count; ++i) {
      window.push_back(i);
      if (window.size() < kWindow && i + 1 < item_count) continue;
      std::shuffle(window.begin(), window.end(), random);
      PutAll(window);
      window.clear();
    }
  }

  BTree& tree() { return tree_; }
  absl::string_view value() const { return value_; }
  uint64_t item_count() const { return item_count_; }

  // Times `operation(tx, i)` for items all over the tree, in transactions that fail in the end. That leaves no trace:
  // every one begins with the same tree.
  template <typename Operation>
  void Time(benchmark::State& state, Operation operation) {
    uint64_t number = 0;
    while (state.KeepRunningBatch(kBatch)) {
      state.PauseTiming();
      const absl::Status status = engine_.RunAndWait([&](Transaction& tx) -> absl::Status {
        absl::Status status;
        state.ResumeTiming();
        for (uint64_t i = 0; i < kBatch && status.ok(); ++i) status = operation(tx, number++ * kStride % item_count_);
        state.PauseTiming();
        RETURN_IF_ERROR(status);
        return absl::CancelledError();
      }).status();
      STAGEFS_CHECK(absl::IsCancelled(status));
      state.ResumeTiming();
    }
  }

 private:
  void Run(core::Engine::Body body) { STAGEFS_CHECK(engine_.RunAndWait(std::move(body)).ok()); }
  void PutAll(const std::vector<uint64_t>& items) {
    for (size_t at = 0; at < items.size(); at += kBatch) {
      Run([&](Transaction& tx) -> absl::Status {
        for (size_t i = at; i < std::min(items.size(), at + kBatch); ++i) {
          RETURN_IF_ERROR(tree_.Put(tx, Present(items[i]), value_));
        }
        return absl::OkStatus();
      });
    }
  }

  sal::SimulatedEnvironment environment_{1};
  MemoryEngine engine_;
  Storage storage_;
  BTree tree_{&storage_};
  const std::string value_ = std::string(kValueBytes, 'v');
  const uint64_t item_count_;
};

// Kept until the program ends: a large tree takes longer to make than to measure.
Bench& TreeOf(int64_t item_count) {
  static auto* const trees = new std::map<int64_t, std::unique_ptr<Bench>>;
  std::unique_ptr<Bench>& bench = (*trees)[item_count];
  if (bench == nullptr) bench = std::make_unique<Bench>(item_count);
  return *bench;
}

void BM_Find(benchmark::State& state) {
  Bench& bench = TreeOf(state.range(0));
  bench.Time(state, [&](Transaction& tx, uint64_t i) -> absl::Status {
    ASSIGN_OR_RETURN(const auto value, bench.tree().Find(tx, Bench::Present(i)));
    STAGEFS_CHECK(value.has_value());
    return absl::OkStatus();
  });
}

void BM_FindMissing(benchmark::State& state) {
  Bench& bench = TreeOf(state.range(0));
  bench.Time(state, [&](Transaction& tx, uint64_t i) -> absl::Status {
    ASSIGN_OR_RETURN(const auto value, bench.tree().Find(tx, Bench::Missing(i)));
    STAGEFS_CHECK(!value.has_value());
    return absl::OkStatus();
  });
}

void BM_Insert(benchmark::State& state) {
  Bench& bench = TreeOf(state.range(0));
  bench.Time(state, [&](Transaction& tx, uint64_t i) {
    return bench.tree().Put(tx, Bench::Missing(i), bench.value());
  });
}

void BM_Replace(benchmark::State& state) {
  Bench& bench = TreeOf(state.range(0));
  bench.Time(state, [&](Transaction& tx, uint64_t i) {
    return bench.tree().Put(tx, Bench::Present(i), bench.value());
  });
}

void BM_Erase(benchmark::State& state) {
  Bench& bench = TreeOf(state.range(0));
  bench.Time(state, [&](Transaction& tx, uint64_t i) { return bench.tree().Erase(tx, Bench::Present(i)); });
}

void BM_Scan(benchmark::State& state) {
  Bench& bench = TreeOf(state.range(0));
  bench.Time(state, [&](Transaction& tx, uint64_t i) -> absl::Status {
    const uint64_t first = std::min(i, bench.item_count() - kScanned);
    uint64_t seen = 0;
    RETURN_IF_ERROR(bench.tree().Scan(tx, Bench::Present(first), Bench::Present(first + kScanned - 1),
                                      [&](const BTree::Item&) { return ++seen > 0; }));
    STAGEFS_CHECK(seen == kScanned);
    return absl::OkStatus();
  });
  state.SetItemsProcessed(state.iterations() * kScanned);
}

void RegisterAll(bool large) {
  const auto add = [large](const char* name, void (*function)(benchmark::State&)) {
    auto* const added = benchmark::RegisterBenchmark(name, function)->ArgName("items")->Arg(1000)->Arg(100'000);
    if (large) added->Arg(kLargeItems);
  };
  add("BM_Find", BM_Find);
  add("BM_FindMissing", BM_FindMissing);
  add("BM_Insert", BM_Insert);
  add("BM_Replace", BM_Replace);
  add("BM_Erase", BM_Erase);
  add("BM_Scan", BM_Scan);
}

}  // namespace
}  // namespace stagefs::volume

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);  // takes what it knows
  const bool large = argc > 1 && absl::string_view(argv[1]) == "--large";
  if (argc > (large ? 2 : 1)) {
    benchmark::ReportUnrecognizedArguments(argc, argv);
    return 1;
  }
  stagefs::volume::RegisterAll(large);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

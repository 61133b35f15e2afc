// What operations of a volume cost on the real engine, over a store in memory: the CPU's share of what a user waits for.
//
//   bazel run //fs/volume:volume_benchmark

#include <sys/stat.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "core/engine.h"
#include "fs/volume/volume.h"
#include "sal/check.h"
#include "sal/memory_store.h"
#include "sal/real_environment.h"

namespace stagefs::volume {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kFileBytes = 64 << 20;
constexpr int kFiles = 10000;

// A fresh volume in memory, used as a front end uses it: one operation after the other.
class Bench {
 public:
  Bench() : environment_(2), store_(*sal::MemoryStore::Create(uint64_t{8} << 30)) {
    STAGEFS_CHECK(core::Engine::Format(*store_, environment_, {}).ok());
    core::RecoveryReport report;
    engine_ = *core::Engine::Open(*store_, environment_, {}, &report);
    STAGEFS_CHECK(Volume::Format(*engine_, {}).ok());
    volume_ = *Volume::Open(*engine_);
  }
  ~Bench() {
    volume_->Close();
    STAGEFS_CHECK(engine_->Close().ok());
  }

  Volume& volume() { return *volume_; }

  // Waits for what `start` is given a callback for.
  template <typename T, typename Start>
  T Wait(Start start) {
    const std::unique_ptr<sal::Event> over = environment_.NewEvent();
    absl::StatusOr<T> result = absl::UnknownError("");
    start([&](absl::StatusOr<T> value) {
      result = std::move(value);
      over->Set();
    });
    over->Wait();
    STAGEFS_CHECK(result.ok());
    return *std::move(result);
  }
  template <typename Start>
  void WaitStatus(Start start) {
    Wait<int>([&](auto done) {
      start([done = std::move(done)](absl::Status status) mutable {
        STAGEFS_CHECK(status.ok());
        std::move(done)(0);
      });
    });
  }

  Ino Create(const std::string& name) {
    return Wait<Attributes>([&](auto done) {
             volume_->Create(kRootIno, name, {.mode = S_IFREG | 0644}, /*open=*/false, std::move(done));
           }).ino;
  }
  void Unlink(const std::string& name) {
    WaitStatus([&](auto done) { volume_->Unlink(kRootIno, name, std::move(done)); });
  }
  void Write(Ino ino, uint64_t offset, absl::Span<const std::byte> bytes) {
    Wait<size_t>([&](auto done) { volume_->Write(ino, offset, bytes, /*append=*/false, std::move(done)); });
  }
  void WriteGroup(const std::vector<ContentChange>& parts) {
    Wait<GroupResult>([&](auto done) { volume_->WriteGroup(parts, std::move(done)); });
  }
  size_t Read(Ino ino, uint64_t offset, absl::Span<std::byte> bytes) {
    return Wait<size_t>([&](auto done) { volume_->Read(ino, offset, bytes, std::move(done)); });
  }
  Ino LargeFile() {
    const Ino ino = Create("large");
    const std::vector<std::byte> piece(1 << 20, std::byte{1});
    for (uint64_t at = 0; at < kFileBytes; at += piece.size()) Write(ino, at, piece);
    return ino;
  }
  void ManyFiles() {
    for (int i = 0; i < kFiles; ++i) Create(absl::StrCat("file", i));
  }

 private:
  sal::RealEnvironment environment_;
  std::unique_ptr<sal::MemoryStore> store_;
  std::unique_ptr<core::Engine> engine_;
  std::unique_ptr<Volume> volume_;
};

void BM_Create(benchmark::State& state) {
  Bench bench;
  uint64_t number = 0;
  for (auto _ : state) bench.Create(absl::StrCat("file", number++));
}
BENCHMARK(BM_Create);

void BM_CreateAndUnlink(benchmark::State& state) {
  Bench bench;
  bench.ManyFiles();
  uint64_t number = 0;
  for (auto _ : state) {
    const std::string name = absl::StrCat("new", number++);
    bench.Create(name);
    bench.Unlink(name);
  }
}
BENCHMARK(BM_CreateAndUnlink);

void BM_Lookup(benchmark::State& state) {
  Bench bench;
  bench.ManyFiles();
  uint64_t number = 0;
  for (auto _ : state) {
    const std::string name = absl::StrCat("file", number++ * 7919 % kFiles);
    bench.Wait<Attributes>([&](auto done) { bench.volume().Lookup(kRootIno, name, std::move(done)); });
  }
}
BENCHMARK(BM_Lookup);

void BM_GetAttributes(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.Create("file");
  for (auto _ : state) {
    bench.Wait<Attributes>([&](auto done) { bench.volume().GetAttributes(ino, std::move(done)); });
  }
}
BENCHMARK(BM_GetAttributes);

void BM_ReadPage(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  std::vector<std::byte> page(kPageBytes);
  uint64_t number = 0;
  for (auto _ : state) bench.Read(ino, number++ * 7919 % (kFileBytes / kPageBytes) * kPageBytes, absl::MakeSpan(page));
}
BENCHMARK(BM_ReadPage);

void BM_ReadMegabyte(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  std::vector<std::byte> piece(1 << 20);
  uint64_t number = 0;
  for (auto _ : state) bench.Read(ino, (number++ << 20) % kFileBytes, absl::MakeSpan(piece));
  state.SetBytesProcessed(state.iterations() << 20);
}
BENCHMARK(BM_ReadMegabyte);

void BM_OverwritePage(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  std::vector<std::byte> page(kPageBytes);
  uint64_t number = 0;
  for (auto _ : state) {
    page[number % kPageBytes] = static_cast<std::byte>(number);
    bench.Write(ino, number++ * 7919 % (kFileBytes / kPageBytes) * kPageBytes, page);
  }
}
BENCHMARK(BM_OverwritePage);

// 64 bytes somewhere in a file of `state.range(0)` bytes. The callback is all that is waited for, as by a server's loop.
void BM_WriteLine(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  std::vector<std::byte> line(64);
  uint64_t number = 0;
  for (auto _ : state) {
    line[number % line.size()] = static_cast<std::byte>(number);
    const uint64_t offset = number++ * 7919 % (state.range(0) / line.size()) * line.size();
    bench.volume().Write(ino, offset, line, /*append=*/false,
                         [](const absl::StatusOr<size_t>& count) { STAGEFS_CHECK(count.ok()); });
  }
}
BENCHMARK(BM_WriteLine)->Arg(1 << 20)->Arg(kFileBytes);

// The same as groups of `state.range(1)`; an item is a line.
void BM_WriteLinesInGroups(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  std::vector<std::byte> line(64);
  uint64_t number = 0;
  for (auto _ : state) {
    line[number / state.range(1) % line.size()] = static_cast<std::byte>(number);
    std::vector<ContentChange> parts(state.range(1));
    for (ContentChange& part : parts) {
      part.ino = ino;
      part.offset = number++ * 7919 % (state.range(0) / line.size()) * line.size();
      part.bytes = line;
    }
    bench.volume().WriteGroup(std::move(parts),
                              [](const absl::StatusOr<GroupResult>& result) { STAGEFS_CHECK(result.ok()); });
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
}
BENCHMARK(BM_WriteLinesInGroups)->ArgsProduct({{1 << 20, kFileBytes}, {1, 32}});

void BM_FetchAdd(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  for (auto _ : state) {
    std::vector<ContentChange> parts(1);
    parts[0].kind = ContentChange::Kind::kFetchAdd;
    parts[0].ino = ino;
    parts[0].operand = 1;
    bench.volume().WriteGroup(std::move(parts),
                              [](const absl::StatusOr<GroupResult>& result) { STAGEFS_CHECK(result.ok()); });
  }
}
BENCHMARK(BM_FetchAdd);

// 8 MiB, in 4096 halves of blocks: what one change could not log.
void BM_GroupOfHalfBlocks(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  const std::vector<std::byte> half(kPageBytes / 2, std::byte{2});
  std::vector<ContentChange> parts(4096);
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].ino = ino;
    parts[i].offset = i * kPageBytes;
    parts[i].bytes = half;
  }
  for (auto _ : state) bench.WriteGroup(parts);
}
BENCHMARK(BM_GroupOfHalfBlocks);

void BM_GroupOfSixteenMebibytes(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  const std::vector<std::byte> bytes(kMaxGroupBytes, std::byte{2});
  std::vector<ContentChange> parts(1);
  parts[0].ino = ino;
  parts[0].bytes = bytes;
  for (auto _ : state) bench.WriteGroup(parts);
  state.SetBytesProcessed(state.iterations() * kMaxGroupBytes);
}
BENCHMARK(BM_GroupOfSixteenMebibytes);

void BM_WriteMegabyte(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  const std::vector<std::byte> piece(1 << 20, std::byte{2});
  uint64_t number = 0;
  for (auto _ : state) bench.Write(ino, (number++ << 20) % kFileBytes, piece);
  state.SetBytesProcessed(state.iterations() << 20);
}
BENCHMARK(BM_WriteMegabyte);

void BM_AppendLine(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.Create("file");
  const std::vector<std::byte> line(200, std::byte{3});
  uint64_t at = 0;
  for (auto _ : state) {
    bench.Write(ino, at, line);
    at = (at + line.size()) % kFileBytes;
  }
}
BENCHMARK(BM_AppendLine);

void BM_WriteAndSync(benchmark::State& state) {
  Bench bench;
  const Ino ino = bench.LargeFile();
  std::vector<std::byte> page(kPageBytes);
  uint64_t number = 0;
  for (auto _ : state) {
    page[number % kPageBytes] = static_cast<std::byte>(number);
    bench.Write(ino, number++ * 7919 % (kFileBytes / kPageBytes) * kPageBytes, page);
    bench.WaitStatus([&](auto done) { bench.volume().Sync(std::move(done)); });
  }
}
BENCHMARK(BM_WriteAndSync);

}  // namespace
}  // namespace stagefs::volume

BENCHMARK_MAIN();

// What the log costs the CPU: appending changes, cutting them into frames, and reading them back as recovery does.
//
//   bazel run //core:log_benchmark
//
// The store completes at once and costs next to nothing, so that what is left is the writer's and the reader's own.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/benchmark.h"
#include "core/broken.h"
#include "core/bytes.h"
#include "core/flush_queue.h"
#include "core/format.h"
#include "core/log_reader.h"
#include "core/log_writer.h"
#include "core/monitor.h"
#include "sal/block_store.h"
#include "sal/check.h"
#include "sal/simulated_environment.h"

namespace stagefs::core {
namespace {

constexpr uint64_t kLogBlocks = 16384;
constexpr uint64_t kHomeBlocks = 1024;
constexpr uint64_t kScannedBytes = 16 << 20;  // of the log

// Completes every request when the environment runs.
class AtOnceStore : public sal::BlockStore {
 public:
  // What is written is dropped unless `keeps`: a device takes it without the CPU.
  AtOnceStore(sal::SimulatedEnvironment& environment, bool keeps) : environment_(environment) {
    geometry_.size_bytes = (kLogStart + kLogBlocks) * kBlockBytes;
    if (keeps) memory_.resize(geometry_.size_bytes);
  }

  const sal::Geometry& geometry() const override { return geometry_; }
  const std::string& name() const override { return name_; }
  void Submit(absl::Span<sal::Request* const> requests) override {
    for (sal::Request* const request : requests) {
      environment_.Schedule(0, [this, request] { Complete(request); });
    }
  }
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  void Complete(sal::Request* request) {
    if (!memory_.empty()) Move(*request);
    auto done = std::move(request->done);
    done(absl::OkStatus());
  }
  void Move(const sal::Request& request) {
    std::byte* at = memory_.data() + request.offset_bytes;
    for (const iovec& piece : request.buffers) {
      if (request.op == sal::Request::Op::kRead) {
        std::memcpy(piece.iov_base, at, piece.iov_len);
        bytes_read_ += piece.iov_len;
      }
      if (request.op == sal::Request::Op::kWrite) std::memcpy(at, piece.iov_base, piece.iov_len);
      at += piece.iov_len;
    }
  }

  sal::SimulatedEnvironment& environment_;
  const std::string name_ = "at-once";
  sal::Geometry geometry_;
  std::vector<std::byte> memory_;
  uint64_t bytes_read_ = 0;
};

Superblock EmptyLog() {
  Superblock superblock = {};
  superblock.log_start = kLogStart;
  superblock.log_blocks = kLogBlocks;
  superblock.window_blocks = kMaxWindowBlocks;
  superblock.epoch = 1;
  superblock.salt = 0x5a17;
  return superblock;
}

// A change of `size_bytes` that writes bytes of blocks, encoded but for its LSN.
std::vector<std::byte> Change(uint64_t size_bytes) {
  std::vector<std::byte> change(size_bytes, std::byte{0xa7});
  ChangeHeader header = {static_cast<uint32_t>(size_bytes), 0, 0};
  for (uint64_t at = sizeof(ChangeHeader); at < size_bytes;) {
    const uint64_t length = std::min(kBlockBytes, size_bytes - at - sizeof(RecordHeader));
    Store(change.data() + at, RecordHeader{static_cast<uint8_t>(RecordKind::kWrite), 0, static_cast<uint16_t>(length),
                                           0, header.record_count * kBlockBytes});
    at += sizeof(RecordHeader) + length;
    ++header.record_count;
  }
  Store(change.data(), header);
  return change;
}

// A log and its writer, used as the engine uses it.
class Log {
 public:
  explicit Log(bool keeps)
      : store_(environment_, keeps),
        monitor_(&store_, &environment_),
        writer_(&monitor_, &flushes_, {}, [](Outbox&) {}, [](absl::Status, Outbox&) { STAGEFS_CHECK(false); }) {
    writer_.Start(EmptyLog(), {}, {}, 0, 0);
  }

  void Append(const std::vector<std::byte>& change) {
    while (!TryAppend(change)) MakeRoom();
    environment_.RunUntilIdle();
  }
  void Sync() {
    monitor_.Run([&](Outbox& outbox) { writer_.WhenDurable(lsn_, [](absl::Status) {}, outbox); });
    environment_.RunUntilIdle();
    STAGEFS_CHECK(writer_.durable_lsn() == lsn_);
  }

  sal::SimulatedEnvironment& environment() { return environment_; }
  AtOnceStore& store() { return store_; }
  const LogWriter& writer() const { return writer_; }
  Lsn lsn() const { return lsn_; }

 private:
  bool TryAppend(const std::vector<std::byte>& change) {
    bool has_room = false;
    monitor_.Run([&](Outbox& outbox) {
      has_room = writer_.HasRoom(change.size(), /*is_intent=*/false);
      if (!has_room) return;
      std::byte* const place = writer_.Append(++lsn_, change.size(), outbox);
      std::memcpy(place, change.data(), change.size());
      Store(place + offsetof(ChangeHeader, lsn), lsn_);
      writer_.Pump(outbox);
    });
    return has_room;
  }
  // As a checkpoint does that has brought everything home.
  void MakeRoom() {
    Sync();
    monitor_.Run([&](Outbox& outbox) { writer_.SetReuse(writer_.CutHere(outbox)); });
  }

  sal::SimulatedEnvironment environment_{1};
  AtOnceStore store_;
  Monitor monitor_;
  FlushQueue flushes_;
  LogWriter writer_;
  Lsn lsn_ = 0;
};

void CountChanges(benchmark::State& state, uint64_t changes_per_iteration) {
  state.SetItemsProcessed(state.iterations() * changes_per_iteration);
  state.SetBytesProcessed(state.iterations() * changes_per_iteration * state.range(0));
}

// Frames are cut when enough has gathered.
void BM_Append(benchmark::State& state) {
  Log log(/*keeps=*/false);
  const std::vector<std::byte> change = Change(state.range(0));
  for (auto _ : state) log.Append(change);
  CountChanges(state, 1);
}
BENCHMARK(BM_Append)->ArgName("bytes")->Arg(64)->Arg(512)->Arg(4096)->Arg(64 << 10);

// A frame, a write and a flush for each change.
void BM_AppendAndSync(benchmark::State& state) {
  Log log(/*keeps=*/false);
  const std::vector<std::byte> change = Change(state.range(0));
  for (auto _ : state) {
    log.Append(change);
    log.Sync();
  }
  CountChanges(state, 1);
}
BENCHMARK(BM_AppendAndSync)->ArgName("bytes")->Arg(64)->Arg(512)->Arg(4096)->Arg(64 << 10);

// All frames, changes and records of a log that lies in memory; its frames are large, or have one change each. `reads`:
// how often each byte of the log is read.
void BM_Scan(benchmark::State& state) {
  Log log(/*keeps=*/true);
  const std::vector<std::byte> change = Change(state.range(0));
  while (log.writer().bytes_written() < kScannedBytes) {
    log.Append(change);
    if (state.range(1) == 1) log.Sync();
  }
  log.Sync();
  LogReader reader(&log.store(), &log.environment(), EmptyLog(), Broken::kNothing);
  for (auto _ : state) {
    reader.Rewind();
    Lsn last_lsn = 0;
    while (const std::optional<LogReader::Frame> frame = *reader.Next()) {
      ChangeReader changes(frame->payload, kHomeBlocks);
      while (changes.NextChange()) {
        last_lsn = changes.lsn();
        while (changes.NextRecord()) benchmark::DoNotOptimize(changes.record().payload);
      }
      STAGEFS_CHECK(changes.status().ok());
    }
    STAGEFS_CHECK(last_lsn == log.lsn());
  }
  CountChanges(state, log.lsn());
  state.counters["reads"] =
      static_cast<double>(log.store().bytes_read()) / (state.iterations() * log.writer().bytes_written());
}
BENCHMARK(BM_Scan)->ArgNames({"bytes", "synced"})->ArgsProduct({{64, 4096, 64 << 10}, {0, 1}});

}  // namespace
}  // namespace stagefs::core

BENCHMARK_MAIN();

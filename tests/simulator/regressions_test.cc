// What the simulator has found, each by itself. A seed is not kept: any change of the simulator moves it.

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/bytes.h"
#include "core/engine.h"
#include "core/format.h"
#include "fs/volume/volume.h"
#include "gtest/gtest.h"
#include "sal/check.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"

namespace stagefs::simulator {
namespace {

using core::kBlockBytes;
using core::Lsn;
using sal::SimulatedFault;

// An engine on a simulated disk.
class Machine {
 public:
  explicit Machine(uint64_t seed, sal::SimulatedDisk disk = {})
      : environment_(seed), store_(environment_, {.seed = seed, .size_bytes = 24 << 20}, std::move(disk)) {}
  ~Machine() {
    store_.CutNow();
    environment_.RunUntilIdle();
    if (engine_ != nullptr) engine_->Abandon();
  }

  void Format() {
    core::FormatOptions options;
    options.log_bytes = 4 << 20;
    STAGEFS_CHECK(core::Engine::Format(store_, environment_, options).ok());
  }
  void Open() {
    auto engine = core::Engine::Open(store_, environment_, {.cache_bytes = 32 << 20}, &report_);
    STAGEFS_CHECK(engine.ok());
    engine_ = *std::move(engine);
  }
  // Runs what `start` begins until it calls what it is given, or the power fails.
  template <typename Start>
  void Wait(Start start) {
    auto done = std::make_shared<bool>(false);
    start([done] { *done = true; });
    while (!*done && !store_.power_off()) STAGEFS_CHECK(environment_.RunOne());
  }
  void RunBody(core::Engine::Body body) {
    Wait([&](auto done) { engine_->Run(std::move(body), [done](const absl::StatusOr<Lsn>&) { done(); }); });
  }
  void MakeDurable() {
    Wait([&](auto done) { engine_->WhenDurable(engine_->accepted_lsn(), [done](const absl::Status&) { done(); }); });
  }
  void Checkpoint() {
    Wait([&](auto done) { engine_->Checkpoint([done](const absl::Status&) { done(); }); });
  }

  sal::SimulatedEnvironment& environment() { return environment_; }
  sal::SimulatedStore& store() { return store_; }
  core::Engine& engine() { return *engine_; }
  const core::RecoveryReport& report() const { return report_; }

 private:
  sal::SimulatedEnvironment environment_;
  sal::SimulatedStore store_;
  std::unique_ptr<core::Engine> engine_;
  core::RecoveryReport report_;
};

// A write that waited for staging memory when the engine failed was never called back: extents that could not be
// written keep their buffers, so none ever came back to wake it.
TEST(RegressionsTest, WritesThatWaitForStagingMemoryEndWhenTheEngineFails) {
  Machine machine(1);
  machine.Format();
  machine.Open();
  ASSERT_TRUE(volume::Volume::Format(machine.engine(), {}).ok());
  auto volume = volume::Volume::Open(machine.engine());
  ASSERT_TRUE(volume.ok());
  volume::Ino ino = 0;
  machine.Wait([&](auto done) {
    (*volume)->Create(volume::kRootIno, "file", {.mode = S_IFREG | 0644}, false,
                      [&ino, done](const absl::StatusOr<volume::Attributes>& made) {
                        ino = made.ok() ? made->ino : 0;
                        done();
                      });
  });
  ASSERT_NE(ino, 0u);
  sal::SimulatedFaultPlan faults;
  faults[SimulatedFault::kWriteError] = 1;
  machine.store().SetFaults(faults);
  constexpr int kWrites = 24;  // of 1 MiB each: more than the staging memory holds
  const std::string bytes(1 << 20, 'x');
  int over = 0;
  for (int i = 0; i < kWrites; ++i) {
    (*volume)->Write(ino, 0, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()),
                     /*append=*/false, [&over](const absl::StatusOr<size_t>&) { ++over; });
  }
  machine.environment().RunFor(10'000'000'000);
  EXPECT_FALSE(machine.engine().health().ok());
  EXPECT_EQ(over, kWrites);
  (*volume)->Close();
}

constexpr uint64_t kBlock = 7;

// Changes eight bytes of the block, so that each state of it differs from those before and after.
core::Engine::Body Put(uint64_t offset, uint64_t value) {
  return [offset, value](core::Transaction& tx) {
    return tx.Write(kBlock * kBlockBytes + offset,
                    absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof(value)));
  };
}

// The frames of the log that lie on `store`, as (sequence, byte offset), newest first.
std::vector<std::pair<uint64_t, uint64_t>> Frames(const sal::SimulatedStore& store, const core::VolumeInfo& info) {
  std::vector<std::pair<uint64_t, uint64_t>> frames;
  for (uint64_t at = info.log_start_bytes; at < info.log_start_bytes + info.log_bytes; at += kBlockBytes) {
    std::byte bytes[sizeof(core::FrameHeader)];
    store.ReadRaw(at, bytes, sizeof(bytes));
    const core::FrameHeader header = core::Load<core::FrameHeader>(bytes);
    if (header.magic == core::kFrameMagic && header.epoch == info.epoch) frames.emplace_back(header.sequence, at);
  }
  std::sort(frames.rbegin(), frames.rend());
  return frames;
}

// Two frames under way together, a change and the intents for it, both became durable, and homes were written. When
// the first of them decayed, no frame behind it said that it had been durable: recovery took it for the end of the
// log, and served homes that were ahead of that end as if they were the prefix.
TEST(RegressionsTest, ADamagedFrameThatHomesAreAheadOfIsSeen) {
  Machine fresh(1);
  fresh.Format();
  const sal::SimulatedDisk formatted = fresh.store().Image();
  for (uint64_t cut = 1, reached = 1; reached != 0; ++cut) {
    for (size_t damaged = 0; damaged < 4; ++damaged) {
      Machine machine(cut, formatted);
      machine.Open();
      const core::VolumeInfo info = *core::Engine::Inspect(machine.store(), machine.environment());
      machine.RunBody([](core::Transaction& tx) { return tx.Zero(kBlock * kBlockBytes, kBlockBytes); });
      machine.RunBody(Put(0, 1));
      machine.MakeDurable();
      machine.Checkpoint();
      machine.RunBody(Put(8, 2));
      machine.MakeDurable();
      const Lsn second = machine.engine().accepted_lsn();
      machine.RunBody(Put(16, 3));
      const Lsn third = machine.engine().accepted_lsn();
      machine.store().CutAt(machine.store().request_count() + cut);
      machine.Checkpoint();
      reached = machine.store().power_off() ? 1 : 0;

      Machine after(cut + 1000, machine.store().Crash(damaged, sal::SimulatedStore::CrashKind::kKill));
      const auto frames = Frames(after.store(), info);
      if (damaged >= frames.size()) continue;
      after.store().CorruptByte(frames[damaged].second + 100);
      after.Open();
      if (!after.report().warnings.empty()) continue;  // seen
      uint64_t words[3] = {};
      absl::Status status;
      after.RunBody([&](core::Transaction& tx) -> absl::Status {
        const absl::StatusOr<const std::byte*> block = tx.Read(kBlock);
        if (block.ok()) std::memcpy(words, *block, sizeof(words));
        status = block.status();
        return status;
      });
      if (absl::IsDataLoss(status)) continue;  // seen
      ASSERT_TRUE(status.ok()) << status;
      const Lsn prefix = after.report().recovered_lsn;
      if (prefix > third + 1000) continue;  // the damaged frame was of an epoch that is over
      const std::string where = absl::StrCat("cut at request ", cut, ", frame ", damaged, " from the end damaged");
      EXPECT_EQ(words[1], prefix >= second ? 2u : 0u) << where;
      EXPECT_EQ(words[2], prefix >= third ? 3u : 0u) << where;
    }
  }
}

}  // namespace
}  // namespace stagefs::simulator

// SimulateEngine(): the engine alone, with transactions that use all it offers.

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sal/random.h"
#include "sal/status_macros.h"
#include "tests/simulator/disk_faults.h"
#include "tests/simulator/engine_life.h"
#include "tests/simulator/prefix.h"
#include "tests/simulator/simulation.h"

namespace stagefs::simulator {
namespace {

using CrashKind = sal::SimulatedStore::CrashKind;

class EngineSimulation {
 public:
  EngineSimulation(const SimulationOptions& options, Trace* trace, Counts* counts)
      : options_(options), trace_(trace), counts_(counts), random_(options.seed),
        faults_(options.faults, options.seed * 31 + 7) {}

  absl::Status Run();

 private:
  void ChooseDimensions();
  std::unique_ptr<EngineLife> NewLife();
  void CutRecovery();
  absl::Status Recover();
  absl::Status CheckOrder();
  absl::Status Live();
  void NoteEndOf(EngineLife& life);

  const SimulationOptions options_;
  Trace* const trace_;
  Counts* const counts_;
  sal::Random64 random_;
  DiskFaults faults_;
  EngineLifeOptions dimensions_;

  sal::SimulatedDisk disk_;
  std::unique_ptr<EngineLife> life_;
  uint64_t lives_ = 0;
  BlockModel base_;  // as the present or last life began
  BlockModel model_;
  std::vector<BlockChange> history_;  // of the last life
  PrefixFinder prefix_;
  bool damaged_ = false;  // the disk has destroyed something
  bool over_ = false;     // nothing more can be expected of this disk
};

void EngineSimulation::ChooseDimensions() {
  dimensions_.store.size_bytes = 24 << 20;
  dimensions_.store.fua = random_.OneIn(2);
  dimensions_.store.longest_latency_ns = random_.OneIn(3) ? 5'000'000 : 200'000;
  dimensions_.store.max_request_bytes = random_.OneIn(3) ? 64 << 10 : 1 << 20;
  dimensions_.engine.cache_bytes = 32 << 20;
  dimensions_.engine.broken = options_.broken;
  static constexpr uint64_t kDirtyBlocks[] = {64, 64, 200, 0};
  dimensions_.engine.dirty_blocks = kDirtyBlocks[random_.Below(4)];
  dimensions_.engine.blocks_per_piece = random_.OneIn(4) ? 160 : random_.Between(4, 16);
  static constexpr uint64_t kIntervalsNs[] = {1'000'000'000, 10'000'000, 1'000'000};
  dimensions_.engine.flush_interval_ns = kIntervalsNs[random_.Below(3)];
  dimensions_.in_flight = random_.Between(1, 48);
  dimensions_.largest_range = random_.OneIn(3) ? 28 : 8;
  model_.slots.resize(random_.Between(2, 24));
  // Where two blocks of the checksum table meet.
  const uint64_t arena_blocks = random_.Between(60, 480);
  dimensions_.arena = {504 - arena_blocks / 2, arena_blocks};
}

std::unique_ptr<EngineLife> EngineSimulation::NewLife() {
  EngineLifeOptions options = dimensions_;
  options.seed = options_.seed * 1'000'003 + ++lives_;
  options.store.seed = options.seed * 7919 + 1;
  return std::make_unique<EngineLife>(options, std::move(disk_), trace_);
}

void EngineSimulation::NoteEndOf(EngineLife& life) {
  counts_->parked += life.stats().parked;
  counts_->checkpoints += life.stats().checkpoints;
  counts_->operations += life.operations();
  counts_->errors += life.errors();
  ++counts_->lives;
  for (size_t i = 0; i < counts_->faults.size(); ++i) {
    const uint64_t count = life.store().fault_count(static_cast<sal::SimulatedFault>(i));
    counts_->faults[i] += count;
    if (count > 0 && IsDestructive(static_cast<sal::SimulatedFault>(i))) damaged_ = true;
  }
}

// A recovery that ends early: the power fails, the process is killed, or the disk reports an error.
void EngineSimulation::CutRecovery() {
  const std::unique_ptr<EngineLife> life = NewLife();
  life->store().SetFaults(faults_.PlanForRecovery());
  life->store().CutAt(random_.Between(1, random_.OneIn(2) ? 12 : 60));
  life->Open().IgnoreError();
  life->store().CutNow();
  prefix_.NoteAttempt(life->report().recovered_lsn);
  disk_ = life->store().Crash(random_.Next(), random_.OneIn(2) ? CrashKind::kPowerCut : CrashKind::kKill);
  NoteEndOf(*life);
  ++counts_->cut_recoveries;
}

absl::Status EngineSimulation::Recover() {
  while (random_.OneIn(3)) CutRecovery();
  life_ = NewLife();
  RETURN_IF_ERROR(life_->Open());
  const core::RecoveryReport& report = life_->report();
  if (!report.warnings.empty()) {
    if (!damaged_) return absl::InternalError(absl::StrCat("recovery warns: ", absl::StrJoin(report.warnings, "; ")));
    ++counts_->reported_losses;
  }
  if (life_->engine().stats().read_only) {
    if (!damaged_ || !faults_.log_was_hit()) return absl::InternalError("the volume is read-only");
    over_ = true;
    return absl::OkStatus();
  }
  return CheckOrder();
}

absl::Status EngineSimulation::CheckOrder() {
  absl::Status status = absl::InternalError(absl::StrCat("recovered LSN ", life_->report().recovered_lsn,
                                                         ", which nobody knows"));
  for (const core::Lsn prefix : prefix_.Candidates(life_->report().recovered_lsn)) {
    if (prefix < prefix_.acknowledged() && !faults_.log_was_hit()) {
      status = absl::InternalError(absl::StrCat("recovered up to LSN ", prefix, " only; LSN ",
                                                prefix_.acknowledged(), " was acknowledged"));
      continue;
    }
    BlockModel model = base_;
    for (const BlockChange& change : history_) {
      if (change.lsn <= prefix) change.ApplyTo(model);
    }
    status = life_->Verify(model, damaged_);
    if (status.ok()) {
      model_ = std::move(model);
      break;
    }
    status = absl::InternalError(absl::StrCat("recovered up to LSN ", prefix, ": ", status.message()));
  }
  return status;
}

absl::Status EngineSimulation::Live() {
  base_ = model_;
  faults_.ForgetLogHits();
  life_->store().SetFaults(faults_.PlanFor(life_->engine().info()));
  const bool close = random_.OneIn(6);
  const uint64_t count = random_.Between(1, 1500);
  if (!close) life_->store().CutAt(life_->store().request_count() + random_.Between(1, count));
  absl::Status status = life_->Work(count, &model_, damaged_ || faults_.destructive());
  if (status.ok() && close) {
    const absl::Status closed = life_->Close();
    if (closed.ok()) ++counts_->closes;
    if (!closed.ok() && life_->stats().failure.empty()) status = closed;
  }
  life_->store().CutNow();
  history_ = life_->history();
  disk_ = life_->store().Crash(random_.Next(), random_.OneIn(2) ? CrashKind::kPowerCut : CrashKind::kKill);
  prefix_.BeginRecovery(life_->acknowledged(), life_->last_lsn());
  NoteEndOf(*life_);
  ++counts_->crashes;
  life_ = nullptr;
  return status;
}

absl::Status EngineSimulation::Run() {
  ChooseDimensions();
  trace_->Mix({options_.seed});
  life_ = NewLife();
  RETURN_IF_ERROR(life_->Format(4 << 20));
  disk_ = life_->store().Crash(1, CrashKind::kPowerCut);
  life_ = NewLife();
  RETURN_IF_ERROR(life_->Open());
  const uint64_t end = counts_->operations + options_.operations;
  while (counts_->operations < end && !over_) {
    absl::Status status = life_ == nullptr ? Recover() : absl::OkStatus();
    if (status.ok() && !over_) status = Live();
    if (!status.ok()) return absl::InternalError(absl::StrCat("life ", lives_, ": ", status.message()));
  }
  life_ = nullptr;
  return absl::OkStatus();
}

}  // namespace

absl::Status SimulateEngine(const SimulationOptions& options, Trace* trace, Counts* counts) {
  return EngineSimulation(options, trace, counts).Run();
}

}  // namespace stagefs::simulator

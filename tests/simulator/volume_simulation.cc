// SimulateVolume(): files and directories on the engine on a simulated disk.

#include <algorithm>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sal/random.h"
#include "sal/status_macros.h"
#include "tests/simulator/disk_faults.h"
#include "tests/simulator/prefix.h"
#include "tests/simulator/simulation.h"
#include "tests/simulator/volume_life.h"

namespace stagefs::simulator {
namespace {

using CrashKind = sal::SimulatedStore::CrashKind;

class VolumeSimulation {
 public:
  VolumeSimulation(const SimulationOptions& options, Trace* trace, Counts* counts)
      : options_(options), trace_(trace), counts_(counts), random_(options.seed),
        faults_(options.faults, options.seed * 31 + 7) {}

  absl::Status Run();

 private:
  void ChooseDimensions();
  std::unique_ptr<VolumeLife> NewLife();
  absl::Status Begin();
  absl::Status Recover();
  absl::Status CutRecovery();
  absl::Status CheckRecovered();
  absl::Status CheckOrder();
  absl::Status Adopt(core::Lsn prefix);
  absl::Status Live();
  void RepairWhatIsLeft();
  void NoteEndOf(VolumeLife& life, bool crash);

  const SimulationOptions options_;
  Trace* const trace_;
  Counts* const counts_;
  sal::Random64 random_;
  DiskFaults faults_;
  VolumeLifeOptions dimensions_;
  uint64_t operations_per_life_ = 0;

  sal::SimulatedDisk disk_;
  std::unique_ptr<VolumeLife> life_;
  uint64_t lives_ = 0;
  FileTree base_;  // as the present or last life began
  FileTree tree_;
  std::vector<AppliedOp> history_;  // of the last life
  std::set<Ino> unsettled_;
  PrefixFinder prefix_;
  bool damaged_ = false;  // the disk has destroyed something
  bool over_ = false;     // nothing more can be expected of this volume
};

void VolumeSimulation::ChooseDimensions() {
  static constexpr uint64_t kStoreMiB[] = {11, 11, 14, 20, 32, 96};
  dimensions_.store.size_bytes = kStoreMiB[random_.Below(std::size(kStoreMiB))] << 20;
  dimensions_.store.fua = random_.OneIn(2);
  dimensions_.store.longest_latency_ns = random_.OneIn(3) ? 5'000'000 : 200'000;
  dimensions_.store.max_request_bytes = random_.OneIn(3) ? 64 << 10 : 1 << 20;
  dimensions_.engine.cache_bytes = 32 << 20;
  dimensions_.engine.broken = options_.broken;
  static constexpr uint64_t kIntervalsNs[] = {1'000'000'000, 10'000'000, 1'000'000};
  dimensions_.engine.flush_interval_ns = kIntervalsNs[random_.Below(3)];
  // The largest writes take many dirty blocks when no extent is free.
  static constexpr uint64_t kLargest[] = {9'000, 70'000, 70'000, 300'000, 1 << 20};
  const uint64_t largest = kLargest[random_.Below(std::size(kLargest))];
  dimensions_.operations.largest_write = largest;
  static constexpr uint64_t kDirtyBlocks[] = {0, 1, 1, 2};
  dimensions_.engine.dirty_blocks = kDirtyBlocks[random_.Below(4)] * (largest > 80'000 ? 650 : 160);
  dimensions_.engine.blocks_per_piece = random_.OneIn(2) ? 160 : random_.Between(64, 100);
  dimensions_.operations.largest_file = random_.OneIn(2) ? 200'000 : 3 << 20;
  dimensions_.operations.sparse = random_.OneIn(3);
  dimensions_.operations.names = random_.OneIn(6) ? 300 : random_.Between(4, 20);
  dimensions_.operations.directories = random_.Between(2, 12);
  dimensions_.in_flight = random_.OneIn(8) ? 1 : random_.Between(2, 24);
  operations_per_life_ = random_.Between(100, 1600);
}

std::unique_ptr<VolumeLife> VolumeSimulation::NewLife() {
  VolumeLifeOptions options = dimensions_;
  options.seed = options_.seed * 1'000'003 + ++lives_;
  options.store.seed = options.seed * 7919 + 1;
  return std::make_unique<VolumeLife>(options, std::move(disk_), trace_);
}

absl::Status VolumeSimulation::Begin() {
  ChooseDimensions();
  trace_->Mix({options_.seed});
  const std::unique_ptr<VolumeLife> life = NewLife();
  RETURN_IF_ERROR(life->Format(4 << 20));
  disk_ = life->store().Crash(1, CrashKind::kPowerCut);
  return absl::OkStatus();
}

void VolumeSimulation::NoteEndOf(VolumeLife& life, bool crash) {
  const core::EngineStats stats = life.stats();
  counts_->parked += stats.parked;
  counts_->checkpoints += stats.checkpoints;
  counts_->operations += life.operations();
  counts_->volume_operations += life.operations();
  counts_->errors += life.errors();
  ++counts_->lives;
  if (crash) ++counts_->crashes;
  for (size_t i = 0; i < counts_->faults.size(); ++i) {
    const uint64_t count = life.store().fault_count(static_cast<sal::SimulatedFault>(i));
    counts_->faults[i] += count;
    if (count > 0 && IsDestructive(static_cast<sal::SimulatedFault>(i))) damaged_ = true;
  }
}

// A recovery that ends early: the power fails, the process is killed, or the disk reports an error.
absl::Status VolumeSimulation::CutRecovery() {
  const std::unique_ptr<VolumeLife> life = NewLife();
  life->store().SetFaults(faults_.PlanForRecovery());
  life->store().CutAt(random_.Between(1, random_.OneIn(2) ? 12 : 60));
  life->OpenEngine().IgnoreError();
  life->store().CutNow();
  prefix_.NoteAttempt(life->report().recovered_lsn);
  const CrashKind kind = random_.OneIn(2) ? CrashKind::kPowerCut : CrashKind::kKill;
  disk_ = life->store().Crash(random_.Next(), kind);
  NoteEndOf(*life, /*crash=*/false);
  ++counts_->cut_recoveries;
  return absl::OkStatus();
}

absl::Status VolumeSimulation::Recover() {
  while (random_.OneIn(3)) RETURN_IF_ERROR(CutRecovery());
  life_ = NewLife();
  if (const absl::Status status = life_->OpenEngine(); !status.ok()) {
    return absl::InternalError(absl::StrCat("the engine does not open: ", status.ToString()));
  }
  return CheckRecovered();
}

absl::Status VolumeSimulation::CheckRecovered() {
  const core::RecoveryReport& report = life_->report();
  if (!report.warnings.empty()) {
    if (!damaged_) return absl::InternalError(absl::StrCat("recovery warns: ", absl::StrJoin(report.warnings, "; ")));
    ++counts_->reported_losses;
  }
  const bool read_only = life_->engine().stats().read_only;
  if (read_only && !(damaged_ && faults_.log_was_hit())) return absl::InternalError("the volume is read-only");
  if (random_.OneIn(3)) {
    ++counts_->checks;
    const absl::Status status = life_->Check(/*repair=*/false);
    if (!status.ok() && !damaged_) return status;
  }
  if (const absl::Status status = life_->OpenVolume(); !status.ok()) {
    if (!damaged_) return absl::InternalError(absl::StrCat("the volume does not open: ", status.ToString()));
    over_ = true;
    return absl::OkStatus();
  }
  if (read_only) over_ = true;  // it says so; what it serves may be ahead of the prefix
  if (over_) return absl::OkStatus();
  return CheckOrder();
}

// What was recovered must be a prefix of what was accepted, and not shorter than what was acknowledged.
absl::Status VolumeSimulation::CheckOrder() {
  const std::vector<core::Lsn> candidates = prefix_.Candidates(life_->report().recovered_lsn);
  absl::Status status = absl::InternalError(absl::StrCat("recovered LSN ", life_->report().recovered_lsn,
                                                         ", which nobody knows"));
  for (const core::Lsn prefix : candidates) {
    if (prefix < prefix_.acknowledged() && !faults_.log_was_hit()) {
      status = absl::InternalError(absl::StrCat("recovered up to LSN ", prefix, " only; LSN ",
                                                prefix_.acknowledged(), " was acknowledged"));
      continue;
    }
    status = Adopt(prefix);
    if (status.ok()) break;
    status = absl::InternalError(absl::StrCat("recovered up to LSN ", prefix, ": ", status.message()));
  }
  return status;
}

// Makes the state after `prefix` the model's present, if the volume agrees.
absl::Status VolumeSimulation::Adopt(core::Lsn prefix) {
  FileTree tree = base_;
  std::set<Ino> unsettled = unsettled_;  // of the life's end; what it has settled after `prefix` comes on top
  for (const AppliedOp& applied : history_) {
    if (applied.lsn > prefix) {
      if (applied.settles) unsettled.insert(applied.op.ino);
      continue;
    }
    tree.SkipInodesTo(applied.made);
    tree.Apply(applied.op, applied.wall_ns);
  }
  tree.CloseAll();
  RETURN_IF_ERROR(life_->Verify(tree, unsettled, damaged_));
  tree_ = std::move(tree);
  unsettled_ = std::move(unsettled);
  return absl::OkStatus();
}

absl::Status VolumeSimulation::Live() {
  base_ = tree_;
  history_.clear();
  faults_.ForgetLogHits();
  life_->store().SetFaults(faults_.PlanFor(life_->engine().info()));
  const bool close = random_.OneIn(6);
  if (!close) life_->store().CutAt(life_->store().request_count() + random_.Between(1, operations_per_life_ * 2));
  const uint64_t count = random_.Between(1, operations_per_life_ * 2);
  const bool may_lose = damaged_ || faults_.destructive();
  absl::Status status = life_->Settle(&tree_, unsettled_, may_lose);
  if (status.ok()) status = life_->Work(count, &tree_, may_lose);
  if (status.ok() && close) {
    status = life_->Close();
    if (status.ok()) {
      ++counts_->closes;
    } else if (life_->stats().failure.empty() && !life_->store().power_off()) {
      return absl::InternalError(absl::StrCat("close: ", status.ToString()));
    }
    status = absl::OkStatus();
  }
  life_->store().CutNow();
  history_ = life_->history();
  unsettled_ = life_->unsettled();
  disk_ = life_->store().Crash(random_.Next(), random_.OneIn(2) ? CrashKind::kPowerCut : CrashKind::kKill);
  prefix_.BeginRecovery(life_->acknowledged(), life_->last_lsn());
  NoteEndOf(*life_, /*crash=*/true);
  life_ = nullptr;
  return status;
}

// Whatever it finds on a damaged volume, fsck must come to its end.
void VolumeSimulation::RepairWhatIsLeft() {
  life_ = NewLife();
  if (life_->OpenEngine().ok()) {
    life_->Check(/*repair=*/true).IgnoreError();
    ++counts_->checks;
  }
  life_ = nullptr;
}

absl::Status VolumeSimulation::Run() {
  RETURN_IF_ERROR(Begin());
  const uint64_t end = counts_->operations + options_.operations;
  bool first = true;
  while (counts_->operations < end && !over_) {
    const auto where = [&](const absl::Status& status) {
      return status.ok() ? status : absl::InternalError(absl::StrCat("life ", lives_, ": ", status.message()));
    };
    if (first) {
      life_ = NewLife();
      RETURN_IF_ERROR(where(life_->OpenEngine()));
      RETURN_IF_ERROR(where(life_->OpenVolume()));
      const absl::StatusOr<volume::Attributes> root = life_->RootAttributes();
      RETURN_IF_ERROR(where(root.status()));
      tree_ = FileTree::Fresh(*root);
      tree_.set_bug(options_.model_bug);
      first = false;
    } else {
      RETURN_IF_ERROR(where(Recover()));
      if (over_) break;
    }
    RETURN_IF_ERROR(where(Live()));
  }
  if (life_ != nullptr) disk_ = life_->store().Image();  // it was over before it could live
  life_ = nullptr;
  if (damaged_) RepairWhatIsLeft();
  return absl::OkStatus();
}

}  // namespace

absl::Status SimulateVolume(const SimulationOptions& options, Trace* trace, Counts* counts) {
  return VolumeSimulation(options, trace, counts).Run();
}

}  // namespace stagefs::simulator

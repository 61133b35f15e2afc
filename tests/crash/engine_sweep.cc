#include "tests/crash/engine_sweep.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/format.h"
#include "sal/status_macros.h"
#include "tests/crash/cut_recovery.h"

namespace stagefs::crash {
namespace {

using core::Lsn;
using CrashKind = sal::SimulatedStore::CrashKind;

// Damages the newer of two good superblocks. False if they are not both good, or equally new.
bool DecayNewestSuperblock(sal::SimulatedDisk& disk) {
  std::optional<uint64_t> checkpoints[2];
  for (uint32_t slot = 0; slot < 2; ++slot) {
    std::vector<std::byte> block(core::kBlockBytes);
    disk.current.Read(core::kSuperblockPlaces[slot] * core::kBlockBytes, block.size(), block.data());
    const absl::StatusOr<core::Superblock> superblock = core::DecodeSuperblock(block.data(), slot);
    if (!superblock.ok()) return false;
    checkpoints[slot] = superblock->checkpoint;
  }
  if (checkpoints[0] == checkpoints[1]) return false;
  const uint64_t place = core::kSuperblockPlaces[*checkpoints[1] > *checkpoints[0] ? 1 : 0] * core::kBlockBytes;
  const std::vector<std::byte> damage(64, std::byte{0xEE});
  disk.current.Write(place + 16, damage.size(), damage.data());
  disk.durable.Write(place + 16, damage.size(), damage.data());
  return true;
}

}  // namespace

const sal::SimulatedDisk& StartOf(const Workload& workload) {
  static const sal::SimulatedDisk* const formatted = new sal::SimulatedDisk(EngineRun::Formatted(11));
  if (!workload.log_nearly_wrapped) return *formatted;
  static const sal::SimulatedDisk* const nearly_wrapped = new sal::SimulatedDisk(EngineRun::NearlyWrapped(12));
  return *nearly_wrapped;
}

absl::Status EngineSweep::Sweep(const Workload& workload) {
  ++counts_.workloads;
  const std::string where =
      absl::StrCat("workload '", workload.name, "', ", options_.fua ? "FUA" : "no FUA", ", seed ", options_.seed);
  const sal::SimulatedDisk& start = StartOf(workload);
  std::vector<uint64_t> cuts;
  {
    EngineRun run(Run(options_.seed), start);
    RETURN_IF_ERROR(Within(where, run.Open()));
    const uint64_t opened = run.store().request_count();
    EngineModel model(workload.arena_blocks);
    RETURN_IF_ERROR(Within(where, run.Execute(&model, workload.ops)));
    if (workload.ops.back().kind != Op::Kind::kClose) RETURN_IF_ERROR(Within(where, run.Verify(model.current())));
    if (run.store().overlapping_requests() > 0) {
      return absl::InternalError(absl::StrCat(where, ": requests overlapped one in flight"));
    }
    for (const uint64_t request : run.changing_requests()) {
      if (request > opened) cuts.push_back(request);
    }
  }
  cuts.push_back(0);  // when all is over
  for (const uint64_t cut : cuts) {
    RETURN_IF_ERROR(Within(absl::StrCat(where, ", cut at request ", cut), CheckCut(workload, start, cut)));
  }
  return absl::OkStatus();
}

absl::Status EngineSweep::CheckCut(const Workload& workload, const sal::SimulatedDisk& start, uint64_t cut) {
  ++counts_.cuts;
  EngineRun run(Run(options_.seed), start);
  run.store().CutAt(cut);
  RETURN_IF_ERROR(run.Open());
  EngineModel model(workload.arena_blocks);
  RETURN_IF_ERROR(run.Execute(&model, workload.ops));
  run.store().CutNow();
  for (const CrashKind kind : {CrashKind::kPowerCut, CrashKind::kKill}) {
    for (uint64_t i = 0; i < options_.crash_seeds; ++i) {
      const uint64_t seed = options_.seed * 100'003 + cut * 16 + i;
      Crashed crashed = {run.Crash(seed, kind), model, run.acknowledged(), kind == CrashKind::kPowerCut, seed,
                         options_.generations};
      if (options_.decay_newest_superblock && !DecayNewestSuperblock(crashed.disk)) continue;
      RETURN_IF_ERROR(Within(absl::StrCat(Name(kind), " ", i), CheckCrash(crashed)));
    }
  }
  return absl::OkStatus();
}

// `run` has recovered from `crashed`.
absl::Status EngineSweep::CheckRecovered(EngineRun& run, const Crashed& crashed, std::optional<Lsn> expected,
                                         bool after_cut_recovery) {
  const core::RecoveryReport& report = run.report();
  if (!report.warnings.empty() && !options_.decay_newest_superblock) {
    return absl::InternalError(absl::StrCat("recovery warns: ", absl::StrJoin(report.warnings, "; ")));
  }
  if (run.engine().stats().read_only) return absl::InternalError("the volume is read-only after a crash");
  if (report.recovered_lsn < crashed.acknowledged) {
    return absl::InternalError(absl::StrCat("recovered up to LSN ", report.recovered_lsn, " only; LSN ",
                                            crashed.acknowledged, " was acknowledged"));
  }
  const Lsn latest = crashed.model.LastChange(~Lsn{0});
  if (expected.has_value()) {
    return Within(absl::StrCat("recovered at LSN ", *expected, " again"), run.Verify(crashed.model.At(*expected)));
  }
  absl::Status status = run.Verify(crashed.model.At(report.recovered_lsn));
  // A recovery that was cut may have moved the LSNs on already: then only the content tells where the prefix ended.
  const auto& history = crashed.model.history();
  for (auto it = history.rbegin(); after_cut_recovery && !status.ok() && report.recovered_lsn > latest; ++it) {
    const Lsn lsn = it == history.rend() ? 0 : it->lsn;
    if (lsn < crashed.model.LastChange(crashed.acknowledged)) break;
    if (run.Verify(crashed.model.At(lsn)).ok()) return absl::OkStatus();
    if (lsn == 0) break;
  }
  return Within(absl::StrCat("recovered at LSN ", report.recovered_lsn), status);
}

absl::Status EngineSweep::CheckCrash(const Crashed& crashed) {
  ++counts_.crash_states;
  sal::Random64 random(crashed.seed);
  EngineRun run(Run(crashed.seed * 8 + 1), crashed.disk);
  ++counts_.recoveries;
  RETURN_IF_ERROR(Within("recovery", run.Open()));
  const std::vector<uint64_t> recovery_requests = run.changing_requests();
  RETURN_IF_ERROR(CheckRecovered(run, crashed, std::nullopt, /*after_cut_recovery=*/false));
  const Lsn recovered = run.report().recovered_lsn;

  // From here on P is durable, and what was recovered is home.
  Crashed again = {run.Crash(crashed.seed, CrashKind::kPowerCut), crashed.model, recovered, true, crashed.seed, 0};
  again.model.TruncateTo(recovered);
  EngineRun second(Run(crashed.seed * 8 + 2), again.disk);
  ++counts_.recoveries;
  RETURN_IF_ERROR(Within("the second recovery", second.Open()));
  RETURN_IF_ERROR(Within("after the second recovery", CheckRecovered(second, again, recovered, false)));

  if (crashed.seed % options_.cut_every_request_of == 0) {
    for (const uint64_t cut : recovery_requests) RETURN_IF_ERROR(CutRecovery(crashed, recovered, cut, random));
  } else {
    const uint64_t cut = recovery_requests[random.Below(recovery_requests.size())];
    RETURN_IF_ERROR(CutRecovery(crashed, recovered, cut, random));
  }
  if (crashed.generations_left > 1) return WriteMore(run, crashed, recovered, random);
  return absl::OkStatus();
}

// Recovery is cut at request `first_cut`, the next one at a random request, and so on; the last one is left alone.
absl::Status EngineSweep::CutRecovery(const Crashed& crashed, Lsn expected, uint64_t first_cut,
                                      sal::Random64& random) {
  std::string where;
  sal::SimulatedDisk disk = crashed.disk;
  const auto recover = [&](uint64_t n, const sal::SimulatedDisk& from, uint64_t cut) {
    auto run = std::make_unique<EngineRun>(Run(crashed.seed * 8 + 3 + n), from);
    ++counts_.recoveries;
    run->store().CutAt(cut);
    run->Open().IgnoreError();  // whatever it says without power
    run->store().CutNow();
    return run;
  };
  crash::CutRecovery(first_cut, random, recover, &disk, &where);
  EngineRun last(Run(crashed.seed * 8 + 7), std::move(disk));
  ++counts_.recoveries;
  RETURN_IF_ERROR(Within(absl::StrCat(where, ": recovery"), last.Open()));
  // The disk's cache may have been lost with the second crash; without that, nothing may be found but the same prefix.
  const std::optional<Lsn> exactly = crashed.settled ? std::optional<Lsn>(expected) : std::nullopt;
  return Within(where, CheckRecovered(last, crashed, exactly, /*after_cut_recovery=*/true));
}

absl::Status EngineSweep::WriteMore(EngineRun& run, const Crashed& crashed, Lsn recovered, sal::Random64& random) {
  EngineModel model = crashed.model;
  model.TruncateTo(recovered);
  const Workload more = RandomWorkload(random.Next() % 1'000'000, random.Between(2, 6));
  run.store().CutAt(run.store().request_count() + random.Between(1, 24));
  const std::string where = absl::StrCat("writing on after LSN ", recovered, " (", more.name, ")");
  RETURN_IF_ERROR(Within(where, run.Execute(&model, more.ops)));
  run.store().CutNow();
  const CrashKind kind = random.OneIn(2) ? CrashKind::kKill : CrashKind::kPowerCut;
  const uint64_t seed = random.Next() % 1'000'000'000;
  return Within(absl::StrCat(where, ", ", Name(kind)),
                CheckCrash({run.Crash(seed, kind), std::move(model), run.acknowledged(), kind == CrashKind::kPowerCut,
                            seed, crashed.generations_left - 1}));
}

}  // namespace stagefs::crash

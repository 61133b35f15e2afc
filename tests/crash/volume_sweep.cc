#include "tests/crash/volume_sweep.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sal/status_macros.h"
#include "tests/crash/cut_recovery.h"
#include "tests/crash/volume_workloads.h"

namespace stagefs::crash {
namespace {

using core::Lsn;
using CrashKind = sal::SimulatedStore::CrashKind;

// What follows an operation of itself: the space of what was removed comes back.
constexpr uint64_t kBackgroundNs = 3'000'000;

struct Start {
  sal::SimulatedDisk disk;
  FileTree tree;
};

const Start& PreparedStart() {
  static const Start* const start = [] {
    auto* const made = new Start;
    made->disk = VolumeRun::Prepared(&made->tree);
    return made;
  }();
  return *start;
}

absl::Status OpenBoth(VolumeRun& run) {
  RETURN_IF_ERROR(run.OpenEngine());
  return run.OpenVolume();
}

}  // namespace

absl::Status VolumeSweep::Sweep(const FileWorkload& workload) {
  ++counts_.workloads;
  const std::string where =
      absl::StrCat("workload '", workload.name, "', ", options_.fua ? "FUA" : "no FUA", ", seed ", options_.seed);
  FileWorkload whole = workload;
  whole.ops.push_back({FileOp::Kind::kLetRun, "", "", kBackgroundNs});
  std::vector<uint64_t> cuts;
  {
    VolumeRun run(Run(options_.seed), PreparedStart().disk);
    RETURN_IF_ERROR(Within(where, OpenBoth(run)));
    const uint64_t opened = run.store().request_count();
    VolumeHistory history = Beginning(PreparedStart().tree);
    RETURN_IF_ERROR(Within(where, run.Execute(whole.ops, &history)));
    for (const uint64_t request : run.changing_requests()) {
      if (request > opened) cuts.push_back(request);
    }
    const absl::StatusOr<FileTree> tree = run.Load();
    RETURN_IF_ERROR(Within(where, tree.status()));
    const std::string difference = Difference(history.now(), *tree);
    if (!difference.empty()) return absl::InternalError(absl::StrCat(where, ", no crash: ", difference));
  }
  cuts.push_back(0);  // when all is over
  for (const uint64_t cut : cuts) {
    RETURN_IF_ERROR(Within(absl::StrCat(where, ", cut at request ", cut), CheckCut(whole, cut)));
  }
  return absl::OkStatus();
}

absl::Status VolumeSweep::CheckCut(const FileWorkload& workload, uint64_t cut) {
  ++counts_.cuts;
  VolumeRun run(Run(options_.seed), PreparedStart().disk);
  run.store().CutAt(cut);
  RETURN_IF_ERROR(OpenBoth(run));
  VolumeHistory history = Beginning(PreparedStart().tree);
  RETURN_IF_ERROR(run.Execute(workload.ops, &history));
  run.store().CutNow();
  for (const CrashKind kind : {CrashKind::kPowerCut, CrashKind::kKill}) {
    for (uint64_t i = 0; i < options_.crash_seeds; ++i) {
      const uint64_t seed = options_.seed * 100'003 + cut * 16 + i;
      RETURN_IF_ERROR(Within(absl::StrCat(Name(kind), " ", i),
                             CheckCrash({run.Crash(seed, kind), history, 0, kind == CrashKind::kPowerCut, seed,
                                         options_.generations})));
    }
  }
  return absl::OkStatus();
}

absl::Status VolumeSweep::CheckTree(VolumeRun& run, const Crashed& crashed, size_t first, size_t last,
                                    size_t* found) {
  const core::RecoveryReport& report = run.report();
  if (!report.warnings.empty()) {
    return absl::InternalError(absl::StrCat("recovery warns: ", absl::StrJoin(report.warnings, "; ")));
  }
  if (run.engine().stats().read_only) return absl::InternalError("the volume is read-only after a crash");
  if (report.recovered_lsn < crashed.acknowledged) {
    return absl::InternalError(absl::StrCat("recovered up to LSN ", report.recovered_lsn, " only; LSN ",
                                            crashed.acknowledged, " was durable"));
  }
  RETURN_IF_ERROR(run.Check());
  RETURN_IF_ERROR(run.OpenVolume());
  const absl::StatusOr<FileTree> tree = run.Load();
  if (!tree.ok()) return absl::InternalError(absl::StrCat("the volume cannot be read: ", tree.status().ToString()));
  std::string differences;
  for (size_t step = std::max(first, crashed.history.durable_steps); step <= last; ++step) {
    const std::string difference = Difference(crashed.history.steps[step].tree, *tree);
    *found = step;
    if (difference.empty()) return absl::OkStatus();
    absl::StrAppend(&differences, " step ", step, ": ", difference, ";");
  }
  return absl::InternalError(absl::StrCat("recovered at LSN ", report.recovered_lsn, ", steps ", first, " to ", last,
                                          " of ", crashed.history.steps.size() - 1, ", acknowledged ",
                                          crashed.history.durable_steps, ":", differences));
}

absl::Status VolumeSweep::CheckCrash(const Crashed& crashed) {
  ++counts_.crash_states;
  sal::Random64 random(crashed.seed);
  VolumeRun run(Run(crashed.seed * 8 + 1), crashed.disk);
  ++counts_.recoveries;
  RETURN_IF_ERROR(Within("recovery", run.OpenEngine()));
  const std::vector<uint64_t> recovery_requests = run.changing_requests();
  // The steps that P can be. An operation's LSN is known up to the changes made in the background meanwhile.
  const std::vector<VolumeHistory::Step>& steps = crashed.history.steps;
  size_t first = 0, last = 0;
  for (size_t i = 1; i < steps.size(); ++i) {
    if (steps[i].up_to <= run.report().recovered_lsn) first = i;
    if (steps[i].after < run.report().recovered_lsn) last = i;
  }
  last = std::max(first, last);  // an operation that changes nothing takes no LSN
  size_t step = 0;
  RETURN_IF_ERROR(CheckTree(run, crashed, first, last, &step));

  // From here on P is durable, and what was recovered is home.
  {
    VolumeHistory history = Beginning(steps[step].tree);
    const Crashed again = {run.Crash(crashed.seed, CrashKind::kPowerCut), std::move(history),
                           run.report().recovered_lsn, true, crashed.seed, 0};
    VolumeRun second(Run(crashed.seed * 8 + 2), again.disk);
    ++counts_.recoveries;
    RETURN_IF_ERROR(Within("the second recovery", second.OpenEngine()));
    size_t unused = 0;
    RETURN_IF_ERROR(Within("after the second recovery", CheckTree(second, again, 0, 0, &unused)));
    second.CloseVolume();
    RETURN_IF_ERROR(Within("after what was removed is gone", second.Check()));
  }
  if (crashed.seed % options_.cut_every_request_of == 0) {
    for (const uint64_t cut : recovery_requests) RETURN_IF_ERROR(CutRecovery(crashed, step, cut, random));
  } else {
    RETURN_IF_ERROR(CutRecovery(crashed, step, recovery_requests[random.Below(recovery_requests.size())], random));
  }
  if (crashed.generations_left > 1) return WriteMore(run, crashed, step, random);
  return absl::OkStatus();
}

// Recovery is cut at request `first_cut`, the next one at a random request, and so on; the last one is left alone.
absl::Status VolumeSweep::CutRecovery(const Crashed& crashed, size_t expected, uint64_t first_cut,
                                      sal::Random64& random) {
  std::string where;
  sal::SimulatedDisk disk = crashed.disk;
  const auto recover = [&](uint64_t n, const sal::SimulatedDisk& from, uint64_t cut) {
    auto run = std::make_unique<VolumeRun>(Run(crashed.seed * 8 + 3 + n), from);
    ++counts_.recoveries;
    run->store().CutAt(cut);
    run->OpenEngine().IgnoreError();  // whatever it says without power
    run->store().CutNow();
    return run;
  };
  crash::CutRecovery(first_cut, random, recover, &disk, &where);
  VolumeRun last(Run(crashed.seed * 8 + 7), std::move(disk));
  ++counts_.recoveries;
  RETURN_IF_ERROR(Within(absl::StrCat(where, ": recovery"), last.OpenEngine()));
  // A disk's cache may have been lost with the second crash; without that, nothing may be found but the same tree.
  const size_t first_step = crashed.settled ? expected : 0;
  const size_t last_step = crashed.settled ? expected : crashed.history.steps.size() - 1;
  size_t unused = 0;
  return Within(where, CheckTree(last, crashed, first_step, last_step, &unused));
}

absl::Status VolumeSweep::WriteMore(VolumeRun& run, const Crashed& crashed, size_t step, sal::Random64& random) {
  VolumeHistory history = Beginning(crashed.history.steps[step].tree);
  const FileWorkload more = RandomFileWorkload(random.Next() % 1'000'000, random.Between(2, 6));
  run.store().CutAt(run.store().request_count() + random.Between(1, 24));
  const std::string where = absl::StrCat("writing on after step ", step, " (", more.name, ")");
  const Lsn recovered = run.report().recovered_lsn;
  RETURN_IF_ERROR(Within(where, run.Execute(more.ops, &history)));
  run.store().CutNow();
  const CrashKind kind = random.OneIn(2) ? CrashKind::kKill : CrashKind::kPowerCut;
  const uint64_t seed = random.Next() % 1'000'000'000;
  return Within(absl::StrCat(where, ", ", Name(kind)),
                CheckCrash({run.Crash(seed, kind), std::move(history), recovered, kind == CrashKind::kPowerCut, seed,
                            crashed.generations_left - 1}));
}

}  // namespace stagefs::crash

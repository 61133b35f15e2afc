#include "tests/crash/search.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sal/status_macros.h"
#include "tests/crash/cut_recovery.h"

namespace stagefs::crash {
namespace {

using Kind = FileOp::Kind;

// What follows an operation of itself: the space of what was removed comes back, a checkpoint ends.
constexpr uint64_t kBackgroundNs = 3'000'000;
constexpr uint64_t kRecoverySeed = 1'000'000;

// States that agree in all writes that the check of one of them has read recover to the same.
bool RecoversAlike(const CrashStates::Fates& fates, const CrashStates::Fates& checked, const std::vector<bool>& read) {
  for (size_t i = 0; i < fates.size(); ++i) {
    if (read[i] && fates[i] != checked[i]) return false;
  }
  return true;
}

std::string ToString(const CrashStates::Fates& fates) {
  static constexpr const char* kFates[] = {"lost", "whole"};
  return absl::StrJoin(fates, ", ", [](std::string* out, uint8_t fate) {
    out->append(fate < 2 ? kFates[fate] : absl::StrCat("torn ", fate - 1));
  });
}

}  // namespace

VolumeRunOptions Search::RunOptions(const SearchStart& start, uint64_t seed, Mistake mistake) const {
  return {.seed = seed, .fua = start.fua, .broken = options_.broken, .mistake = mistake,
          .store_bytes = kSearchStoreBytes};
}

absl::Status Search::Try(const SearchWorkload& workload) {
  ++counts_.workloads;
  const std::string where = absl::StrCat("--workload=\"", workload.name(), "\" --seed=", options_.seed);
  VolumeHistory history;
  std::vector<Cut> cuts;
  RETURN_IF_ERROR(Within(where, Run(workload, &history, &cuts)));
  std::vector<uint64_t> steps;
  for (const VolumeHistory::Step& step : history.steps) steps.push_back(Fingerprint(step.tree));
  for (const Cut& cut : cuts) {
    RETURN_IF_ERROR(Within(absl::StrCat(where, ", cut at request ", cut.request),
                           TryCut(workload, cut, history, steps)));
  }
  return absl::OkStatus();
}

absl::Status Search::Run(const SearchWorkload& workload, VolumeHistory* history, std::vector<Cut>* cuts) {
  const SearchStart& start = SearchStarts()[workload.start];
  VolumeRun run(RunOptions(start, options_.seed, options_.mistake), start.disk);
  RETURN_IF_ERROR(run.OpenEngine());
  RETURN_IF_ERROR(run.OpenVolume());
  *history = Beginning(start.tree);
  RETURN_IF_ERROR(run.Execute(start.first, history));
  const auto cut = [&] {
    cuts->push_back({run.store().request_count(), run.store().durable(), run.store().AtRisk(),
                     history->durable_steps});
  };
  run.recording().OnChange(cut);
  std::vector<FileOp> ops = workload.ops;
  ops.push_back({.kind = Kind::kLetRun, .offset = kBackgroundNs});
  const absl::Status status = run.Execute(ops, history);
  run.recording().OnChange(nullptr);
  RETURN_IF_ERROR(status);
  cut();  // when all is over
  const absl::StatusOr<FileTree> tree = run.Load();
  RETURN_IF_ERROR(tree.status());
  const std::string difference = Difference(history->now(), *tree);
  return difference.empty() ? absl::OkStatus() : absl::InternalError(absl::StrCat("no crash: ", difference));
}

absl::Status Search::TryCut(const SearchWorkload& workload, const Cut& cut, const VolumeHistory& history,
                            const std::vector<uint64_t>& steps) {
  ++counts_.cuts;
  const SearchStart& start = SearchStarts()[workload.start];
  const CrashStates states(cut.durable, cut.at_risk, options_.seed);
  const auto allowed = [&](uint64_t tree) {
    return std::find(steps.begin() + cut.durable_steps, steps.end(), tree) != steps.end();
  };
  std::vector<Checked> checked;
  for (const CrashStates::Fates& fates : states.all()) {
    ++counts_.states;
    const auto [known, is_new] = known_.try_emplace(states.FingerprintOf(fates) * 31 + workload.start, 0);
    if (is_new) {
      ++counts_.distinct;
      const auto alike = std::find_if(checked.begin(), checked.end(), [&](const Checked& other) {
        return RecoversAlike(fates, other.fates, other.read);
      });
      if (alike != checked.end() && !options_.check_alike) {
        known->second = alike->tree;
      } else {
        const Outcome outcome = Check(start, states.Image(fates));
        ++counts_.checked;
        known->second = Fingerprint(outcome.tree);
        std::string violation = outcome.violation;
        if (violation.empty() && alike != checked.end() && alike->tree != known->second) {
          violation = "recovers otherwise than a state that differs only in what is never read";
        }
        if (!violation.empty()) {
          known_.erase(known);
          return absl::InternalError(absl::StrCat("writes ", ToString(fates), ": ", violation));
        }
        checked.push_back({fates, states.Touching(outcome.reads), known->second});
      }
    }
    if (allowed(known->second)) continue;
    const Outcome outcome = Check(start, states.Image(fates));
    std::string differences;
    for (size_t step = cut.durable_steps; step < steps.size(); ++step) {
      absl::StrAppend(&differences, " step ", step, ": ", Difference(history.steps[step].tree, outcome.tree), ";");
    }
    return absl::InternalError(absl::StrCat("writes ", ToString(fates), ": no prefix; acknowledged ",
                                            cut.durable_steps, " of ", steps.size() - 1, " steps:", differences));
  }
  return absl::OkStatus();
}

Search::Outcome Search::Check(const SearchStart& start, const sal::SimulatedImage& image) {
  Outcome outcome;
  VolumeRun run(RunOptions(start, kRecoverySeed, Mistake::kNone), {image, image, {}});
  const auto check = [&]() -> absl::Status {
    RETURN_IF_ERROR(Within("recovery", run.OpenEngine()));
    if (!run.report().warnings.empty()) {
      return absl::InternalError(absl::StrCat("recovery warns: ", absl::StrJoin(run.report().warnings, "; ")));
    }
    if (run.engine().stats().read_only) return absl::InternalError("the volume is read-only after a crash");
    RETURN_IF_ERROR(run.Check());
    RETURN_IF_ERROR(run.OpenVolume());
    ASSIGN_OR_RETURN(outcome.tree, run.Load());
    return CheckGoesOn(run, start, &outcome);
  };
  outcome.violation = std::string(check().message());
  const auto& reads = run.recording().reads();
  outcome.reads.insert(outcome.reads.end(), reads.begin(), reads.end());
  return outcome;
}

absl::Status Search::CheckGoesOn(VolumeRun& run, const SearchStart& start, Outcome* outcome) {
  VolumeHistory history = Beginning(outcome->tree);
  RETURN_IF_ERROR(Within("going on", run.Execute({{Kind::kCreate, "~"}, {Kind::kWrite, "~", "", 0, 5000},
                                                  {Kind::kSync}}, &history)));
  VolumeRun again(RunOptions(start, kRecoverySeed + 1, Mistake::kNone),
                  {run.store().durable(), run.store().durable(), {}});
  const auto check = [&]() -> absl::Status {
    RETURN_IF_ERROR(again.OpenEngine());
    RETURN_IF_ERROR(again.OpenVolume());
    ASSIGN_OR_RETURN(const FileTree tree, again.Load());
    const std::string difference = Difference(history.now(), tree);
    if (!difference.empty()) return absl::InternalError(difference);
    again.CloseVolume();  // what was removed is gone now
    return again.Check();
  };
  const absl::Status status = check();
  const auto& reads = again.recording().reads();
  outcome->reads.insert(outcome->reads.end(), reads.begin(), reads.end());
  return Within("the second recovery", status);
}

}  // namespace stagefs::crash

// One disk, several clients, and one crash after another: thousands of random operations by seed. What the sweep does
// for every request of a short workload, this does at random moments of a long one.
//
//   STAGEFS_CRASH_SEED     the seed (default 1)
//   STAGEFS_CRASH_SECONDS  goes on with the next seeds for so long (default: 30 seeds)

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "sal/random.h"
#include "sal/status_macros.h"
#include "tests/crash/engine_model.h"
#include "tests/crash/engine_run.h"
#include "tests/crash/engine_sweep.h"

namespace stagefs::crash {
namespace {

using CrashKind = sal::SimulatedStore::CrashKind;

constexpr uint64_t kLives = 40;  // crashes of one seed's disk

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

struct Counts {
  uint64_t operations = 0;
  uint64_t crashes = 0;
  uint64_t cut_recoveries = 0;
};

// `run` has recovered: it must hold the model's state after some prefix not shorter than `acknowledged`. Makes that the
// model's present. After a cut recovery LSNs may have moved on beyond changes that were lost: then the content tells.
absl::Status CheckRecovered(EngineRun& run, core::Lsn acknowledged, bool after_cut_recovery, EngineModel* model) {
  const core::RecoveryReport& report = run.report();
  if (!report.warnings.empty()) return absl::InternalError(absl::StrJoin(report.warnings, "; "));
  if (report.recovered_lsn < acknowledged) {
    return absl::InternalError(absl::StrCat("recovered up to LSN ", report.recovered_lsn, " only; LSN ", acknowledged,
                                            " was acknowledged"));
  }
  model->TruncateTo(report.recovered_lsn);
  const absl::Status status = run.Verify(model->current());
  while (after_cut_recovery && !model->history().empty() && model->history().back().lsn > acknowledged) {
    if (run.Verify(model->current()).ok()) return absl::OkStatus();
    model->TruncateTo(model->history().back().lsn - 1);
  }
  return after_cut_recovery ? run.Verify(model->current()) : status;
}

absl::Status Simulate(uint64_t seed, core::Broken broken, Counts* counts) {
  sal::Random64 random(seed);
  const uint64_t arena_blocks = random.Between(20, 200);
  const bool fua = random.OneIn(2);
  EngineModel model(arena_blocks);
  sal::SimulatedDisk disk = StartOf({.name = "", .ops = {}, .log_nearly_wrapped = random.OneIn(2)});
  core::Lsn acknowledged = 0;
  for (uint64_t life = 0; life < kLives; ++life) {
    const auto where = [&](const absl::Status& status) {
      if (status.ok()) return status;
      return absl::InternalError(absl::StrCat("life ", life, ": ", status.ToString()));
    };
    bool cut_recovery = false;
    if (life > 0 && random.OneIn(3)) {
      EngineRun cut({.seed = seed * 1000 + life * 2, .fua = fua, .broken = broken}, disk);
      cut.store().CutAt(random.Between(1, 30));
      cut.Open().IgnoreError();
      cut.store().CutNow();
      disk = cut.Crash(random.Next(), CrashKind::kPowerCut);
      cut_recovery = true;
      ++counts->cut_recoveries;
    }
    EngineRun run({.seed = seed * 1000 + life * 2 + 1, .fua = fua, .broken = broken}, disk);
    RETURN_IF_ERROR(where(run.Open()));
    RETURN_IF_ERROR(where(CheckRecovered(run, acknowledged, cut_recovery, &model)));
    model.ForgetHistory();
    run.store().CutAt(run.store().request_count() + random.Between(1, 400));
    while (!run.store().power_off()) {
      const Workload more = RandomWorkload(random.Next() % 1'000'000, random.Between(1, 30));
      std::vector<Op> ops = more.ops;
      if (ops.back().kind == Op::Kind::kClose) ops.pop_back();
      counts->operations += ops.size();
      RETURN_IF_ERROR(where(run.Execute(&model, ops)));
      if (random.OneIn(8) && !run.store().power_off()) RETURN_IF_ERROR(where(run.VerifyUnlessCut(model.current())));
    }
    acknowledged = run.acknowledged();
    disk = run.Crash(random.Next(), random.OneIn(2) ? CrashKind::kPowerCut : CrashKind::kKill);
    ++counts->crashes;
  }
  return absl::OkStatus();
}

TEST(EngineSimulationTest, ManyCrashesOfOneDiskLoseNothingThatWasAcknowledged) {
  const uint64_t first = FromEnvironment("STAGEFS_CRASH_SEED", 1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(FromEnvironment("STAGEFS_CRASH_SECONDS", 0));
  Counts counts;
  uint64_t seed = first;
  for (; seed < first + 30 || std::chrono::steady_clock::now() < end; ++seed) {
    const absl::Status status = Simulate(seed, core::Broken::kNothing, &counts);
    ASSERT_TRUE(status.ok()) << "STAGEFS_CRASH_SEED=" << seed << ": " << status.message();
  }
  std::cout << seed - first << " seeds, " << counts.operations << " operations, " << counts.crashes << " crashes, "
            << counts.cut_recoveries << " recoveries cut short\n";
}

constexpr int kUnnoticed = 7;

// Looks for a violation, and ends the process.
[[noreturn]] void FindViolation(core::Broken broken) {
  Counts counts;
  std::string violation;
  for (uint64_t seed = 1; seed < 100 && violation.empty(); ++seed) {
    violation = std::string(Simulate(seed, broken, &counts).message());
  }
  std::cerr << "found: " << violation << std::endl;
  _exit(violation.empty() ? kUnnoticed : 0);
}

// In processes of their own: an engine without its rules may also give back memory that a write in flight still uses,
// and the store ends the process when it sees that. That is noticed, too.
TEST(EngineSimulationTest, ViolatedInvariantsAreFound) {
  using core::Broken;
  for (const Broken broken : {Broken::kDurableBeforeFlush, Broken::kFrameBeforeExtents, Broken::kReuseBeforeDurable,
                              Broken::kNoZeroForFreshBlocks, Broken::kNoRevocation, Broken::kDestageBeforeDurable,
                              Broken::kNoIntents, Broken::kTailBeforeFlush}) {
    const auto noticed = [](int status) { return !(WIFEXITED(status) && WEXITSTATUS(status) == kUnnoticed); };
    EXPECT_EXIT(FindViolation(broken), noticed, "") << "violation " << static_cast<int>(broken) << " is not noticed";
  }
}

}  // namespace
}  // namespace stagefs::crash

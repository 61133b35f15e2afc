#include <signal.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "sal/status_macros.h"
#include "tools/bench_calls.h"
#include "tools/bench_directory.h"
#include "tools/bench_report.h"
#include "tools/bench_work.h"
#include "tools/commands.h"
#include "tools/mount_table.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

// Of which --size is a multiple.
constexpr uint64_t kSizeUnit = 1 << 20;
constexpr uint64_t kMostRounds = 1000;
// Of several directories: what the machine does beside the measurement should not decide.
constexpr uint64_t kRoundsToCompare = 3;

// A signal that would end the program ends the row, so that what was made can be removed first.
std::atomic<bool> stop = false;
std::atomic<int> stopping_signal = 0;

void Stop(int signal) {
  stopping_signal = signal;
  stop = true;
}

void CatchSignals() {
  struct sigaction action = {};
  action.sa_handler = Stop;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before = {};
    sigaction(signal, nullptr, &before);
    // What nohup(1) ignores stays ignored.
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
}

// Ends the program as the signal would have ended it.
void EndBySignal(int signal) {
  ::signal(signal, SIG_DFL);
  raise(signal);
}

struct Options {
  std::vector<std::string> directories;
  std::vector<const BenchRow*> rows = AllBenchRows();
  BenchSettings settings;
  uint64_t rounds = 0;  // 0: not given
  bool json = false;
};

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (parts.size() == 2 && absl::StartsWith(parts[0], "model name")) {
      return std::string(absl::StripAsciiWhitespace(parts[1]));
    }
  }
  return "unknown";
}

BenchReport Describe(const Options& options) {
  BenchReport report;
  report.wall_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  utsname names = {};
  uname(&names);
  report.kernel = names.release;
  report.cpus = sysconf(_SC_NPROCESSORS_ONLN);
  report.cpu_model = CpuModel();
  report.rounds = options.rounds != 0 ? options.rounds : options.directories.size() > 1 ? kRoundsToCompare : 1;
  report.settings = options.settings;
  report.wanted = options.settings.scale;
  for (const std::string& path : options.directories) {
    const auto mount = MountOf(path);
    report.directories.push_back({path, mount.has_value() ? mount->type : "unknown",
                                  mount.has_value() ? mount->source : "unknown"});
  }
  report.rows = options.rows;
  report.cells.assign(options.rows.size(), std::vector<BenchCell>(options.directories.size()));
  return report;
}

// Rounds interleave the directories row by row, in turn forwards and backwards: none is always the first.
// `failed`: a row could not be measured, and the rest was.
absl::Status Measure(const Invocation& invocation, const std::vector<std::unique_ptr<BenchDirectory>>& directories,
                     BenchReport* report, bool* failed) {
  ProgressBar bar("measuring");
  const size_t count = directories.size();
  const double steps = report->rounds * report->rows.size() * count;
  double done = 0;
  for (uint64_t round = 0; round < report->rounds; ++round) {
    for (size_t r = 0; r < report->rows.size(); ++r) {
      for (size_t i = 0; i < count; ++i) {
        const size_t d = round % 2 == 0 ? i : count - 1 - i;
        const auto result = RunBenchRow(*report->rows[r], *directories[d], report->settings);
        if (absl::IsCancelled(result.status())) return result.status();
        if (result.ok()) {
          report->cells[r][d].AddRound(*report->rows[r], *result);
        } else {
          *failed = true;
          PrintError(invocation, result.status());
        }
        bar.Update(++done / steps);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Bench(const Invocation& invocation, const Options& options, bool* failed) {
  if (options.settings.cold) RETURN_IF_ERROR(MayDropCaches());
  BenchReport report = Describe(options);
  CatchSignals();
  std::vector<std::unique_ptr<BenchDirectory>> directories;
  for (const std::string& path : options.directories) {
    ASSIGN_OR_RETURN(directories.emplace_back(), BenchDirectory::Make(path));
  }
  ASSIGN_OR_RETURN(report.settings.scale, ScaleThatFits(options.settings.scale, directories));
  absl::Status result = Measure(invocation, directories, &report, failed);
  // The destructors would remove them too, but silently.
  for (const auto& directory : directories) result.Update(directory->Remove());
  if (absl::IsCancelled(result)) return result;
  std::fputs((options.json ? report.Json() : report.Table()).c_str(), stdout);
  return result;
}

std::string Summary() {
  std::string text =
      "Measures the file systems of the given directories, whatever they are, and prints a table: rates,\n"
      "percentiles of the time of an operation, and ratios to the first. All it makes lies in a fresh\n"
      "directory in each of them, and is removed in the end. The rows:\n";
  for (const BenchRow* row : AllBenchRows()) absl::StrAppendFormat(&text, "\n  %-16s%s", row->name, row->what);
  return text;
}

}  // namespace

int RunBench(const Invocation& invocation) {
  Options options;
  options.settings.stop = &stop;
  ArgumentParser parser(invocation, {"DIR..."}, Summary());
  parser.AddValue(0, "seconds", "N", "time for each row (default 1)", [&](absl::string_view value) -> absl::Status {
    ASSIGN_OR_RETURN(const uint64_t row_ns, ParseDurationNs(value));
    options.settings.row_ns = static_cast<int64_t>(row_ns);
    return absl::OkStatus();
  });
  parser.AddSize(0, "size", "size of the files (default 256M; less if there is no room)",
                 &options.settings.scale.size_bytes);
  parser.AddValue(0, "only", "ROW[,ROW]", "only these rows", [&](absl::string_view value) -> absl::Status {
    ASSIGN_OR_RETURN(options.rows, ParseBenchRows(value));
    return absl::OkStatus();
  });
  const absl::string_view rounds_help = "how often to do all of it; medians are shown\n(default 1; 3 of several DIRs)";
  parser.AddValue(0, "rounds", "N", rounds_help, [&](absl::string_view value) -> absl::Status {
    ASSIGN_OR_RETURN(options.rounds, ParseCount(value));
    if (options.rounds >= 1 && options.rounds <= kMostRounds) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("must be between 1 and ", kMostRounds));
  });
  parser.AddFlag(0, "cold", "drop the machine's page cache before reads (root)", &options.settings.cold);
  parser.AddFlag(0, "json", "print JSON", &options.json);
  auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  absl::Status result = operands.status();
  bool failed = false;
  uint64_t& size_bytes = options.settings.scale.size_bytes;
  size_bytes = size_bytes / kSizeUnit * kSizeUnit;
  if (result.ok() && size_bytes == 0) {
    result = absl::InvalidArgumentError(absl::StrCat("--size must be at least ", SizeText(kSizeUnit)));
  }
  if (result.ok()) {
    options.directories = *std::move(operands);
    result = Bench(invocation, options, &failed);
  }
  if (const int signal = stopping_signal; signal != 0) EndBySignal(signal);
  if (!result.ok()) PrintError(invocation, result);
  return result.ok() && !failed ? 0 : 1;
}

}  // namespace stagefs::tools

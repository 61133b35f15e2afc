#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/engine.h"
#include "fs/volume/check.h"
#include "sal/mutex.h"
#include "sal/open_store.h"
#include "sal/real_environment.h"
#include "sal/status_macros.h"
#include "tools/commands.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

// Exit codes of fsck(8); they can be added up.
constexpr int kNoErrors = 0;
constexpr int kCorrected = 1;
constexpr int kLeftUncorrected = 4;
constexpr int kOperationalError = 8;
constexpr int kUsage = 16;

struct Settings {
  bool no = false;         // change nothing
  bool yes = false;        // mend, and accept what is lost
  bool preen = false;      // at boot: a clean volume is not looked at further
  bool force = false;
  bool verify_data = false;
  bool verbose = false;
  int progress_fd = 0;  // above 0: where progress goes, as fsck(8) reads it
};

// Progress as fsck(8) and systemd-fsck read it from e2fsck: lines of "pass current most device" on a descriptor. They
// give each of five passes its share of the whole; ours is one work, divided in the same way.
class ProgressLines {
 public:
  ProgressLines(int fd, std::string device) : fd_(fd), device_(std::move(device)) {}
  void Update(double done) {
    constexpr double kPassEnds[] = {0, 0.70, 0.90, 0.92, 0.95, 1.0};
    const int permille = static_cast<int>(done * 1000);
    if (fd_ <= 0 || permille == last_permille_) return;
    last_permille_ = permille;
    int pass = 1;
    while (pass < 5 && done > kPassEnds[pass]) ++pass;
    const double part = (done - kPassEnds[pass - 1]) / (kPassEnds[pass] - kPassEnds[pass - 1]);
    const std::string line = absl::StrFormat("%d %d %d %s\n", pass, static_cast<int>(part * 1000), 1000, device_);
      if (write(fd_, line.data(), line.size()) < 0) fd_ = 0;
  }

 private:
  int fd_;
  const std::string device_;
  int last_permille_ = -1;
};

// Says each line once: every look at the tree reads a bad block again.
class SayOnceEnvironment : public sal::RealEnvironment {
 public:
  void Log(absl::string_view line) override {
    {
      MutexLock lock(&mutex_);
      if (said_.size() >= kMostRemembered || !said_.insert(std::string(line)).second) return;
    }
    RealEnvironment::Log(line);
  }

 private:
  static constexpr size_t kMostRemembered = 10000;

  Mutex mutex_;
  std::set<std::string> said_ ABSL_GUARDED_BY(mutex_);
};

bool Ask(const std::string& question) {
  if (isatty(STDIN_FILENO) != 1 || isatty(STDOUT_FILENO) != 1) return false;
  absl::PrintF("%s [y/N] ", question);
  std::fflush(stdout);
  const int answer = std::getchar();
  for (int rest = answer; rest != '\n' && rest != EOF;) rest = std::getchar();
  return answer == 'y' || answer == 'Y';
}

absl::StatusOr<volume::CheckReport> CheckOnce(const std::string& url, const Settings& settings, core::Engine& engine,
                                              bool repair) {
  ProgressBar progress(absl::StrCat(repair ? "mending " : "checking ", url));
  ProgressLines lines(settings.progress_fd, url);
  volume::CheckOptions options;
  options.repair = repair;
  options.verify_data = settings.verify_data;
  options.progress = [&](double done) {
    progress.Update(done);
    lines.Update(done);
  };
  return volume::Check(engine, options);
}

void PrintProblems(const std::string& url, const volume::CheckReport& report) {
  for (const volume::Problem& problem : report.problems) absl::PrintF("%s: %s\n", url, volume::ToString(problem));
  if (report.problem_count > report.problems.size()) {
    absl::PrintF("%s: ... and %d more\n", url, report.problem_count - report.problems.size());
  }
}

// Checks an open engine, and mends the volume if that is wanted. Returns the exit code.
absl::StatusOr<int> CheckVolume(const std::string& url, const Settings& settings, core::Engine& engine) {
  const bool can_repair = !settings.no && !engine.stats().read_only;
  ASSIGN_OR_RETURN(volume::CheckReport report, CheckOnce(url, settings, engine, can_repair && settings.yes));
  PrintProblems(url, report);
  if (!report.clean() && can_repair && !settings.yes && !settings.preen &&
      Ask(absl::StrCat(url, ": mend what can be mended?"))) {
    ASSIGN_OR_RETURN(report, CheckOnce(url, settings, engine, true));
    PrintProblems(url, report);
  }
  if (report.inodes > 0) {
    absl::PrintF("%s: %d files and directories, %d extents, %d blocks in use, %d free: ", url, report.inodes,
                 report.extents, report.used_blocks, report.free_blocks);
  } else {
    absl::PrintF("%s: the files were not looked at: ", url);
  }
  if (report.clean()) {
    absl::PrintF("no errors\n");
    return kNoErrors;
  }
  absl::PrintF("%d problems, %d mended\n", report.problem_count, report.repaired_count);
  if (report.unrepaired_count() == 0) return kCorrected;
  if (report.repaired_count == 0) absl::PrintF("%s: to mend what can be mended, run stagefs fsck -y\n", url);
  return kLeftUncorrected | (report.repaired_count > 0 ? kCorrected : 0);
}

// Opens the volume, which recovers it, and says what that found.
absl::StatusOr<int> Recover(const std::string& url, const Settings& settings, sal::BlockStore& store,
                            sal::Environment& environment, std::unique_ptr<core::Engine>* engine) {
  core::EngineOptions options;
  options.read_only = settings.no;
  options.accept_log_loss = settings.yes;
  core::RecoveryReport report;
  ASSIGN_OR_RETURN(*engine, core::Engine::Open(store, environment, options, &report));
  const bool log_damaged = !settings.no && (*engine)->stats().read_only;
  if (log_damaged && !settings.preen &&
      Ask(absl::StrCat(url, ": the log is damaged. Drop what follows the damage, though it was acknowledged?"))) {
    (*engine)->Abandon();
    engine->reset();
    options.accept_log_loss = true;
    ASSIGN_OR_RETURN(*engine, core::Engine::Open(store, environment, options, &report));
  }
  int code = kNoErrors;
  if (!report.clean) {
    absl::PrintF("%s: %s %d changes from the log, up to LSN %d\n", url, settings.no ? "would replay" : "replayed",
                 report.changes, report.recovered_lsn);
  }
  for (const std::string& warning : report.warnings) absl::PrintF("%s: %s\n", url, warning);
  if (report.lost_up_to_lsn > 0 && options.accept_log_loss) {
    absl::PrintF("%s: the log was damaged behind LSN %d: what followed is dropped, changes up to LSN %d at least, "
                 "which had been durable\n", url, report.recovered_lsn, report.lost_up_to_lsn);
    code |= kCorrected;
  }
  if (report.lost_block_count > 0) {
    absl::PrintF("%s: %d blocks could not be recovered\n", url, report.lost_block_count);
    code |= kLeftUncorrected;
  }
  if (report.lost_up_to_lsn > 0 && !options.accept_log_loss) {
    absl::PrintF("%s: the log is damaged behind LSN %d; to drop what follows, changes up to LSN %d at least, run "
                 "stagefs fsck -y\n", url, report.recovered_lsn, report.lost_up_to_lsn);
    code |= kLeftUncorrected;
  }
  return code;
}

absl::StatusOr<int> Fsck(const std::string& url, const Settings& settings) {
  SayOnceEnvironment environment;
  sal::OpenStoreOptions store_options;
  store_options.read_only = settings.no;
  store_options.lock_wait_ms = 3000;
  ASSIGN_OR_RETURN(const std::unique_ptr<sal::BlockStore> store, sal::OpenStore(url, store_options));
  ASSIGN_OR_RETURN(const core::VolumeInfo before, core::Engine::Inspect(*store, environment));
  int code = kNoErrors;
  for (size_t slot = 0; slot < before.slots.size(); ++slot) {
    if (before.slots[slot] == "valid") continue;
    absl::PrintF("%s: superblock %d of 2: %s%s\n", url, slot + 1, before.slots[slot],
                 settings.no ? "" : "; it is written anew");
    code |= settings.no ? kLeftUncorrected : kCorrected;
  }
  if (settings.preen && !settings.force && code == kNoErrors && before.clean) {
    absl::PrintF("%s: clean\n", url);
    return code;
  }
  std::unique_ptr<core::Engine> engine;
  ASSIGN_OR_RETURN(const int recovered, Recover(url, settings, *store, environment, &engine));
  // What the log holds is whole: as at any mount after a crash, there is no reason to look at everything.
  const bool enough = settings.preen && !settings.force && code == kNoErrors && recovered == kNoErrors;
  const absl::StatusOr<int> checked = enough ? kNoErrors : CheckVolume(url, settings, *engine);
  const absl::Status closed = engine->Close();
  RETURN_IF_ERROR(checked.status());
  RETURN_IF_ERROR(closed);
  return code | recovered | *checked;
}

// Takes out fsck(8)'s -C, whose descriptor may follow it or not: without one, or with 0, progress is shown on a
// terminal, as it always is.
Invocation WithoutProgressOption(Invocation invocation, int* descriptor) {
  std::vector<std::string>& arguments = invocation.arguments;
  const auto is_number = [](const std::string& text) { return !text.empty() && ParseCount(text).ok(); };
  for (size_t i = 0; i < arguments.size();) {
    if (arguments[i] == "-C" && i + 1 < arguments.size() && is_number(arguments[i + 1])) {
      *descriptor = static_cast<int>(*ParseCount(arguments[i + 1]));
      arguments.erase(arguments.begin() + i, arguments.begin() + i + 2);
    } else if (arguments[i] == "-C" || (arguments[i].starts_with("-C") && is_number(arguments[i].substr(2)))) {
      if (arguments[i] != "-C") *descriptor = static_cast<int>(*ParseCount(arguments[i].substr(2)));
      arguments.erase(arguments.begin() + i);
    } else {
      ++i;
    }
  }
  return invocation;
}

}  // namespace

int RunFsck(const Invocation& called) {
  Settings settings;
  const Invocation invocation = WithoutProgressOption(called, &settings.progress_fd);
  // Whoever reads the progress may go.
  if (settings.progress_fd > 0) std::signal(SIGPIPE, SIG_IGN);
  bool automatic = false;
  bool ignored = false;
  ArgumentParser parser(invocation, {"STORE"},
                        "Checks the stagefs volume on STORE, which must not be mounted, after recovering it as a\n"
                        "mount would. On a terminal it asks before it mends anything. Exit codes as fsck(8): 0 no\n"
                        "errors, 1 errors corrected, 4 errors left, 8 it could not be done, 16 wrong usage.");
  parser.AddFlag('n', "no", "change nothing on the store, not even by recovering it", &settings.no);
  parser.AddFlag('y', "yes", "mend what can be mended, and accept the loss of what lies behind a damaged\n"
                 "place in the log", &settings.yes);
  parser.AddFlag('a', "", "as at boot: replays the log; what is whole then is not looked at further, and nobody is\n"
                 "asked", &automatic);
  parser.AddFlag('p', "", "the same", &settings.preen);
  parser.AddFlag('f', "force", "look at everything although the volume is clean (with -a or -p)", &settings.force);
  parser.AddFlag(0, "verify-data", "also read the content of all files and verify its checksums",
                 &settings.verify_data);
  parser.AddFlag('v', "verbose", "", &settings.verbose);
  parser.AddFlag('V', "", "", &ignored);
  parser.AddValue('t', "", "TYPE", "", [](absl::string_view) { return absl::OkStatus(); });
  const auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  if (!operands.ok()) {
    PrintError(invocation, operands.status());
    return kUsage;
  }
  if (settings.no && (settings.yes || automatic || settings.preen)) {
    PrintError(invocation, "-n cannot be combined with -y, -a or -p");
    return kUsage;
  }
  settings.preen = settings.preen || automatic;
  const auto code = Fsck(operands->front(), settings);
  if (code.ok()) return *code;
  PrintError(invocation, code.status());
  return kOperationalError;
}

}  // namespace stagefs::tools

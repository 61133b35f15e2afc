#include "fs/volume/check.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/check_context.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Transaction;

// A repair may bring up others: names of a directory made anew, what was below it. More rounds than any chain of
// repairs has been seen to need; the last one only looks.
constexpr int kMaxRounds = 40;

// Names the problem across rounds.
using Identity = std::tuple<ProblemKind, std::string, std::string>;
Identity IdentityOf(const Problem& problem) { return {problem.kind, problem.object, problem.message}; }

absl::Status Round(CheckContext& context) {
  ASSIGN_OR_RETURN(const bool tree_mended, CheckSpace(context));
  // With some of the tree missing, all that refers to it would look wrong.
  if (tree_mended || !context.tree_whole()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckInodes(context));
  RETURN_IF_ERROR(CheckNames(context));
  return CheckReachability(context);
}

// Adds what a round found to the report. Every problem counts as repaired that the last round did not find again.
class Merger {
 public:
  explicit Merger(CheckReport* report) : report_(report) {}

  void Add(const CheckReport& round) {
    last_.clear();
    for (const Problem& problem : round.problems) {
      last_.insert(IdentityOf(problem));
      if (!known_.insert(IdentityOf(problem)).second) continue;
      if (report_->problems.size() < CheckReport::kMaxProblems) report_->problems.push_back(problem);
    }
    // Of problems beyond the list only the number is known.
    report_->problem_count = std::max<uint64_t>(std::max(report_->problem_count, round.problem_count), known_.size());
    unrepaired_ = round.problem_count;
    report_->inodes = round.inodes;
    report_->directories = round.directories;
    report_->entries = round.entries;
    report_->extents = round.extents;
    report_->nodes = round.nodes;
    report_->used_blocks = round.used_blocks;
    report_->free_blocks = round.free_blocks;
  }
  void Finish() {
    for (Problem& problem : report_->problems) problem.repaired = !last_.contains(IdentityOf(problem));
    report_->repaired_count = report_->problem_count - std::min(unrepaired_, report_->problem_count);
  }

 private:
  CheckReport* report_;
  std::set<Identity> known_;
  std::set<Identity> last_;
  uint64_t unrepaired_ = 0;
};

absl::Status MakeDurable(core::Engine& engine) {
  struct Waiter {
    std::unique_ptr<sal::Event> event;
    absl::Status status;
  };
  auto waiter = std::make_shared<Waiter>();
  waiter->event = engine.environment().NewEvent();
  engine.WhenDurable(engine.accepted_lsn(), [waiter](absl::Status status) {
    waiter->status = std::move(status);
    waiter->event->Set();
  });
  waiter->event->Wait();
  return waiter->status;
}

}  // namespace

absl::string_view ProblemKindName(ProblemKind kind) {
  switch (kind) {
    case ProblemKind::kHeader: return "header";
    case ProblemKind::kNode: return "node";
    case ProblemKind::kItem: return "item";
    case ProblemKind::kExtent: return "extent";
    case ProblemKind::kSpace: return "space";
    case ProblemKind::kInode: return "inode";
    case ProblemKind::kEntry: return "name";
    case ProblemKind::kLinks: return "links";
    case ProblemKind::kOrphan: return "orphan";
    case ProblemKind::kXattr: return "attribute";
    case ProblemKind::kData: return "data";
  }
  return "unknown";
}

std::string ToString(const Problem& problem) {
  return absl::StrCat(problem.object, ": ", problem.message, problem.repaired ? " (repaired)" : "");
}

absl::StatusOr<CheckReport> Check(core::Engine& engine, const CheckOptions& options) {
  CheckReport report;
  // Progress never goes back, though later rounds begin again.
  CheckOptions shown = options;
  double furthest = 0;
  shown.progress = [&](double part) {
    if (part < furthest || !options.progress) return;
    furthest = part;
    options.progress(part);
  };
  Merger merger(&report);
  for (int round = 1;; ++round) {
    const bool may_fix = options.repair && round < kMaxRounds;
    CheckReport of_header;
    bool header_fixed = false;
    ASSIGN_OR_RETURN(const std::optional<FoundHeader> header, CheckHeader(engine, may_fix, &of_header, &header_fixed));
    if (!header.has_value()) {
      merger.Add(of_header);
      break;
    }
    CheckContext context(engine, shown, header->header, header->block, may_fix);
    for (const Problem& problem : of_header.problems) context.Report(problem.kind, problem.object, problem.message);
    RETURN_IF_ERROR(Round(context));
    const bool last = context.fixes() == 0 && !header_fixed;
    if (last && options.verify_data) RETURN_IF_ERROR(CheckData(context));
    const bool data_fixed = last && context.fixes() > 0;
    merger.Add(context.report());
    if (last && !data_fixed) break;
  }
  merger.Finish();
  if (options.repair) RETURN_IF_ERROR(MakeDurable(engine));
  shown.progress(1);
  return report;
}

}  // namespace stagefs::volume

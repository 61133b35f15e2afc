#include "tests/crash/search_workloads.h"

#include <iterator>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "sal/check.h"
#include "sal/random.h"
#include "tests/crash/volume_run.h"

namespace stagefs::crash {
namespace {

using Kind = FileOp::Kind;

constexpr uint64_t kLogBytes = 4 << 20;
constexpr uint64_t kFreeBlocksWhenFull = 40;

FileOp Sync() { return {.kind = Kind::kSync}; }
FileOp AskForSync() { return {.kind = Kind::kSync, .wait = false}; }
FileOp Checkpoint() { return {.kind = Kind::kCheckpoint, .wait = false}; }
FileOp LetRun(uint64_t duration_ns) { return {.kind = Kind::kLetRun, .offset = duration_ns}; }
FileOp FlushInterval() { return LetRun(2'100'000'000); }

// How far a checkpoint is when the next operation comes: it has just begun; its intents are on their way; homes are
// being written; superblocks are.
constexpr uint64_t kPhasesNs[] = {1'000, 100'000, 300'000, 600'000};
// Less than a read takes.
constexpr uint64_t kShortNs = 40'000;

std::vector<FileOp> BaseTree() {
  return {
      {Kind::kMakeDirectory, "d"},
      {Kind::kMakeDirectory, "g"},
      {Kind::kCreate, "i"}, {Kind::kWrite, "i", "", 0, 100},                                        // inline
      {Kind::kCreate, "b"}, {Kind::kWrite, "b", "", 0, 9000},                                       // blocks, logged
      {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 65536},                                      // an extent
      {Kind::kCreate, "m"}, {Kind::kWrite, "m", "", 0, 65536}, {Kind::kAppend, "b", "", 0, 5000},   // several extents
      {Kind::kWrite, "m", "", 65536, 66000},
      {Kind::kCreate, "s"}, {Kind::kWrite, "s", "", 0, 8192}, {Kind::kWrite, "s", "", 20000, 5000},  // with a hole
      {Kind::kCreate, "h"}, {Kind::kWrite, "h", "", 0, 5000}, {Kind::kLink, "h", "d/h"},             // two names
      {Kind::kSymlink, "l", "i"},
      {Kind::kCreate, "d/x"}, {Kind::kSetXattr, "d/x", "", 0, 100}, {Kind::kSetXattr, "d/x", "user.y", 0, 2000},
      Sync(),
  };
}

// After it two files and a leaf of the tree are dirty, with redo in two frames of the log.
std::vector<FileOp> Warming() {
  return {{Kind::kWrite, "b", "", 100, 50}, Sync(), {Kind::kWrite, "e", "", 30000, 60}, Sync()};
}

SearchStart MakeStart(const std::string& name, bool fua, bool full, std::vector<FileOp> first) {
  SearchStart start = {name, fua, {}, {}, std::move(first)};
  VolumeRun run({.seed = 5, .fua = fua, .store_bytes = kSearchStoreBytes}, {});
  STAGEFS_CHECK(run.Format(kLogBytes).ok());
  VolumeHistory history = Beginning(*run.Load());
  STAGEFS_CHECK(run.Execute(BaseTree(), &history).ok());
  if (full) STAGEFS_CHECK(run.FillUp(kFreeBlocksWhenFull).ok());
  start.tree = *run.Load();
  run.CloseVolume();
  STAGEFS_CHECK(run.engine().Close().ok());
  start.disk = run.Crash(1, sal::SimulatedStore::CrashKind::kPowerCut);
  return start;
}

// Whether each of `ops` makes sense after those before it.
bool MakesSense(FileTree tree, const std::vector<FileOp>& ops) {
  Ino next = 1'000'000;
  bool opened = false;
  for (const FileOp& op : ops) {
    if (op.kind == Kind::kClose && !opened) return false;
    opened |= op.kind == Kind::kOpenUnlink;
    const std::optional<Target> target = Bind(tree, op);
    if (!target.has_value()) return false;
    Apply(op, *target, std::string(op.length, 'x'), ++next, &tree);
  }
  return true;
}

FileOp NotWaitedFor(FileOp op) {
  op.wait = false;
  return op;
}

// What one operation is surrounded by.
std::vector<std::vector<FileOp>> FormsOfOne(const FileOp& op) {
  std::vector<std::vector<FileOp>> forms = {{op, Sync(), Checkpoint()}, {op, FlushInterval()}};
  for (const uint64_t phase_ns : kPhasesNs) forms.push_back({Checkpoint(), LetRun(phase_ns), op, Sync()});
  // Others call Sync() all the time while it is under way.
  std::vector<FileOp>& among_syncs = forms.emplace_back();
  among_syncs.push_back(NotWaitedFor(op));
  for (int i = 0; i < 8; ++i) among_syncs.insert(among_syncs.end(), {AskForSync(), LetRun(kShortNs)});
  among_syncs.push_back(Sync());
  return forms;
}

// What two operations are surrounded by: all of it, but not from each start. `phase` chooses how far a checkpoint
// between them has come.
std::vector<std::vector<FileOp>> FormsOfTwo(absl::string_view start, const FileOp& a, const FileOp& b, size_t phase) {
  const uint64_t phase_ns = kPhasesNs[phase % std::size(kPhasesNs)];
  const std::vector<FileOp> in_turn = {a, b, Sync(), Checkpoint()};
  const std::vector<FileOp> together = {NotWaitedFor(a), b, Sync()};
  const std::vector<FileOp> synced = {a, Sync(), b, Sync()};
  const std::vector<FileOp> syncing = {a, AskForSync(), b, Sync()};
  const std::vector<FileOp> destaging = {a, Sync(), Checkpoint(), LetRun(phase_ns), b, Sync()};
  if (start == "cold") return {in_turn, together, destaging};
  if (start == "warm") return {together, syncing, destaging};
  return {in_turn, synced, syncing};
}

}  // namespace

const std::vector<SearchStart>& SearchStarts() {
  static const auto* const starts = new std::vector<SearchStart>{
      MakeStart("cold", true, false, {}),
      MakeStart("warm", false, false, Warming()),
      MakeStart("full", true, true, {}),
  };
  return *starts;
}

std::string SearchWorkload::name() const {
  const auto format = [](std::string* out, const FileOp& op) { out->append(ToString(op)); };
  return absl::StrCat(SearchStarts()[start].name, ": ", absl::StrJoin(ops, "; ", format));
}

const std::vector<FileOp>& SearchOperations() {
  static const auto* const ops = new std::vector<FileOp>{
      // Names.
      {Kind::kCreate, "n"},
      {Kind::kCreate, "d/n"},
      {Kind::kMakeDirectory, "n"},
      {Kind::kMakeDirectory, "d/n"},
      {Kind::kSymlink, "n", "target"},
      {Kind::kRename, "i", "n"},
      {Kind::kRename, "b", "i"},      // replaces a file
      {Kind::kRename, "i", "e"},
      {Kind::kRename, "m", "h"},      // one of two names goes
      {Kind::kRename, "d", "g"},      // replaces an empty directory
      {Kind::kRename, "e", "d/x"},    // into another directory, over a file with attributes
      {Kind::kRename, "g", "d/n"},    // a directory moves
      {Kind::kRename, "d/x", "n"},
      {Kind::kExchange, "i", "e"},
      {Kind::kExchange, "g", "d/h"},  // a directory and a file change places
      {Kind::kLink, "i", "n"},
      {Kind::kLink, "e", "d/n"},
      {Kind::kUnlink, "i"},
      {Kind::kUnlink, "e"},
      {Kind::kUnlink, "m"},
      {Kind::kUnlink, "h"},
      {Kind::kUnlink, "l"},
      {Kind::kOpenUnlink, "b"},
      {Kind::kOpenUnlink, "m"},
      {Kind::kClose},
      {Kind::kRemoveDirectory, "g"},
      // Content.
      {Kind::kWrite, "i", "", 50, 100},       // inline
      {Kind::kWrite, "i", "", 400, 400},      // no longer inline
      {Kind::kWrite, "i", "", 0, 65536},      // inline becomes an extent
      {Kind::kWrite, "e", "", 0, 65536},      // an extent replaces another
      {Kind::kWrite, "b", "", 8192, 131072},  // an extent replaces blocks and goes on behind the end
      {Kind::kWrite, "e", "", 1000, 70000},   // unaligned: head and tail in place, the rest an extent
      {Kind::kWrite, "b", "", 1000, 5000},    // in place, over three blocks
      {Kind::kWrite, "b", "", 4096, 4096},    // a whole block in place
      {Kind::kWrite, "s", "", 10000, 500},    // part of a fresh block, in a hole
      {Kind::kWrite, "s", "", 0, 24000},      // over a hole
      {Kind::kWrite, "m", "", 60000, 9000},   // over the end of one extent and the beginning of the next
      {Kind::kWrite, "b", "", 40000, 10},     // behind the end
      {Kind::kWrite, "i", "", 100000, 10},
      {Kind::kWrite, "d/h", "", 4000, 200},   // through the other name
      {Kind::kAppend, "i", "", 0, 50},
      {Kind::kAppend, "b", "", 0, 700},
      {Kind::kAppend, "e", "", 0, 66000},
      {Kind::kStoreMapped, "e", "", 0, 20480},
      {Kind::kStoreMapped, "m", "reversed", 57344, 20480},
      {Kind::kStoreMapped, "b", "", 0, 16384},
      {Kind::kStoreMapped, "s", "reversed", 4096, 20480},  // pages of a hole
      {Kind::kTruncate, "i", "", 20},
      {Kind::kTruncate, "i", "", 3000},
      {Kind::kTruncate, "e", "", 0},
      {Kind::kTruncate, "e", "", 10000},     // inside a block
      {Kind::kTruncate, "m", "", 65536},     // at a block's edge
      {Kind::kTruncate, "b", "", 30000},     // up
      {Kind::kTruncate, "s", "", 9000},      // inside a hole
      // Space.
      {Kind::kGrow, "b", "", 0, 60000},
      {Kind::kGrow, "s", "", 0, 25000},
      {Kind::kAllocate, "b", "", 0, 50000},
      {Kind::kPunch, "e", "", 4096, 40960},
      {Kind::kPunch, "b", "", 1000, 3000},
      {Kind::kPunch, "m", "", 60000, 10000},
      {Kind::kZeroRange, "e", "", 5000, 40000},
      {Kind::kZeroRange, "b", "", 10000, 20000},
      // Attributes.
      {Kind::kChangeMode, "i", "", 0600},
      {Kind::kChangeMode, "d", "", 0700},
      {Kind::kSetTime, "b", "", 1'000'000'000},
      {Kind::kSetXattr, "i", "", 0, 100},
      {Kind::kSetXattr, "d/x", "", 0, 3000},
      {Kind::kRemoveXattr, "d/x", "user.y"},
  };
  return *ops;
}

std::vector<SearchWorkload> AllOfOne() {
  std::vector<SearchWorkload> all;
  for (size_t start = 0; start < SearchStarts().size(); ++start) {
    for (const FileOp& op : SearchOperations()) {
      if (!MakesSense(SearchStarts()[start].tree, {op})) continue;
      for (std::vector<FileOp>& form : FormsOfOne(op)) all.push_back({start, std::move(form)});
    }
  }
  return all;
}

std::vector<SearchWorkload> AllOfTwo() {
  const std::vector<FileOp>& ops = SearchOperations();
  std::vector<SearchWorkload> all;
  for (size_t start = 0; start < SearchStarts().size(); ++start) {
    const FileTree& tree = SearchStarts()[start].tree;
    for (size_t i = 0; i < ops.size(); ++i) {
      for (size_t j = 0; j < ops.size(); ++j) {
        if (!MakesSense(tree, {ops[i], ops[j]})) continue;
        for (std::vector<FileOp>& form : FormsOfTwo(SearchStarts()[start].name, ops[i], ops[j], i + j)) {
          // In flight together: the second must make sense without the first.
          if (!form[0].wait && !MakesSense(tree, {ops[j]})) continue;
          all.push_back({start, std::move(form)});
        }
      }
    }
  }
  return all;
}

std::vector<SearchWorkload> Sample(size_t operations, size_t count, uint64_t seed) {
  sal::Random64 random(seed);
  const std::vector<FileOp>& ops = SearchOperations();
  const std::vector<std::vector<FileOp>> between = {
      {}, {}, {Sync()}, {AskForSync()}, {Checkpoint()}, {Checkpoint(), LetRun(kPhasesNs[1])},
      {AskForSync(), Checkpoint(), LetRun(kPhasesNs[2])}};
  std::vector<SearchWorkload> all;
  while (all.size() < count) {
    SearchWorkload workload = {random.Below(SearchStarts().size()), {}};
    std::vector<FileOp> chosen;
    for (size_t i = 0; i < operations; ++i) {
      chosen.push_back(ops[random.Below(ops.size())]);
      workload.ops.push_back(chosen.back());
      workload.ops.back().wait = i + 1 == operations || random.OneIn(2);
      const std::vector<FileOp>& next = between[random.Below(between.size())];
      if (i + 1 < operations) workload.ops.insert(workload.ops.end(), next.begin(), next.end());
    }
    if (!MakesSense(SearchStarts()[workload.start].tree, chosen)) continue;
    workload.ops.push_back(random.OneIn(4) ? FlushInterval() : Sync());
    all.push_back(std::move(workload));
  }
  return all;
}

absl::StatusOr<SearchWorkload> Parse(absl::string_view name) {
  std::map<std::string, FileOp> known;
  const auto add = [&](FileOp op) {
    op.wait = true;
    known[ToString(op)] = op;
    known[ToString(NotWaitedFor(op))] = NotWaitedFor(op);
  };
  for (const FileOp& op : SearchOperations()) add(op);
  for (const FileOp& op : {Sync(), Checkpoint(), FlushInterval()}) add(op);
  for (const uint64_t phase_ns : kPhasesNs) add(LetRun(phase_ns));
  add(LetRun(kShortNs));

  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(name, absl::MaxSplits(": ", 1));
  for (size_t start = 0; start < SearchStarts().size(); ++start) {
    if (SearchStarts()[start].name != parts.first) continue;
    SearchWorkload workload = {start, {}};
    for (const absl::string_view text : absl::StrSplit(parts.second, "; ")) {
      const auto found = known.find(std::string(text));
      if (found == known.end()) return absl::InvalidArgumentError(absl::StrCat("no such operation: \"", text, "\""));
      workload.ops.push_back(found->second);
    }
    return workload;
  }
  return absl::InvalidArgumentError(absl::StrCat("no such start: \"", parts.first, "\""));
}

}  // namespace stagefs::crash

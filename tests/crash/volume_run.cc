#include "tests/crash/volume_run.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "fs/volume/check.h"
#include "sal/check.h"
#include "sal/random.h"
#include "sal/status_macros.h"

namespace stagefs::crash {
namespace {

using core::kBlockBytes;
using volume::Attributes;
using Kind = FileOp::Kind;

constexpr char kFiller[] = "filler";
// What the filler leaves: so little that the space of what is removed is soon used again.
constexpr uint64_t kFreeBlocks = 60;
constexpr uint64_t kMostRead = 2 << 20;  // the filler's zeros are left unread: they are the same in every tree
constexpr uint64_t kLongestOperationNs = 120'000'000'000;
constexpr uint64_t kExecutorDelayNs = 50'000;
constexpr int kRenameExchange = 2;  // RENAME_EXCHANGE of renameat2(2)
// Times that the volume chooses are later: the simulated clock starts in 2024.
constexpr int64_t kFirstChosenTimeNs = 1'600'000'000'000'000'000;

absl::Span<const std::byte> AsBytes(absl::string_view s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

std::string Pattern(uint64_t serial, uint64_t length) {
  std::string bytes(length, '\0');
  sal::Random64 random(serial);
  for (uint64_t at = 0; at < length; at += 8) {
    const uint64_t word = random.Next() | 0x0101010101010101;  // no zero bytes: zeros are easily right by chance
    std::memcpy(bytes.data() + at, &word, std::min<uint64_t>(8, length - at));
  }
  return bytes;
}

sal::SimulatedStoreOptions StoreOptions(const VolumeRunOptions& options) {
  sal::SimulatedStoreOptions store;
  store.seed = options.seed * 7919 + 1;
  store.size_bytes = options.store_bytes;
  store.fua = options.fua;
  return store;
}

}  // namespace

struct VolumeRun::Sent {
  FileOp op;
  Target target;
  std::string bytes;
  core::Lsn after = 0;
};

VolumeHistory Beginning(const FileTree& tree) {
  VolumeHistory history;
  history.steps.push_back({0, 0, tree});
  return history;
}

VolumeRun::VolumeRun(const VolumeRunOptions& options, sal::SimulatedDisk disk)
    : options_(options),
      environment_(options.seed),
      store_(environment_, StoreOptions(options), std::move(disk)),
      recording_(&store_),
      read_buffer_(kMostRead),
      serial_(options.seed << 20) {
  core::AlignedMemory::KeepForReuse();
}

VolumeRun::~VolumeRun() {
  store_.CutNow();
  CloseVolume();
  if (engine_ != nullptr) engine_->Abandon();
  engine_.reset();
  environment_.RunUntilIdle();
}

absl::Status VolumeRun::OpenEngine() {
  report_ = core::RecoveryReport();
  core::EngineOptions options;
  options.cache_bytes = 32 << 20;
  options.blocks_per_piece = 16;
  options.broken = options_.broken;
  auto engine = core::Engine::Open(recording_, environment_, options, &report_);
  RETURN_IF_ERROR(engine.status());
  engine_ = *std::move(engine);
  return absl::OkStatus();
}

absl::Status VolumeRun::OpenVolume() {
  auto opened = volume::Volume::Open(*engine_);
  RETURN_IF_ERROR(opened.status());
  volume_ = *std::move(opened);
  return absl::OkStatus();
}

void VolumeRun::CloseVolume() {
  if (volume_ == nullptr) return;
  volume_->Close();
  volume_ = nullptr;
  environment_.RunUntilIdle();
}

absl::Status VolumeRun::Check() {
  volume::CheckOptions options;
  options.verify_data = true;
  options.window_blocks = 1 << 16;
  options.window_inodes = 1 << 10;
  const absl::StatusOr<volume::CheckReport> report = volume::Check(*engine_, options);
  if (!report.ok()) return absl::InternalError(absl::StrCat("fsck: ", report.status().ToString()));
  if (report->clean()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("fsck finds ", report->problem_count, " problems, the first: ",
                                          volume::ToString(report->problems[0])));
}

absl::Status VolumeRun::Format(uint64_t log_bytes) {
  core::FormatOptions format;
  format.log_bytes = log_bytes;
  RETURN_IF_ERROR(core::Engine::Format(store_, environment_, format));
  RETURN_IF_ERROR(OpenEngine());
  RETURN_IF_ERROR(volume::Volume::Format(*engine_, {}));
  return OpenVolume();
}

absl::Status VolumeRun::FillUp(uint64_t free_blocks) {
  ASSIGN_OR_RETURN(const Attributes filler, Wait<Attributes>([&](auto done) {
                     volume_->Create(volume::kRootIno, kFiller, {.mode = S_IFREG | 0644}, false, std::move(done));
                   }));
  ASSIGN_OR_RETURN(const volume::StatFs space,
                   Wait<volume::StatFs>([&](auto done) { volume_->GetStatFs(std::move(done)); }));
  STAGEFS_CHECK((space.available_blocks - free_blocks) * kBlockBytes > kMostRead);
  return WaitStatus([&](auto done) {
    volume_->Allocate(filler.ino, 0, 0, (space.available_blocks - free_blocks) * kBlockBytes, std::move(done));
  });
}

sal::SimulatedDisk VolumeRun::Prepared(FileTree* tree) {
  VolumeRun run({.seed = 77}, {});
  STAGEFS_CHECK(run.Format(4 << 20).ok());
  VolumeHistory history = Beginning(*run.Load());
  const absl::Status made = run.Execute(
      {{Kind::kCreate, "a"}, {Kind::kWrite, "a", "", 0, 5000},
       {Kind::kCreate, "b"}, {Kind::kWrite, "b", "", 0, 300'000},
       {Kind::kCreate, "s"}, {Kind::kWrite, "s", "", 0, 100},
       {Kind::kMakeDirectory, "d"}, {Kind::kCreate, "d/x"}, {Kind::kWrite, "d/x", "", 0, 20'000}}, &history);
  STAGEFS_CHECK(made.ok());
  STAGEFS_CHECK(run.FillUp(kFreeBlocks).ok());
  *tree = *run.Load();
  run.CloseVolume();
  STAGEFS_CHECK(run.engine_->Close().ok());
  return run.Crash(1, sal::SimulatedStore::CrashKind::kPowerCut);
}

// Without power everything soon ends in an error, so what is waited for ends then too.
void VolumeRun::RunOne(uint64_t waiting_since_ns) {
  if (!environment_.RunOne() || environment_.NowNs() - waiting_since_ns > kLongestOperationNs) {
    std::fprintf(stderr, "stagefs: an operation of the volume is stuck; seed %llu, power %s, %s\n",
                 static_cast<unsigned long long>(options_.seed), store_.power_off() ? "off" : "on",
                 engine_->health().ToString().c_str());
    std::abort();  // its callback would write to what is gone
  }
  NoteGrowth();
}

void VolumeRun::RunUntil(const bool& done) {
  const uint64_t start_ns = environment_.NowNs();
  while (!done) RunOne(start_ns);
}

void VolumeRun::RunUntilNone(const size_t& count) {
  const uint64_t start_ns = environment_.NowNs();
  while (count > 0) RunOne(start_ns);
}

void VolumeRun::LetRun(uint64_t duration_ns) {
  const auto over = std::make_shared<bool>(false);
  environment_.Schedule(duration_ns, [over] { *over = true; });
  while (!store_.power_off() && !*over) RunOne(environment_.NowNs());
}

template <typename T, typename Call>
absl::StatusOr<T> VolumeRun::Wait(Call call) {
  absl::StatusOr<T> result;
  bool done = false;
  call([&](absl::StatusOr<T> value) {
    result = std::move(value);
    done = true;
  });
  RunUntil(done);
  return result;
}

template <typename Call>
absl::Status VolumeRun::WaitStatus(Call call) {
  absl::Status result;
  bool done = false;
  call([&](absl::Status status) {
    result = std::move(status);
    done = true;
  });
  RunUntil(done);
  return result;
}

void VolumeRun::Send(const SentRef& sent, Over over) {
  volume::Volume& v = *volume_;
  const FileOp& op = sent->op;
  const Target& target = sent->target;
  const auto made = [over](const absl::StatusOr<Attributes>& attributes) {
    over(attributes.ok() ? absl::StatusOr<Ino>(attributes->ino) : attributes.status());
  };
  const auto changed = [over](const auto& result) {
    if constexpr (std::is_same_v<std::decay_t<decltype(result)>, absl::Status>) {
      over(result.ok() ? absl::StatusOr<Ino>(0) : result);
    } else {
      over(result.ok() ? absl::StatusOr<Ino>(0) : result.status());
    }
  };
  const auto allocate = [&](int mode) { v.Allocate(target.ino, mode, op.offset, op.length, changed); };
  const std::string xattr = op.other.empty() ? "user.x" : op.other;
  volume::AttributeChange attributes;
  switch (op.kind) {
    case Kind::kCreate:
      return v.Create(target.directory, target.name, {.mode = S_IFREG | 0644}, false, made);
    case Kind::kMakeDirectory:
      return v.MakeDirectory(target.directory, target.name, {.mode = 0755}, made);
    case Kind::kSymlink:
      return v.MakeSymlink(target.directory, target.name, op.other, {.mode = S_IFLNK | 0777}, made);
    case Kind::kWrite:
    case Kind::kAppend:
      return v.Write(target.ino, op.offset, AsBytes(sent->bytes), op.kind == Kind::kAppend, changed);
    case Kind::kGroup:
    case Kind::kLargeGroup:
      return v.WriteGroup(PartsOf(op, target, sent->bytes), changed);
    case Kind::kTruncate:
      attributes.size_bytes = op.offset;
      return v.SetAttributes(target.ino, attributes, changed);
    case Kind::kChangeMode:
      attributes.mode = op.offset & 0777;
      return v.SetAttributes(target.ino, attributes, changed);
    case Kind::kSetTime:
      attributes.mtime_ns = op.offset;
      return v.SetAttributes(target.ino, attributes, changed);
    case Kind::kRename:
    case Kind::kExchange:
      return v.Rename(target.directory, target.name, target.other_directory, target.other_name,
                      op.kind == Kind::kExchange ? kRenameExchange : 0, changed);
    case Kind::kLink:
      return v.Link(target.ino, target.other_directory, target.other_name, changed);
    case Kind::kOpenUnlink:
      return v.Open(target.ino, false, [this, sent, changed](const absl::StatusOr<Attributes>& opened) {
        if (!opened.ok()) return changed(opened);
        opened_.push_back(sent->target.ino);
        volume_->Unlink(sent->target.directory, sent->target.name, changed);
      });
    case Kind::kUnlink:
      return v.Unlink(target.directory, target.name, changed);
    case Kind::kRemoveDirectory:
      return v.RemoveDirectory(target.directory, target.name, changed);
    case Kind::kPunch:
      return allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    case Kind::kZeroRange:
      return allocate(FALLOC_FL_ZERO_RANGE);
    case Kind::kAllocate:
      return allocate(FALLOC_FL_KEEP_SIZE);
    case Kind::kGrow:
      return allocate(0);
    case Kind::kSetXattr:
      return v.SetXattr(target.ino, xattr, sent->bytes, 0, changed);
    case Kind::kRemoveXattr:
      return v.RemoveXattr(target.ino, xattr, changed);
    default:
      return over(absl::InternalError("not an operation on a file"));
  }
}

// As Send(), but as options_.mistake says.
void VolumeRun::SendMistaken(const SentRef& sent, Over over) {
  const Target& target = sent->target;
  if (options_.mistake == Mistake::kReplaceInTwoChanges && sent->op.kind == Kind::kRename) {
    // If nothing was in the way, or a directory, the rename is all.
    return volume_->Unlink(target.other_directory, target.other_name, [this, sent, over](const absl::Status&) {
      environment_.Schedule(kExecutorDelayNs, [this, sent, over] { Send(sent, over); });
    });
  }
  if (options_.mistake == Mistake::kWriteInTwoChanges && sent->op.kind == Kind::kWrite &&
      sent->bytes.size() > kBlockBytes) {
    const auto bytes = AsBytes(sent->bytes);
    return volume_->Write(target.ino, sent->op.offset, bytes.first(kBlockBytes), false,
                          [this, sent, over, bytes](const absl::StatusOr<size_t>& first) {
      if (!first.ok()) return over(first.status());
      volume_->Write(sent->target.ino, sent->op.offset + kBlockBytes, bytes.subspan(kBlockBytes), false,
                     [over](const absl::StatusOr<size_t>& second) {
        over(second.ok() ? absl::StatusOr<Ino>(0) : second.status());
      });
    });
  }
  if (options_.mistake == Mistake::kGroupInTwoChanges && IsGroup(sent->op.kind)) {
    std::vector<volume::ContentChange> parts = PartsOf(sent->op, target, sent->bytes);
    std::vector<volume::ContentChange> rest(parts.begin() + parts.size() / 2, parts.end());
    parts.resize(parts.size() / 2);
    return volume_->WriteGroup(std::move(parts), [this, over, rest](const absl::StatusOr<volume::GroupResult>& first) {
      if (!first.ok()) return over(first.status());
      environment_.Schedule(kExecutorDelayNs, [this, over, rest] {
        volume_->WriteGroup(rest, [over](const absl::StatusOr<volume::GroupResult>& second) {
          over(second.ok() ? absl::StatusOr<Ino>(0) : second.status());
        });
      });
    });
  }
  Send(sent, std::move(over));
}

void VolumeRun::StartChange(const FileOp& op, std::string bytes) {
  const std::optional<Target> target = Bind(history_->now(), op);
  if (!target.has_value()) return;
  const auto sent = std::make_shared<Sent>(Sent{op, *target, std::move(bytes), engine_->accepted_lsn()});
  ++changes_under_way_;
  if (op.kind == Kind::kGrow) growing_.push_back(sent);
  SendMistaken(sent, [this, sent](const absl::StatusOr<Ino>& made) { Finish(sent, made); });
  NoteGrowth();
}

void VolumeRun::Finish(const SentRef& sent, const absl::StatusOr<Ino>& made) {
  --changes_under_way_;
  std::erase(growing_, sent);
  const FileTree& now = history_->now();
  const FileOp& op = sent->op;
  // A file without a name is not part of the model.
  const bool gone = IsAboutInode(op.kind) && !now.contains(sent->target.ino) && !now.contains(sent->target.other_ino);
  const bool accepts = !gone && Accepts(now, op, sent->target);
  if (!made.ok()) {
    if (store_.power_off() || !accepts) return;
    // Zeroing what it has reached already is the one thing that the model does not follow.
    if (absl::IsResourceExhausted(made.status()) && op.kind != Kind::kZeroRange) return;
    failure_.Update(absl::InternalError(absl::StrCat(ToString(op), ": ", made.status().ToString())));
    return;
  }
  if (gone) return;
  if (!accepts && !IsGroup(op.kind)) {  // one of a group's files may be open, without a name
    failure_.Update(absl::InternalError(absl::StrCat(ToString(op), " is accepted, but should fail")));
    return;
  }
  FileTree next = now;
  Apply(op, sent->target, sent->bytes, *made, &next);
  history_->steps.push_back({std::max(sent->after, history_->steps.back().up_to), engine_->accepted_lsn(),
                            std::move(next)});
}

// A file that grows may do so in several changes; each is a step of its own.
void VolumeRun::NoteGrowth() {
  if (growing_.empty() || engine_->accepted_lsn() == growth_seen_) return;
  growth_seen_ = engine_->accepted_lsn();
  for (const SentRef& sent : growing_) {
    ++syncs_under_way_;
    volume_->GetAttributes(sent->target.ino, [this](const absl::StatusOr<Attributes>& attributes) {
      --syncs_under_way_;
      if (!attributes.ok()) return;
      FileTree next = history_->now();
      const auto found = next.find(attributes->ino);
      if (found == next.end() || found->second.size() >= attributes->size_bytes) return;
      FileOp grown = {.kind = Kind::kGrow, .name = "grown", .length = attributes->size_bytes};
      Apply(grown, {.ino = attributes->ino}, "", 0, &next);
      history_->steps.push_back({history_->steps.back().up_to, engine_->accepted_lsn(), std::move(next)});
    });
  }
}

// What the kernel makes of stores to a shared mapping.
void VolumeRun::StartStores(const FileOp& op) {
  const std::optional<Target> target = Bind(history_->now(), op);
  if (!target.has_value()) return;
  const FileNode& node = history_->now().at(target->ino);
  std::string content = node.content == nullptr ? "" : *node.content;
  const std::string stores = Pattern(++serial_, 100);
  struct Run {
    uint64_t offset, length;
  };
  std::vector<Run> runs;
  const uint64_t first = op.offset / kBlockBytes;
  const uint64_t end = std::min((op.offset + op.length + kBlockBytes - 1) / kBlockBytes,
                                (content.size() + kBlockBytes - 1) / kBlockBytes);
  for (uint64_t page = first; page < end; ++page) {
    if (page == first + 1) continue;
    const uint64_t offset = page * kBlockBytes;
    const uint64_t length = std::min<uint64_t>(kBlockBytes, content.size() - offset);
    const uint64_t at = std::min<uint64_t>(page * 32 % 2048, length - 1);
    const uint64_t count = std::min<uint64_t>(stores.size(), length - at);
    content.replace(offset + at, count, stores, 0, count);
    if (!runs.empty() && runs.back().offset + runs.back().length == offset) {
      runs.back().length += length;
    } else {
      runs.push_back({offset, length});
    }
  }
  if (!op.other.empty()) std::reverse(runs.begin(), runs.end());
  for (const Run& run : runs) {
    StartChange({.kind = Kind::kWrite, .name = op.name, .offset = run.offset, .length = run.length, .wait = false},
                content.substr(run.offset, run.length));
  }
}

void VolumeRun::StartSync(bool wait) {
  const size_t step = history_->steps.size() - 1;
  const auto acknowledge = [this, step] { history_->durable_steps = std::max(history_->durable_steps, step); };
  if (options_.mistake == Mistake::kSyncDoesNotWait) acknowledge();
  bool done = false;
  ++syncs_under_way_;
  volume_->Sync([this, acknowledge, wait, &done](const absl::Status& status) {
    --syncs_under_way_;
    if (status.ok()) acknowledge();
    if (wait) done = true;
  });
  if (wait) RunUntil(done);
}

void VolumeRun::Start(const FileOp& op) {
  switch (op.kind) {
    case Kind::kLetRun:
      return LetRun(op.offset);
    case Kind::kSync:
      return StartSync(op.wait);
    case Kind::kCheckpoint: {
      bool done = false;
      ++syncs_under_way_;
      engine_->Checkpoint([this, wait = op.wait, &done](const absl::Status&) {
        --syncs_under_way_;
        if (wait) done = true;
      });
      if (op.wait) RunUntil(done);
      return;
    }
    case Kind::kClose:
      for (const Ino ino : opened_) volume_->Release(ino);
      opened_.clear();
      return;
    case Kind::kStoreMapped:
      return StartStores(op);
    default: {
      const bool has_bytes = op.kind == Kind::kWrite || op.kind == Kind::kAppend || op.kind == Kind::kSetXattr ||
                             op.kind == Kind::kGroup;
      return StartChange(op, has_bytes ? Pattern(++serial_, op.length) : "");
    }
  }
}

absl::Status VolumeRun::Execute(const std::vector<FileOp>& ops, VolumeHistory* history) {
  failure_ = absl::OkStatus();
  history_ = history;
  for (const FileOp& op : ops) {
    if (store_.power_off() || !failure_.ok()) break;
    Start(op);
    if (op.wait) RunUntilNone(changes_under_way_);
  }
  RunUntilNone(changes_under_way_);
  RunUntilNone(syncs_under_way_);
  history_ = nullptr;
  return failure_;
}

absl::Status VolumeRun::LoadNode(Ino ino, FileTree* tree) {
  FileNode node;
  ASSIGN_OR_RETURN(const Attributes attributes,
                   Wait<Attributes>([&](auto done) { volume_->GetAttributes(ino, std::move(done)); }));
  node.mode = attributes.mode;
  node.nlink = attributes.nlink;
  if (attributes.mtime_ns < kFirstChosenTimeNs) node.mtime_ns = attributes.mtime_ns;
  ASSIGN_OR_RETURN(const std::string names,
                   Wait<std::string>([&](auto done) { volume_->ListXattrs(ino, std::move(done)); }));
  for (const absl::string_view name : absl::StrSplit(names, '\0', absl::SkipEmpty())) {
    ASSIGN_OR_RETURN(node.xattrs[std::string(name)],
                     Wait<std::string>([&](auto done) { volume_->GetXattr(ino, name, std::move(done)); }));
  }
  if (S_ISLNK(node.mode)) {
    ASSIGN_OR_RETURN(std::string target,
                     Wait<std::string>([&](auto done) { volume_->ReadSymlink(ino, std::move(done)); }));
    node.content = std::make_shared<const std::string>(std::move(target));
  }
  if (S_ISREG(node.mode) && attributes.size_bytes > 0) {
    std::string content(1, '\0');
    if (attributes.size_bytes <= kMostRead) {
      const auto destination = absl::MakeSpan(read_buffer_.data(), attributes.size_bytes);
      ASSIGN_OR_RETURN(const size_t count, Wait<size_t>([&](auto done) {
                         volume_->Read(ino, 0, destination, std::move(done));
                       }));
      if (count != destination.size()) return absl::InternalError(absl::StrCat("inode ", ino, ": a short read"));
      content.assign(reinterpret_cast<const char*>(destination.data()), count);
    }
    node.content = std::make_shared<const std::string>(std::move(content));
  }
  for (uint64_t cookie = 0; S_ISDIR(node.mode);) {
    ASSIGN_OR_RETURN(const std::vector<volume::DirectoryEntry> entries,
                     Wait<std::vector<volume::DirectoryEntry>>([&](auto done) {
                       volume_->ReadDirectory(ino, cookie, 100, false, std::move(done));
                     }));
    if (entries.empty()) break;
    cookie = entries.back().cookie;
    for (const volume::DirectoryEntry& entry : entries) {
      if (entry.name != "." && entry.name != "..") node.entries[entry.name] = entry.ino;
    }
  }
  const std::map<std::string, Ino> entries = node.entries;
  (*tree)[ino] = std::move(node);
  for (const auto& [name, child] : entries) {
    if (!tree->contains(child)) RETURN_IF_ERROR(LoadNode(child, tree));
  }
  return absl::OkStatus();
}

absl::StatusOr<FileTree> VolumeRun::Load() {
  FileTree tree;
  RETURN_IF_ERROR(LoadNode(volume::kRootIno, &tree));
  return tree;
}

}  // namespace stagefs::crash

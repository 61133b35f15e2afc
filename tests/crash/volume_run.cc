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
#include "fs/volume/check.h"
#include "sal/check.h"
#include "sal/random.h"
#include "sal/status_macros.h"

namespace stagefs::crash {
namespace {

using volume::Attributes;
using Kind = FileOp::Kind;

constexpr char kFiller[] = "filler";
// What the filler leaves: so little that the space of what is removed is soon used again.
constexpr uint64_t kFreeBlocks = 60;
constexpr uint64_t kMostRead = 2 << 20;  // the filler's zeros are left unread: they are the same in every tree
constexpr uint64_t kLongestOperationNs = 120'000'000'000;
constexpr int kRenameExchange = 2;     // RENAME_EXCHANGE of renameat2(2)

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
  store.size_bytes = VolumeRun::kStoreBytes;
  store.fua = options.fua;
  return store;
}

}  // namespace

VolumeRun::VolumeRun(const VolumeRunOptions& options, sal::SimulatedDisk disk)
    : options_(options),
      environment_(options.seed),
      store_(environment_, StoreOptions(options), std::move(disk)),
      recording_(&store_),
      read_buffer_(kMostRead),
      serial_(options.seed << 20) {}

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

sal::SimulatedDisk VolumeRun::Prepared(FileTree* tree) {
  VolumeRun run({.seed = 77}, {});
  core::FormatOptions format;
  format.log_bytes = 4 << 20;
  STAGEFS_CHECK(core::Engine::Format(run.store_, run.environment_, format).ok());
  STAGEFS_CHECK(run.OpenEngine().ok());
  STAGEFS_CHECK(volume::Volume::Format(*run.engine_, {}).ok());
  STAGEFS_CHECK(run.OpenVolume().ok());
  VolumeHistory history;
  history.steps.push_back({0, 0, *run.Load()});
  const absl::Status made = run.Execute(
      {{Kind::kCreate, "a"}, {Kind::kWrite, "a", "", 0, 5000},
       {Kind::kCreate, "b"}, {Kind::kWrite, "b", "", 0, 300'000},
       {Kind::kCreate, "s"}, {Kind::kWrite, "s", "", 0, 100},
       {Kind::kMakeDirectory, "d"}, {Kind::kCreate, "d/x"}, {Kind::kWrite, "d/x", "", 0, 20'000},
       {Kind::kCreate, kFiller}}, &history);
  STAGEFS_CHECK(made.ok());
  const auto space = run.Wait<volume::StatFs>([&](auto done) { run.volume_->GetStatFs(std::move(done)); });
  STAGEFS_CHECK(space.ok() && space->available_blocks > kFreeBlocks);
  const uint64_t fill_bytes = (space->available_blocks - kFreeBlocks) * core::kBlockBytes;
  const Ino filler = Resolve(history.steps.back().tree, kFiller)->ino;
  const absl::Status filled =
      run.WaitStatus([&](auto done) { run.volume_->Allocate(filler, 0, 0, fill_bytes, std::move(done)); });
  STAGEFS_CHECK(filled.ok());
  *tree = *run.Load();
  run.CloseVolume();
  STAGEFS_CHECK(run.engine_->Close().ok());
  return run.Crash(1, sal::SimulatedStore::CrashKind::kPowerCut);
}

void VolumeRun::RunUntil(const bool& done) {
  // Without power everything soon ends in an error, so this waits then too.
  const uint64_t start_ns = environment_.NowNs();
  while (!done) {
    if (!environment_.RunOne() || environment_.NowNs() - start_ns > kLongestOperationNs) {
      std::fprintf(stderr, "stagefs: an operation of the volume is stuck; seed %llu, power %s, %s\n",
                   static_cast<unsigned long long>(options_.seed), store_.power_off() ? "off" : "on",
                   engine_->health().ToString().c_str());
      std::abort();  // its callback would write to what is gone
    }
  }
}

template <typename T, typename Start>
absl::StatusOr<T> VolumeRun::Wait(Start start) {
  absl::StatusOr<T> result;
  bool done = false;
  start([&](absl::StatusOr<T> value) {
    result = std::move(value);
    done = true;
  });
  RunUntil(done);
  return result;
}

template <typename Start>
absl::Status VolumeRun::WaitStatus(Start start) {
  absl::Status result;
  bool done = false;
  start([&](absl::Status status) {
    result = std::move(status);
    done = true;
  });
  RunUntil(done);
  return result;
}

// Makes one operation. The number of the inode it made, or 0.
absl::StatusOr<Ino> VolumeRun::Carry(const FileOp& op, const Place& place, const FileTree& tree,
                                     absl::string_view bytes) {
  volume::Volume& v = *volume_;
  const Ino directory = place.directory;
  const auto made = [](const absl::StatusOr<Attributes>& attributes) -> absl::StatusOr<Ino> {
    RETURN_IF_ERROR(attributes.status());
    return attributes->ino;
  };
  const auto set = [&](const volume::AttributeChange& change) -> absl::StatusOr<Ino> {
    RETURN_IF_ERROR(Wait<Attributes>([&](auto done) { v.SetAttributes(place.ino, change, std::move(done)); }).status());
    return 0;
  };
  const auto allocate = [&](int mode) -> absl::StatusOr<Ino> {
    RETURN_IF_ERROR(WaitStatus(
        [&](auto done) { v.Allocate(place.ino, mode, op.offset, op.length, std::move(done)); }));
    return 0;
  };
  switch (op.kind) {
    case Kind::kCreate:
      return made(Wait<Attributes>(
          [&](auto done) { v.Create(directory, place.name, {.mode = S_IFREG | 0644}, false, std::move(done)); }));
    case Kind::kMakeDirectory:
      return made(Wait<Attributes>(
          [&](auto done) { v.MakeDirectory(directory, place.name, {.mode = 0755}, std::move(done)); }));
    case Kind::kSymlink:
      return made(Wait<Attributes>([&](auto done) {
        v.MakeSymlink(directory, place.name, op.other, {.mode = S_IFLNK | 0777}, std::move(done));
      }));
    case Kind::kWrite:
    case Kind::kAppend:
      RETURN_IF_ERROR(Wait<size_t>([&](auto done) {
                        v.Write(place.ino, op.offset, AsBytes(bytes), op.kind == Kind::kAppend, std::move(done));
                      }).status());
      return 0;
    case Kind::kTruncate: {
      volume::AttributeChange change;
      change.size_bytes = op.offset;
      return set(change);
    }
    case Kind::kChangeMode: {
      volume::AttributeChange change;
      change.mode = op.offset & 0777;
      return set(change);
    }
    case Kind::kRename:
    case Kind::kExchange: {
      const Place other = *Resolve(tree, op.other);
      RETURN_IF_ERROR(WaitStatus([&](auto done) {
        v.Rename(directory, place.name, other.directory, other.name, op.kind == Kind::kExchange ? kRenameExchange : 0,
                 std::move(done));
      }));
      return 0;
    }
    case Kind::kLink: {
      const Place other = *Resolve(tree, op.other);
      RETURN_IF_ERROR(Wait<Attributes>([&](auto done) {
                        v.Link(place.ino, other.directory, other.name, std::move(done));
                      }).status());
      return 0;
    }
    case Kind::kOpenUnlink:
      RETURN_IF_ERROR(Wait<Attributes>([&](auto done) { v.Open(place.ino, false, std::move(done)); }).status());
      [[fallthrough]];
    case Kind::kUnlink:
      RETURN_IF_ERROR(WaitStatus([&](auto done) { v.Unlink(directory, place.name, std::move(done)); }));
      return 0;
    case Kind::kRemoveDirectory:
      RETURN_IF_ERROR(WaitStatus([&](auto done) { v.RemoveDirectory(directory, place.name, std::move(done)); }));
      return 0;
    case Kind::kPunch:
      return allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    case Kind::kZeroRange:
      return allocate(FALLOC_FL_ZERO_RANGE);
    case Kind::kAllocate:
      return allocate(FALLOC_FL_KEEP_SIZE);
    case Kind::kSetXattr:
      RETURN_IF_ERROR(
          WaitStatus([&](auto done) { v.SetXattr(place.ino, "user.x", bytes, 0, std::move(done)); }));
      return 0;
    default:
      return absl::InternalError("not an operation on a file");
  }
}

absl::Status VolumeRun::Execute(const std::vector<FileOp>& ops, VolumeHistory* history) {
  for (const FileOp& op : ops) {
    if (store_.power_off()) break;
    const FileTree& tree = history->steps.back().tree;
    if (op.kind == Kind::kLetRun) {
      const uint64_t end_ns = environment_.NowNs() + op.offset;
      while (!store_.power_off() && environment_.NowNs() < end_ns) {
        environment_.RunFor(std::min<uint64_t>(end_ns - environment_.NowNs(), 20'000));
      }
      continue;
    }
    if (op.kind == Kind::kSync || op.kind == Kind::kAskSync) {
      const size_t step = history->steps.size() - 1;
      bool done = false;
      const bool wait = op.kind == Kind::kSync;
      ++asked_;
      volume_->Sync([this, history, step, wait, &done](const absl::Status& status) {
        --asked_;
        if (status.ok()) history->durable_steps = std::max(history->durable_steps, step);
        if (wait) done = true;
      });
      if (wait) RunUntil(done);
      continue;
    }
    if (op.kind == Kind::kCheckpoint) {
      engine_->Checkpoint([](const absl::Status&) {});
      continue;
    }
    if (!Applies(tree, op)) continue;
    const bool has_bytes = op.kind == Kind::kWrite || op.kind == Kind::kAppend || op.kind == Kind::kSetXattr;
    const std::string bytes = has_bytes ? Pattern(++serial_, op.length) : "";
    const core::Lsn after = engine_->accepted_lsn();
    const absl::StatusOr<Ino> made = Carry(op, *Resolve(tree, op.name), tree, bytes);
    if (!made.ok()) {
      if (store_.power_off() || absl::IsResourceExhausted(made.status())) continue;
      return absl::InternalError(absl::StrCat(ToString(op), ": ", made.status().ToString()));
    }
    FileTree next = tree;
    Apply(op, bytes, *made, &next);
    history->steps.push_back({after, engine_->accepted_lsn(), std::move(next)});
  }
  while (asked_ > 0 && environment_.RunOne()) {  // their callbacks refer to `history`
  }
  return absl::OkStatus();
}

absl::Status VolumeRun::LoadNode(Ino ino, FileTree* tree) {
  FileNode node;
  ASSIGN_OR_RETURN(const Attributes attributes,
                   Wait<Attributes>([&](auto done) { volume_->GetAttributes(ino, std::move(done)); }));
  node.mode = attributes.mode;
  node.nlink = attributes.nlink;
  ASSIGN_OR_RETURN(const std::string names,
                   Wait<std::string>([&](auto done) { volume_->ListXattrs(ino, std::move(done)); }));
  if (!names.empty()) {
    ASSIGN_OR_RETURN(node.xattrs["user.x"],
                     Wait<std::string>([&](auto done) { volume_->GetXattr(ino, "user.x", std::move(done)); }));
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

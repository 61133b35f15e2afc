#include "tests/simulator/volume_life.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/volume/check.h"
#include "fs/volume/errno.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::simulator {
namespace {

using core::kBlockBytes;
using Kind = FileOp::Kind;

constexpr uint64_t kLongestOperationNs = 300'000'000'000;
constexpr uint64_t kReadChunkBytes = 1 << 20;

// Page-aligned, because the engine reads in other requests when its destination is not: runs would differ.
struct AlignedDelete {
  void operator()(std::byte* bytes) const { ::operator delete[](bytes, std::align_val_t{kBlockBytes}); }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;
AlignedBytes MakeAligned(uint64_t size_bytes) {
  return AlignedBytes(new (std::align_val_t{kBlockBytes}) std::byte[size_bytes]);
}

// Several changes may make these.
bool TakesSeveralChanges(const FileOp& op) {
  return op.kind == Kind::kAllocate && (op.mode & FALLOC_FL_PUNCH_HOLE) == 0;
}

bool ChangesContent(const FileOp& op) {
  return op.kind == Kind::kWrite || op.kind == Kind::kAppend || op.kind == Kind::kAllocate ||
         op.kind == Kind::kOpenTruncate || op.change.size_bytes.has_value();
}

bool MakesInode(const FileOp& op) {
  return op.kind == Kind::kCreate || op.kind == Kind::kCreateOpen || op.kind == Kind::kMakeDirectory ||
         op.kind == Kind::kMakeSymlink || op.kind == Kind::kCreateUnnamed;
}

}  // namespace

struct VolumeLife::Answer {
  volume::Attributes attributes = {};
  uint64_t value = 0;
  std::string text = {};
  std::vector<volume::DirectoryEntry> entries = {};
  volume::StatFs space = {};
};

// One operation under way, of one client.
struct VolumeLife::Slot {
  bool busy = false;
  FileOp op;
  std::string written;
  AlignedBytes buffer;  // of a read
  std::byte* destination = nullptr;
  std::optional<Result> expected;  // of a read: what it had to answer when its body ran
  // Of a read, by block: what it may find, since it sees each block as of when its body ran, or later.
  std::vector<std::vector<Piece>> versions;
  // Of a listing, which goes on from call to call: the names that were there all along and were not seen yet.
  std::optional<std::set<std::string>> unseen;
  uint64_t cookie = 0;
  uint64_t started_ns = 0;
};

VolumeLife::VolumeLife(const VolumeLifeOptions& options, sal::SimulatedDisk disk, Trace* trace)
    : options_(options),
      trace_(trace),
      environment_(options.seed),
      store_(environment_, options.store, std::move(disk)),
      generator_(options.operations, options.seed),
      random_(options.seed + 17),
      slots_(options.in_flight) {}

VolumeLife::~VolumeLife() {
  store_.CutNow();
  NoteEnd();
  volume_ = nullptr;
  environment_.RunUntilIdle();
  if (engine_ != nullptr) engine_->Abandon();
  observed_.reset();
  engine_.reset();
  environment_.RunUntilIdle();
}

void VolumeLife::NoteEnd() {
  if (observed_ != nullptr) acknowledged_ = std::max(acknowledged_, observed_->acknowledged());
  if (engine_ != nullptr) stats_ = engine_->stats();
}

absl::Status VolumeLife::Format(uint64_t log_bytes) {
  core::FormatOptions format;
  format.log_bytes = log_bytes;
  RETURN_IF_ERROR(core::Engine::Format(store_, environment_, format));
  RETURN_IF_ERROR(OpenEngine());
  RETURN_IF_ERROR(volume::Volume::Format(*engine_, {}));
  return Close();
}

absl::Status VolumeLife::OpenEngine() {
  report_ = core::RecoveryReport();
  auto engine = core::Engine::Open(store_, environment_, options_.engine, &report_);
  trace_->Mix({environment_.NowNs(), store_.request_count(), report_.recovered_lsn, report_.lost_block_count});
  RETURN_IF_ERROR(engine.status());
  engine_ = *std::move(engine);
  observed_ = std::make_unique<ObservedEngine>(engine_.get());
  acknowledged_ = observed_->acknowledged();
  return absl::OkStatus();
}

absl::Status VolumeLife::OpenVolume() {
  auto opened = volume::Volume::Open(*observed_);
  RETURN_IF_ERROR(opened.status());
  volume_ = *std::move(opened);
  return absl::OkStatus();
}

absl::Status VolumeLife::Close() {
  volume_ = nullptr;
  environment_.RunUntilIdle();
  const core::Lsn accepted = engine_->accepted_lsn();
  const absl::Status status = engine_->Close();
  NoteEnd();
  if (status.ok()) acknowledged_ = std::max(acknowledged_, accepted);
  observed_.reset();
  engine_.reset();
  environment_.RunUntilIdle();
  return status;
}

absl::Status VolumeLife::Check(bool repair) {
  volume::CheckOptions options;
  options.repair = repair;
  options.verify_data = true;
  options.window_blocks = 1 << 16;
  options.window_inodes = 1 << 12;
  const absl::StatusOr<volume::CheckReport> report = volume::Check(*engine_, options);
  trace_->Mix({environment_.NowNs(), store_.request_count()});
  RETURN_IF_ERROR(report.status());
  if (report->clean()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("fsck finds ", report->problem_count, " problems, the first: ",
                                          volume::ToString(report->problems[0])));
}

void VolumeLife::RunUntil(const bool& done, absl::string_view what) {
  // Without power everything soon ends in an error, so this waits then too.
  const uint64_t start_ns = environment_.NowNs();
  while (!done) {
    if (environment_.RunOne() && environment_.NowNs() - start_ns < kLongestOperationNs) continue;
    std::fprintf(stderr, "stagefs: %s is stuck; seed %llu, power %s, %s\n", std::string(what).c_str(),
                 static_cast<unsigned long long>(options_.seed), store_.power_off() ? "off" : "on",
                 engine_->health().ToString().c_str());
    std::abort();  // its callback would write to what is gone
  }
}

template <typename T, typename Begin>
absl::StatusOr<T> VolumeLife::Wait(Begin begin) {
  absl::StatusOr<T> result;
  bool done = false;
  begin([&](absl::StatusOr<T> value) {
    result = std::move(value);
    done = true;
  });
  RunUntil(done, "a question to the volume");
  return result;
}

template <typename Begin>
absl::Status VolumeLife::WaitStatus(Begin begin) {
  absl::Status result;
  bool done = false;
  begin([&](absl::Status status) {
    result = std::move(status);
    done = true;
  });
  RunUntil(done, "an operation of the volume");
  return result;
}

// --- Many operations at once ---

bool VolumeLife::MayFail() const {
  return damaged_ || store_.power_off() || !engine_->health().ok() || stats_.read_only ||
         store_.fault_count(sal::SimulatedFault::kReadError) > 0;
}

void VolumeLife::Fail(const FileOp& op, absl::string_view what) {
  if (failure_.ok()) {
    failure_ = absl::InternalError(absl::StrCat(ToString(op), ", operation ", operations_, " at ",
                                                environment_.NowNs(), " ns: ", what));
  }
}

absl::Status VolumeLife::Work(uint64_t count, FileTree* tree, bool damaged) {
  tree_ = tree;
  damaged_ = damaged;
  stats_ = engine_->stats();
  const uint64_t end = operations_ + count;
  uint64_t last_progress_ns = environment_.NowNs();
  uint64_t seen_operations = operations_;
  while (failure_.ok()) {
    const bool more = operations_ + busy_ < end && !store_.power_off();
    if (!more && busy_ == 0) break;
    const auto free = std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return !slot.busy; });
    if (more && free != slots_.end() && !random_.OneIn(4)) {
      FileOp op = generator_.Next(*tree_);
      // A file whose content is being changed in several steps is left alone.
      const bool several = TakesSeveralChanges(op);
      const bool at_work = std::any_of(slots_.begin(), slots_.end(),
                                       [&](const Slot& slot) { return slot.busy && slot.op.ino == op.ino; });
      if (!locked_.contains(op.ino) && !(several && at_work)) Start(*free, std::move(op));
    } else if (!environment_.RunOne() && busy_ > 0) {
      return absl::InternalError("operations are stuck, and nothing is left to run");
    }
    if (operations_ != seen_operations) {
      seen_operations = operations_;
      last_progress_ns = environment_.NowNs();
    } else if (busy_ > 0 && environment_.NowNs() - last_progress_ns > kLongestOperationNs) {
      std::string stuck;
      for (const Slot& slot : slots_) {
        if (slot.busy) absl::StrAppend(&stuck, "; ", ToString(slot.op));
      }
      failure_ = absl::InternalError(absl::StrCat("operations are stuck", stuck, "; ", engine_->health().ToString()));
    }
  }
  if (!failure_.ok()) {
    // Their callbacks refer to what the caller is about to take away.
    store_.CutNow();
    while (busy_ > 0 && environment_.RunOne() &&
           environment_.NowNs() - last_progress_ns < 3 * kLongestOperationNs) {
    }
  }
  NoteEnd();
  return failure_;
}

void VolumeLife::Start(Slot& slot, FileOp op) {
  const bool goes_on = op.kind == Kind::kReadDirectory && slot.unseen.has_value();
  if (goes_on) op.ino = slot.op.ino;
  slot.busy = true;
  slot.op = std::move(op);
  slot.expected.reset();
  slot.versions.clear();
  slot.started_ns = environment_.NowNs();
  ++busy_;
  if (TakesSeveralChanges(slot.op)) {
    locked_.insert(slot.op.ino);
    unsettled_.insert(slot.op.ino);
  }
  trace_->Mix({static_cast<uint64_t>(slot.op.kind), slot.op.ino, slot.op.offset, slot.op.length,
               environment_.NowNs()});
  if (trace_->verbose()) trace_->Say(absl::StrCat(environment_.NowNs(), " start ", ToString(slot.op)));
  Send(slot);
}

void VolumeLife::Send(Slot& slot) {
  volume::Volume& v = *volume_;
  const FileOp& op = slot.op;
  const volume::NewFile file = {.mode = static_cast<uint32_t>(op.mode), .uid = static_cast<uint32_t>(op.serial % 3),
                                .gid = static_cast<uint32_t>(op.serial % 3)};
  const auto attributes = [this, &slot](const absl::StatusOr<volume::Attributes>& result) {
    Finish(slot, result.status(), result.ok() ? Answer{.attributes = *result} : Answer{});
  };
  const auto status = [this, &slot](const absl::Status& result) { Finish(slot, result, {}); };
  const auto number = [this, &slot](const auto& result) {
    Finish(slot, result.status(), result.ok() ? Answer{.value = *result} : Answer{});
  };
  const auto text = [this, &slot](const absl::StatusOr<std::string>& result) {
    Finish(slot, result.status(), result.ok() ? Answer{.text = *result} : Answer{});
  };
  switch (op.kind) {
    case Kind::kLookup: return v.Lookup(op.ino, op.name, attributes);
    case Kind::kCreate: return v.Create(op.ino, op.name, file, /*open=*/false, attributes);
    case Kind::kCreateOpen: return v.Create(op.ino, op.name, file, /*open=*/true, attributes);
    case Kind::kMakeDirectory: return v.MakeDirectory(op.ino, op.name, file, attributes);
    case Kind::kMakeSymlink: return v.MakeSymlink(op.ino, op.name, op.new_name, file, attributes);
    case Kind::kCreateUnnamed: return v.CreateUnnamed(file, attributes);
    case Kind::kLink: return v.Link(op.ino, op.directory, op.new_name, attributes);
    case Kind::kUnlink: return v.Unlink(op.ino, op.name, status);
    case Kind::kRemoveDirectory: return v.RemoveDirectory(op.ino, op.name, status);
    case Kind::kRename: return v.Rename(op.ino, op.name, op.directory, op.new_name, op.mode, status);
    case Kind::kReadSymlink:
      WatchRead(slot);
      return v.ReadSymlink(op.ino, text);
    case Kind::kReadDirectory:
      if (!slot.unseen.has_value()) {
        slot.cookie = 0;
        slot.unseen.emplace();
        if (const FileNode* const node = tree_->Find(op.ino); node != nullptr) {
          for (const auto& [name, ino] : node->entries) slot.unseen->insert(name);
        }
      }
      return v.ReadDirectory(op.ino, slot.cookie, op.length, op.mode != 0,
                             [this, &slot](absl::StatusOr<std::vector<volume::DirectoryEntry>> result) {
                               const absl::Status outcome = result.status();
                               Finish(slot, outcome, result.ok() ? Answer{.entries = *std::move(result)} : Answer{});
                             });
    case Kind::kGetAttributes: return v.GetAttributes(op.ino, attributes);
    case Kind::kSetAttributes: return v.SetAttributes(op.ino, op.change, attributes);
    case Kind::kOpen: return v.Open(op.ino, /*truncate=*/false, attributes);
    case Kind::kOpenTruncate: return v.Open(op.ino, /*truncate=*/true, attributes);
    case Kind::kRelease: {
      // It has no callback, and is over at once: its body needs no block. Only what the model has open is released.
      const FileNode* const node = tree_->Find(op.ino);
      if (node != nullptr && node->openers > 0) v.Release(op.ino);
      return Finish(slot, absl::OkStatus(), {});
    }
    case Kind::kRead:
      slot.buffer = MakeAligned(op.length + 64);
      slot.destination = slot.buffer.get() + (op.serial % 2) * 64;
      std::memset(slot.destination, '?', op.length);
      WatchRead(slot);
      return v.Read(op.ino, op.offset, absl::MakeSpan(slot.destination, op.length), number);
    case Kind::kWrite:
    case Kind::kAppend:
      slot.written.resize(op.length);
      FillPattern(op.serial, slot.written.data(), op.length);
      return v.Write(op.ino, op.offset,
                     absl::MakeConstSpan(reinterpret_cast<const std::byte*>(slot.written.data()), op.length),
                     op.kind == Kind::kAppend, number);
    case Kind::kAllocate: return v.Allocate(op.ino, op.mode, op.offset, op.length, status);
    case Kind::kSeek: return v.Seek(op.ino, op.offset, op.mode, number);
    case Kind::kSetXattr:
      slot.written.resize(op.length);
      FillPattern(op.serial, slot.written.data(), op.length);
      return v.SetXattr(op.ino, op.name, slot.written, op.mode, status);
    case Kind::kGetXattr: return v.GetXattr(op.ino, op.name, text);
    case Kind::kListXattrs: return v.ListXattrs(op.ino, text);
    case Kind::kRemoveXattr: return v.RemoveXattr(op.ino, op.name, status);
    case Kind::kStatFs:
      return v.GetStatFs([this, &slot](const absl::StatusOr<volume::StatFs>& result) {
        Finish(slot, result.status(), result.ok() ? Answer{.space = *result} : Answer{});
      });
    case Kind::kSync: return v.Sync(status);
    case Kind::kCheckpoint: return observed_->Checkpoint(status);
  }
}

// What a read finds is fixed when its body runs: size and errno for good, content until it is over.
void VolumeLife::WatchRead(Slot& slot) {
  observed_->WatchNextRun([this, &slot] {
    slot.expected = tree_->Apply(slot.op, 0);
    slot.versions.clear();
    const FileNode* const node = tree_->Find(slot.op.ino);
    if (slot.expected->error != 0 || node == nullptr) return;
    const uint64_t length =
        slot.op.kind == Kind::kReadSymlink ? node->attributes.size_bytes : slot.expected->value;
    if (length == 0) return;
    const uint64_t first = slot.op.kind == Kind::kReadSymlink ? 0 : slot.op.offset / kBlockBytes;
    const uint64_t last = slot.op.kind == Kind::kReadSymlink ? (length - 1) / kBlockBytes
                                                             : (slot.op.offset + length - 1) / kBlockBytes;
    for (uint64_t block = first; block <= last; ++block) slot.versions.push_back({PieceAt(node->content, block)});
  });
}

void VolumeLife::NoteVersions(Ino ino) {
  const FileNode* const node = tree_->Find(ino);
  if (node == nullptr) return;
  for (Slot& slot : slots_) {
    if (!slot.busy || slot.op.kind != Kind::kRead || slot.op.ino != ino) continue;
    uint64_t block = slot.op.offset / kBlockBytes;
    for (std::vector<Piece>& versions : slot.versions) {
      const Piece now = PieceAt(node->content, block++);
      if (now != versions.back()) versions.push_back(now);
    }
  }
}

absl::Status VolumeLife::CheckRead(const Slot& slot) const {
  const char* found = reinterpret_cast<const char*>(slot.destination);
  uint64_t offset = slot.op.offset;
  const uint64_t end = offset + slot.expected->value;
  for (const std::vector<Piece>& versions : slot.versions) {
    const uint64_t start = offset % kBlockBytes;
    const uint64_t length = std::min(kBlockBytes - start, end - offset);
    if (std::none_of(versions.begin(), versions.end(),
                     [&](const Piece& piece) { return Matches(piece, start, length, found); })) {
      return absl::InternalError(absl::StrCat("wrong bytes in [", offset, ", ", offset + length, ")"));
    }
    offset += length;
    found += length;
  }
  return absl::OkStatus();
}

// The answer to the operation in `slot` has come: it must be what the model says at this point of the order.
void VolumeLife::Finish(Slot& slot, const absl::Status& status, const Answer& answer) {
  const FileOp& op = slot.op;
  const ObservedEngine::Current* const current = observed_->current();
  const int error = volume::ToErrno(status);
  trace_->Mix({static_cast<uint64_t>(error), current == nullptr ? 0 : current->lsn, environment_.NowNs(),
               store_.request_count()});
  if (trace_->verbose()) {
    trace_->Say(absl::StrCat(environment_.NowNs(), " LSN ", current == nullptr ? 0 : current->lsn, " ", ToString(op),
                             ": ", status.ToString()));
  }
  slot.busy = false;
  --busy_;
  ++operations_;
  const bool several = TakesSeveralChanges(op);

  if ((error == EIO || error == EROFS) && MayFail()) {
    ++errors_;
    if (op.kind == Kind::kReadDirectory) slot.unseen.reset();
    return;  // nothing was changed, or, of several changes, perhaps some: the file stays locked and unsettled
  }
  if (several) locked_.erase(op.ino);
  if (op.kind == Kind::kRead || op.kind == Kind::kReadSymlink) {
    if (!slot.expected.has_value()) return Fail(op, "answered without looking");
    if (slot.expected->error != error) {
      return Fail(op, absl::StrCat(status.ToString(), ", expected errno ", slot.expected->error));
    }
    if (error == 0) Compare(slot, answer, *slot.expected);
    return;
  }
  if (current != nullptr && !current->fresh) return Fail(op, "answered after a later operation had begun");
  const int64_t wall_ns = current == nullptr ? environment_.WallNs() : current->wall_ns;
  if (error == ENOSPC) {
    FileTree copy = *tree_;
    const Result expected = copy.Apply(op, wall_ns);
    if (expected.error != 0) return Fail(op, absl::StrCat("no space, expected errno ", expected.error));
    if (!expected.needs_space) return Fail(op, "no space, and needs none");
    if (!several) return;
    // Parts of it may have been done. Emptying the file makes it known again.
    locked_.insert(op.ino);
    FileOp empty = {.kind = Kind::kSetAttributes, .ino = op.ino};
    empty.change.size_bytes = 0;
    return Start(slot, std::move(empty));
  }
  const Ino made = MakesInode(op) && error == 0 ? answer.attributes.ino : 0;
  if (damaged_) tree_->SkipInodesTo(made);
  Result expected = tree_->Apply(op, wall_ns);
  if (op.kind == Kind::kSeek && op.mode == SEEK_DATA && error == ENXIO && expected.error == 0) {
    const Content& content = tree_->Find(op.ino)->content;
    if (content.lower_bound(op.offset / kBlockBytes) == content.end()) expected.error = ENXIO;
  }
  if (expected.error != error) {
    return Fail(op, absl::StrCat(status.ToString(), ", expected errno ", expected.error));
  }
  bool settles = several;
  if (op.kind == Kind::kSetAttributes && op.change.size_bytes == 0 && error == 0) {
    settles = unsettled_.contains(op.ino);
    locked_.erase(op.ino);
  }
  if (settles) unsettled_.erase(op.ino);
  if (error != 0) {
    if (op.kind == Kind::kReadDirectory) slot.unseen.reset();
    return;
  }
  Compare(slot, answer, expected);
  if (ChangesContent(op)) NoteVersions(op.ino);
  const core::Lsn before = history_.empty() ? 0 : history_.back().lsn;
  const core::Lsn lsn = current == nullptr ? 0 : current->lsn;
  if (lsn != 0 && lsn <= before) return Fail(op, "LSNs do not ascend");
  const bool counts_openers =
      op.kind == Kind::kRelease || op.kind == Kind::kOpen || op.kind == Kind::kOpenTruncate;
  if (lsn != 0 || counts_openers) {
    history_.push_back({op, wall_ns, std::max(lsn, before), settles, made});
  }
}

void VolumeLife::CompareAttributes(const FileOp& op, const volume::Attributes& found,
                                   const volume::Attributes& expected) {
  const auto check = [&](absl::string_view what, auto is, auto should) {
    if (is != should) Fail(op, absl::StrCat("inode ", found.ino, ": ", what, " is ", is, ", expected ", should));
  };
  check("number", found.ino, expected.ino);
  check("nlink", found.nlink, expected.nlink);
  check("uid", found.uid, expected.uid);
  check("gid", found.gid, expected.gid);
  check("atime", found.atime_ns, expected.atime_ns);
  check("btime", found.btime_ns, expected.btime_ns);
  if (unsettled_.contains(found.ino)) return;
  check("mode", found.mode, expected.mode);
  check("size", found.size_bytes, expected.size_bytes);
  check("mtime", found.mtime_ns, expected.mtime_ns);
  check("ctime", found.ctime_ns, expected.ctime_ns);
}

void VolumeLife::CompareSeek(const FileOp& op, uint64_t found) {
  const FileNode& node = *tree_->Find(op.ino);
  const uint64_t size = node.attributes.size_bytes;
  if (found < op.offset || found > size) return Fail(op, absl::StrCat("goes to ", found));
  const auto first_data = [&](uint64_t from, uint64_t to) {  // the first block with data that meets [from, to)
    const auto it = node.content.lower_bound(from / kBlockBytes);
    return it != node.content.end() && it->first * kBlockBytes < to;
  };
  if (op.mode == SEEK_DATA && first_data(op.offset, found / kBlockBytes * kBlockBytes)) {
    return Fail(op, absl::StrCat("passes over data on its way to ", found));
  }
  if (op.mode == SEEK_HOLE && found < size && first_data(found, found / kBlockBytes * kBlockBytes + 1)) {
    return Fail(op, absl::StrCat("finds a hole at ", found, ", where there is data"));
  }
}

void VolumeLife::CompareListing(Slot& slot, const Answer& answer) {
  const FileOp& op = slot.op;
  const FileNode& node = *tree_->Find(op.ino);
  for (auto it = slot.unseen->begin(); it != slot.unseen->end();) {
    it = node.entries.contains(*it) ? std::next(it) : slot.unseen->erase(it);
  }
  for (const volume::DirectoryEntry& entry : answer.entries) {
    if (entry.cookie <= slot.cookie) return Fail(op, "cookies do not ascend");
    slot.cookie = entry.cookie;
    slot.unseen->erase(entry.name);
    Ino expected = entry.name == "." ? op.ino : node.parent;
    if (entry.name != "." && entry.name != "..") {
      const auto found = node.entries.find(entry.name);
      if (found == node.entries.end()) return Fail(op, absl::StrCat("lists \"", entry.name, "\", which is not there"));
      expected = found->second;
    }
    if (entry.ino != expected) {
      return Fail(op, absl::StrCat("\"", entry.name, "\" is inode ", entry.ino, ", expected ", expected));
    }
    const FileNode* const target = tree_->Find(expected);
    if (target == nullptr || (target->attributes.mode & S_IFMT) != entry.type) {
      return Fail(op, absl::StrCat("\"", entry.name, "\" has type ", entry.type));
    }
    if (op.mode == 0) continue;
    if (entry.attributes.ino == 0 && damaged_) continue;
    CompareAttributes(op, entry.attributes, target->attributes);
  }
  if (!answer.entries.empty()) return;
  if (!slot.unseen->empty() && node.attributes.nlink > 0) {
    Fail(op, absl::StrCat("ends without \"", *slot.unseen->begin(), "\""));
  }
  slot.unseen.reset();
}

void VolumeLife::Compare(Slot& slot, const Answer& answer, const Result& expected) {
  const FileOp& op = slot.op;
  if (expected.attributes.ino != 0) CompareAttributes(op, answer.attributes, expected.attributes);
  switch (op.kind) {
    case Kind::kRead:
      if (answer.value != expected.value) {
        return Fail(op, absl::StrCat("reads ", answer.value, " bytes, expected ", expected.value));
      }
      if (const absl::Status status = CheckRead(slot); !status.ok()) Fail(op, status.message());
      break;
    case Kind::kReadSymlink:
      if (answer.text.find_first_not_of('t') != answer.text.npos || slot.versions.empty() != answer.text.empty()) {
        Fail(op, "has another target");
      }
      break;
    case Kind::kWrite:
    case Kind::kAppend:
      if (answer.value != expected.value) Fail(op, absl::StrCat("wrote ", answer.value));
      break;
    case Kind::kGetXattr:
      if (answer.text != expected.text) Fail(op, "has another value");
      break;
    case Kind::kListXattrs: {
      std::set<std::string> names;
      for (size_t at = 0; at < answer.text.size();) {
        names.insert(answer.text.substr(at, answer.text.find('\0', at) - at));
        at = answer.text.find('\0', at) + 1;
      }
      if (names != expected.names) Fail(op, "lists other names");
      break;
    }
    case Kind::kSeek:
      CompareSeek(op, answer.value);
      break;
    case Kind::kReadDirectory:
      CompareListing(slot, answer);
      break;
    case Kind::kStatFs:
      if (answer.space.free_blocks > answer.space.total_blocks ||
          answer.space.available_blocks > answer.space.free_blocks ||
          (answer.space.inodes < tree_->nodes().size() && !damaged_)) {
        Fail(op, absl::StrCat(answer.space.free_blocks, " of ", answer.space.total_blocks, " blocks free, ",
                              answer.space.inodes, " inodes, expected ", tree_->nodes().size(), " or more"));
      }
      break;
    default:
      break;
  }
}

// --- The whole volume against the whole model ---

absl::Status VolumeLife::VerifyContent(const FileNode& node, bool damaged) {
  const volume::Attributes& a = node.attributes;
  static AlignedBytes& buffer = *new AlignedBytes(MakeAligned(kReadChunkBytes));
  // Everything of small files; of large ones what lies around data, and the end.
  std::set<uint64_t> chunks;
  if (a.size_bytes <= 8 * kReadChunkBytes) {
    for (uint64_t at = 0; at < a.size_bytes; at += kReadChunkBytes) chunks.insert(at / kReadChunkBytes);
  } else {
    chunks = {0, (a.size_bytes - 1) / kReadChunkBytes};
    for (const auto& [block, piece] : node.content) chunks.insert(block * kBlockBytes / kReadChunkBytes);
  }
  for (const uint64_t chunk : chunks) {
    const uint64_t offset = chunk * kReadChunkBytes;
    const auto got = Wait<size_t>([&](auto done) {
      volume_->Read(a.ino, offset, absl::MakeSpan(buffer.get(), kReadChunkBytes), std::move(done));
    });
    if (!got.ok()) {
      if (damaged && volume::ToErrno(got.status()) == EIO) continue;
      return got.status();
    }
    const uint64_t expected = std::min(kReadChunkBytes, a.size_bytes - offset);
    if (*got != expected) return absl::InternalError(absl::StrCat("reads ", *got, " bytes, expected ", expected));
    for (uint64_t at = 0; at < expected; at += kBlockBytes) {
      if (!Matches(PieceAt(node.content, (offset + at) / kBlockBytes), 0, std::min(kBlockBytes, expected - at),
                   reinterpret_cast<const char*>(buffer.get() + at))) {
        return absl::InternalError(absl::StrCat("wrong bytes in block ", (offset + at) / kBlockBytes));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status VolumeLife::VerifyNode(const FileNode& node, bool unsettled, bool damaged) {
  const Ino ino = node.attributes.ino;
  FileOp op = {.kind = Kind::kGetAttributes, .ino = ino};
  const auto tolerable = [damaged](const absl::Status& status) { return damaged && volume::ToErrno(status) == EIO; };
  const auto attributes =
      Wait<volume::Attributes>([&](auto done) { volume_->GetAttributes(ino, std::move(done)); });
  if (!attributes.ok()) return tolerable(attributes.status()) ? absl::OkStatus() : attributes.status();
  if (unsettled) unsettled_.insert(ino);
  CompareAttributes(op, *attributes, node.attributes);
  if (unsettled) unsettled_.erase(ino);
  RETURN_IF_ERROR(failure_);

  if (S_ISDIR(node.attributes.mode)) {
    std::map<std::string, Ino> found;
    for (uint64_t cookie = 0;;) {
      const auto entries = Wait<std::vector<volume::DirectoryEntry>>([&](auto done) {
        volume_->ReadDirectory(ino, cookie, 1024, /*with_attributes=*/false, std::move(done));
      });
      if (!entries.ok()) return tolerable(entries.status()) ? absl::OkStatus() : entries.status();
      if (entries->empty()) break;
      for (const volume::DirectoryEntry& entry : *entries) {
        if (entry.name != "." && entry.name != "..") found[entry.name] = entry.ino;
        cookie = entry.cookie;
      }
    }
    if (found != node.entries) return absl::InternalError("has other names");
  } else if (S_ISLNK(node.attributes.mode)) {
    const auto target = Wait<std::string>([&](auto done) { volume_->ReadSymlink(ino, std::move(done)); });
    if (!target.ok()) return tolerable(target.status()) ? absl::OkStatus() : target.status();
    if (*target != std::string(node.attributes.size_bytes, 't')) return absl::InternalError("has another target");
  } else if (!unsettled) {
    RETURN_IF_ERROR(VerifyContent(node, damaged));
  }
  const auto names = Wait<std::string>([&](auto done) { volume_->ListXattrs(ino, std::move(done)); });
  if (!names.ok()) return tolerable(names.status()) ? absl::OkStatus() : names.status();
  if (static_cast<size_t>(std::count(names->begin(), names->end(), '\0')) != node.xattrs.size()) {
    return absl::InternalError("has other attributes");
  }
  for (const auto& [name, value] : node.xattrs) {
    const auto found = Wait<std::string>(
        [&, &name = name](auto done) { volume_->GetXattr(ino, name, std::move(done)); });
    if (!found.ok() && tolerable(found.status())) continue;
    RETURN_IF_ERROR(found.status());
    if (*found != value) return absl::InternalError(absl::StrCat("attribute ", name, " has another value"));
  }
  return absl::OkStatus();
}

absl::Status VolumeLife::Verify(const FileTree& tree, const std::set<Ino>& unsettled, bool damaged) {
  failure_ = absl::OkStatus();
  for (const auto& [ino, node] : tree.nodes()) {
    const absl::Status status = VerifyNode(node, unsettled.contains(ino), damaged);
    if (store_.power_off()) return absl::OkStatus();
    if (!status.ok()) return absl::InternalError(absl::StrCat("inode ", ino, ": ", status.ToString()));
  }
  trace_->Mix({environment_.NowNs(), store_.request_count(), tree.nodes().size()});
  return absl::OkStatus();
}

absl::StatusOr<volume::Attributes> VolumeLife::RootAttributes() {
  return Wait<volume::Attributes>([&](auto done) { volume_->GetAttributes(volume::kRootIno, std::move(done)); });
}

absl::Status VolumeLife::Settle(FileTree* tree, const std::set<Ino>& unsettled, bool damaged) {
  for (const Ino ino : unsettled) {
    if (tree->Find(ino) == nullptr) continue;
    FileOp empty = {.kind = Kind::kSetAttributes, .ino = ino};
    empty.change.size_bytes = 0;
    const auto done = Wait<volume::Attributes>(
        [&](auto callback) { volume_->SetAttributes(ino, empty.change, std::move(callback)); });
    const int error = volume::ToErrno(done.status());
    if ((error == EIO || error == EROFS) && (damaged || store_.power_off())) {
      unsettled_.insert(ino);
      locked_.insert(ino);  // nothing can be said of it in this life
      continue;
    }
    RETURN_IF_ERROR(done.status());
    // The time of the change is the volume's to say, once.
    tree->Apply(empty, done->mtime_ns);
    history_.push_back({empty, done->mtime_ns, engine_->accepted_lsn(), /*settles=*/true, /*made=*/0});
  }
  return absl::OkStatus();
}

}  // namespace stagefs::simulator

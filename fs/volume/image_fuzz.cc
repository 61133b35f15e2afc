// Fuzzes whole volumes: damages a small one whose checksums are right all the same, or are not, and then does with it
// what anybody would: opens it, walks it, reads everything, changes it, checks it, repairs it, checks and changes it
// again.
//
// What must hold, whatever the damage: nothing crashes, hangs, or takes unbounded memory. If a repair says that it
// mended everything, a second check finds nothing, changes of the volume succeed without DataLoss, and after them it is
// still clean, for the engine that made them and after a crash.

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/engine.h"
#include "core/format.h"
#include "fs/volume/btree_node.h"
#include "fs/volume/check.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"
#include "sal/check.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "tests/fuzz/engine_calls.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/volume_calls.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::kBlockBytes;

constexpr uint64_t kStoreBytes = 16 << 20;
constexpr Block kMetadataBlocks = 2;  // bitmap and header
constexpr size_t kMostSeen = 600;     // inodes that a walk looks at
constexpr int kMostReads = 4;         // pieces of a file that a walk reads

sal::SimulatedStoreOptions StoreOptions() {
  sal::SimulatedStoreOptions options;
  options.size_bytes = kStoreBytes;
  return options;
}

core::EngineOptions SmallEngine() {
  core::EngineOptions options;
  options.cache_bytes = 32 << 20;
  return options;
}

// A store with an engine on it, and its world.
class Device {
 public:
  explicit Device(sal::SimulatedDisk disk = {}) : environment_(1), store_(environment_, StoreOptions(), disk) {}
  ~Device() {
    if (engine_ != nullptr) Crash();
  }

  void Format() {
    core::FormatOptions options;
    options.log_bytes = core::kMinLogBlocks * kBlockBytes;
    fuzz::RequireOk(core::Engine::Format(store_, environment_, options), "formatting");
  }
  absl::Status Open() {
    auto engine = core::Engine::Open(store_, environment_, SmallEngine(), nullptr);
    if (!engine.ok()) return engine.status();
    engine_ = *std::move(engine);
    return absl::OkStatus();
  }
  void Close() {
    fuzz::RequireOk(engine_->Close(), "closing the engine");
    Forget();
  }
  void Crash() {
    engine_->Abandon();
    Forget();
  }

  core::Engine& engine() { return *engine_; }
  sal::SimulatedStore& store() { return store_; }

 private:
  void Forget() {
    engine_ = nullptr;
    environment_.RunUntilIdle();
  }

  sal::SimulatedEnvironment environment_;
  sal::SimulatedStore store_;
  std::unique_ptr<core::Engine> engine_;
};

// Calls of a volume that wait.
class Calls {
 public:
  explicit Calls(Volume& volume) : volume_(volume) {}

  template <typename T, typename Start>
  absl::StatusOr<T> Wait(Start start) {
    absl::StatusOr<T> result = fuzz::WaitFor<T>(volume_, std::move(start));
    Judge(result.status());
    return result;
  }
  template <typename Start>
  absl::Status WaitStatus(Start start) {
    absl::Status result = fuzz::WaitForStatus(volume_, std::move(start));
    Judge(result);
    return result;
  }

  // The same, for what may well fail.
  template <typename T, typename Start>
  void Try(Start start) {
    Wait<T>(std::move(start)).IgnoreError();
  }
  template <typename Start>
  void TryStatus(Start start) {
    WaitStatus(std::move(start)).IgnoreError();
  }

  // From now on nothing may say DataLoss: a check has found nothing wrong.
  void ExpectNoDataLoss() { data_loss_is_fine_ = false; }
  Volume& volume() { return volume_; }

 private:
  void Judge(const absl::Status& status) {
    if (absl::IsDataLoss(status) && !data_loss_is_fine_) {
      fuzz::RequireOk(status, "an operation on a volume that was found to be clean");
    }
  }

  Volume& volume_;
  bool data_loss_is_fine_ = true;
};

struct Found {
  Ino directory = kRootIno;
  std::string name;
  Ino ino = kRootIno;
  uint32_t type = S_IFDIR;
};

std::vector<DirectoryEntry> List(Calls& calls, Ino directory) {
  std::vector<DirectoryEntry> all;
  uint64_t cookie = 0;
  for (;;) {
    auto part = calls.Wait<std::vector<DirectoryEntry>>(
        [&](auto done) { calls.volume().ReadDirectory(directory, cookie, 64, true, std::move(done)); });
    if (!part.ok() || part->empty()) return all;
    for (DirectoryEntry& entry : *part) {
      STAGEFS_CHECK(entry.cookie > cookie || all.size() < 2);  // or it would never end
      cookie = entry.cookie;
      all.push_back(std::move(entry));
    }
  }
}

// Pieces from the start, as far as data and holes lead, and the end.
void ReadContent(Calls& calls, Ino ino, uint64_t size_bytes) {
  static std::vector<std::byte> buffer(64 << 10);
  const auto read = [&](uint64_t offset) {
    const auto count = calls.Wait<size_t>(
        [&](auto done) { calls.volume().Read(ino, offset, absl::MakeSpan(buffer), std::move(done)); });
    STAGEFS_CHECK(!count.ok() || *count <= buffer.size());
  };
  const auto seek = [&](uint64_t offset, int whence) {
    const auto found =
        calls.Wait<uint64_t>([&](auto done) { calls.volume().Seek(ino, offset, whence, std::move(done)); });
    STAGEFS_CHECK(!found.ok() || *found >= offset);
    return found.value_or(0);
  };
  uint64_t offset = 0;
  for (int i = 0; i < kMostReads && offset < size_bytes; ++i) {
    read(offset);
    offset = std::max({offset + buffer.size(), seek(offset, SEEK_DATA), seek(offset, SEEK_HOLE)});
  }
  if (size_bytes > buffer.size()) read(size_bytes - 100);
}

void ReadXattrs(Calls& calls, Ino ino) {
  const auto names = calls.Wait<std::string>([&](auto done) { calls.volume().ListXattrs(ino, std::move(done)); });
  if (!names.ok()) return;
  for (size_t at = 0; at < names->size();) {
    const std::string name = names->substr(at, names->find('\0', at) - at);
    at += name.size() + 1;
    const auto value =
        calls.Wait<std::string>([&](auto done) { calls.volume().GetXattr(ino, name, std::move(done)); });
    STAGEFS_CHECK(!value.ok() || value->size() <= kMaxXattrBytes);
  }
}

// Looks at everything that names lead to.
std::vector<Found> Walk(Calls& calls) {
  std::vector<Found> found = {{}};
  absl::flat_hash_set<Ino> seen = {kRootIno};
  for (size_t next = 0; next < found.size(); ++next) {
    const Ino ino = found[next].ino;
    const auto attributes =
        calls.Wait<Attributes>([&](auto done) { calls.volume().GetAttributes(ino, std::move(done)); });
    ReadXattrs(calls, ino);
    if (!attributes.ok()) continue;
    found[next].type = attributes->mode & S_IFMT;
    if (S_ISREG(attributes->mode)) ReadContent(calls, ino, attributes->size_bytes);
    if (S_ISLNK(attributes->mode)) {
      calls.Try<std::string>([&](auto done) { calls.volume().ReadSymlink(ino, std::move(done)); });
    }
    if (!S_ISDIR(attributes->mode)) continue;
    for (const DirectoryEntry& entry : List(calls, ino)) {
      calls.Try<Attributes>([&](auto done) { calls.volume().Lookup(ino, entry.name, std::move(done)); });
      if (found.size() < kMostSeen && seen.insert(entry.ino).second) {
        found.push_back({ino, entry.name, entry.ino, entry.type});
      }
    }
  }
  return found;
}

const Found& Pick(fuzz::Input& input, const std::vector<Found>& found) { return found[input.Below(found.size())]; }

std::string AnyName(fuzz::Input& input, const std::vector<Found>& found) {
  const uint8_t how = input.Byte();
  return how < 128 ? absl::StrCat("new", how % 16) : Pick(input, found).name;
}

void ChangeOnce(fuzz::Input& input, Calls& calls, const std::vector<Found>& found) {
  Volume& volume = calls.volume();
  const uint8_t what = input.Byte() % 16;
  const Found& one = Pick(input, found);
  const Found& other = Pick(input, found);
  const std::string name = AnyName(input, found);
  const Ino directory = one.type == S_IFDIR ? one.ino : one.directory;
  switch (what) {
    case 0:
      calls.Try<Attributes>([&](auto done) {
        volume.Create(directory, name, {.mode = S_IFREG | 0644}, false, std::move(done));
      });
      break;
    case 1:
      calls.Try<Attributes>(
          [&](auto done) { volume.MakeDirectory(directory, name, {.mode = 0755}, std::move(done)); });
      break;
    case 2: {
      const std::string target(1 + input.Below(3000), 't');
      calls.Try<Attributes>([&](auto done) { volume.MakeSymlink(directory, name, target, {}, std::move(done)); });
      break;
    }
    case 3:
      calls.Try<Attributes>([&](auto done) { volume.Link(other.ino, directory, name, std::move(done)); });
      break;
    case 4:
      calls.TryStatus([&](auto done) { volume.Unlink(one.directory, one.name, std::move(done)); });
      break;
    case 5:
      calls.TryStatus([&](auto done) { volume.RemoveDirectory(one.directory, one.name, std::move(done)); });
      break;
    case 6:
    case 7:
      calls.TryStatus([&](auto done) {
        volume.Rename(one.directory, one.name, other.type == S_IFDIR ? other.ino : other.directory, name,
                      what == 6 ? 0 : RENAME_EXCHANGE, std::move(done));
      });
      break;
    case 8:
    case 9: {
      const std::vector<std::byte> bytes(1 + input.Below(what == 8 ? 5000 : 200'000), std::byte{0x77});
      const uint64_t offset = input.Below(1 << 20);
      calls.Try<size_t>([&](auto done) { volume.Write(one.ino, offset, bytes, input.Bool(), std::move(done)); });
      break;
    }
    case 10:
    case 11: {
      AttributeChange change;
      change.size_bytes = what == 10 ? input.Below(1 << 20) : input.Size();
      calls.Try<Attributes>([&](auto done) { volume.SetAttributes(one.ino, change, std::move(done)); });
      break;
    }
    case 12: {
      constexpr int kModes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE};
      const int mode = kModes[input.Below(4)];
      const uint64_t offset = input.Below(1 << 20), length = 1 + input.Below(1 << 20);
      calls.TryStatus([&](auto done) { volume.Allocate(one.ino, mode, offset, length, std::move(done)); });
      break;
    }
    case 13: {
      const std::string value(input.Below(10'000), 'v');
      calls.TryStatus([&](auto done) { volume.SetXattr(one.ino, "user.x", value, 0, std::move(done)); });
      break;
    }
    case 14:
      calls.TryStatus([&](auto done) { volume.RemoveXattr(one.ino, "user.x", std::move(done)); });
      break;
    default: {
      const auto opened =
          calls.Wait<Attributes>([&](auto done) { volume.Open(one.ino, input.Bool(), std::move(done)); });
      calls.TryStatus([&](auto done) { volume.Unlink(one.directory, one.name, std::move(done)); });
      if (opened.ok()) volume.Release(one.ino);
      break;
    }
  }
}

// Opens the volume, walks it, makes `changes` changes. Errors: what opening says.
absl::Status Use(fuzz::Input& input, core::Engine& engine, int changes, bool clean) {
  auto volume = Volume::Open(engine);
  if (!volume.ok()) return volume.status();
  Calls calls(**volume);
  if (clean) calls.ExpectNoDataLoss();
  const std::vector<Found> found = Walk(calls);
  for (; changes > 0; --changes) ChangeOnce(input, calls, found);
  calls.Try<StatFs>([&](auto done) { (*volume)->GetStatFs(std::move(done)); });
  fuzz::RequireOk(calls.WaitStatus([&](auto done) { (*volume)->Sync(std::move(done)); }), "sync");
  (*volume)->Close();
  return absl::OkStatus();
}

// --- The volumes that damage begins with ---

struct Example {
  sal::SimulatedDisk disk;
  std::vector<Block> nodes;  // where its tree lies
};

void Fill(Volume& volume) {
  Calls calls(volume);
  const auto make = [&](Ino directory, absl::string_view name, uint32_t mode) {
    return calls.Wait<Attributes>([&](auto done) {
                  volume.Create(directory, name, {.mode = mode}, false, std::move(done));
                })->ino;
  };
  const auto make_directory = [&](Ino directory, absl::string_view name) {
    return calls.Wait<Attributes>([&](auto done) {
                  volume.MakeDirectory(directory, name, {.mode = 0755}, std::move(done));
                })->ino;
  };
  const auto write = [&](Ino ino, uint64_t offset, size_t size) {
    const std::vector<std::byte> bytes(size, std::byte{0x5a});
    fuzz::RequireOk(calls.Wait<size_t>([&](auto done) {
                           volume.Write(ino, offset, bytes, false, std::move(done));
                         }).status(),
                    "a write");
  };
  const auto set_xattr = [&](Ino ino, absl::string_view name, size_t size) {
    fuzz::RequireOk(calls.WaitStatus([&](auto done) {
      volume.SetXattr(ino, name, std::string(size, 'x'), 0, std::move(done));
    }), "setting an attribute");
  };
  const Ino directory = make_directory(kRootIno, "directory");
  const Ino deep = make_directory(make_directory(directory, "deeper"), "deepest");
  const Ino small = make(kRootIno, "inline", S_IFREG | 0644);
  write(small, 0, 100);
  const Ino large = make(directory, "extents", S_IFREG | 0644);
  write(large, 0, 200'000);
  write(large, 400'000, 70'000);  // behind a hole
  write(large, 500'001, 10);
  const Ino linked = make(deep, "linked", S_IFREG | 04755);
  write(linked, 3000, 5000);
  calls.Try<Attributes>([&](auto done) { volume.Link(linked, kRootIno, "another name", std::move(done)); });
  for (const size_t length : {10, 900, 3000}) {
    calls.Try<Attributes>([&](auto done) {
      volume.MakeSymlink(directory, absl::StrCat("symlink", length), std::string(length, 'l'), {}, std::move(done));
    });
  }
  make(kRootIno, "fifo", S_IFIFO | 0600);
  make(kRootIno, "device", S_IFBLK | 0600);
  set_xattr(small, "user.x", 20);
  set_xattr(large, "user.x", 9000);
  set_xattr(directory, "user.long", 1000);
  for (int i = 0; i < 40; ++i) make(deep, absl::StrCat("one of many, with quite a long name so that nodes fill ", i), S_IFREG);
  // Opened, unlinked and left so: an orphan. And a removal that is still going on.
  const Ino orphan = make(kRootIno, "unlinked", S_IFREG | 0600);
  write(orphan, 0, 20'000);
  calls.Try<Attributes>([&](auto done) { volume.Open(orphan, false, std::move(done)); });
  fuzz::RequireOk(calls.WaitStatus([&](auto done) { volume.Unlink(kRootIno, "unlinked", std::move(done)); }), "unlink");
  fuzz::RequireOk(calls.WaitStatus([&](auto done) { volume.Sync(std::move(done)); }), "sync");
}

std::vector<Block> FindNodes(core::Engine& engine) {
  std::vector<Block> nodes;
  for (Block block = 0; block < engine.capacity_blocks(); ++block) {
    const absl::StatusOr<std::string> content = fuzz::ReadBlock(engine, block);
    const auto* const bytes = reinterpret_cast<const std::byte*>(content->data());
    if (NodeView::Open(bytes, block, core::Load<uint16_t>(bytes + kNodeLevelOffset)).ok()) nodes.push_back(block);
  }
  STAGEFS_CHECK(nodes.size() > 2);
  return nodes;
}

Example MakeExample(bool crashed) {
  Device device;
  device.Format();
  fuzz::RequireOk(device.Open(), "opening");
  fuzz::RequireOk(Volume::Format(device.engine(), {}), "making a volume");
  {
    auto volume = Volume::Open(device.engine());
    fuzz::RequireOk(volume.status(), "opening the volume");
    Fill(**volume);
    (*volume)->Close();
  }
  Example example;
  example.nodes = FindNodes(device.engine());
  crashed ? device.Crash() : device.Close();
  example.disk = device.store().Image();
  return example;
}

// --- The damage ---

// Behind the volume's back, through the engine: checksums are right.
void DamageBlock(fuzz::Input& input, core::Engine& engine, Block block, size_t bytes) {
  const fuzz::Input before = input;
  const auto run = fuzz::RunAndWait(engine, [&](core::Transaction& tx) -> absl::Status {
    const absl::StatusOr<std::byte*> place = tx.Modify(block);
    if (!place.ok()) return place.status();
    input = before;  // a body may run more than once
    fuzz::Patch(input, absl::MakeSpan(*place, bytes));
    return absl::OkStatus();
  });
  fuzz::RequireOk(run.status(), "damaging a block");
}

// Within one item of a node.
void DamageItem(fuzz::Input& input, core::Engine& engine, Block block) {
  const uint8_t index = input.Byte();
  const fuzz::Input before = input;
  fuzz::RunAndWait(engine, [&](core::Transaction& tx) -> absl::Status {
    const absl::StatusOr<std::byte*> node = tx.Modify(block);
    if (!node.ok()) return node.status();
    input = before;
    const auto count = core::Load<uint16_t>(*node + kNodeCountOffset);
    if (count == 0 || count > kMaxNodeItems) return absl::OkStatus();
    const auto cell = core::Load<uint16_t>(*node + kNodeHeaderBytes + kSlotBytes * (index % count));
    if (cell + kCellHeaderBytes + 8 > kBlockBytes) return absl::OkStatus();
    const size_t bytes = std::min<size_t>(kCellHeaderBytes + 140, kBlockBytes - cell);
    const size_t skipped = input.Bool() ? kCellHeaderBytes : 0;  // the value is where most of the fields are
    fuzz::Patch(input, absl::MakeSpan(*node + cell + skipped, std::max<size_t>(bytes - skipped, 8)));
    return absl::OkStatus();
  }).IgnoreError();
}

void CopyBlock(core::Engine& engine, Block from, Block to) {
  const absl::StatusOr<std::string> content = fuzz::ReadBlock(engine, from);
  if (!content.ok()) return;
  fuzz::RunAndWait(engine, [&](core::Transaction& tx) -> absl::Status {
    const absl::StatusOr<std::byte*> place = tx.Modify(to);
    if (!place.ok()) return place.status();
    std::copy_n(reinterpret_cast<const std::byte*>(content->data()), kBlockBytes, *place);
    return absl::OkStatus();
  }).IgnoreError();
}

void Damage(fuzz::Input& input, core::Engine& engine, const Example& example) {
  const auto node = [&] { return example.nodes[input.Below(example.nodes.size())]; };
  switch (input.Byte() % 8) {
    case 0: return DamageBlock(input, engine, node(), kBlockBytes);
    case 1: return DamageBlock(input, engine, kHeaderBlock, kHeaderBytes + 8);
    case 2: return DamageBlock(input, engine, input.Below(kMetadataBlocks + 1), kBlockBytes);  // summary and bitmap too
    case 3: {
      const Block from = node();
      return CopyBlock(engine, from, node());
    }
    case 4: return DamageBlock(input, engine, input.Below(engine.capacity_blocks()), kBlockBytes);
    default: return DamageItem(input, engine, node());
  }
}

// On the store, below the checksums.
void Decay(fuzz::Input& input, sal::SimulatedStore& store) {
  const uint64_t offset = input.Below(input.Bool() ? kStoreBytes : kStoreBytes / 2);
  for (int bytes = 1 + input.Byte() % 4; bytes > 0; --bytes) store.CorruptByte((offset + input.Byte()) % kStoreBytes);
}

CheckReport CheckIt(core::Engine& engine, fuzz::Input& input, bool repair) {
  CheckOptions options;
  options.repair = repair;
  if (input.Bool()) options.window_blocks = 1024;
  if (input.Bool()) options.window_inodes = 16;
  const absl::StatusOr<CheckReport> report = Check(engine, options);
  if (!report.ok()) {
    // What the header says is no damage but another kind of thing.
    STAGEFS_CHECK(absl::IsInvalidArgument(report.status()) || absl::IsFailedPrecondition(report.status()));
    CheckReport none;
    none.problem_count = 1;
    return none;
  }
  return *report;
}

void RequireClean(const CheckReport& report, const char* when) {
  if (report.clean()) return;
  for (const Problem& problem : report.problems) std::fprintf(stderr, "stagefs: %s: %s\n", when, ToString(problem).c_str());
  std::abort();
}

void Fuzz(fuzz::Input input) {
  static const Example closed = MakeExample(false), crashed = MakeExample(true);
  const uint8_t how = input.Byte();
  const Example& example = (how & 1) != 0 ? crashed : closed;
  const bool use_damaged = (how & 2) != 0, decay = (how & 4) != 0;
  Device device(example.disk);
  if (decay) Decay(input, device.store());
  if (!device.Open().ok()) return;
  for (int damages = input.Byte() % 5; damages > 0; --damages) Damage(input, device.engine(), example);

  if (use_damaged) Use(input, device.engine(), input.Byte() % 8, /*clean=*/false).IgnoreError();
  CheckIt(device.engine(), input, /*repair=*/false);
  const CheckReport repaired = CheckIt(device.engine(), input, /*repair=*/true);
  if (repaired.unrepaired_count() == 0) {
    RequireClean(CheckIt(device.engine(), input, /*repair=*/false), "after a repair");
    // Content may have decayed: only what the check looks at is known to be good.
    const int changes = input.Byte() % 16;
    fuzz::RequireOk(Use(input, device.engine(), changes, /*clean=*/!decay), "using a repaired volume");
    RequireClean(CheckIt(device.engine(), input, /*repair=*/false), "after changes of a repaired volume");
    device.Crash();
    fuzz::RequireOk(device.Open(), "opening after a crash");
    RequireClean(CheckIt(device.engine(), input, /*repair=*/false), "after changes and a crash");
  } else {
    Use(input, device.engine(), input.Byte() % 8, /*clean=*/false).IgnoreError();
  }
}

}  // namespace
}  // namespace stagefs::volume

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::volume::Fuzz({data, size});
  return 0;
}

// Fuzzes the log: its reader, the decoding of changes and records, and recovery. An input is a superblock with changes,
// and frames with changes and records; frames are valid, with a right checksum and chain, unless the input breaks them.
//
// What must hold for every log, whatever it says: a read-only and a writable opening agree; once opened for writing the
// volume is in order: it takes changes, closes, and is then clean, with the same content.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/checksum.h"
#include "core/engine.h"
#include "core/format.h"
#include "sal/check.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"
#include "tests/fuzz/engine_calls.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/require.h"

namespace stagefs::core {
namespace {

constexpr uint64_t kStoreBytes = 16 << 20;
constexpr uint64_t kLogBytes = kMinLogBlocks * kBlockBytes;
constexpr Block kWatchedBlocks = 32;  // most records are about these
constexpr int kMostFrames = 24;

sal::SimulatedStoreOptions StoreOptions() {
  sal::SimulatedStoreOptions options;
  options.size_bytes = kStoreBytes;
  return options;
}

sal::SimulatedDisk FormattedDisk() {
  sal::SimulatedEnvironment environment(1);
  sal::SimulatedStore store(environment, StoreOptions());
  FormatOptions options;
  options.log_bytes = kLogBytes;
  STAGEFS_CHECK(Engine::Format(store, environment, options).ok());
  return store.Image();
}

void Append(std::string& bytes, const auto& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PadTo8Bytes(std::string& bytes) { bytes.resize(PadTo8(bytes.size())); }

Block AnyBlock(fuzz::Input& input, const Superblock& superblock) {
  const uint8_t how = input.Byte();
  if (how < 200) return how % kWatchedBlocks;
  if (how < 240) return input.Below(superblock.home_blocks);
  return input.Number<uint64_t>();
}

uint64_t AnyTableEntry(fuzz::Input& input, Block block, const Superblock& superblock) {
  static const std::vector<std::byte> zeros(kBlockBytes);
  switch (input.Byte() & 3) {
    case 0: return TableEntry(ContentHash(zeros.data()), block, VolumeSalt(superblock));  // what a home holds
    case 1: return kNeverWritten;
    case 2: return kPoisoned;
    default: return input.Number<uint64_t>();
  }
}

std::string AnyRecord(fuzz::Input& input, const Superblock& superblock, Lsn lsn) {
  RecordHeader header = {};
  header.kind = 1 + input.Byte() % 6;
  std::string payload;
  const Block block = AnyBlock(input, superblock);
  header.address = block;
  switch (static_cast<RecordKind>(header.kind)) {
    case RecordKind::kWrite: {
      const uint64_t within = input.Below(kBlockBytes);
      header.address = block * kBlockBytes + (input.Bool() ? within : 0);
      header.length = input.Bool() ? kBlockBytes : static_cast<uint16_t>(1 + input.Below(64));
      payload.assign(header.length, static_cast<char>(input.Byte()));
      break;
    }
    case RecordKind::kExtent:
      header.count = input.Byte() % 8;
      for (uint32_t i = 0; i < header.count; ++i) Append(payload, AnyTableEntry(input, block + i, superblock));
      break;
    case RecordKind::kIntent:
      header.count = input.Byte() % 8;
      for (uint32_t i = 0; i < header.count; ++i) {
        const Block named = AnyBlock(input, superblock);
        Append(payload, IntentEntry{named, lsn - input.Byte(), AnyTableEntry(input, named, superblock)});
      }
      break;
    default:
      header.count = static_cast<uint32_t>(input.Size());
      break;
  }
  if (input.Byte() >= 250) fuzz::Patch(input, absl::MakeSpan(reinterpret_cast<std::byte*>(&header), sizeof(header)));
  std::string record;
  Append(record, header);
  record += payload;
  PadTo8Bytes(record);
  return record;
}

std::string AnyChange(fuzz::Input& input, const Superblock& superblock, Lsn lsn) {
  ChangeHeader header = {};
  header.lsn = lsn;
  header.record_count = input.Byte() % 8;
  std::string records;
  for (uint32_t i = 0; i < header.record_count; ++i) records += AnyRecord(input, superblock, lsn);
  header.change_bytes = static_cast<uint32_t>(sizeof(header) + records.size());
  if (input.Byte() >= 250) fuzz::Patch(input, absl::MakeSpan(reinterpret_cast<std::byte*>(&header), sizeof(header)));
  std::string change;
  Append(change, header);
  return change + records;
}

// Writes frames to `store`'s log, as `superblock` says they must be.
class LogMaker {
 public:
  LogMaker(sal::SimulatedStore& store, const Superblock& superblock)
      : store_(store),
        superblock_(superblock),
        position_(superblock.tail_position),
        sequence_(superblock.tail_sequence),
        chain_(superblock.tail_chain),
        lsn_(superblock.covered_lsn + 1) {}

  void AddFrame(fuzz::Input& input) {
    const uint8_t how = input.Byte();
    FrameHeader header = {};
    header.magic = kFrameMagic;
    std::copy(std::begin(superblock_.uuid), std::end(superblock_.uuid), header.uuid);
    header.epoch = superblock_.epoch;
    header.sequence = sequence_++;
    header.position = position_;
    header.chain = chain_;
    header.first_lsn = lsn_;
    header.durable_lsn = lsn_ - 1;
    std::string payload;
    if ((how & 1) != 0) {
      payload = std::string(input.Bytes(input.Byte()));
      header.change_count = input.Byte();
    } else {
      header.change_count = input.Byte() % 4;
      for (uint32_t i = 0; i < header.change_count; ++i) {
        if (input.Byte() >= 250) lsn_ += input.Size();
        payload += AnyChange(input, superblock_, lsn_++);
      }
    }
    header.payload_bytes = static_cast<uint32_t>(payload.size());
    header.frame_blocks = static_cast<uint32_t>(FrameBlocks(payload.size()));
    if ((how & 2) != 0) fuzz::Patch(input, absl::MakeSpan(reinterpret_cast<std::byte*>(&header), sizeof(header)));

    std::vector<std::byte> frame(FrameBlocks(payload.size()) * kBlockBytes);
    Store(frame.data(), header);
    std::copy_n(reinterpret_cast<const std::byte*>(payload.data()), payload.size(), frame.data() + sizeof(header));
    const uint64_t hashed = std::min<uint64_t>(sizeof(header) + header.payload_bytes, frame.size());
    if ((how & 4) == 0) header.checksum = Hash(frame.data() + 8, hashed - 8, superblock_.salt);
    Store(frame.data(), header);
    if ((how & 8) == 0) Write(frame);  // else a hole
    position_ += FrameBlocks(payload.size());
    chain_ = header.checksum;
  }

 private:
  void Write(const std::vector<std::byte>& frame) {
    for (uint64_t i = 0; i < frame.size() / kBlockBytes; ++i) {
      const uint64_t place = superblock_.log_start + (position_ + i) % superblock_.log_blocks;
      store_.WriteRaw(place * kBlockBytes, frame.data() + i * kBlockBytes, kBlockBytes);
    }
  }

  sal::SimulatedStore& store_;
  const Superblock superblock_;
  uint64_t position_, sequence_, chain_;
  Lsn lsn_;
};

// Opened for writing often enough, such a volume has no LSNs left.
bool TooOld(const Superblock& s) {
  return std::max({s.epoch, s.checkpoint, s.tail_position, s.tail_sequence, s.covered_lsn}) > kMaxCount / 2;
}

// Makes a disk of the input. False: its superblock is not valid.
bool MakeDisk(fuzz::Input& input, sal::SimulatedStore& store) {
  std::vector<std::byte> block(kBlockBytes);
  store.ReadRaw(0, block.data(), kBlockBytes);
  for (int patches = input.Byte() % 4; patches > 0; --patches) fuzz::Patch(input, absl::MakeSpan(block).first(248));
  const auto patched = Load<Superblock>(block.data());
  for (uint32_t slot = 0; slot < 2; ++slot) {
    EncodeSuperblock(patched, slot, block.data());
    store.WriteRaw(kSuperblockPlaces[slot] * kBlockBytes, block.data(), kBlockBytes);
  }
  const absl::StatusOr<Superblock> superblock = DecodeSuperblock(block.data(), 1);
  if (!superblock.ok() || superblock->size_blocks > kStoreBytes / kBlockBytes || TooOld(*superblock)) {
    return false;
  }
  LogMaker log(store, *superblock);
  for (int frames = 0; frames < kMostFrames && !input.empty(); ++frames) log.AddFrame(input);
  return true;
}

using Contents = std::vector<absl::StatusOr<std::string>>;

Contents ReadAll(Engine& engine) {
  Contents contents;
  for (Block block = 0; block < kWatchedBlocks; ++block) contents.push_back(fuzz::ReadBlock(engine, block));
  return contents;
}

void CheckSame(const Contents& a, const Contents& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    STAGEFS_CHECK(a[i].status().code() == b[i].status().code());
    STAGEFS_CHECK(!a[i].ok() || *a[i] == *b[i]);
  }
}

struct Opened {
  absl::Status status;
  RecoveryReport report;
  Contents contents;
};

// Opens a copy of the disk, reads it, and, if it is open for writing, makes a change and closes it. `disk` is then what
// that left.
Opened OpenAndRead(sal::SimulatedDisk& disk, const EngineOptions& options) {
  Opened opened;
  sal::SimulatedEnvironment environment(7);
  sal::SimulatedStore store(environment, StoreOptions(), disk);
  auto engine = Engine::Open(store, environment, options, &opened.report);
  opened.status = engine.status();
  if (!engine.ok()) {
    environment.RunUntilIdle();
    return opened;
  }
  opened.contents = ReadAll(**engine);
  if (!options.read_only && !(*engine)->stats().read_only) {
    const Block last = (*engine)->capacity_blocks() - 1;
    const absl::StatusOr<Lsn> lsn = fuzz::RunAndWait(**engine, [last](Transaction& tx) -> absl::Status {
      if (absl::Status status = tx.Zero(last * kBlockBytes, kBlockBytes); !status.ok()) return status;
      const std::byte byte{1};
      return tx.Write(last * kBlockBytes, absl::MakeConstSpan(&byte, 1));
    });
    fuzz::RequireOk(lsn.status(), "a change after recovery");
    STAGEFS_CHECK(*lsn > opened.report.recovered_lsn);
    fuzz::RequireOk(fuzz::CheckpointAndWait(**engine), "a checkpoint");
  }
  fuzz::RequireOk((*engine)->Close(), "closing");
  engine->reset();
  environment.RunUntilIdle();
  disk = store.Image();
  return opened;
}

void Fuzz(fuzz::Input input) {
  static const sal::SimulatedDisk formatted = FormattedDisk();
  sal::SimulatedDisk disk;
  EngineOptions options;
  options.cache_bytes = 32 << 20;
  options.accept_log_loss = input.Bool();
  {
    sal::SimulatedEnvironment environment(1);
    sal::SimulatedStore store(environment, StoreOptions(), formatted);
    if (!MakeDisk(input, store)) return;
    disk = store.Image();
  }
  options.read_only = true;
  const Opened looked_at = OpenAndRead(disk, options);
  options.read_only = false;
  const Opened recovered = OpenAndRead(disk, options);
  STAGEFS_CHECK(looked_at.status.code() == recovered.status.code());
  if (!looked_at.status.ok()) return;
  STAGEFS_CHECK(looked_at.report.recovered_lsn == recovered.report.recovered_lsn);
  CheckSame(looked_at.contents, recovered.contents);
  const Opened again = OpenAndRead(disk, options);
  fuzz::RequireOk(again.status, "opening what was recovered");
  CheckSame(recovered.contents, again.contents);
}

}  // namespace
}  // namespace stagefs::core

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::core::Fuzz({data, size});
  return 0;
}

// Engine::Format(), Inspect() and Open().

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/aligned_memory.h"
#include "core/checksum.h"
#include "core/engine_impl.h"
#include "core/recovery.h"
#include "sal/blocking_io.h"
#include "sal/status_macros.h"

namespace stagefs::core {
namespace {

constexpr uint64_t kMinDefaultLogBytes = 8 << 20;
constexpr uint64_t kMaxDefaultLogBytes = 256 << 20;

// Divides the store into superblocks, log, checksum table and home blocks.
absl::StatusOr<Superblock> LayOut(uint64_t store_bytes, const FormatOptions& options) {
  const uint64_t size_bytes = options.size_bytes == 0 ? store_bytes : options.size_bytes;
  if (size_bytes > store_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a volume of ", size_bytes, " bytes does not fit a store of ", store_bytes, " bytes"));
  }
  Superblock s = {};
  s.size_blocks = size_bytes / kBlockBytes;
  const uint64_t log_bytes = options.log_bytes != 0
                                 ? options.log_bytes
                                 : std::clamp(size_bytes / 64, kMinDefaultLogBytes, kMaxDefaultLogBytes);
  s.log_start = kLogStart;
  s.log_blocks = log_bytes / kBlockBytes;
  if (s.log_blocks < kMinLogBlocks) {
    return absl::InvalidArgumentError(absl::StrCat("a log of ", log_bytes, " bytes is too small; at least ",
                                                   kMinLogBlocks * kBlockBytes, " bytes (4 MiB)"));
  }
  const uint64_t fixed = s.log_start + s.log_blocks;
  const uint64_t rest = s.size_blocks > fixed ? s.size_blocks - fixed : 0;
  s.table_start = fixed;
  s.table_blocks = (rest + kEntriesPerTableBlock) / (kEntriesPerTableBlock + 1);
  s.home_start = s.table_start + s.table_blocks;
  s.home_blocks = rest - std::min(rest, s.table_blocks);
  if (s.home_blocks < kMinHomeBlocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("a volume of ", size_bytes, " bytes is too small: with a log of ", log_bytes,
                     " bytes it must have at least ",
                     (fixed + kMinHomeBlocks + kMinHomeBlocks / kEntriesPerTableBlock + 1) * kBlockBytes, " bytes"));
  }
  s.window_blocks = std::min(s.log_blocks, std::clamp(s.log_blocks / 4, kMinWindowBlocks, kMaxWindowBlocks));
  return s;
}

// Writes zeros over the log: every block of the first lap then has its place on the host, so that no frame ever waits
// for the host's allocation or meets a full one.
absl::Status WriteLogOnce(sal::BlockStore& store, sal::Environment& environment, const Superblock& superblock,
                          const std::function<void(double)>& progress) {
  const uint64_t chunk_blocks = 1024;
  const AlignedMemory zeros(chunk_blocks * kBlockBytes);
  std::memset(zeros.data(), 0, zeros.size());
  for (uint64_t done = 0; done < superblock.log_blocks; done += chunk_blocks) {
    const uint64_t count = std::min(chunk_blocks, superblock.log_blocks - done);
    RETURN_IF_ERROR(sal::BlockingWrite(store, environment, (superblock.log_start + done) * kBlockBytes, zeros.data(),
                                       count * kBlockBytes));
    if (progress) progress(static_cast<double>(done + count) / superblock.log_blocks);
  }
  return absl::OkStatus();
}

absl::Status WriteSuperblock(sal::BlockStore& store, sal::Environment& environment, const Superblock& superblock,
                             uint32_t slot) {
  const AlignedMemory block(kBlockBytes);
  EncodeSuperblock(superblock, slot, block.data());
  RETURN_IF_ERROR(sal::BlockingWrite(store, environment, kSuperblockPlaces[slot] * kBlockBytes, block.data(),
                                     kBlockBytes));
  return sal::BlockingFlush(store, environment);
}

}  // namespace

absl::Status Engine::Format(sal::BlockStore& store, sal::Environment& environment, const FormatOptions& options) {
  ASSIGN_OR_RETURN(Superblock superblock, LayOut(store.geometry().size_bytes, options));
  if (options.label.size() >= sizeof(superblock.label)) {
    return absl::InvalidArgumentError(absl::StrCat("a label of ", options.label.size(), " bytes; at most ",
                                                   sizeof(superblock.label) - 1));
  }
  superblock.version_major = kVersionMajor;
  superblock.version_minor = superblock.oldest_minor = kVersionMinor;
  Uuid uuid = options.uuid;
  if (uuid == Uuid{}) {
    Store(reinterpret_cast<std::byte*>(uuid.data()), environment.Random());
    Store(reinterpret_cast<std::byte*>(uuid.data()) + 8, environment.Random());
    uuid[6] = (uuid[6] & 0x0f) | 0x40;  // version 4: random
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
  }
  std::copy(uuid.begin(), uuid.end(), superblock.uuid);
  std::copy(options.label.begin(), options.label.end(), superblock.label);
  superblock.created_ns = environment.WallNs();
  superblock.epoch = 1;
  superblock.salt = environment.Random();
  superblock.checkpoint = 1;
  superblock.tail_sequence = 1;
  superblock.tail_chain = superblock.salt;
  superblock.flags = kCleanFlag;

  // Without superblocks there is no volume, so a mkfs that is cut short leaves none, rather than half of one.
  for (const uint64_t place : kSuperblockPlaces) {
    RETURN_IF_ERROR(sal::BlockingZero(store, environment, place * kBlockBytes, kBlockBytes));
  }
  RETURN_IF_ERROR(sal::BlockingFlush(store, environment));
  RETURN_IF_ERROR(sal::BlockingZero(store, environment, superblock.table_start * kBlockBytes,
                                    superblock.table_blocks * kBlockBytes));
  RETURN_IF_ERROR(WriteLogOnce(store, environment, superblock, options.progress));
  RETURN_IF_ERROR(sal::BlockingFlush(store, environment));
  RETURN_IF_ERROR(WriteSuperblock(store, environment, superblock, 0));
  return WriteSuperblock(store, environment, superblock, 1);
}

absl::StatusOr<VolumeInfo> Engine::Inspect(sal::BlockStore& store, sal::Environment& environment) {
  ASSIGN_OR_RETURN(const SuperblockPair pair, ReadSuperblocks(store, environment));
  VolumeInfo info = ToVolumeInfo(pair.newest);
  for (size_t slot = 0; slot < pair.slots.size(); ++slot) {
    info.slots[slot] = pair.slots[slot].ok() ? "valid" : std::string(pair.slots[slot].message());
  }
  return info;
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(sal::BlockStore& store, sal::Environment& environment,
                                                     const EngineOptions& options, RecoveryReport* report) {
  ASSIGN_OR_RETURN(const SuperblockPair pair, ReadSuperblocks(store, environment));
  RecoveryReport unused_report;
  if (report == nullptr) report = &unused_report;
  for (size_t slot = 0; slot < pair.slots.size(); ++slot) {
    if (pair.slots[slot].ok()) continue;
    report->warnings.push_back(absl::StrCat("superblock ", slot, " is damaged (", pair.slots[slot].message(),
                                            "); the other one is used", options.read_only ? "" : " and repairs it"));
  }
  const uint64_t size_bytes = pair.newest.size_blocks * kBlockBytes;
  if (store.geometry().size_bytes >= size_bytes + kBlockBytes) {
    report->warnings.push_back(absl::StrCat("the store has ", store.geometry().size_bytes, " bytes, the volume uses ",
                                            size_bytes, " of them"));
  }
  ASSIGN_OR_RETURN(const MemoryPlan plan, MemoryPlan::Make(options, pair.newest.log_blocks));
  auto engine = std::make_unique<EngineImpl>(&store, &environment, pair.newest, options, plan);
  RETURN_IF_ERROR(engine->Recover(report));
  return engine;
}

}  // namespace stagefs::core

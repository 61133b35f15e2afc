#include "core/format.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/checksum.h"

namespace stagefs::core {
namespace {

constexpr char kMagic[8] = {'s', 't', 'a', 'g', 'e', 'f', 's', '\0'};
constexpr uint64_t kSuperblockSeed = 0x7375706572626c6b;  // "superblk"

uint64_t SuperblockChecksum(const std::byte* block, uint32_t slot) {
  return Hash(block + 8, kBlockBytes - 8, kSuperblockSeed + slot);
}

// The layout must lie within the volume, in order and without overlap, so that no later arithmetic can overflow.
bool LayoutIsSane(const Superblock& s) {
  constexpr uint64_t kMaxBlocks = uint64_t{1} << 51;  // 2^63 bytes
  return s.size_blocks <= kMaxBlocks && s.log_start >= kLogStart && s.log_start <= s.size_blocks &&
         s.log_blocks >= kMinLogBlocks && s.log_blocks <= s.size_blocks &&
         s.table_start >= s.log_start + s.log_blocks && s.table_start <= s.size_blocks &&
         s.home_blocks >= kMinHomeBlocks && s.home_blocks <= s.size_blocks && s.table_blocks <= s.size_blocks &&
         s.table_blocks >= (s.home_blocks + kEntriesPerTableBlock - 1) / kEntriesPerTableBlock &&
         s.home_start >= s.table_start + s.table_blocks && s.home_start + s.home_blocks <= s.size_blocks &&
         s.window_blocks >= kMinWindowBlocks && s.window_blocks <= std::min(s.log_blocks, kMaxWindowBlocks);
}

// Each opening adds 1 << 32 to the LSN and little to the others: none comes near the bound.
bool CountsAreSane(const Superblock& s) {
  return std::max({s.epoch, s.checkpoint, s.tail_position, s.tail_sequence, s.covered_lsn}) < kMaxCount;
}

uint64_t SectorChecksum(const TableSector& sector, uint64_t number, uint64_t volume_salt) {
  const uint64_t hash = Hash(sector.entries, sizeof(sector.entries), volume_salt + number);
  return hash == 0 ? 1 : hash;
}

bool AllNeverWritten(const TableSector& sector) {
  return std::all_of(std::begin(sector.entries), std::end(sector.entries), [](uint64_t e) { return e == 0; });
}

}  // namespace

void EncodeSuperblock(Superblock superblock, uint32_t slot, std::byte* block) {
  std::memcpy(superblock.magic, kMagic, sizeof(kMagic));
  superblock.slot = slot;
  Store(block, superblock);
  superblock.checksum = SuperblockChecksum(block, slot);
  Store(block, superblock);
}

absl::StatusOr<Superblock> DecodeSuperblock(const std::byte* block, uint32_t slot) {
  const Superblock superblock = Load<Superblock>(block);
  if (std::memcmp(superblock.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::InvalidArgumentError("no stagefs superblock (wrong magic)");
  }
  // The version comes before the checksum: a future format may well compute it in another way.
  if (superblock.version_major > kVersionMajor) {
    return absl::FailedPreconditionError(absl::StrCat("format version ", superblock.version_major, ".",
                                                      superblock.version_minor, "; this stagefs reads up to ",
                                                      kVersionMajor, ".x: use a newer stagefs"));
  }
  const uint64_t expected = SuperblockChecksum(block, slot);
  if (superblock.checksum != expected) {
    return absl::DataLossError(absl::StrCat("bad checksum: found ", absl::Hex(superblock.checksum), ", computed ",
                                            absl::Hex(expected)));
  }
  if (superblock.slot != slot) {
    return absl::DataLossError(absl::StrCat("belongs to slot ", superblock.slot));
  }
  if (superblock.label[sizeof(superblock.label) - 1] != '\0' || !LayoutIsSane(superblock)) {
    return absl::DataLossError("the layout it describes is impossible");
  }
  if (!CountsAreSane(superblock)) {
    return absl::DataLossError(absl::StrCat("its counts are impossible: epoch ", superblock.epoch, ", checkpoint ",
                                            superblock.checkpoint, ", tail at ", superblock.tail_position, ", LSN ",
                                            superblock.covered_lsn));
  }
  return superblock;
}

VolumeInfo ToVolumeInfo(const Superblock& s) {
  VolumeInfo info;
  std::copy(std::begin(s.uuid), std::end(s.uuid), info.uuid.begin());
  info.label = s.label;
  info.version_major = s.version_major;
  info.version_minor = s.version_minor;
  info.size_bytes = s.size_blocks * kBlockBytes;
  info.capacity_bytes = s.home_blocks * kBlockBytes;
  info.log_start_bytes = s.log_start * kBlockBytes;
  info.log_bytes = s.log_blocks * kBlockBytes;
  info.table_start_bytes = s.table_start * kBlockBytes;
  info.table_bytes = s.table_blocks * kBlockBytes;
  info.home_start_bytes = s.home_start * kBlockBytes;
  info.epoch = s.epoch;
  info.checkpoint = s.checkpoint;
  info.next_lsn = s.covered_lsn + 1;
  info.clean = (s.flags & kCleanFlag) != 0;
  info.created_ns = s.created_ns;
  return info;
}

uint64_t VolumeSalt(const Superblock& superblock) { return Hash(superblock.uuid, sizeof(superblock.uuid), 0); }

bool ChangeReader::Fail(absl::string_view what) {
  status_ = absl::DataLossError(absl::StrCat("log frame holds nonsense: ", what, ", near LSN ", change_.lsn));
  return false;
}

bool ChangeReader::NextChange() {
  if (!status_.ok() || rest_.empty()) return false;
  if (rest_.size() < sizeof(ChangeHeader)) return Fail("a change is cut short");
  change_ = Load<ChangeHeader>(rest_.data());
  if (change_.change_bytes < sizeof(ChangeHeader) || change_.change_bytes > rest_.size() ||
      change_.change_bytes % 8 != 0) {
    return Fail(absl::StrCat("a change of ", change_.change_bytes, " bytes"));
  }
  records_ = rest_.subspan(sizeof(ChangeHeader), change_.change_bytes - sizeof(ChangeHeader));
  rest_ = rest_.subspan(change_.change_bytes);
  records_left_ = change_.record_count;
  return true;
}

bool ChangeReader::NextRecord() {
  if (!status_.ok()) return false;
  if (records_left_ == 0) return records_.empty() ? false : Fail("bytes behind the last record");
  if (records_.size() < sizeof(RecordHeader)) return Fail("a record is cut short");
  const RecordHeader header = Load<RecordHeader>(records_.data());
  records_ = records_.subspan(sizeof(RecordHeader));
  --records_left_;

  record_ = {static_cast<RecordKind>(header.kind), header.address, header.count, records_.data()};
  uint64_t payload_bytes = 0;
  bool in_range = header.address < home_blocks_ && header.count <= home_blocks_ - header.address;
  switch (record_.kind) {
    case RecordKind::kWrite:
      record_.count = header.length;
      payload_bytes = header.length;
      in_range = header.length > 0 && header.address / kBlockBytes < home_blocks_ &&
                 header.address % kBlockBytes + header.length <= kBlockBytes;
      break;
    case RecordKind::kZero:
    case RecordKind::kRelease:
      break;
    case RecordKind::kExtent:
      payload_bytes = uint64_t{header.count} * sizeof(uint64_t);
      break;
    case RecordKind::kIntent:
      payload_bytes = uint64_t{header.count} * sizeof(IntentEntry);
      in_range = true;
      break;
    default:
      return Fail(absl::StrCat("a record of kind ", header.kind));
  }
  if (!in_range) return Fail(absl::StrCat("a record for address ", header.address, ", count ", header.count));
  if (PadTo8(payload_bytes) > records_.size()) return Fail("a record's payload is cut short");
  for (uint64_t i = 0; record_.kind == RecordKind::kIntent && i < header.count; ++i) {
    const uint64_t block = Load<IntentEntry>(record_.payload + i * sizeof(IntentEntry)).block;
    if (block >= home_blocks_) return Fail(absl::StrCat("an intent for block ", block));
  }
  records_ = records_.subspan(PadTo8(payload_bytes));
  return true;
}

void SealTableBlock(std::byte* table_block, uint64_t index, uint64_t volume_salt) {
  for (uint64_t i = 0; i < kSectorsPerTableBlock; ++i) {
    std::byte* const place = table_block + i * kTableSectorBytes;
    TableSector sector = Load<TableSector>(place);
    sector.checksum =
        AllNeverWritten(sector) ? 0 : SectorChecksum(sector, index * kSectorsPerTableBlock + i, volume_salt);
    Store(place, sector.checksum);
  }
}

int CheckTableBlock(std::byte* table_block, uint64_t index, uint64_t volume_salt) {
  int bad_sectors = 0;
  for (uint64_t i = 0; i < kSectorsPerTableBlock; ++i) {
    std::byte* const place = table_block + i * kTableSectorBytes;
    TableSector sector = Load<TableSector>(place);
    const uint64_t expected =
        AllNeverWritten(sector) ? 0 : SectorChecksum(sector, index * kSectorsPerTableBlock + i, volume_salt);
    if (sector.checksum == expected) continue;
    ++bad_sectors;
    std::fill(std::begin(sector.entries), std::end(sector.entries), kPoisoned);
    Store(place, sector);
  }
  return bad_sectors;
}

}  // namespace stagefs::core

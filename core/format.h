// The on-disk format of the engine: superblock, log frames, records, checksum table. docs/format.md explains it and
// says what is valid; this file and format.cc are the only ones that know byte offsets.
//
// All integers are little-endian. Structures are copied in and out with memcpy, never by casting a buffer. Bytes from
// disk can cause an error, never a CHECK.

#ifndef STAGEFS_CORE_FORMAT_H_
#define STAGEFS_CORE_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/bytes.h"
#include "core/engine.h"
#include "core/types.h"

namespace stagefs::core {

inline constexpr uint32_t kVersionMajor = 1;
inline constexpr uint32_t kVersionMinor = 0;

// --- Places on the store, in store blocks of kBlockBytes ---
inline constexpr std::array<uint64_t, 2> kSuperblockPlaces = {0, 16};
inline constexpr uint64_t kLogStart = 32;
inline constexpr uint64_t kMinLogBlocks = 1024;
inline constexpr uint64_t kMinHomeBlocks = 1024;
// Bounds of Superblock::window_blocks: the largest change must fit, with the largest frame before it and some; and
// recovery holds a window in memory.
inline constexpr uint64_t kMinWindowBlocks = 704;
inline constexpr uint64_t kMaxWindowBlocks = 4096;
// LSNs, epochs, and positions and sequences in the log stay below: a volume that could count so far would be older than
// the world. So no sum of two of them overflows.
inline constexpr uint64_t kMaxCount = uint64_t{1} << 62;
// Recovery leaves a gap in the LSNs: accepted changes that never reached the log have LSNs too, and those must not be
// used again. There cannot be so many of them: each takes memory.
inline constexpr Lsn kLsnGap = Lsn{1} << 32;
// How far LSNs in the log can be above the superblock's covered_lsn: a gap for each recovery that a crash cut short,
// which at one a second would have to go on for days. What is beyond is no LSN.
inline constexpr Lsn kMostLsnsPerEpoch = kLsnGap << 20;

// --- Superblock: one block in each of two places ---
struct Superblock {
  uint64_t checksum;         // of the block's bytes [8, 4096), seeded with the slot
  char magic[8];             // "stagefs\0"
  uint32_t version_major;    // a higher one than kVersionMajor cannot be read
  uint32_t version_minor;    // of the writer
  uint32_t oldest_minor;     // the oldest minor version that ever wrote this volume
  uint32_t slot;             // 0 or 1: a copy in the wrong place is not valid
  uint8_t uuid[16];          // which volume
  char label[64];            // NUL-terminated
  uint64_t size_blocks;      // of the store, as far as the volume uses it
  uint64_t log_start;        // store block of the log ring
  uint64_t log_blocks;
  uint64_t table_start;      // store block of the checksum table
  uint64_t table_blocks;
  uint64_t home_start;       // store block of home block 0
  uint64_t home_blocks;
  int64_t created_ns;
  uint64_t epoch;            // counts the openings for writing
  uint64_t salt;             // random for each epoch: seeds the checksum of its frames
  uint64_t checkpoint;       // counts superblock writes; the higher one is newer
  uint64_t tail_position;    // where the first frame to replay lies or would lie; see FrameHeader::position
  uint64_t tail_sequence;    // its sequence
  uint64_t tail_chain;       // its chain
  uint64_t covered_lsn;      // every change up to this one is home and in the table
  uint64_t window_blocks;    // the log never has more than this many blocks that are not known to be durable
  uint64_t flags;            // kCleanFlag
  uint8_t reserved[3848];    // zero
};
static_assert(sizeof(Superblock) == kBlockBytes);
static_assert(offsetof(Superblock, size_blocks) == 112 && offsetof(Superblock, epoch) == 176 &&
              offsetof(Superblock, tail_position) == 200 && offsetof(Superblock, flags) == 240);
inline constexpr uint64_t kCleanFlag = 1;  // closed in order: the log is empty

// Fills in slot and checksum and writes the superblock to `block` (kBlockBytes).
void EncodeSuperblock(Superblock superblock, uint32_t slot, std::byte* block);
// Errors: InvalidArgument (no superblock of stagefs), DataLoss (one, but damaged), FailedPrecondition (a version from
// the future).
absl::StatusOr<Superblock> DecodeSuperblock(const std::byte* block, uint32_t slot);
VolumeInfo ToVolumeInfo(const Superblock& superblock);
// Seeds table entries and table sectors of this volume.
uint64_t VolumeSalt(const Superblock& superblock);

// --- Log frame: header, then changes, padded with zeros to whole blocks ---
struct FrameHeader {
  uint64_t checksum;       // of bytes [8, sizeof(FrameHeader) + payload_bytes), seeded with the epoch's salt
  uint32_t magic;          // kFrameMagic
  uint32_t frame_blocks;   // header and payload, rounded up to blocks
  uint32_t payload_bytes;
  uint32_t change_count;
  uint8_t uuid[16];        // which volume
  uint64_t epoch;          // which opening of it
  uint64_t sequence;       // one more than the frame before
  uint64_t position;       // absolute block number in the log; its place in the ring is position % log_blocks
  uint64_t chain;          // checksum of the frame before: a frame can only follow the one it was written after
  uint64_t first_lsn;      // of the first change; if there is none, the LSN that the next change will have or exceed
  uint64_t durable_lsn;    // the highest LSN known to be durable when the frame was cut
  uint64_t reserved;       // zero
};
static_assert(sizeof(FrameHeader) == 96);
inline constexpr uint32_t kFrameMagic = 0x4d524653;  // "SFRM"

inline uint64_t FrameBlocks(uint64_t payload_bytes) {
  return (sizeof(FrameHeader) + payload_bytes + kBlockBytes - 1) / kBlockBytes;
}

// --- Change: one LSN. Header, then records; a multiple of 8 bytes ---
struct ChangeHeader {
  uint32_t change_bytes;  // with this header
  uint32_t record_count;
  uint64_t lsn;
};
static_assert(sizeof(ChangeHeader) == 16);

// --- Record: header, then a payload padded with zeros to a multiple of 8 ---
enum class RecordKind : uint8_t {
  kWrite = 1,    // address: byte address; length: bytes, within one block; payload: the bytes
  kZero = 2,     // address: first home block; count: blocks that become "never written"
  kRelease = 3,  // address: first home block; count: blocks that nothing refers to any more
  kExtent = 4,   // address: first home block; count: blocks; payload: their table entries
  kIntent = 5,   // count: how many IntentEntry follow: blocks about to be written home
};
struct RecordHeader {
  uint8_t kind;
  uint8_t reserved;  // zero
  uint16_t length;
  uint32_t count;
  uint64_t address;
};
static_assert(sizeof(RecordHeader) == 16);

struct IntentEntry {
  uint64_t block;
  uint64_t lsn;          // the image holds the block's changes up to this one
  uint64_t table_entry;  // of the image
};
static_assert(sizeof(IntentEntry) == 24);

// A decoded record; `payload` points into the frame.
struct Record {
  RecordKind kind;
  uint64_t address;
  uint64_t count;  // blocks or entries; for kWrite the length in bytes
  const std::byte* payload;
};

inline constexpr uint64_t PadTo8(uint64_t bytes) { return (bytes + 7) & ~uint64_t{7}; }

// Walks the changes of one frame's payload. Meant for payloads whose checksum was right, and safe for any.
class ChangeReader {
 public:
  // `home_blocks` bounds every address.
  ChangeReader(absl::Span<const std::byte> payload, uint64_t home_blocks)
      : rest_(payload), home_blocks_(home_blocks) {}

  // Moves to the next change. False at the end, or when the payload makes no sense: see status().
  bool NextChange();
  // Moves to the next record of the change. False at its end, or on an error.
  bool NextRecord();
  Lsn lsn() const { return change_.lsn; }
  const Record& record() const { return record_; }
  const absl::Status& status() const { return status_; }

 private:
  bool Fail(absl::string_view what);

  absl::Span<const std::byte> rest_;     // behind the current change
  absl::Span<const std::byte> records_;  // of the current change, not yet read
  uint64_t home_blocks_;
  ChangeHeader change_ = {};
  uint32_t records_left_ = 0;
  Record record_ = {};
  absl::Status status_;
};

// --- Checksum table: sectors of 512 bytes, each either old or new after a torn write, each valid by itself ---
inline constexpr uint64_t kTableSectorBytes = 512;
inline constexpr uint64_t kEntriesPerSector = 63;
inline constexpr uint64_t kSectorsPerTableBlock = kBlockBytes / kTableSectorBytes;
inline constexpr uint64_t kEntriesPerTableBlock = kEntriesPerSector * kSectorsPerTableBlock;  // 504

struct TableSector {
  uint64_t checksum;  // of the entries, seeded with volume salt and sector number; 0 if all entries are 0
  uint64_t entries[kEntriesPerSector];
};
static_assert(sizeof(TableSector) == kTableSectorBytes);

// Makes the checksums of all sectors of table block `index` right.
void SealTableBlock(std::byte* table_block, uint64_t index, uint64_t volume_salt);
// Poisons every entry of sectors that are not valid, and returns how many sectors that were.
int CheckTableBlock(std::byte* table_block, uint64_t index, uint64_t volume_salt);

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_FORMAT_H_

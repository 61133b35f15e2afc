// What lies on the byte device of a volume: the header in block 1 (and its copy), and the items of the tree.
//
// Everything is little-endian, fixed in width and without padding; reserved bytes are zero. Encoding and decoding is
// done here and nowhere else. Blocks carry the engine's checksums, so decoding checks meaning, not bit errors; what
// does not make sense is DataLoss, never a CHECK.
//
// Format: docs/format-volume.md#the-volume.

#ifndef STAGEFS_FS_VOLUME_FORMAT_H_
#define STAGEFS_FS_VOLUME_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/types.h"
#include "fs/volume/btree.h"

namespace stagefs::volume {

// --- The header: block 1. Bytes 0 to 255 are described here; the allocator keeps the u64 free count at byte 256. ---

inline constexpr core::Block kHeaderBlock = 1;
inline constexpr uint64_t kVolumeMagic = 0x4c4f564547415453;  // "STAGEVOL"
inline constexpr uint32_t kVersionMajor = 2;
inline constexpr uint32_t kVersionMinor = 0;
inline constexpr uint64_t kHeaderBytes = 256;
// Inode numbers are below this one: no volume lives to use them up, so what is higher is no inode.
inline constexpr uint64_t kMaxIno = uint64_t{1} << 62;

struct VolumeHeader {
  uint32_t version_major = kVersionMajor;
  uint32_t version_minor = kVersionMinor;  // the oldest that ever wrote
  uint64_t capacity_blocks = 0;
  core::Block root_block = 0;
  uint32_t root_height = 0;
  uint32_t flags = 0;
  uint64_t next_ino = 0;     // never given to an inode yet
  uint64_t hash_seed = 0;    // of HashName(); tells the volume's nodes from others' too
  uint64_t inode_count = 0;  // inodes that exist, orphans too
  int64_t created_ns = 0;

  friend bool operator==(const VolumeHeader&, const VolumeHeader&) = default;
};

// A repair lost an inner node of the tree and is putting the leaves that hung below it back, one by one. Until that is
// over the tree lacks some of what the volume holds: the volume must not be used, nor space that looks lost be freed.
inline constexpr uint32_t kHeaderGathering = 1;

// `bytes` has at least kHeaderBytes bytes. Encoding leaves what follows them alone.
void EncodeHeader(const VolumeHeader& header, std::byte* bytes);
// Errors: InvalidArgument (no volume here), FailedPrecondition (a version from the future), DataLoss (nonsense).
absl::StatusOr<VolumeHeader> DecodeHeader(const std::byte* bytes);

// --- Kinds of items. Ino 0 holds what belongs to the volume as a whole. ---

inline constexpr uint8_t kKindInode = 1;       // offset 0
inline constexpr uint8_t kKindInline = 2;      // offset 0: the content of a small file or symlink
inline constexpr uint8_t kKindEntry = 3;       // offset: HashName(); the names of a directory
inline constexpr uint8_t kKindExtent = 4;      // offset: number of the first block in the file
inline constexpr uint8_t kKindXattr = 5;       // offset: HashName() of the attribute's name
inline constexpr uint8_t kKindXattrChunk = 6;  // offset: value id << 8 | index of the chunk
inline constexpr uint8_t kKindOrphan = 16;     // ino 0, offset: inode number

inline Key InodeKey(uint64_t ino) { return {ino, kKindInode, 0}; }
inline Key InlineKey(uint64_t ino) { return {ino, kKindInline, 0}; }
inline Key EntryKey(uint64_t ino, uint64_t hash) { return {ino, kKindEntry, hash}; }
inline Key ExtentKey(uint64_t ino, uint64_t file_block) { return {ino, kKindExtent, file_block}; }
inline Key XattrKey(uint64_t ino, uint64_t hash) { return {ino, kKindXattr, hash}; }
inline Key XattrChunkKey(uint64_t ino, uint32_t id, uint32_t index) {
  return {ino, kKindXattrChunk, uint64_t{id} << 8 | index};
}
inline Key OrphanKey(uint64_t ino) { return {0, kKindOrphan, ino}; }

// --- Inodes ---

inline constexpr uint32_t kInodeInline = 1;           // the content is the kKindInline item: size_bytes of it
inline constexpr uint32_t kInodeTruncatePending = 2;  // an orphan item says from which block extents are left over
inline constexpr uint32_t kInodeKnownFlags = kInodeInline | kInodeTruncatePending;

struct Inode {
  uint32_t mode = 0;
  uint32_t nlink = 0;  // directories: 2 + subdirectories
  uint32_t uid = 0, gid = 0;
  uint64_t rdev = 0;
  uint64_t size_bytes = 0;  // directories: the sum of their entries' encoded bytes
  uint64_t blocks = 0;      // home blocks its extents cover
  int64_t atime_ns = 0, mtime_ns = 0, ctime_ns = 0, btime_ns = 0;
  uint64_t parent = 0;  // directories only; the root's is the root
  uint32_t flags = 0;
  uint32_t next_xattr_id = 0;  // value ids below it may be in use
};

inline constexpr uint64_t kInodeBytes = 128;
// Content up to this many bytes lies in the tree.
inline constexpr uint64_t kMaxInlineFileBytes = 512;
inline constexpr uint64_t kMaxInlineSymlinkBytes = 1000;
inline constexpr uint64_t kMaxSymlinkBytes = 4095;
inline constexpr uint32_t kMaxLinks = 1u << 31;

// `bytes` has kInodeBytes bytes.
void EncodeInode(const Inode& inode, char* bytes);
absl::StatusOr<Inode> DecodeInode(absl::string_view value);
// For fsck: what an inode of the right length says, flags that mean nothing left out.
std::optional<Inode> SalvageInode(absl::string_view value);

// --- Directory entries: the names of one hash share an item. ---

struct Entry {
  uint64_t ino = 0;
  uint8_t type = 0;  // mode >> 12, as d_type
  uint8_t slot = 0;  // tells names of one hash apart in cookies; unique in the item
  absl::string_view name;
};

inline constexpr uint64_t kEntryOverheadBytes = 11;
inline constexpr uint32_t kCookieSlotBits = 3;
inline constexpr uint32_t kMaxEntrySlots = 1 << kCookieSlotBits;
inline uint64_t EntryBytes(absl::string_view name) { return kEntryOverheadBytes + name.size(); }

// 1 to 2^60 - 1.
uint64_t HashName(uint64_t seed, absl::string_view name);
// At least 8 (1 and 2 are "." and ".."), positive as int64.
inline uint64_t EntryCookie(uint64_t hash, uint8_t slot) { return hash << kCookieSlotBits | slot; }

void AppendEntry(const Entry& entry, std::string* value);
// Takes the first entry off `value`. Its name refers to `value`'s bytes. DataLoss if it does not make sense.
absl::StatusOr<Entry> TakeEntry(absl::string_view* value);

// --- Extents ---

struct Extent {
  core::Block home = 0;
  uint32_t count = 0;
  uint32_t flags = 0;  // none is known yet
};

inline constexpr uint64_t kExtentBytes = 16;
inline constexpr uint32_t kMaxExtentBlocks = 1 << 20;

void EncodeExtent(const Extent& extent, char* bytes);
absl::StatusOr<Extent> DecodeExtent(absl::string_view value);

// --- Extended attributes: the names of one hash share an item. ---

struct XattrEntry {
  uint32_t value_id = 0;  // 0: the value is inline; else in chunks
  uint32_t value_bytes = 0;
  absl::string_view name;
  absl::string_view inline_value;
};

inline constexpr uint64_t kXattrOverheadBytes = 9;
inline constexpr uint64_t kMaxInlineXattrBytes = 800;
inline constexpr uint64_t kXattrChunkBytes = 1024;

void AppendXattrEntry(const XattrEntry& entry, std::string* value);
absl::StatusOr<XattrEntry> TakeXattrEntry(absl::string_view* value);

// --- Orphans: what is still to be removed. ---

struct Orphan {
  enum class What : uint8_t {
    kInode = 1,     // the inode has no links: all of it, unless it is open
    kTruncate = 2,  // the extents from `from_block` on
  };
  What what = What::kInode;
  uint64_t from_block = 0;
};

inline constexpr uint64_t kOrphanBytes = 16;

void EncodeOrphan(const Orphan& orphan, char* bytes);
absl::StatusOr<Orphan> DecodeOrphan(absl::string_view value);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_FORMAT_H_

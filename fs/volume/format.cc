#include "fs/volume/format.h"

#include <bit>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_cat.h"

namespace stagefs::volume {
namespace {

static_assert(std::endian::native == std::endian::little, "Fields are copied as they lie in memory");

// The layouts as they lie on disk. Only their offsets and sizes are used outside of encode and decode.
struct DiskHeader {
  uint64_t magic;
  uint32_t version_major;
  uint32_t version_minor;
  uint64_t capacity_blocks;
  uint64_t root_block;
  uint32_t root_height;
  uint32_t flags;
  uint64_t next_ino;
  uint64_t hash_seed;
  uint64_t inode_count;
  int64_t created_ns;
  uint8_t reserved1[184];
};
static_assert(sizeof(DiskHeader) == kHeaderBytes);
static_assert(offsetof(DiskHeader, root_block) == 24);
static_assert(offsetof(DiskHeader, next_ino) == 40);
static_assert(offsetof(DiskHeader, created_ns) == 64);

struct DiskInode {
  uint32_t mode;
  uint32_t nlink;
  uint32_t uid;
  uint32_t gid;
  uint64_t rdev;
  uint64_t size_bytes;
  uint64_t blocks;
  int64_t atime_ns;
  int64_t mtime_ns;
  int64_t ctime_ns;
  int64_t btime_ns;
  uint64_t parent;
  uint32_t flags;
  uint32_t next_xattr_id;
  uint8_t reserved[40];
};
static_assert(sizeof(DiskInode) == kInodeBytes);
static_assert(offsetof(DiskInode, size_bytes) == 24);
static_assert(offsetof(DiskInode, parent) == 72);
static_assert(offsetof(DiskInode, flags) == 80);

struct DiskExtent {
  uint64_t home;
  uint32_t count;
  uint32_t flags;
};
static_assert(sizeof(DiskExtent) == kExtentBytes);

struct DiskOrphan {
  uint8_t what;
  uint8_t reserved[7];
  uint64_t from_block;
};
static_assert(sizeof(DiskOrphan) == kOrphanBytes);

template <typename T>
void Append(T field, std::string* value) {
  value->append(reinterpret_cast<const char*>(&field), sizeof(field));
}

template <typename T>
T Load(const char* bytes) {
  T field;
  std::memcpy(&field, bytes, sizeof(field));
  return field;
}

}  // namespace

void EncodeHeader(const VolumeHeader& header, std::byte* bytes) {
  const DiskHeader disk = {
      .magic = kVolumeMagic,
      .version_major = header.version_major,
      .version_minor = header.version_minor,
      .capacity_blocks = header.capacity_blocks,
      .root_block = header.root_block,
      .root_height = header.root_height,
      .flags = header.flags,
      .next_ino = header.next_ino,
      .hash_seed = header.hash_seed,
      .inode_count = header.inode_count,
      .created_ns = header.created_ns,
      .reserved1 = {},
  };
  std::memcpy(bytes, &disk, sizeof(disk));
}

absl::StatusOr<VolumeHeader> DecodeHeader(const std::byte* bytes) {
  DiskHeader disk;
  std::memcpy(&disk, bytes, sizeof(disk));
  if (disk.magic != kVolumeMagic) {
    return absl::InvalidArgumentError("The byte device holds no volume: block 1 has another magic number");
  }
  if (disk.version_major != kVersionMajor) {
    return absl::FailedPreconditionError(absl::StrCat("The volume has version ", disk.version_major, ".",
                                                      disk.version_minor, ", this program knows ", kVersionMajor));
  }
  if (disk.root_block == 0 || disk.root_block >= disk.capacity_blocks || disk.root_height == 0 ||
      disk.next_ino < 2 || disk.next_ino > kMaxIno || (disk.flags & ~kHeaderGathering) != 0) {
    return absl::DataLossError(absl::StrCat("The volume header makes no sense: root block ", disk.root_block,
                                            ", height ", disk.root_height, ", capacity ", disk.capacity_blocks,
                                            ", next inode ", disk.next_ino, ", flags ", disk.flags));
  }
  return VolumeHeader{
      .version_major = disk.version_major,
      .version_minor = disk.version_minor,
      .capacity_blocks = disk.capacity_blocks,
      .root_block = disk.root_block,
      .root_height = disk.root_height,
      .flags = disk.flags,
      .next_ino = disk.next_ino,
      .hash_seed = disk.hash_seed,
      .inode_count = disk.inode_count,
      .created_ns = disk.created_ns,
  };
}

void EncodeInode(const Inode& inode, char* bytes) {
  const DiskInode disk = {
      .mode = inode.mode,
      .nlink = inode.nlink,
      .uid = inode.uid,
      .gid = inode.gid,
      .rdev = inode.rdev,
      .size_bytes = inode.size_bytes,
      .blocks = inode.blocks,
      .atime_ns = inode.atime_ns,
      .mtime_ns = inode.mtime_ns,
      .ctime_ns = inode.ctime_ns,
      .btime_ns = inode.btime_ns,
      .parent = inode.parent,
      .flags = inode.flags,
      .next_xattr_id = inode.next_xattr_id,
      .reserved = {},
  };
  std::memcpy(bytes, &disk, sizeof(disk));
}

absl::StatusOr<Inode> DecodeInode(absl::string_view value) {
  if (value.size() != kInodeBytes) {
    return absl::DataLossError(absl::StrCat("An inode item has ", value.size(), " bytes, not ", kInodeBytes));
  }
  const DiskInode disk = Load<DiskInode>(value.data());
  if ((disk.flags & ~kInodeKnownFlags) != 0) {
    return absl::DataLossError(absl::StrCat("An inode has unknown flags ", disk.flags));
  }
  return *SalvageInode(value);
}

std::optional<Inode> SalvageInode(absl::string_view value) {
  if (value.size() != kInodeBytes) return std::nullopt;
  const DiskInode disk = Load<DiskInode>(value.data());
  return Inode{
      .mode = disk.mode,
      .nlink = disk.nlink,
      .uid = disk.uid,
      .gid = disk.gid,
      .rdev = disk.rdev,
      .size_bytes = disk.size_bytes,
      .blocks = disk.blocks,
      .atime_ns = disk.atime_ns,
      .mtime_ns = disk.mtime_ns,
      .ctime_ns = disk.ctime_ns,
      .btime_ns = disk.btime_ns,
      .parent = disk.parent,
      .flags = disk.flags & kInodeKnownFlags,
      .next_xattr_id = disk.next_xattr_id,
  };
}

uint64_t HashName(uint64_t seed, absl::string_view name) {
  const uint64_t hash = XXH3_64bits_withSeed(name.data(), name.size(), seed) >> 4;
  return hash == 0 ? 1 : hash;
}

void AppendEntry(const Entry& entry, std::string* value) {
  Append<uint64_t>(entry.ino, value);
  Append<uint8_t>(entry.type, value);
  Append<uint8_t>(entry.slot, value);
  Append<uint8_t>(static_cast<uint8_t>(entry.name.size()), value);
  value->append(entry.name.data(), entry.name.size());
}

absl::StatusOr<Entry> TakeEntry(absl::string_view* value) {
  if (value->size() < kEntryOverheadBytes) return absl::DataLossError("A directory entry is cut short");
  const char* bytes = value->data();
  const Entry entry = {
      .ino = Load<uint64_t>(bytes),
      .type = Load<uint8_t>(bytes + 8),
      .slot = Load<uint8_t>(bytes + 9),
      .name = value->substr(kEntryOverheadBytes, Load<uint8_t>(bytes + 10)),
  };
  if (entry.ino == 0 || entry.name.empty() || entry.name.size() != Load<uint8_t>(bytes + 10) ||
      entry.slot >= kMaxEntrySlots) {
    return absl::DataLossError(absl::StrCat("A directory entry makes no sense: inode ", entry.ino, ", slot ",
                                            entry.slot, ", name of ", entry.name.size(), " bytes"));
  }
  value->remove_prefix(EntryBytes(entry.name));
  return entry;
}

void EncodeExtent(const Extent& extent, char* bytes) {
  const DiskExtent disk = {.home = extent.home, .count = extent.count, .flags = extent.flags};
  std::memcpy(bytes, &disk, sizeof(disk));
}

absl::StatusOr<Extent> DecodeExtent(absl::string_view value) {
  if (value.size() != kExtentBytes) {
    return absl::DataLossError(absl::StrCat("An extent item has ", value.size(), " bytes, not ", kExtentBytes));
  }
  const DiskExtent disk = Load<DiskExtent>(value.data());
  if (disk.home == 0 || disk.count == 0 || disk.count > kMaxExtentBlocks || disk.flags != 0) {
    return absl::DataLossError(absl::StrCat("An extent makes no sense: home block ", disk.home, ", ", disk.count,
                                            " blocks, flags ", disk.flags));
  }
  return Extent{.home = disk.home, .count = disk.count, .flags = disk.flags};
}

void AppendXattrEntry(const XattrEntry& entry, std::string* value) {
  Append<uint32_t>(entry.value_id, value);
  Append<uint32_t>(entry.value_bytes, value);
  Append<uint8_t>(static_cast<uint8_t>(entry.name.size()), value);
  value->append(entry.name.data(), entry.name.size());
  value->append(entry.inline_value.data(), entry.inline_value.size());
}

absl::StatusOr<XattrEntry> TakeXattrEntry(absl::string_view* value) {
  if (value->size() < kXattrOverheadBytes) return absl::DataLossError("An extended attribute is cut short");
  const char* bytes = value->data();
  const uint64_t name_bytes = Load<uint8_t>(bytes + 8);
  XattrEntry entry = {
      .value_id = Load<uint32_t>(bytes),
      .value_bytes = Load<uint32_t>(bytes + 4),
      .name = {},
      .inline_value = {},
  };
  const uint64_t inline_bytes = entry.value_id == 0 ? entry.value_bytes : 0;
  if (name_bytes == 0 || value->size() - kXattrOverheadBytes < name_bytes + inline_bytes) {
    return absl::DataLossError(absl::StrCat("An extended attribute makes no sense: name of ", name_bytes,
                                            " bytes, value of ", entry.value_bytes));
  }
  entry.name = value->substr(kXattrOverheadBytes, name_bytes);
  entry.inline_value = value->substr(kXattrOverheadBytes + name_bytes, inline_bytes);
  value->remove_prefix(kXattrOverheadBytes + name_bytes + inline_bytes);
  return entry;
}

void EncodeOrphan(const Orphan& orphan, char* bytes) {
  const DiskOrphan disk = {
      .what = static_cast<uint8_t>(orphan.what), .reserved = {}, .from_block = orphan.from_block};
  std::memcpy(bytes, &disk, sizeof(disk));
}

absl::StatusOr<Orphan> DecodeOrphan(absl::string_view value) {
  if (value.size() != kOrphanBytes) {
    return absl::DataLossError(absl::StrCat("An orphan item has ", value.size(), " bytes, not ", kOrphanBytes));
  }
  const DiskOrphan disk = Load<DiskOrphan>(value.data());
  if (disk.what != static_cast<uint8_t>(Orphan::What::kInode) &&
      disk.what != static_cast<uint8_t>(Orphan::What::kTruncate)) {
    return absl::DataLossError(absl::StrCat("An orphan item says ", disk.what, ", which means nothing"));
  }
  return Orphan{.what = static_cast<Orphan::What>(disk.what), .from_block = disk.from_block};
}

}  // namespace stagefs::volume

#include "fs/volume/format.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::volume {
namespace {

TEST(FormatTest, AHeaderComesBackAsItWasWritten) {
  const VolumeHeader header = {.capacity_blocks = 1000,
                               .root_block = 7,
                               .root_height = 2,
                               .next_ino = 99,
                               .hash_seed = 0x1234567890abcdef,
                               .inode_count = 12,
                               .created_ns = -5};
  std::vector<std::byte> block(core::kBlockBytes, std::byte{0xff});
  EncodeHeader(header, block.data());
  const absl::StatusOr<VolumeHeader> decoded = DecodeHeader(block.data());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->version_major, kVersionMajor);
  EXPECT_EQ(decoded->capacity_blocks, 1000u);
  EXPECT_EQ(decoded->root_block, 7u);
  EXPECT_EQ(decoded->root_height, 2u);
  EXPECT_EQ(decoded->next_ino, 99u);
  EXPECT_EQ(decoded->hash_seed, 0x1234567890abcdefu);
  EXPECT_EQ(decoded->inode_count, 12u);
  EXPECT_EQ(decoded->created_ns, -5);
  // The allocator's free count follows the header's bytes and is not touched.
  EXPECT_EQ(block[kHeaderBytes], std::byte{0xff});
}

TEST(FormatTest, HeadersOfOthersAreRefusedWithTheRightCode) {
  std::vector<std::byte> block(core::kBlockBytes);
  EXPECT_EQ(DecodeHeader(block.data()).status().code(), absl::StatusCode::kInvalidArgument);
  VolumeHeader header = {.capacity_blocks = 1000, .root_block = 7, .root_height = 1, .next_ino = 2};
  header.version_major = kVersionMajor + 1;
  EncodeHeader(header, block.data());
  EXPECT_EQ(DecodeHeader(block.data()).status().code(), absl::StatusCode::kFailedPrecondition);
  header.version_major = kVersionMajor;
  header.root_block = 1000;
  EncodeHeader(header, block.data());
  EXPECT_EQ(DecodeHeader(block.data()).status().code(), absl::StatusCode::kDataLoss);
}

TEST(FormatTest, AnInodeComesBackAsItWasWritten) {
  const Inode inode = {.mode = 0100644,
                       .nlink = 3,
                       .uid = 4,
                       .gid = 5,
                       .rdev = 6,
                       .size_bytes = uint64_t{1} << 62,
                       .blocks = 8,
                       .atime_ns = -9,
                       .mtime_ns = 10,
                       .ctime_ns = 11,
                       .btime_ns = 12,
                       .parent = 13,
                       .flags = kInodeInline,
                       .next_xattr_id = 14};
  char bytes[kInodeBytes];
  EncodeInode(inode, bytes);
  const absl::StatusOr<Inode> decoded = DecodeInode(absl::string_view(bytes, sizeof(bytes)));
  ASSERT_TRUE(decoded.ok());
  char again[kInodeBytes];
  EncodeInode(*decoded, again);
  EXPECT_EQ(std::string(bytes, sizeof(bytes)), std::string(again, sizeof(again)));
  EXPECT_EQ(decoded->size_bytes, inode.size_bytes);
  EXPECT_EQ(decoded->atime_ns, -9);
  EXPECT_EQ(DecodeInode(absl::string_view(bytes, sizeof(bytes) - 1)).status().code(), absl::StatusCode::kDataLoss);
  bytes[83] = 1;  // a flag from the future
  EXPECT_EQ(DecodeInode(absl::string_view(bytes, sizeof(bytes))).status().code(), absl::StatusCode::kDataLoss);
}

TEST(FormatTest, EntriesOfOneHashFollowEachOther) {
  std::string value;
  AppendEntry({.ino = 5, .type = 8, .slot = 0, .name = "first"}, &value);
  AppendEntry({.ino = 6, .type = 4, .slot = 2, .name = std::string(255, 'x')}, &value);
  absl::string_view rest = value;
  const absl::StatusOr<Entry> first = TakeEntry(&rest);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->ino, 5u);
  EXPECT_EQ(first->name, "first");
  const absl::StatusOr<Entry> second = TakeEntry(&rest);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->slot, 2);
  EXPECT_EQ(second->type, 4);
  EXPECT_EQ(second->name.size(), 255u);
  EXPECT_TRUE(rest.empty());
}

TEST(FormatTest, NoPrefixOfAnEntryIsTakenForOne) {
  std::string value;
  AppendEntry({.ino = 5, .type = 8, .slot = 0, .name = "name"}, &value);
  for (size_t length = 0; length < value.size(); ++length) {
    absl::string_view rest(value.data(), length);
    EXPECT_EQ(TakeEntry(&rest).status().code(), absl::StatusCode::kDataLoss) << length;
  }
  value.clear();
  AppendXattrEntry({.value_id = 0, .value_bytes = 3, .name = "user.x", .inline_value = "abc"}, &value);
  for (size_t length = 0; length < value.size(); ++length) {
    absl::string_view rest(value.data(), length);
    EXPECT_EQ(TakeXattrEntry(&rest).status().code(), absl::StatusCode::kDataLoss) << length;
  }
}

TEST(FormatTest, CookiesKeepClearOfTheReservedOnesAndArePositive) {
  for (int i = 0; i < 10000; ++i) {
    const uint64_t hash = HashName(42, std::to_string(i));
    const uint64_t cookie = EntryCookie(hash, kMaxEntrySlots - 1);
    EXPECT_GE(EntryCookie(hash, 0), 8u);
    EXPECT_GT(static_cast<int64_t>(cookie), 0);
    EXPECT_EQ(cookie >> kCookieSlotBits, hash);
  }
  EXPECT_NE(HashName(1, "name"), HashName(2, "name"));
}

TEST(FormatTest, ExtentsAndOrphansThatMakeNoSenseAreDataLoss) {
  char bytes[kExtentBytes];
  EncodeExtent({.home = 12, .count = 3}, bytes);
  const absl::StatusOr<Extent> extent = DecodeExtent(absl::string_view(bytes, sizeof(bytes)));
  ASSERT_TRUE(extent.ok());
  EXPECT_EQ(extent->home, 12u);
  EXPECT_EQ(extent->count, 3u);
  EncodeExtent({.home = 12, .count = 0}, bytes);
  EXPECT_EQ(DecodeExtent(absl::string_view(bytes, sizeof(bytes))).status().code(), absl::StatusCode::kDataLoss);
  char orphan[kOrphanBytes] = {};
  EXPECT_EQ(DecodeOrphan(absl::string_view(orphan, sizeof(orphan))).status().code(), absl::StatusCode::kDataLoss);
  EncodeOrphan({.what = Orphan::What::kTruncate, .from_block = 77}, orphan);
  EXPECT_EQ(DecodeOrphan(absl::string_view(orphan, sizeof(orphan)))->from_block, 77u);
}

}  // namespace
}  // namespace stagefs::volume

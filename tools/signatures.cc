#include "tools/signatures.h"

#include <cstring>

#include "absl/strings/string_view.h"

namespace stagefs::tools {

namespace {

struct Signature {
  size_t offset;
  absl::string_view magic;
  const char* name;
};

// String literals with NULs: the length is part of the pattern. More telling ones come first.
constexpr Signature kSignatures[] = {
    {0, {"XFSB", 4}, "an xfs file system"},
    {0x10040, {"_BHRfS_M", 8}, "a btrfs file system"},
    {0x438, {"\x53\xef", 2}, "an ext2, ext3 or ext4 file system"},
    {0x400, {"\x10\x20\xf5\xf2", 4}, "an f2fs file system"},
    {0, {"hsqs", 4}, "a squashfs image"},
    {3, {"NTFS    ", 8}, "an NTFS file system"},
    {3, {"EXFAT   ", 8}, "an exFAT file system"},
    {82, {"FAT32   ", 8}, "a FAT file system"},
    {54, {"FAT16   ", 8}, "a FAT file system"},
    {54, {"FAT12   ", 8}, "a FAT file system"},
    {4086, {"SWAPSPACE2", 10}, "a swap area"},
    {4086, {"SWAP-SPACE", 10}, "a swap area"},
    {0x8001, {"CD001", 5}, "an ISO 9660 file system"},
    {0, {"LUKS\xba\xbe", 6}, "a LUKS encrypted volume"},
    {512, {"LABELONE", 8}, "an LVM physical volume"},
    {4096, {"\xfc\x4e\x2b\xa9", 4}, "a Linux RAID member"},
    {0, {"\xfc\x4e\x2b\xa9", 4}, "a Linux RAID member"},
    {512, {"EFI PART", 8}, "a partition table"},
    {510, {"\x55\xaa", 2}, "a boot sector or partition table"},
};

}  // namespace

std::string FindSignature(absl::Span<const std::byte> start) {
  for (const Signature& signature : kSignatures) {
    if (signature.offset + signature.magic.size() > start.size()) continue;
    if (std::memcmp(start.data() + signature.offset, signature.magic.data(), signature.magic.size()) == 0) {
      return signature.name;
    }
  }
  return "";
}

}  // namespace stagefs::tools

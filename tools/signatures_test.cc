#include "tools/signatures.h"

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

std::string Find(size_t offset, const std::string& magic, size_t size = kSignatureBytes) {
  std::vector<std::byte> bytes(size);
  std::memcpy(bytes.data() + offset, magic.data(), magic.size());
  return FindSignature(bytes);
}

TEST(SignaturesTest, KnownFileSystemsAreNamed) {
  EXPECT_EQ(Find(0x438, "\x53\xef"), "an ext2, ext3 or ext4 file system");
  EXPECT_EQ(Find(0, "XFSB"), "an xfs file system");
  EXPECT_EQ(Find(0x10040, "_BHRfS_M"), "a btrfs file system");
  EXPECT_EQ(Find(4086, "SWAPSPACE2"), "a swap area");
  EXPECT_EQ(Find(512, "EFI PART"), "a partition table");
}

TEST(SignaturesTest, ZerosAndShortStoresHaveNone) {
  EXPECT_EQ(Find(0, ""), "");
  EXPECT_EQ(FindSignature({}), "");
  EXPECT_EQ(Find(0, "XFS", 3), "");
}

}  // namespace
}  // namespace stagefs::tools

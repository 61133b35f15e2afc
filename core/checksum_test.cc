#include "core/checksum.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace stagefs::core {
namespace {

// Volumes hold these values: they must be the same on every CPU and with every version of the library. Computed with
// the scalar code of xxHash 0.8.1.
struct Known {
  size_t size_bytes;
  uint64_t unseeded, seeded;
};

constexpr uint64_t kSeed = 0x1234567890abcdef;
constexpr Known kKnown[] = {
    {0, 0x2d06800538d394c2, 0xb5991a1202758c1d},
    {8, 0xe5b43ab074c9c13b, 0x9eaf24854646efa9},
    {100, 0x387363ce0e6084aa, 0x1b154975a62190e9},
    {240, 0xb80284837259eee4, 0x91dcd2e73a80b689},
    {241, 0x44dbd3180a664e27, 0x79fd4805f23136dd},
    {1000, 0x65bd5991ddce7c4a, 0x9be833ddff707abc},
    {4088, 0xa62f979d9e35957a, 0x22cf5629004a59eb},
    {4096, 0x9f544112e3e91bb5, 0x8b5e2bcff70dc095},
    {1048576, 0xce859577fab1aeba, 0xca7bb443d15f7db1},
};

std::vector<std::byte> Pattern(size_t size_bytes) {
  std::vector<std::byte> bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<std::byte>(i * 131 + (i >> 8) * 7);
  return bytes;
}

TEST(ChecksumTest, ValuesNeverChange) {
  for (const Known& known : kKnown) {
    const std::vector<std::byte> bytes = Pattern(known.size_bytes);
    EXPECT_EQ(Hash(bytes.data(), bytes.size(), 0), known.unseeded) << known.size_bytes;
    EXPECT_EQ(Hash(bytes.data(), bytes.size(), kSeed), known.seeded) << known.size_bytes;
    if (known.size_bytes == kBlockBytes) {
      EXPECT_EQ(ContentHash(bytes.data()), known.unseeded);
    }
  }
}

TEST(ChecksumTest, WhereTheBytesLieDoesNotMatter) {
  std::vector<std::byte> shifted(kBlockBytes + 64);
  const std::vector<std::byte> bytes = Pattern(kBlockBytes);
  for (size_t shift = 0; shift < 64; ++shift) {
    std::copy(bytes.begin(), bytes.end(), shifted.begin() + static_cast<ptrdiff_t>(shift));
    EXPECT_EQ(ContentHash(shifted.data() + shift), ContentHash(bytes.data())) << shift;
  }
}

TEST(ChecksumTest, AnEntryIsOfOneBlockOfOneVolumeAndNeverAState) {
  const uint64_t hash = ContentHash(Pattern(kBlockBytes).data());
  EXPECT_NE(TableEntry(hash, 1, 5), TableEntry(hash, 2, 5));
  EXPECT_NE(TableEntry(hash, 1, 5), TableEntry(hash, 1, 6));
  for (uint64_t entry = 0; entry < kFirstChecksum; ++entry) {
    const uint64_t mixed = TableEntry(0, 1, 5);  // so that the hash below would give `entry`
    EXPECT_GE(TableEntry(mixed ^ entry, 1, 5), kFirstChecksum) << entry;
  }
}

}  // namespace
}  // namespace stagefs::core

// The content of files: sizes around every limit, sparse files, growth and truncation, space given and taken.

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "fs/volume/format.h"
#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"
#include "sal/random.h"

namespace stagefs::volume::testing {
namespace {

constexpr int kKeep = FALLOC_FL_KEEP_SIZE;
constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZero = FALLOC_FL_ZERO_RANGE;

TEST(FileTest, ContentOfEverySizeComesBack) {
  VolumeTester tester;
  for (const uint64_t size : {1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 1048575, 1048576}) {
    const Ino file = tester.File(kRootIno, std::to_string(size));
    const std::string bytes = Pattern(size, size);
    EXPECT_EQ(tester.Write(file, 0, bytes), 0);
    EXPECT_EQ(tester.Stat(file).size_bytes, size);
    EXPECT_EQ(tester.Read(file, 0, size + 10), bytes);
    EXPECT_EQ(tester.Read(file, size / 2, 100), bytes.substr(size / 2, 100));
    EXPECT_EQ(tester.Read(file, size, 10), "");
    EXPECT_EQ(tester.Stat(file).allocated_bytes, size <= kMaxInlineFileBytes ? 0 : (size + 4095) / 4096 * 4096);
  }
}

TEST(FileTest, UnalignedLargeWritesAreOneChange) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  const std::string bytes = Pattern(1, kMaxWriteBytes);
  const core::Lsn before = tester.engine().accepted_lsn();
  EXPECT_EQ(tester.Write(file, 1000, bytes), 0);
  EXPECT_EQ(tester.engine().accepted_lsn(), before + 1);
  EXPECT_EQ(tester.Read(file, 0, kMaxWriteBytes + 2000), std::string(1000, '\0') + bytes);
  EXPECT_EQ(tester.Write(file, 0, std::string(kMaxWriteBytes + 1, 'x')), EINVAL);
}

TEST(FileTest, AppendsGoToTheEndWhereverItIs) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  std::string expected;
  for (int i = 0; i < 40; ++i) {
    const std::string bytes = Pattern(i, i % 3 == 0 ? 100'000 : 333);
    EXPECT_EQ(tester.Write(file, 7, bytes, /*append=*/true), 0);
    expected += bytes;
  }
  EXPECT_EQ(tester.Read(file, 0, 1 << 23), expected);
}

TEST(FileTest, ManyAppendersLoseNothing) {
  VolumeTester::Options options;
  options.engine.asynchronous = true;
  VolumeTester tester(options);
  const Ino file = tester.File(kRootIno, "f");
  std::vector<std::string> pieces;
  for (int i = 0; i < 20; ++i) pieces.push_back(std::string(70'000 + i, static_cast<char>('a' + i)));
  size_t done = 0;
  for (const std::string& piece : pieces) {
    tester.volume().Write(file, 0,
                          absl::MakeConstSpan(reinterpret_cast<const std::byte*>(piece.data()), piece.size()),
                          /*append=*/true, [&](absl::StatusOr<size_t> count) { done += count.ok(); });
  }
  tester.Settle();
  EXPECT_EQ(done, pieces.size());
  const std::string content = tester.Read(file, 0, 1 << 22);
  uint64_t total = 0;
  for (const std::string& piece : pieces) {
    EXPECT_NE(content.find(piece), content.npos);
    total += piece.size();
  }
  EXPECT_EQ(content.size(), total);
}

TEST(FileTest, SequentialWritesMakeFewExtents) {
  VolumeTester tester(VolumeTester::NoMisses(16384));
  const Ino file = tester.File(kRootIno, "f");
  const uint64_t before = tester.Fs().free_blocks;
  for (int i = 0; i < 32; ++i) EXPECT_EQ(tester.Write(file, i * 131072, Pattern(i, 131072)), 0);
  // 1024 blocks of content, and no more than a node or two for the map.
  EXPECT_LE(before - tester.Fs().free_blocks, 1026u);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(tester.Read(file, i * 131072, 131072), Pattern(i, 131072));
}

TEST(FileTest, WritesWaitForStagingMemory) {
  VolumeTester::Options options;
  options.engine.staging_blocks = 300;
  VolumeTester tester(options);
  const Ino file = tester.File(kRootIno, "f");
  auto taken = tester.engine().TryStage(200);
  const std::string bytes = Pattern(3, kMaxWriteBytes);
  bool done = false;
  tester.volume().Write(file, 0,
                        absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), false,
                        [&](absl::StatusOr<size_t> count) { done = count.ok(); });
  tester.Settle();
  EXPECT_FALSE(done);
  taken = nullptr;
  tester.Settle();
  EXPECT_TRUE(done);
  EXPECT_EQ(tester.Read(file, 0, kMaxWriteBytes), bytes);
}

TEST(FileTest, BytesBehindTheEndAreZeroWhenTheFileGrowsAgain) {
  VolumeTester tester;
  for (const uint64_t size : {300, 5000, 70'000, 300'000}) {
    for (const uint64_t cut : {uint64_t{0}, uint64_t{100}, size / 2, size - 1}) {
      const Ino file = tester.File(kRootIno, std::to_string(size) + "-" + std::to_string(cut));
      const std::string bytes = Pattern(size, size);
      EXPECT_EQ(tester.Write(file, 0, bytes), 0);
      EXPECT_EQ(tester.Truncate(file, cut), 0);
      EXPECT_EQ(tester.Read(file, 0, size), bytes.substr(0, cut));
      EXPECT_EQ(tester.Truncate(file, size + 10'000), 0);
      EXPECT_EQ(tester.Read(file, 0, size + 20'000),
                bytes.substr(0, cut) + std::string(size + 10'000 - cut, '\0'));
    }
  }
}

TEST(FileTest, TruncateToZeroMakesRoomForInlineContentAgain) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.Write(file, 0, Pattern(1, 100'000)), 0);
  EXPECT_EQ(tester.Truncate(file, 0), 0);
  EXPECT_EQ(tester.Stat(file).allocated_bytes, 0u);
  EXPECT_EQ(tester.Write(file, 10, "small"), 0);
  EXPECT_EQ(tester.Stat(file).allocated_bytes, 0u);
  EXPECT_EQ(tester.Read(file, 0, 100), std::string(10, '\0') + "small");
}

TEST(FileTest, HugeSparseFilesCostNothing) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.Truncate(file, kMaxFileBytes), 0);
  EXPECT_EQ(tester.Stat(file).size_bytes, kMaxFileBytes);
  EXPECT_EQ(tester.Write(file, kMaxFileBytes - 5, "12345"), 0);
  EXPECT_EQ(tester.Write(file, kMaxFileBytes - 4, "12345"), EFBIG);
  EXPECT_EQ(tester.Truncate(file, kMaxFileBytes + 1), EFBIG);
  EXPECT_EQ(tester.Read(file, kMaxFileBytes - 8, 100), std::string(3, '\0') + "12345");
  EXPECT_EQ(tester.Stat(file).allocated_bytes, 4096u);
  uint64_t data = 0;
  EXPECT_EQ(tester.Seek(file, 0, SEEK_DATA, &data), 0);
  EXPECT_EQ(data, (kMaxFileBytes - 1) / 4096 * 4096);
}

TEST(FileTest, SeekFindsDataAndHoles) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  uint64_t at = 0;
  EXPECT_EQ(tester.Seek(file, 0, SEEK_DATA, &at), ENXIO);
  EXPECT_EQ(tester.Write(file, 8192, Pattern(1, 4096)), 0);
  EXPECT_EQ(tester.Truncate(file, 20'000), 0);
  EXPECT_EQ(tester.Seek(file, 0, SEEK_DATA, &at), 0);
  EXPECT_EQ(at, 8192u);
  EXPECT_EQ(tester.Seek(file, 9000, SEEK_DATA, &at), 0);
  EXPECT_EQ(at, 9000u);
  EXPECT_EQ(tester.Seek(file, 0, SEEK_HOLE, &at), 0);
  EXPECT_EQ(at, 0u);
  EXPECT_EQ(tester.Seek(file, 9000, SEEK_HOLE, &at), 0);
  EXPECT_EQ(at, 12288u);
  EXPECT_EQ(tester.Seek(file, 12288, SEEK_DATA, &at), ENXIO);
  EXPECT_EQ(tester.Seek(file, 20'000, SEEK_HOLE, &at), ENXIO);
  const Ino small = tester.File(kRootIno, "small");
  EXPECT_EQ(tester.Write(small, 0, "abc"), 0);
  EXPECT_EQ(tester.Seek(small, 1, SEEK_HOLE, &at), 0);
  EXPECT_EQ(at, 3u);
  EXPECT_EQ(tester.Seek(small, 1, SEEK_DATA, &at), 0);
  EXPECT_EQ(at, 1u);
}

TEST(FileTest, AllocateReservesAndReadsAsZeros) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.Write(file, 0, "head"), 0);
  EXPECT_EQ(tester.Allocate(file, 0, 0, 1'000'000), 0);
  EXPECT_EQ(tester.Stat(file).size_bytes, 1'000'000u);
  EXPECT_EQ(tester.Stat(file).allocated_bytes, 245u * 4096);
  EXPECT_EQ(tester.Read(file, 0, 1'000'000), "head" + std::string(999'996, '\0'));
  const uint64_t free = tester.Fs().free_blocks;
  EXPECT_EQ(tester.Write(file, 5000, Pattern(1, 3000)), 0);
  EXPECT_EQ(tester.Fs().free_blocks, free);
  EXPECT_EQ(tester.Allocate(file, kKeep, 2'000'000, 4096), 0);
  EXPECT_EQ(tester.Stat(file).size_bytes, 1'000'000u);
  EXPECT_EQ(tester.Stat(file).allocated_bytes, 247u * 4096);
  EXPECT_EQ(tester.Truncate(file, 1'000'000), 0);
  EXPECT_EQ(tester.Stat(file).allocated_bytes, 245u * 4096);
}

TEST(FileTest, AllocateOfManyBlocksIsSeveralChanges) {
  VolumeTester tester(VolumeTester::NoMisses(300'000));
  const Ino file = tester.File(kRootIno, "f");
  const core::Lsn before = tester.engine().accepted_lsn();
  EXPECT_EQ(tester.Allocate(file, 0, 0, uint64_t{200'000} * 4096), 0);
  EXPECT_GT(tester.engine().accepted_lsn(), before + 1);
  EXPECT_EQ(tester.Stat(file).allocated_bytes, uint64_t{200'000} * 4096);
  EXPECT_EQ(tester.Allocate(file, kPunch, 4096, uint64_t{199'998} * 4096), 0);
  EXPECT_EQ(tester.Stat(file).allocated_bytes, 2u * 4096);
}

TEST(FileTest, UnknownModesAndEmptyRangesAreRefused) {
  VolumeTester tester;
  const Ino file = tester.File(kRootIno, "f");
  EXPECT_EQ(tester.Allocate(file, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), EOPNOTSUPP);
  EXPECT_EQ(tester.Allocate(file, FALLOC_FL_PUNCH_HOLE, 0, 4096), EOPNOTSUPP);
  EXPECT_EQ(tester.Allocate(file, 0, 0, 0), EINVAL);
  EXPECT_EQ(tester.Allocate(file, 0, kMaxFileBytes, 1), EFBIG);
}

// Random writes, truncates and fallocates of one file against an array of bytes, with crashes in between.
class FileModelTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(FileModelTest, AFileIsAnArrayOfBytes) {
  const uint64_t seed = GetParam();
  SCOPED_TRACE(seed);
  VolumeTester::Options options;
  options.engine = VolumeTester::Misses(seed, 8192);
  options.engine.asynchronous = seed % 2 == 0;
  VolumeTester tester(options);
  const uint64_t free_before = tester.Fs().free_blocks;
  sal::Random64 random(seed);
  const Ino file = tester.File(kRootIno, "f");
  std::string model;
  const uint64_t limit = random.OneIn(3) ? 1200 : 3 << 20;
  const auto grow = [&](uint64_t size) { model.resize(std::max<uint64_t>(model.size(), size), '\0'); };
  const auto position = [&] {
    const uint64_t at = random.Below(limit);
    return random.OneIn(2) ? at / 4096 * 4096 : at;
  };
  const auto some_length = [&]() -> uint64_t {
    switch (random.Below(4)) {
      case 0:
        return random.Between(1, 600);
      case 1:
        return random.Between(1, 9000);
      case 2:
        return 4096 * random.Between(1, 40);
      default:
        return random.Between(60'000, 400'000);
    }
  };
  for (int step = 0; step < 150; ++step) {
    const uint64_t offset = position();
    const uint64_t length = limit < 4096 ? random.Between(1, 500) : some_length();
    switch (random.Below(9)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const std::string bytes = Pattern(random.Next(), length);
        ASSERT_EQ(tester.Write(file, offset, bytes), 0) << step;
        grow(offset + length);
        model.replace(offset, length, bytes);
        break;
      }
      case 4:
        ASSERT_EQ(tester.Truncate(file, offset), 0) << step;
        model.resize(offset, '\0');
        break;
      case 5:
        ASSERT_EQ(tester.Allocate(file, kPunch, offset, length), 0) << step;
        if (offset < model.size()) {
          const uint64_t end = std::min<uint64_t>(model.size(), offset + length);
          std::fill(model.begin() + offset, model.begin() + end, '\0');
        }
        break;
      case 6: {
        const bool keep = random.OneIn(2);
        ASSERT_EQ(tester.Allocate(file, kZero | (keep ? kKeep : 0), offset, length), 0) << step;
        if (!keep) grow(offset + length);
        if (offset < model.size()) {
          const uint64_t end = std::min<uint64_t>(model.size(), offset + length);
          std::fill(model.begin() + offset, model.begin() + end, '\0');
        }
        break;
      }
      case 7: {
        const bool keep = random.OneIn(2);
        ASSERT_EQ(tester.Allocate(file, keep ? kKeep : 0, offset, length), 0) << step;
        if (!keep) grow(offset + length);
        break;
      }
      case 8:
        if (random.OneIn(3)) {
          tester.Crash();
        } else {
          uint64_t hole = 0;
          const int error = tester.Seek(file, offset, SEEK_HOLE, &hole);
          ASSERT_EQ(error, offset < model.size() ? 0 : ENXIO);
          if (error == 0) {
            ASSERT_GE(hole, offset);
            ASSERT_LE(hole, model.size());
          }
        }
        break;
    }
    ASSERT_EQ(tester.Stat(file).size_bytes, model.size()) << step;
    if (step % 10 == 0) {
      ASSERT_TRUE(tester.Read(file, 0, model.size() + 100) == model) << "content differs after step " << step;
    } else {
      ASSERT_TRUE(tester.Read(file, offset, length) ==
                  (offset < model.size() ? model.substr(offset, length) : std::string()))
          << step;
    }
  }
  tester.ExpectClean();
  // Holes read as zeros, and what is not zero is data.
  uint64_t at = 0;
  while (at < model.size()) {
    uint64_t data = 0;
    const int error = tester.Seek(file, at, SEEK_DATA, &data);
    const uint64_t end = error == 0 ? data : model.size();
    ASSERT_TRUE(error == 0 || error == ENXIO);
    ASSERT_TRUE(std::all_of(model.begin() + at, model.begin() + end, [](char c) { return c == '\0'; }));
    if (error != 0) break;
    ASSERT_EQ(tester.Seek(file, data, SEEK_HOLE, &at), 0);
    ASSERT_GT(at, data);
  }
  ASSERT_EQ(tester.Unlink(kRootIno, "f"), 0);
  tester.Settle();
  tester.ExpectClean();
  EXPECT_EQ(tester.Fs().free_blocks, free_before);
}

INSTANTIATE_TEST_SUITE_P(Seeds, FileModelTest, ::testing::Range<uint64_t>(1, 25));

}  // namespace
}  // namespace stagefs::volume::testing

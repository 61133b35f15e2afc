#include "tests/replay/recorded_disk.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "sal/random.h"
#include "sal/record_format.h"
#include "sal/record_log.h"
#include "tests/replay/image_file.h"

namespace stagefs::replay {
namespace {

using sal::RecordEventKind;
using sal::SimulatedImage;

constexpr uint64_t kBlock = 4096;
using Fate = RecordedDisk::Fate;

// Writes a record event by event, and looks at block contents after cuts.
class RecordedDiskTest : public testing::Test {
 protected:
  void SetUp() override {
    log_ = sal::RecordLog::Create(file_, {.size_bytes = 64 * kBlock, .atomic_write_bytes = 512}).value();
  }
  void TearDown() override { std::remove(file_.c_str()); }

  uint64_t Submit(RecordEventKind kind, uint64_t block = 0, uint64_t blocks = 0, int value = 0, bool fua = false) {
    const std::vector<char> bytes(kind == RecordEventKind::kWrite ? blocks * kBlock : 0, static_cast<char>(value));
    const iovec data = {const_cast<char*>(bytes.data()), bytes.size()};
    ++position_;
    return log_->AppendSubmission({.request_number = 0,
                                   .offset_bytes = block * kBlock,
                                   .length_bytes = blocks * kBlock,
                                   .kind = static_cast<uint8_t>(kind),
                                   .flags = fua ? sal::kRecordFua : uint8_t{0},
                                   .reserved = {}},
                                  absl::MakeConstSpan(&data, 1));
  }
  void End(uint64_t request, RecordEventKind kind = RecordEventKind::kCompleted) {
    ++position_;
    log_->Append({.request_number = request,
                  .offset_bytes = 0,
                  .length_bytes = 0,
                  .kind = static_cast<uint8_t>(kind),
                  .flags = 0,
                  .reserved = {}});
  }
  uint64_t Write(uint64_t block, int value, uint64_t blocks = 1) {
    return Submit(RecordEventKind::kWrite, block, blocks, value);
  }
  void Flush() { End(Submit(RecordEventKind::kFlush)); }

  // Ends the record; what follows looks at the disk at its end.
  void Replay(const RecordedDisk::Options& options = {}, uint64_t position = 0) {
    log_.reset();
    reader_ = RecordReader::Open(file_).value();
    disk_ = std::make_unique<RecordedDisk>(*reader_, SimulatedImage(), options);
    ASSERT_EQ(disk_->AdvanceTo(position == 0 ? position_ : position), absl::OkStatus());
  }
  int ValueAt(uint64_t offset, uint64_t seed, Fate fate = Fate::kRandom) {
    RecordedDisk::CutReport report;
    std::byte value;
    disk_->Cut(seed, fate, &report).Read(offset, 1, &value);
    return static_cast<int>(value);
  }
  // What a byte may be after a cut here.
  std::set<int> Values(uint64_t block) {
    std::set<int> values;
    for (uint64_t seed = 0; seed < 300; ++seed) values.insert(ValueAt(block * kBlock, seed));
    return values;
  }

  const std::string file_ = absl::StrCat(std::getenv("TEST_TMPDIR"), "/record");
  std::unique_ptr<sal::RecordLog> log_;
  uint64_t position_ = 0;
  std::unique_ptr<RecordReader> reader_;
  std::unique_ptr<RecordedDisk> disk_;
};

using Set = std::set<int>;

TEST_F(RecordedDiskTest, WhatCompletedBeforeAFlushWasSubmittedIsDurable) {
  End(Write(1, 7));
  Flush();
  Replay();
  EXPECT_EQ(Values(1), Set({7}));
}

TEST_F(RecordedDiskTest, WhatCompletedAfterAFlushWasSubmittedIsAtRisk) {
  const uint64_t write = Write(1, 7), flush = Submit(RecordEventKind::kFlush);
  End(write);
  End(flush);
  Replay();
  EXPECT_EQ(Values(1), Set({0, 7}));
}

TEST_F(RecordedDiskTest, AFlushThatHasNotCompletedMakesNothingDurable) {
  End(Write(1, 7));
  Submit(RecordEventKind::kFlush);
  Replay();
  EXPECT_EQ(Values(1), Set({0, 7}));
}

TEST_F(RecordedDiskTest, AFlushThatFailedMakesNothingDurable) {
  End(Write(1, 7));
  End(Submit(RecordEventKind::kFlush), RecordEventKind::kFailed);
  Replay();
  EXPECT_EQ(Values(1), Set({0, 7}));
}

TEST_F(RecordedDiskTest, AFuaWriteIsDurableWhenItHasCompleted) {
  const uint64_t write = Submit(RecordEventKind::kWrite, 1, 1, 7, /*fua=*/true);
  End(write);
  Replay();
  EXPECT_EQ(Values(1), Set({7}));
}

TEST_F(RecordedDiskTest, AFuaWriteInFlightIsAtRisk) {
  Submit(RecordEventKind::kWrite, 1, 1, 7, /*fua=*/true);
  Replay();
  EXPECT_EQ(Values(1), Set({0, 7}));
}

TEST_F(RecordedDiskTest, AnOlderWriteDoesNotOverwriteAFuaWrite) {
  End(Write(1, 7, 2));
  End(Submit(RecordEventKind::kWrite, 1, 1, 8, /*fua=*/true));
  Replay();
  EXPECT_EQ(Values(1), Set({8}));
  EXPECT_EQ(Values(2), Set({0, 7}));
}

TEST_F(RecordedDiskTest, ALaterWriteMayBeKeptWithoutAnEarlierOne) {
  End(Write(1, 7));
  End(Write(2, 8));
  Replay();
  Set pairs;
  for (uint64_t seed = 0; seed < 300; ++seed) pairs.insert(ValueAt(kBlock, seed) * 10 + ValueAt(2 * kBlock, seed));
  EXPECT_EQ(pairs, Set({0, 8, 70, 78}));
}

TEST_F(RecordedDiskTest, AnEarlierWriteIsNeverAppliedOverALaterOne) {
  End(Write(1, 7));
  End(Write(1, 8));
  Flush();
  Replay();
  EXPECT_EQ(Values(1), Set({8}));
}

TEST_F(RecordedDiskTest, AtomicUnitsAreOldOrNew) {
  End(Write(1, 7));
  Replay();
  bool torn = false;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    RecordedDisk::CutReport report;
    std::byte bytes[kBlock];
    disk_->Cut(seed, Fate::kRandom, &report).Read(kBlock, kBlock, bytes);
    for (uint64_t i = 0; i < kBlock; ++i) ASSERT_EQ(bytes[i], bytes[i / 512 * 512]) << seed;
    for (uint64_t i = 0; i < kBlock; i += 512) torn = torn || bytes[i] != bytes[0];
  }
  EXPECT_TRUE(torn);
}

TEST_F(RecordedDiskTest, AFailedWriteStaysAtRisk) {
  End(Write(1, 7), RecordEventKind::kFailed);
  Flush();
  Replay();
  EXPECT_EQ(Values(1), Set({0, 7}));
}

TEST_F(RecordedDiskTest, DiscardedBlocksReadAsAnythingOnceTheyAreFlushed) {
  for (uint64_t block = 1; block < 20; ++block) End(Write(block, 7));
  for (uint64_t block = 1; block < 20; ++block) End(Submit(RecordEventKind::kDiscard, block, 1));
  Flush();
  Replay();
  Set values;
  for (uint64_t block = 1; block < 20; ++block) values.insert(ValueAt(block * kBlock, 1));
  EXPECT_EQ(values, Set({0, 0xDC}));
}

TEST_F(RecordedDiskTest, KeepKeepsAllAndDropDropsAll) {
  End(Write(1, 7));
  Write(2, 8);
  Replay();
  EXPECT_EQ(ValueAt(kBlock, 1, Fate::kKeep) + ValueAt(2 * kBlock, 1, Fate::kKeep), 15);
  EXPECT_EQ(ValueAt(kBlock, 1, Fate::kDrop) + ValueAt(2 * kBlock, 1, Fate::kDrop), 0);
}

TEST_F(RecordedDiskTest, AnEarlierPositionKnowsNothingOfWhatFollows) {
  End(Write(1, 7));
  Flush();
  Replay({}, 1);
  EXPECT_EQ(Values(1), Set({0, 7}));
  EXPECT_EQ(disk_->AdvanceTo(4), absl::OkStatus());
  EXPECT_EQ(Values(1), Set({7}));
  EXPECT_EQ(disk_->AdvanceTo(3).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(disk_->AdvanceTo(5).code(), absl::StatusCode::kOutOfRange);
}

TEST_F(RecordedDiskTest, ADiskThatIgnoresFlushesLosesWhatWasFlushed) {
  End(Write(1, 7));
  Flush();
  End(Submit(RecordEventKind::kWrite, 2, 1, 8, /*fua=*/true));
  Replay({.ignore_flushes = true});
  EXPECT_EQ(Values(1), Set({0, 7}));
  EXPECT_EQ(Values(2), Set({0, 8}));
}

TEST_F(RecordedDiskTest, ARecordMayEndInsideAnEvent) {
  End(Write(1, 7));
  Write(2, 8);
  log_.reset();
  std::ifstream whole(file_, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(whole)), std::istreambuf_iterator<char>());
  bytes.resize(bytes.size() - 1);
  std::ofstream(file_, std::ios::binary | std::ios::trunc) << bytes;
  reader_ = RecordReader::Open(file_).value();
  RecordEvent event;
  EXPECT_EQ(reader_->Next(&event).value(), true);
  EXPECT_EQ(reader_->Next(&event).value(), true);
  EXPECT_EQ(reader_->Next(&event).value(), false);
  EXPECT_EQ(reader_->position(), 2u);
}

TEST_F(RecordedDiskTest, WhatIsNoRecordIsRefused) {
  log_.reset();
  std::ofstream(file_, std::ios::binary | std::ios::trunc) << std::string(1000, 'x');
  EXPECT_EQ(RecordReader::Open(file_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(RecordedDiskTest, ACompletionOfNothingIsDataLoss) {
  End(17);
  log_.reset();
  reader_ = RecordReader::Open(file_).value();
  EXPECT_EQ(RecordedDisk(*reader_, SimulatedImage(), {}).AdvanceTo(1).code(), absl::StatusCode::kDataLoss);
}

TEST(ImageFileTest, WhatIsSavedIsLoaded) {
  const std::string path = absl::StrCat(std::getenv("TEST_TMPDIR"), "/image");
  SimulatedImage image;
  sal::Random64 random(1);
  for (int i = 0; i < 500; ++i) {
    const uint64_t word = random.Next();
    image.Write(random.Below(8 << 20), sizeof(word), &word);
  }
  ASSERT_EQ(SaveImage(image, 16 << 20, path), absl::OkStatus());
  const SimulatedImage loaded = LoadImage(path).value();
  std::vector<std::byte> expected(16 << 20), found(16 << 20);
  image.Read(0, expected.size(), expected.data());
  loaded.Read(0, found.size(), found.data());
  EXPECT_TRUE(expected == found);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace stagefs::replay

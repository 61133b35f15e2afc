#include "core/format.h"

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "core/checksum.h"
#include "gtest/gtest.h"

namespace stagefs::core {
namespace {

Superblock SomeSuperblock() {
  Superblock s = {};
  s.version_major = kVersionMajor;
  s.size_blocks = 100'000;
  s.log_start = kLogStart;
  s.log_blocks = 2048;
  s.table_start = s.log_start + s.log_blocks;
  s.table_blocks = 200;
  s.home_start = s.table_start + s.table_blocks;
  s.home_blocks = s.size_blocks - s.home_start;
  s.window_blocks = 704;
  s.epoch = 7;
  s.checkpoint = 9;
  std::strcpy(s.label, "label");
  return s;
}

class SuperblockTest : public ::testing::Test {
 protected:
  std::byte block_[kBlockBytes] = {};
};

TEST_F(SuperblockTest, IsReadBackAsItWasWritten) {
  EncodeSuperblock(SomeSuperblock(), 1, block_);
  const absl::StatusOr<Superblock> read = DecodeSuperblock(block_, 1);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->epoch, 7);
  EXPECT_EQ(ToVolumeInfo(*read).label, "label");
}

TEST_F(SuperblockTest, AnyFlippedByteIsSeen) {
  EncodeSuperblock(SomeSuperblock(), 0, block_);
  for (size_t i = 0; i < kBlockBytes; ++i) {
    block_[i] ^= std::byte{0x40};
    EXPECT_FALSE(DecodeSuperblock(block_, 0).ok()) << "byte " << i;
    block_[i] ^= std::byte{0x40};
  }
}

TEST_F(SuperblockTest, ZerosAreNotAVolume) {
  EXPECT_EQ(DecodeSuperblock(block_, 0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SuperblockTest, ACopyInTheOtherSlotIsDataLoss) {
  EncodeSuperblock(SomeSuperblock(), 0, block_);
  EXPECT_EQ(DecodeSuperblock(block_, 1).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(SuperblockTest, AVersionFromTheFutureIsRefusedWhateverItsChecksum) {
  EncodeSuperblock(SomeSuperblock(), 0, block_);
  Store(block_ + offsetof(Superblock, version_major), kVersionMajor + 1);
  EXPECT_EQ(DecodeSuperblock(block_, 0).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(SuperblockTest, AnImpossibleLayoutIsDataLoss) {
  const auto code = [&](auto change) {
    Superblock s = SomeSuperblock();
    change(s);
    EncodeSuperblock(s, 0, block_);
    return DecodeSuperblock(block_, 0).status().code();
  };
  EXPECT_EQ(code([](Superblock& s) { s.home_blocks += 1; }), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code([](Superblock& s) { s.table_start = s.log_start; }), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code([](Superblock& s) { s.table_blocks = 1; }), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code([](Superblock& s) { s.log_blocks = ~uint64_t{0}; }), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code([](Superblock& s) { s.window_blocks = 0; }), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code([](Superblock& s) { s.label[63] = 'x'; }), absl::StatusCode::kDataLoss);
}

// Builds payloads record by record.
class Payload {
 public:
  void Add(RecordHeader header, size_t payload_bytes) {
    Append(&header, sizeof(header));
    bytes_.resize(bytes_.size() + PadTo8(payload_bytes), std::byte{0x55});
    ++records_;
  }
  std::vector<std::byte> Change(Lsn lsn) {
    const ChangeHeader header = {static_cast<uint32_t>(sizeof(ChangeHeader) + bytes_.size()), records_, lsn};
    std::vector<std::byte> change(sizeof(header));
    Store(change.data(), header);
    change.insert(change.end(), bytes_.begin(), bytes_.end());
    return change;
  }

 private:
  void Append(const void* data, size_t size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), bytes, bytes + size);
  }
  std::vector<std::byte> bytes_;
  uint32_t records_ = 0;
};

TEST(ChangeReaderTest, ReadsWhatWasEncoded) {
  Payload payload;
  payload.Add({static_cast<uint8_t>(RecordKind::kZero), 0, 0, 3, 10}, 0);
  payload.Add({static_cast<uint8_t>(RecordKind::kWrite), 0, 5, 0, 10 * kBlockBytes + 4091}, 5);
  const std::vector<std::byte> change = payload.Change(77);
  ChangeReader reader(change, 100);
  ASSERT_TRUE(reader.NextChange());
  EXPECT_EQ(reader.lsn(), 77);
  ASSERT_TRUE(reader.NextRecord());
  EXPECT_EQ(reader.record().kind, RecordKind::kZero);
  EXPECT_EQ(reader.record().count, 3);
  ASSERT_TRUE(reader.NextRecord());
  EXPECT_EQ(reader.record().count, 5);
  EXPECT_FALSE(reader.NextRecord());
  EXPECT_FALSE(reader.NextChange());
  EXPECT_TRUE(reader.status().ok());
}

TEST(ChangeReaderTest, RecordsOutsideTheVolumeAreDataLoss) {
  const auto code = [](RecordHeader header, size_t payload_bytes) {
    Payload payload;
    payload.Add(header, payload_bytes);
    const std::vector<std::byte> change = payload.Change(1);
    ChangeReader reader(change, 100);
    while (reader.NextChange()) {
      while (reader.NextRecord()) {
      }
    }
    return reader.status().code();
  };
  EXPECT_EQ(code({static_cast<uint8_t>(RecordKind::kZero), 0, 0, 1, 99}, 0), absl::StatusCode::kOk);
  EXPECT_EQ(code({static_cast<uint8_t>(RecordKind::kZero), 0, 0, 2, 99}, 0), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code({static_cast<uint8_t>(RecordKind::kExtent), 0, 0, 2, ~uint64_t{0}}, 16), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code({static_cast<uint8_t>(RecordKind::kExtent), 0, 0, 3, 1}, 16), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code({static_cast<uint8_t>(RecordKind::kWrite), 0, 2, 0, 4095}, 2), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code({static_cast<uint8_t>(RecordKind::kWrite), 0, 0, 0, 0}, 0), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code({99, 0, 0, 0, 0}, 0), absl::StatusCode::kDataLoss);
}

TEST(ChangeReaderTest, RandomBytesNeverLeadOutOfBounds) {
  const unsigned seed = 20;
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20'000; ++round) {
    // Exactly as long as the heap block, so that AddressSanitizer sees any byte too far.
    const size_t size = random() % 200;
    const std::unique_ptr<std::byte[]> bytes(new std::byte[size]);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(random() % 4 == 0 ? random() : random() % 3);
    ChangeReader reader({bytes.get(), size}, 1000);
    uint64_t sum = 0;
    while (reader.NextChange()) {
      while (reader.NextRecord()) {
        if (reader.record().kind == RecordKind::kWrite) sum += Hash(reader.record().payload, reader.record().count, 0);
      }
    }
    SCOPED_TRACE(seed);
    EXPECT_TRUE(reader.status().ok() || absl::IsDataLoss(reader.status())) << sum;
  }
}

TEST(TableSectorTest, ASealedBlockIsValidAndOnlyInItsPlace) {
  std::byte block[kBlockBytes] = {};
  Store(block + 8, uint64_t{12345});
  SealTableBlock(block, 3, 99);
  EXPECT_EQ(CheckTableBlock(block, 3, 99), 0);
  EXPECT_EQ(CheckTableBlock(block, 4, 99), 1);
  EXPECT_EQ(Load<uint64_t>(block + 8), kPoisoned);
}

TEST(TableSectorTest, OneBadSectorPoisonsItsEntriesAlone) {
  std::byte block[kBlockBytes] = {};
  for (size_t i = 0; i < kSectorsPerTableBlock; ++i) Store(block + i * kTableSectorBytes + 16, uint64_t{100 + i});
  SealTableBlock(block, 0, 1);
  block[2 * kTableSectorBytes + 100] ^= std::byte{1};
  EXPECT_EQ(CheckTableBlock(block, 0, 1), 1);
  EXPECT_EQ(Load<uint64_t>(block + 2 * kTableSectorBytes + 16), kPoisoned);
  EXPECT_EQ(Load<uint64_t>(block + 3 * kTableSectorBytes + 16), 103);
}

TEST(TableSectorTest, ZerosAreValid) {
  std::byte block[kBlockBytes] = {};
  EXPECT_EQ(CheckTableBlock(block, 5, 1), 0);
}

TEST(TableEntryTest, DependsOnContentBlockAndVolume) {
  EXPECT_NE(TableEntry(1, 1, 1), TableEntry(2, 1, 1));
  EXPECT_NE(TableEntry(1, 1, 1), TableEntry(1, 2, 1));
  EXPECT_NE(TableEntry(1, 1, 1), TableEntry(1, 1, 2));
  EXPECT_GE(TableEntry(0, 0, 0), kFirstChecksum);
}

}  // namespace
}  // namespace stagefs::core

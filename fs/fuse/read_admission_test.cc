#include "fs/fuse/read_admission.h"

#include "gtest/gtest.h"

namespace stagefs::fuse {
namespace {

constexpr uint64_t kMiB = 1 << 20, kMs = 1'000'000;

// Starts what may start, at most `most`. Returns how many did.
int StartAll(ReadAdmission& admission, uint64_t bytes, int most = 1000) {
  int started = 0;
  for (; started < most && admission.MayStart(); ++started) admission.Started(bytes);
  return started;
}

TEST(ReadAdmissionTest, ItIsBytesThatAreLimited) {
  ReadAdmission few, many;
  EXPECT_EQ(StartAll(few, kMiB), 4);
  EXPECT_EQ(StartAll(many, kMiB / 8), 32);
}

TEST(ReadAdmissionTest, OneThatEndsMakesRoomForOne) {
  ReadAdmission admission;
  StartAll(admission, kMiB);
  admission.Ended(kMiB, kMs);
  EXPECT_EQ(StartAll(admission, kMiB), 1);
}

TEST(ReadAdmissionTest, OneLargerThanAllMayStart) {
  ReadAdmission admission;
  EXPECT_EQ(StartAll(admission, 16 * kMiB), 1);
  admission.Ended(16 * kMiB, kMs);
  EXPECT_TRUE(admission.MayStart());
}

TEST(ReadAdmissionTest, ASlowStoreGetsAllThereIs) {
  ReadAdmission admission;
  for (int i = 0; i < 100; ++i) {
    admission.Started(kMiB);
    admission.Ended(kMiB, 20 * kMs);
  }
  EXPECT_EQ(StartAll(admission, kMiB, /*most=*/64), 64);
  for (int i = 0; i < 64; ++i) admission.Ended(kMiB, 1 * kMs);  // it is fast again
  EXPECT_EQ(StartAll(admission, kMiB), 4);
}

TEST(ReadAdmissionTest, OneSlowReadIsNoSlowStore) {
  ReadAdmission admission;
  admission.Started(kMiB);
  admission.Ended(kMiB, 30 * kMs);
  EXPECT_EQ(StartAll(admission, kMiB), 4);
}

}  // namespace
}  // namespace stagefs::fuse

#include "tests/crash/crash_states.h"

#include <cstring>
#include <memory>
#include <set>

#include "gtest/gtest.h"

namespace stagefs::crash {
namespace {

constexpr uint64_t kBlock = 4096;

sal::SimulatedWrite Write(uint64_t block, uint64_t count, int value) {
  sal::SimulatedWrite write;
  write.offset_bytes = block * kBlock;
  write.length_bytes = count * kBlock;
  write.data = std::make_shared<const std::vector<std::byte>>(count * kBlock, std::byte(value));
  return write;
}

sal::SimulatedImage Image() {
  sal::SimulatedImage image;
  for (uint64_t block = 0; block < 20; block += 2) Write(block, 1, 100 + block).ApplyTo(image);
  return image;
}

int ByteAt(const sal::SimulatedImage& image, uint64_t offset) {
  std::byte byte;
  image.Read(offset, 1, &byte);
  return static_cast<int>(byte);
}

TEST(CrashStatesTest, EverySubsetOfAFewWritesIsThere) {
  const sal::SimulatedImage durable = Image();
  const CrashStates states(durable, {Write(7, 1, 2), Write(3, 1, 1), Write(9, 1, 3)}, 1);
  std::set<std::vector<int>> seen;
  for (const CrashStates::Fates& fates : states.all()) {
    const sal::SimulatedImage image = states.Image(fates);
    seen.insert({ByteAt(image, 3 * kBlock), ByteAt(image, 7 * kBlock), ByteAt(image, 9 * kBlock)});
  }
  for (const int a : {0, 1}) {
    for (const int b : {0, 2}) {
      for (const int c : {0, 3}) EXPECT_TRUE(seen.contains({a, b, c})) << a << b << c;
    }
  }
  EXPECT_EQ(states.all().size(), 8 + CrashStates::kTornStates);
}

TEST(CrashStatesTest, OfManyWritesNoneAllAndSomeAreThere) {
  const sal::SimulatedImage durable = Image();
  std::vector<sal::SimulatedWrite> writes;
  for (uint64_t i = 0; i < 12; ++i) writes.push_back(Write(i, 1, 1));
  const CrashStates states(durable, writes, 1);
  EXPECT_EQ(states.all().size(), CrashStates::kSampledSubsets + CrashStates::kTornStates);
  EXPECT_EQ(states.all()[0], CrashStates::Fates(12, 0));
  EXPECT_EQ(states.all()[1], CrashStates::Fates(12, 1));
}

TEST(CrashStatesTest, TheQuickFingerprintIsThatOfTheImage) {
  const sal::SimulatedImage durable = Image();
  for (const bool overlapping : {false, true}) {
    const CrashStates states(durable, {Write(2, 3, 1), Write(8, 2, 0), Write(overlapping ? 4 : 12, 2, 3)}, 1);
    std::set<uint64_t> different;
    for (const CrashStates::Fates& fates : states.all()) {
      ASSERT_EQ(states.FingerprintOf(fates), Fingerprint(states.Image(fates)));
      different.insert(states.FingerprintOf(fates));
    }
    EXPECT_GE(different.size(), 8u);
  }
}

TEST(CrashStatesTest, WritesInAnotherOrderLeaveTheSameStates) {
  const sal::SimulatedImage durable = Image();
  const CrashStates a(durable, {Write(2, 2, 1), Write(7, 3, 2)}, 5);
  const CrashStates b(durable, {Write(7, 3, 2), Write(2, 2, 1)}, 5);
  ASSERT_EQ(a.all(), b.all());
  for (const CrashStates::Fates& fates : a.all()) EXPECT_EQ(a.FingerprintOf(fates), b.FingerprintOf(fates));
}

TEST(CrashStatesTest, ItIsKnownWhichWritesARangeTouches) {
  const sal::SimulatedImage durable = Image();
  const CrashStates states(durable, {Write(2, 2, 1), Write(7, 3, 2), Write(12, 1, 3)}, 5);
  EXPECT_EQ(states.Touching({{0, 2 * kBlock}}), (std::vector<bool>{false, false, false}));
  EXPECT_EQ(states.Touching({{3 * kBlock + 100, 1}, {12 * kBlock, 1}}), (std::vector<bool>{true, false, true}));
}

}  // namespace
}  // namespace stagefs::crash

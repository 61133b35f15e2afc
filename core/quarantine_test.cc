#include "core/quarantine.h"

#include "gtest/gtest.h"

namespace stagefs::core {
namespace {

TEST(QuarantineTest, ARangeStaysUntilAllItsConditionsAreMet) {
  Quarantine quarantine;
  quarantine.Add({10, 5}, {100, 7, 2});
  EXPECT_FALSE(quarantine.Expire({99, 7, 2}));
  EXPECT_FALSE(quarantine.Expire({100, 6, 2}));
  EXPECT_FALSE(quarantine.Expire({100, 7, 1}));
  EXPECT_EQ(quarantine.block_count(), 5);
  EXPECT_TRUE(quarantine.Expire({100, 7, 2}));
  EXPECT_TRUE(quarantine.empty());
  EXPECT_EQ(quarantine.FirstIn({0, 100}), std::nullopt);
}

TEST(QuarantineTest, FindsTheFirstOverlapClippedToTheQuestion) {
  Quarantine quarantine;
  quarantine.Add({10, 5}, {});
  quarantine.Add({30, 10}, {});
  EXPECT_EQ(quarantine.FirstIn({0, 100}), (BlockRange{10, 5}));
  EXPECT_EQ(quarantine.FirstIn({12, 1}), (BlockRange{12, 1}));
  EXPECT_EQ(quarantine.FirstIn({15, 15}), std::nullopt);
  EXPECT_EQ(quarantine.FirstIn({15, 16}), (BlockRange{30, 1}));
  EXPECT_EQ(quarantine.FirstIn({39, 5}), (BlockRange{39, 1}));
  EXPECT_EQ(quarantine.FirstIn({40, 5}), std::nullopt);
}

}  // namespace
}  // namespace stagefs::core

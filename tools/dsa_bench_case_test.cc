#include "tools/dsa_bench_case.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

using ::testing::ElementsAre;
using Do = DsaOperation;

TEST(DsaBenchCaseTest, ListsAreParsed) {
  EXPECT_THAT(*ParseDsaOperations("write,read,cas,add,flush,group"),
              ElementsAre(Do::kWrite, Do::kRead, Do::kCompareSwap, Do::kFetchAdd, Do::kFlush, Do::kGroup));
  EXPECT_THAT(*ParseDsaSizes("64,4K,1M"), ElementsAre(64, 4096, 1 << 20));
  EXPECT_THAT(*ParseDsaDepths("1,1024"), ElementsAre(1, 1024));
}

TEST(DsaBenchCaseTest, WhatNoQueueTakesIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(ParseDsaOperations("erase").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseDsaOperations("").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseDsaSizes("0").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseDsaSizes("2G").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseDsaDepths("0").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseDsaDepths("1025").status()));
  EXPECT_TRUE(CombineDsaCases({Do::kGroup}, {64}, {102}, false).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(CombineDsaCases({Do::kGroup}, {64}, {103}, false).status()));
}

TEST(DsaBenchCaseTest, EachOperationIsCombinedWithEachSizeAndDepth) {
  const auto cases = CombineDsaCases({Do::kWrite, Do::kFlush}, {64, 4096}, {1, 2}, true);
  ASSERT_TRUE(cases.ok());
  ASSERT_EQ(cases->size(), 6u);
  EXPECT_EQ((*cases)[3].size_bytes, 4096u);
  EXPECT_EQ((*cases)[3].depth, 2u);
  EXPECT_TRUE((*cases)[3].durable);
  EXPECT_EQ((*cases)[4].Name(), "flush");
  EXPECT_FALSE((*cases)[4].durable) << "a flush has no other kind";
}

TEST(DsaBenchCaseTest, StandardCasesFitAQueue) {
  for (const DsaCase& work : StandardDsaCases()) {
    EXPECT_TRUE(CombineDsaCases({work.operation}, {work.size_bytes}, {work.depth}, work.durable).ok()) << work.Name();
    EXPECT_EQ(work.IsTransfer(), work.size_bytes != 0) << work.Name();
  }
}

}  // namespace
}  // namespace stagefs::tools

#include "fs/fuse/uring_transport.h"

#include "gtest/gtest.h"

namespace stagefs::fuse {
namespace {

using Cpus = std::vector<uint16_t>;

TEST(UringTransportTest, ListsOfCpusAreReadAsTheKernelWritesThem) {
  EXPECT_EQ(*ParseCpuList("0\n"), Cpus({0}));
  EXPECT_EQ(*ParseCpuList("0-3"), Cpus({0, 1, 2, 3}));
  EXPECT_EQ(*ParseCpuList("0,2-3,8\n"), Cpus({0, 2, 3, 8}));
}

TEST(UringTransportTest, WhatIsNoListOfCpusIsRefused) {
  for (const char* text : {"", "\n", "a", "1-", "-1", "3-1", "0-1-2", "0,,1", "2,1", "0-70000", "0 1"}) {
    EXPECT_EQ(ParseCpuList(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace stagefs::fuse

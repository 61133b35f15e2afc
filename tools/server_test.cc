#include "tools/server.h"

#include <unistd.h>

#include <filesystem>
#include <string>

#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

TEST(AbsoluteStoreTest, OnlyPathsAreMadeAbsolute) {
  const std::string here = std::filesystem::current_path().string();
  EXPECT_EQ(AbsoluteStore("image"), here + "/image");
  EXPECT_EQ(AbsoluteStore("./a/../image"), here + "/image");
  EXPECT_EQ(AbsoluteStore("/srv/image"), "/srv/image");
  EXPECT_EQ(AbsoluteStore("file:image"), "file:" + here + "/image");
  EXPECT_EQ(AbsoluteStore("mem:64M"), "mem:64M");
  EXPECT_EQ(AbsoluteStore("fault:read-eio@1M+4K,fault:flush-eio,image"),
            "fault:read-eio@1M+4K,fault:flush-eio," + here + "/image");
  EXPECT_EQ(AbsoluteStore("fault:nonsense"), "fault:nonsense");
  EXPECT_EQ(AbsoluteStore("record:log,file:image"), "record:" + here + "/log,file:" + here + "/image");
  EXPECT_EQ(AbsoluteStore("record:log"), "record:log");
  EXPECT_EQ(AbsoluteStore(""), "");
}

}  // namespace
}  // namespace stagefs::tools

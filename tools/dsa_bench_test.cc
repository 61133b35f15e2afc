// The command as a whole, against a server: what it prints, what it refuses, and that it leaves the file empty.

#include <fcntl.h>

#include <string>
#include <vector>

#include "fs/dsa/client/stagefs/dsa.h"
#include "fs/dsa/testing/served_volume.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/commands.h"

namespace stagefs::tools {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class DsaBenchTest : public ::testing::Test {
 protected:
  static int Bench(std::vector<std::string> arguments) {
    return RunDsaBench({"stagefs dsa-bench", false, std::move(arguments)});
  }
  // What it prints on stdout, measuring 20 ms a row on `path`.
  std::string Output(std::vector<std::string> arguments, const std::string& path = "/file") {
    for (const char* const common : {"--seconds=20ms", "--span=2M"}) arguments.push_back(common);
    arguments.push_back(volume_.address());
    arguments.push_back(path);
    ::testing::internal::CaptureStdout();
    EXPECT_EQ(Bench(std::move(arguments)), 0);
    return ::testing::internal::GetCapturedStdout();
  }
  // What it prints on stderr when it fails.
  static std::string Error(std::vector<std::string> arguments) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(Bench(std::move(arguments)), 1);
    return ::testing::internal::GetCapturedStderr();
  }
  uint64_t SizeOf(const std::string& path) {
    dsa_connection* connection = nullptr;
    dsa_file* file = nullptr;
    struct dsa_stat stat = {};
    EXPECT_EQ(dsa_connect(volume_.address().c_str(), nullptr, &connection), 0) << dsa_error();
    EXPECT_EQ(dsa_open(connection, path.c_str(), O_RDONLY, 0, &file), 0) << dsa_error();
    EXPECT_EQ(dsa_stat(file, &stat), 0) << dsa_error();
    dsa_close(file);
    dsa_disconnect(connection);
    return stat.size;
  }

  dsa::testing::ServedVolume volume_;
};

TEST_F(DsaBenchTest, TheStandardSetIsMeasuredAndTheFileLeftEmpty) {
  const std::string table = Output({});
  EXPECT_THAT(table, HasSubstr("over shm"));
  for (const char* const operation : {"read", "write", "cas", "add", "flush", "group"}) {
    EXPECT_THAT(table, ContainsRegex(std::string("\n") + operation + " "));
  }
  EXPECT_EQ(SizeOf("/file"), 0u);
}

TEST_F(DsaBenchTest, EachOptionIsFollowed) {
  const std::string json =
      Output({"--provider=tcp", "--op=write,group", "--size=4k", "--depth=2", "--durable", "--sleep", "--json"});
  EXPECT_THAT(json, HasSubstr("\"provider\": \"tcp\""));
  EXPECT_THAT(json, HasSubstr("\"sleep\": true"));
  EXPECT_THAT(json, ContainsRegex("\"operation\": \"write\",\n +\"size_bytes\": 4096,\n +\"depth\": 2,\n +"
                                  "\"durable\": true,\n +\"operations\": [1-9]"));
  EXPECT_THAT(json, ContainsRegex("\"operation\": \"group\",\n +\"size_bytes\": 4096"));
}

TEST_F(DsaBenchTest, WhatCannotBeMeasuredIsSaid) {
  EXPECT_THAT(Error({"--busy", "--sleep", volume_.address(), "/file"}), HasSubstr("exclude each other"));
  EXPECT_THAT(Error({"--size=1m", "--span=4k", volume_.address(), "/file"}), HasSubstr("--span must be at least 1 MiB"));
  EXPECT_THAT(Error({volume_.address(), "/no/such/directory"}), HasSubstr("/no/such/directory"));
  EXPECT_THAT(Error({volume_.address() + ".other", "/file"}), HasSubstr(".other"));
}

}  // namespace
}  // namespace stagefs::tools

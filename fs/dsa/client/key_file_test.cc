#include "fs/dsa/client/key_file.h"

#include <errno.h>

#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

constexpr const char* kHex = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

int Read(const std::string& content, NamedKey* key) {
  const std::string path = testing::TempDir() + "/key";
  std::ofstream(path) << content;
  std::string error;
  return ReadKeyFile(path, key, &error);
}

TEST(KeyFileTest, FirstLineThatIsNoCommentCounts) {
  NamedKey key;
  EXPECT_EQ(Read(std::string("# keys\n\n  backup ") + kHex + " 1000:1000,4 ro\nother x\n", &key), 0);
  EXPECT_EQ(key.name, "backup");
  for (size_t i = 0; i < key.key.size(); ++i) EXPECT_EQ(key.key[i], i);
}

TEST(KeyFileTest, WhatIsNoKeyIsRefused) {
  NamedKey key;
  const std::string hex = kHex;
  EXPECT_EQ(Read("", &key), -EINVAL);
  EXPECT_EQ(Read("name\n", &key), -EINVAL);
  EXPECT_EQ(Read("name " + hex.substr(2) + "\n", &key), -EINVAL);
  EXPECT_EQ(Read("name " + hex + "00\n", &key), -EINVAL);
  EXPECT_EQ(Read("name " + hex.substr(1) + "g\n", &key), -EINVAL);
  EXPECT_EQ(Read(std::string(32, 'n') + " " + hex + "\n", &key), -EINVAL);
}

TEST(KeyFileTest, MissingFileIsToldAsSuch) {
  NamedKey key;
  std::string error;
  EXPECT_EQ(ReadKeyFile(testing::TempDir() + "/none", &key, &error), -ENOENT);
  EXPECT_NE(error.find("none"), std::string::npos);
}

}  // namespace
}  // namespace stagefs::dsa

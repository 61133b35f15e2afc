#include "fs/dsa/keys.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

const std::string kHex(64, 'a');
constexpr uint8_t kClientNonce[32] = {1}, kServerNonce[32] = {2};

std::array<uint8_t, 32> ClientProof(uint8_t secret, const std::string& name) {
  std::array<uint8_t, kKeyBytes> key;
  key.fill(secret);
  return ComputeProof(key, kClientProofLabel, kClientNonce, kServerNonce, name);
}

const Key* Check(const Keys& keys, const std::string& name, const std::array<uint8_t, 32>& proof) {
  return keys.Check(name, kClientNonce, kServerNonce, proof.data());
}

std::string WriteFile(const std::string& text, mode_t mode) {
  const std::string path = absl::StrCat(testing::TempDir(), "/keys");
  unlink(path.c_str());
  std::ofstream(path) << text;
  chmod(path.c_str(), mode);
  return path;
}

TEST(KeysTest, ALineSaysWhoseKeyItIs) {
  const auto keys = Keys::Parse(absl::StrCat("# people\n\nbackup ", kHex, " 1000:100,4,5 ro  # for one\n other\t",
                                             std::string(64, 'B'), " 7\r\n"));
  ASSERT_TRUE(keys.ok()) << keys.status();
  const Key* const backup = Check(*keys, "backup", ClientProof(0xaa, "backup"));
  ASSERT_NE(backup, nullptr);
  EXPECT_EQ(backup->identity.uid, 1000u);
  EXPECT_EQ(backup->identity.gid, 100u);
  EXPECT_EQ(backup->identity.groups, (std::vector<uint32_t>{4, 5}));
  EXPECT_TRUE(backup->identity.read_only);
  const Key* const other = Check(*keys, "other", ClientProof(0xbb, "other"));
  ASSERT_NE(other, nullptr);
  EXPECT_EQ(other->identity.uid, 7u);
  EXPECT_EQ(other->identity.gid, 65534u);
  EXPECT_FALSE(other->identity.read_only);
}

TEST(KeysTest, AWrongProofIsNobodys) {
  const auto keys = Keys::Parse(absl::StrCat("backup ", kHex, " 0"));
  ASSERT_TRUE(keys.ok());
  EXPECT_EQ(Check(*keys, "backup", ClientProof(0xab, "backup")), nullptr);
  EXPECT_EQ(Check(*keys, "backup", ClientProof(0xaa, "other")), nullptr);
  EXPECT_EQ(Check(*keys, "other", ClientProof(0xaa, "other")), nullptr);
  EXPECT_EQ(Check(*keys, "other", ClientProof(0, "other")), nullptr);
  EXPECT_EQ(Check(*keys, "", ClientProof(0, "")), nullptr);
  EXPECT_EQ(Check(Keys(), "other", ClientProof(0, "other")), nullptr);
}

TEST(KeysTest, TheServersProofIsNotTheClients) {
  const auto keys = Keys::Parse(absl::StrCat("backup ", kHex, " 0"));
  ASSERT_TRUE(keys.ok());
  EXPECT_EQ(Check(*keys, "backup", keys->Prove("backup", kClientNonce, kServerNonce)), nullptr);
}

TEST(KeysTest, WhatIsNoKeyIsRefusedByItsLine) {
  for (const std::string& line :
       {absl::StrCat("backup ", kHex), absl::StrCat("backup ", kHex, "a 0"), absl::StrCat("backup ", kHex, " -1"),
        absl::StrCat("backup ", kHex, " 0:"), absl::StrCat("backup ", kHex, " 0:1,"),
        absl::StrCat("backup ", kHex, " 4294967295"), absl::StrCat("backup ", kHex, " 0 rw"),
        absl::StrCat("backup ", kHex, " 0 ro ro"), absl::StrCat("backup ", std::string(64, 'g'), " 0"),
        absl::StrCat(std::string(33, 'n'), " ", kHex, " 0")}) {
    const absl::Status status = Keys::Parse(absl::StrCat("\n", line, "\n")).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_NE(status.message().find("line 2"), absl::string_view::npos) << status;
    EXPECT_EQ(status.message().find("aaaa"), absl::string_view::npos) << "a key is shown: " << status;
  }
  EXPECT_EQ(Keys::Parse("").status().code(), absl::StatusCode::kInvalidArgument);
  const std::string line = absl::StrCat("twice ", kHex, " 0\n");
  EXPECT_EQ(Keys::Parse(absl::StrCat(line, line)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(KeysTest, AFileThatOthersMayUseIsRefused) {
  const std::string line = absl::StrCat("backup ", kHex, " 0\n");
  EXPECT_TRUE(Keys::Load(WriteFile(line, 0600)).ok());
  EXPECT_TRUE(Keys::Load(WriteFile(line, 0400)).ok());
  for (const mode_t mode : {0640, 0604, 0620, 0602, 0610}) {
    const absl::Status status = Keys::Load(WriteFile(line, mode)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << mode;
    EXPECT_NE(status.message().find("chmod 600"), absl::string_view::npos) << status;
  }
  EXPECT_EQ(Keys::Load("/nonexistent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Keys::Load(testing::TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace stagefs::dsa

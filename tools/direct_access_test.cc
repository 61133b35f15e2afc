#include "tools/direct_access.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

absl::StatusOr<DirectAccess> Parse(const std::string& options) {
  DirectAccess direct;
  const auto parsed = fuse::ParseMountOptions(options, DirectAccessOptions(&direct));
  if (!parsed.ok()) return parsed.status();
  const absl::Status checked = CheckDirectAccess(direct);
  if (!checked.ok()) return checked;
  return direct;
}

TEST(DirectAccessTest, WithoutTheOptionThereIsNone) {
  EXPECT_FALSE(Parse("")->wanted());
  EXPECT_TRUE(Parse("dsa")->wanted());
  EXPECT_TRUE(Parse("dsa")->beside_store);
  EXPECT_FALSE(Parse("dsa=/run/s")->beside_store);
}

TEST(DirectAccessTest, AddressesGatherAndPathsBecomeAbsolute) {
  const std::string here = std::filesystem::current_path().string();
  const auto direct = Parse("dsa,dsa=/run/s,dsa=./t,dsa=[::1]:7,dsa=:8,dsa=/run/s,dsa_key=keys");
  ASSERT_TRUE(direct.ok()) << direct.status();
  EXPECT_EQ(direct->addresses, (std::vector<std::string>{"/run/s", here + "/t", "[::1]:7", ":8"}));
  EXPECT_EQ(direct->key_file, here + "/keys");
}

TEST(DirectAccessTest, RemoteClientsAndKeysGoTogether) {
  for (const char* options : {"dsa=host:7", "dsa,dsa_key=/k", "dsa_key=/k", "dsa=host", "dsa="}) {
    EXPECT_EQ(Parse(options).status().code(), absl::StatusCode::kInvalidArgument) << options;
  }
}

TEST(DirectAccessTest, TheSocketLiesBesideAnImageFile) {
  const std::string image = testing::TempDir() + "/image";
  std::ofstream(image) << "x";
  EXPECT_EQ(*SocketOfStore(image), image + ".dsa");
  EXPECT_EQ(SocketOfStore("mem:64M").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SocketOfStore(testing::TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SocketOfStore("/dev/null").status().code(), absl::StatusCode::kInvalidArgument);
  unlink(image.c_str());
}

}  // namespace
}  // namespace stagefs::tools

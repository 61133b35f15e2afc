#include "fs/dsa/client/server_address.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

// A listening Unix socket, bound by its name in its directory, however long the path is.
Descriptor Listen(const std::string& directory, const std::string& name) {
  char here[4096];
  EXPECT_NE(getcwd(here, sizeof(here)), nullptr);
  EXPECT_EQ(chdir(directory.c_str()), 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name.data(), name.size());
  Descriptor listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(bind(listening.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(listening.get(), 1), 0);
  EXPECT_EQ(chdir(here), 0);
  return listening;
}

TEST(ServerAddressTest, StoreLeadsToTheSocketBesideIt) {
  const std::string store = testing::TempDir() + "/store";
  std::ofstream(store) << "x";
  EXPECT_EQ(ParseServerAddress(store).path, store + ".dsa");
  EXPECT_EQ(ParseServerAddress("/nowhere/at/all").path, "/nowhere/at/all.dsa");
}

TEST(ServerAddressTest, HostAndPortAreRemote) {
  const ServerAddress name = ParseServerAddress("storage.example:7070");
  EXPECT_TRUE(name.is_remote);
  EXPECT_EQ(name.host, "storage.example");
  EXPECT_EQ(name.port, "7070");
  EXPECT_EQ(ParseServerAddress("[::1]:99").host, "::1");
  EXPECT_TRUE(ParseServerAddress("[::1]:99").is_remote);
}

TEST(ServerAddressTest, WhatHasASlashOrNoPortIsAPath) {
  EXPECT_FALSE(ParseServerAddress("/srv/a:1").is_remote);
  EXPECT_FALSE(ParseServerAddress("store:x").is_remote);
  EXPECT_FALSE(ParseServerAddress(":80").is_remote);
  EXPECT_FALSE(ParseServerAddress("store").is_remote);
}

TEST(ServerAddressTest, LongPathsOfSocketsCanBeReached) {
  const std::string directory = testing::TempDir() + "/" + std::string(120, 'd');
  ASSERT_EQ(mkdir(directory.c_str(), 0755), 0);
  const Descriptor listening = Listen(directory, "s.dsa");
  Descriptor socket;
  std::string error;
  EXPECT_EQ(ConnectSocket(ParseServerAddress(directory + "/s.dsa"), 1000, &socket, &error), 0) << error;
  EXPECT_EQ(ConnectSocket(ParseServerAddress(directory + "/none"), 1000, &socket, &error), -ENOENT);
}

TEST(ServerAddressTest, ServerThatTakesNobodyIsWaitedForAsLongAsAllowed) {
  const Descriptor listening = Listen(testing::TempDir(), "full.dsa");
  const ServerAddress address = ParseServerAddress(testing::TempDir() + "/full.dsa");
  Descriptor sockets[4];
  std::string error;
  int code = 0;
  for (int i = 0; i < 4 && code == 0; ++i) code = ConnectSocket(address, 50, &sockets[i], &error);
  EXPECT_EQ(code, -ETIMEDOUT);
}

}  // namespace
}  // namespace stagefs::dsa

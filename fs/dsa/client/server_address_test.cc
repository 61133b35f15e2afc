#include "fs/dsa/client/server_address.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "fs/dsa/unix_path.h"
#include "gtest/gtest.h"

namespace stagefs::dsa {
namespace {

OwnedFd Listen(const std::string& path) {
  const UnixPath address(path);
  EXPECT_EQ(address.error(), 0) << path;
  OwnedFd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(bind(listening.get(), address.address(), address.size()), 0);
  EXPECT_EQ(listen(listening.get(), 1), 0);
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
  const OwnedFd listening = Listen(directory + "/s.dsa");
  OwnedFd socket;
  std::string error;
  EXPECT_EQ(ConnectSocket(ParseServerAddress(directory + "/s.dsa"), 1000, &socket, &error), 0) << error;
  EXPECT_EQ(ConnectSocket(ParseServerAddress(directory + "/none"), 1000, &socket, &error), -ENOENT);
  EXPECT_EQ(access((directory + "/s.dsa").c_str(), F_OK), 0) << "the socket is where it was asked for";
  EXPECT_EQ(UnixPath(directory + "/" + std::string(120, 'n')).error(), ENAMETOOLONG);
  EXPECT_EQ(UnixPath("/" + std::string(120, 'n') + "/s.dsa").error(), ENOENT);
  EXPECT_EQ(UnixPath("").error(), EINVAL);
}

TEST(ServerAddressTest, ServerThatTakesNobodyIsWaitedForAsLongAsAllowed) {
  const OwnedFd listening = Listen(testing::TempDir() + "/full.dsa");
  const ServerAddress address = ParseServerAddress(testing::TempDir() + "/full.dsa");
  OwnedFd sockets[4];
  std::string error;
  int code = 0;
  for (int i = 0; i < 4 && code == 0; ++i) code = ConnectSocket(address, 50, &sockets[i], &error);
  EXPECT_EQ(code, -ETIMEDOUT);
}

}  // namespace
}  // namespace stagefs::dsa

#include "tools/server_link.h"

#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

// A device number that no mount has, different in each process.
std::string TestDevice() { return absl::StrCat("test:", getpid()); }

// A child that listens, and then ends as `end` says once the parent has connected.
template <typename End>
pid_t StartServer(const std::string& device, End end, OwnedFd* go) {
  int ready[2], proceed[2];
  EXPECT_EQ(pipe(ready), 0);
  EXPECT_EQ(pipe(proceed), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    close(proceed[1]);
    auto link = ServerLink::Listen(device);
    if (!link.ok()) _exit(1);
    char byte = 0;
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    (void)!read(proceed[0], &byte, 1);
    end(*link);
    _exit(0);
  }
  close(ready[1]);
  close(proceed[0]);
  char byte = 0;
  EXPECT_EQ(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  *go = OwnedFd(proceed[1]);
  return pid;
}

TEST(ServerLinkTest, WhoeverWaitsIsToldHowItEnded) {
  for (const absl::Status& end : {absl::OkStatus(), absl::InternalError("the store failed")}) {
    OwnedFd go;
    const pid_t pid = StartServer(TestDevice(), [&](ServerLink& link) { link.Finish(end); }, &go);
    auto watch = ServerWatch::Connect(TestDevice());
    ASSERT_TRUE(watch.ok()) << watch.status();
    EXPECT_EQ(watch->pid(), pid);
    go = OwnedFd();
    EXPECT_EQ(watch->WaitForEnd(), end);
    waitpid(pid, nullptr, 0);
  }
}

TEST(ServerLinkTest, AServerThatDiesIsNotSuccess) {
  OwnedFd go;
  const pid_t pid = StartServer(TestDevice(), [](ServerLink&) { raise(SIGKILL); }, &go);
  auto watch = ServerWatch::Connect(TestDevice());
  ASSERT_TRUE(watch.ok()) << watch.status();
  go = OwnedFd();
  EXPECT_EQ(watch->WaitForEnd().code(), absl::StatusCode::kAborted);
  waitpid(pid, nullptr, 0);
}

TEST(ServerLinkTest, NoServerIsNotFound) {
  EXPECT_EQ(ServerWatch::Connect(TestDevice()).status().code(), absl::StatusCode::kNotFound);
}

TEST(ServerLinkTest, TwoServersOfOneDeviceAreRefused) {
  auto first = ServerLink::Listen(TestDevice());
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(ServerLink::Listen(TestDevice()).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(ServerLinkTest, TheNameIsFreeAgainWhenTheMountIsGoneAndThoseWhoWaitStillHear) {
  const std::string device = TestDevice();
  OwnedFd go;
  const pid_t pid = StartServer(
      device,
      [&device](ServerLink& first) {
        first.StopListening();
        auto second = ServerLink::Listen(device);  // another mount's, in truth in another process
        first.Finish(second.ok() ? absl::OkStatus() : second.status());
      },
      &go);
  auto watch = ServerWatch::Connect(device);
  ASSERT_TRUE(watch.ok()) << watch.status();
  go = OwnedFd();
  EXPECT_EQ(watch->WaitForEnd(), absl::OkStatus());
  waitpid(pid, nullptr, 0);
}

TEST(ServerLinkTest, TheNextServerWaitsForTheNameOfTheOneBefore) {
  auto first = ServerLink::Listen(TestDevice());
  ASSERT_TRUE(first.ok()) << first.status();
  std::thread gone([&] { first->StopListening(); });
  EXPECT_EQ(ServerLink::Listen(TestDevice(), 60'000).status(), absl::OkStatus());
  gone.join();
}

}  // namespace
}  // namespace stagefs::tools

// The command as a whole: what it prints, what it refuses, and that it leaves nothing behind.

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/commands.h"

namespace stagefs::tools {
namespace {

using ::testing::HasSubstr;

class BenchTest : public ::testing::Test {
 protected:
  BenchTest() : directory_(::testing::TempDir() + "/bench.XXXXXX") {
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
  }
  ~BenchTest() override { std::filesystem::remove_all(directory_); }

  static int Bench(std::vector<std::string> arguments) {
    return RunBench({"stagefs bench", false, std::move(arguments)});
  }
  // What it prints on stdout.
  static std::string Output(std::vector<std::string> arguments) {
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
  bool IsEmpty() const { return std::filesystem::is_empty(directory_); }

  std::string directory_;
};

TEST_F(BenchTest, SeveralDirectoriesAreComparedAndLeftAsTheyWere) {
  const std::string output =
      Output({"--seconds", "2ms", "--size", "1M", "--only", "stat,fsync_4k_8jobs", directory_, directory_});
  EXPECT_THAT(output, HasSubstr("[2] " + directory_ + ": "));
  EXPECT_THAT(output, HasSubstr("medians of 3 rounds"));
  EXPECT_THAT(output, HasSubstr("\nstat "));
  EXPECT_THAT(output, HasSubstr("\nfsync_4k_8jobs "));
  EXPECT_THAT(output, ::testing::Not(HasSubstr("\ncreate ")));
  EXPECT_TRUE(IsEmpty());
}

TEST_F(BenchTest, Json) {
  const std::string output =
      Output({"--json", "--seconds=2ms", "--size=1M", "--rounds=2", "--only=create", directory_});
  EXPECT_THAT(output, HasSubstr("\"rounds\": 2,\n"));
  EXPECT_THAT(output, HasSubstr("\"row\": \"create\",\n"));
  EXPECT_EQ(output.front(), '{');
}

TEST_F(BenchTest, MistakesAreNamed) {
  EXPECT_THAT(Error({}), HasSubstr("DIR is missing"));
  EXPECT_THAT(Error({directory_ + "/no"}), HasSubstr("/no does not exist\n"));
  EXPECT_THAT(Error({"--only", "nonsense", directory_}), HasSubstr("there is no row nonsense, but seq_write, "));
  EXPECT_THAT(Error({"--size", "4K", directory_}), HasSubstr("--size must be at least 1 MiB"));
  EXPECT_THAT(Error({"--seconds", "0", directory_}), HasSubstr("--seconds 0: must be between"));
  EXPECT_THAT(Error({"--rounds", "0", directory_}), HasSubstr("--rounds 0: must be between 1 and 1000"));
}

TEST_F(BenchTest, ADirectoryThatIsRefusedLeavesNothingInTheOthers) {
  EXPECT_THAT(Error({directory_, "/no/such/directory"}), HasSubstr("/no/such/directory does not exist"));
  EXPECT_TRUE(IsEmpty());
}

TEST_F(BenchTest, ASignalEndsItAndNothingIsLeft) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const pid_t child = fork();
    if (child == 0) {
      ::signal(signal, SIG_DFL);
      _exit(Bench({"--seconds", "1000", "--size", "1M", "--only", "append200_fsync", directory_}));
    }
    // The row is at work once the directory is there.
    while (IsEmpty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_EQ(kill(child, signal), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status));
    EXPECT_EQ(WTERMSIG(status), signal);
    EXPECT_TRUE(IsEmpty());
  }
}

}  // namespace
}  // namespace stagefs::tools

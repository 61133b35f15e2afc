// The examples as programs, against a server: each command is a process of its own, so that nothing but the volume keeps
// what they store.

#include <stdio.h>
#include <sys/wait.h>

#include <algorithm>
#include <string>

#include "fs/dsa/testing/served_volume.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stagefs::examples {
namespace {

using ::testing::HasSubstr;

class ExamplesTest : public ::testing::Test {
 protected:
  struct Outcome {
    int code;
    std::string output;
  };
  static Outcome Run(const std::string& program, const std::string& arguments) {
    const std::string command = "timeout -k 5 60 fs/dsa/examples/" + program + " " + arguments + " 2>&1";
    FILE* const pipe = popen(command.c_str(), "r");
    std::string output;
    for (int c = fgetc(pipe); c != EOF; c = fgetc(pipe)) output.push_back(static_cast<char>(c));
    const int status = pclose(pipe);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
  }
  Outcome Table(const std::string& command) { return Run("hash_table", volume_.address() + " /table " + command); }
  void Expect(const std::string& command, const std::string& output) {
    const Outcome outcome = Table(command);
    EXPECT_EQ(outcome.output, output) << command;
    EXPECT_EQ(outcome.code, 0) << command;
  }

  dsa::testing::ServedVolume volume_;
};

TEST_F(ExamplesTest, FirstSteps) {
  const Outcome outcome = Run("first_steps", volume_.address());
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("read back: first\n"));
}

TEST_F(ExamplesTest, AHashTableIsKeptFromProgramToProgram) {
  Expect("list", "");
  Expect("put a 1", "");
  Expect("put b 2", "");
  Expect("get a", "1\n");
  Expect("put a 3", "");
  Expect("get a", "3\n");
  Expect("delete b", "");
  Expect("list", "a\t3\n");
  EXPECT_EQ(Table("get b").code, 1);
  Expect("fill 200", "");
  const Outcome all = Table("list");
  EXPECT_EQ(std::count(all.output.begin(), all.output.end(), '\n'), 201);
  EXPECT_THAT(all.output, HasSubstr("key199\tvalue199\n"));
}

}  // namespace
}  // namespace stagefs::examples

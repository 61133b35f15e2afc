#include "tools/arguments.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ArgumentsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<std::string>> Parse(std::vector<std::string> arguments) {
    ArgumentParser parser({"stagefs try", false, std::move(arguments)}, {"STORE", "DIR"}, "Tries.");
    parser.AddFlag('f', "foreground", "stay", &foreground_);
    parser.AddFlag('v', "", "", &verbose_);
    parser.AddText('o', "", "OPTIONS", "options", &options_);
    parser.AddSize(0, "size", "how large", &size_);
    return parser.Parse();
  }
  std::string Error(std::vector<std::string> arguments) {
    const auto result = Parse(std::move(arguments));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  }

  bool foreground_ = false, verbose_ = false;
  std::string options_;
  uint64_t size_ = 0;
};

TEST_F(ArgumentsTest, OperandsAndOptionsMixAsMountHandsThemOver) {
  const auto operands = Parse({"/dev/x", "/mnt", "-fv", "-o", "rw,noatime"});
  ASSERT_TRUE(operands.ok()) << operands.status();
  EXPECT_THAT(*operands, ElementsAre("/dev/x", "/mnt"));
  EXPECT_TRUE(foreground_);
  EXPECT_TRUE(verbose_);
  EXPECT_EQ(options_, "rw,noatime");
}

TEST_F(ArgumentsTest, ValuesFollowOrAreAttached) {
  ASSERT_TRUE(Parse({"-oro", "--size=64M", "a", "b"}).ok());
  EXPECT_EQ(options_, "ro");
  EXPECT_EQ(size_, 64u << 20);
  ASSERT_TRUE(Parse({"--size", "1G", "a", "b"}).ok());
  EXPECT_EQ(size_, 1u << 30);
}

TEST_F(ArgumentsTest, TwoDashesEndTheOptions) {
  const auto operands = Parse({"--", "-a", "--help"});
  ASSERT_TRUE(operands.ok()) << operands.status();
  EXPECT_THAT(*operands, ElementsAre("-a", "--help"));
}

TEST_F(ArgumentsTest, MistakesAreNamedAndPointToHelp) {
  EXPECT_EQ(Error({"--sise", "1", "a", "b"}), "unknown option --sise (try: stagefs try --help)");
  EXPECT_EQ(Error({"-fx", "a", "b"}), "unknown option -x (try: stagefs try --help)");
  EXPECT_EQ(Error({"a"}), "DIR is missing (try: stagefs try --help)");
  EXPECT_EQ(Error({"a", "b", "c"}), "one argument too many: c (try: stagefs try --help)");
  EXPECT_EQ(Error({"a", "b", "--size"}), "--size needs a value: SIZE (try: stagefs try --help)");
  EXPECT_EQ(Error({"--foreground=1", "a", "b"}), "--foreground takes no value (try: stagefs try --help)");
  EXPECT_THAT(Error({"--size", "many", "a", "b"}), HasSubstr("--size many: "));
  EXPECT_THAT(Error({"--size", "0", "a", "b"}), HasSubstr("must not be 0"));
}

TEST_F(ArgumentsTest, HelpIsPrintedAndNothingElseIsDone) {
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(Parse({"--help"}).status().code(), absl::StatusCode::kCancelled);
  const std::string help = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(help, HasSubstr("usage: stagefs try [OPTION...] STORE DIR\n"));
  EXPECT_THAT(help, HasSubstr("  -f, --foreground            stay\n"));
  EXPECT_THAT(help, HasSubstr("      --size SIZE             how large\n"));
  EXPECT_THAT(help, ::testing::Not(HasSubstr("-v")));
}

TEST(RepeatedOperandTest, OneOrMoreOfTheLast) {
  const auto parse = [](std::vector<std::string> arguments) {
    return ArgumentParser({"stagefs try", false, std::move(arguments)}, {"DIR..."}, "Tries.").Parse();
  };
  EXPECT_THAT(parse({"a"}).value(), ElementsAre("a"));
  EXPECT_THAT(parse({"a", "b", "c"}).value(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(parse({}).status().message(), "DIR is missing (try: stagefs try --help)");
}

TEST(ParseDurationTest, SecondsAndMilliseconds) {
  EXPECT_EQ(ParseDurationNs("1s").value(), 1'000'000'000u);
  EXPECT_EQ(ParseDurationNs("0.5").value(), 500'000'000u);
  EXPECT_EQ(ParseDurationNs("20ms").value(), 20'000'000u);
  for (const char* bad : {"", "s", "0", "-1s", "1h", "2d", "nan", "90000s"}) {
    EXPECT_EQ(ParseDurationNs(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(ParseCountTest, DigitsOnly) {
  EXPECT_EQ(ParseCount("8192").value(), 8192u);
  for (const char* bad : {"", "-1", "+1", " 1", "1k", "99999999999999999999"}) {
    EXPECT_EQ(ParseCount(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace stagefs::tools

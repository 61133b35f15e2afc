// One seed is one run, whatever process it runs in.

#include <array>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace stagefs::simulator {
namespace {

// The hash that the simulator prints. Addresses differ from process to process, so what depends on them shows.
std::string HashOfAProcess(int seed) {
  const std::string command = absl::StrCat("tests/simulator/simulator --operations 3000 --seed ", seed);
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "cannot be started";
  std::array<char, 4096> output = {};
  const size_t length = std::fread(output.data(), 1, output.size() - 1, pipe);
  if (pclose(pipe) != 0) return absl::StrCat("fails: ", output.data());
  const std::string text(output.data(), length);
  const size_t at = text.find("hash ");
  return at == text.npos ? text : text.substr(at, 5 + 16);
}

TEST(DeterminismTest, TwoProcessesWithOneSeedDoTheSame) {
  for (const int seed : {1, 2, 3, 4, 5, 6, 7, 8}) {
    const std::string hash = HashOfAProcess(seed);
    EXPECT_TRUE(hash.starts_with("hash ")) << hash;
    EXPECT_EQ(HashOfAProcess(seed), hash) << "seed " << seed;
  }
}

TEST(DeterminismTest, OtherSeedsDoOtherThings) { EXPECT_NE(HashOfAProcess(1), HashOfAProcess(2)); }

}  // namespace
}  // namespace stagefs::simulator

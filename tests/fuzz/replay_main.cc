// Runs a fuzzer's function over its corpus, as GoogleTest cases: one for each input that has a name, since a bug was
// found with it, and one for all that libFuzzer named by their hashes.
//
//   x_fuzz DIRECTORY_OR_FILE... [--gtest_...]

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gtest/gtest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

namespace fs = std::filesystem;

class Replay : public ::testing::Test {
 public:
  explicit Replay(std::vector<fs::path> inputs) : inputs_(std::move(inputs)) {}
  // A bug ends the process, as it ends a fuzzer; so each input is announced.
  void TestBody() override {
    for (const fs::path& path : inputs_) {
      std::ifstream file(path, std::ios::binary);
      ASSERT_TRUE(file) << path << " cannot be read";
      const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
      std::fprintf(stderr, "input %s\n", path.c_str());
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    }
  }

 private:
  const std::vector<fs::path> inputs_;
};

bool IsNamedByHash(const std::string& name) {
  return name.size() == 40 && std::all_of(name.begin(), name.end(), [](char c) { return std::isxdigit(c) != 0; });
}

void Register(const std::string& name, std::vector<fs::path> inputs) {
  ::testing::RegisterTest("FuzzReplay", name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                          [inputs = std::move(inputs)]() -> Replay* { return new Replay(inputs); });
}

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  std::vector<fs::path> paths;
  for (int i = 1; i < argc; ++i) {
    if (!fs::is_directory(argv[i])) {
      paths.emplace_back(argv[i]);
      continue;
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(argv[i])) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<fs::path> corpus;
  for (const fs::path& path : paths) {
    const std::string name = path.filename();
    if (IsNamedByHash(name)) {
      corpus.push_back(path);
    } else {
      Register(name, {path});
    }
  }
  if (!corpus.empty()) Register("corpus", corpus);
  if (paths.empty()) {
    std::fprintf(stderr, "there is no input: %s FILE_OR_DIRECTORY...\n", argv[0]);
    return 1;
  }
  return RUN_ALL_TESTS();
}

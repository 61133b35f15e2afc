// fsck on a volume with many files: its time, and its memory, which must not grow with the volume.

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "absl/base/config.h"
#include "absl/strings/str_cat.h"
#include "core/engine.h"
#include "fs/volume/check.h"
#include "gtest/gtest.h"
#include "sal/open_store.h"
#include "sal/real_environment.h"
#include "tests/scale/many_files.h"

namespace stagefs::scale {
namespace {

constexpr uint64_t kFiles = 50000;
constexpr uint64_t kCacheBytes = 64 << 20;
// Besides the engine's cache: the maps of used blocks and inodes, a batch of leaves, the binary itself.
constexpr uint64_t kMostOtherBytes = 48 << 20;
// Of a machine that has other things to do, too: a million files would take 20 times as long.
constexpr double kMostSeconds = 15;
// Sanitizers keep memory of their own, several times what the program uses.
#if defined(ABSL_HAVE_ADDRESS_SANITIZER) || defined(ABSL_HAVE_THREAD_SANITIZER)
constexpr bool kMemoryIsOurs = false;
#else
constexpr bool kMemoryIsOurs = true;
#endif

// The most memory that the process had since the last call.
uint64_t PeakBytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  uint64_t kib = 0;
  while (std::getline(status, line)) {
    if (line.starts_with("VmHWM:")) kib = std::stoull(line.substr(6));
  }
  std::ofstream("/proc/self/clear_refs") << "5";
  return kib << 10;
}

class FsckScaleTest : public ::testing::Test {
 protected:
  FsckScaleTest() : path_(absl::StrCat(::testing::TempDir(), "/many_files.img")) {
    const absl::Status made = MakeManyFiles(path_, kFiles);
    EXPECT_TRUE(made.ok()) << made;
  }
  ~FsckScaleTest() override { std::remove(path_.c_str()); }

  const std::string path_;
};

TEST_F(FsckScaleTest, ManyFilesAreCheckedInBoundedTimeAndMemory) {
  sal::RealEnvironment environment;
  const auto store = sal::OpenStore(path_, {});
  ASSERT_TRUE(store.ok()) << store.status();
  core::EngineOptions options;
  options.cache_bytes = kCacheBytes;
  core::RecoveryReport recovered;
  const auto engine = core::Engine::Open(**store, environment, options, &recovered);
  ASSERT_TRUE(engine.ok()) << engine.status();
  PeakBytes();
  const uint64_t start = environment.NowNs();
  // Windows smaller than the volume: what would not fit the memory is looked at part by part.
  const auto report = volume::Check(**engine, {.window_blocks = 1 << 17, .window_inodes = 30000});
  const double seconds = static_cast<double>(environment.NowNs() - start) / 1e9;
  const uint64_t peak = PeakBytes();
  std::printf("%.1f s, %llu MiB\n", seconds, static_cast<unsigned long long>(peak >> 20));
  ASSERT_TRUE(report.ok()) << report.status();
  for (const volume::Problem& problem : report->problems) ADD_FAILURE() << ToString(problem);
  EXPECT_GE(report->inodes, kFiles);
  EXPECT_LT(seconds, kMostSeconds);
  if (kMemoryIsOurs) {
    EXPECT_LT(peak, kCacheBytes + kMostOtherBytes);
  }
  EXPECT_TRUE((*engine)->Close().ok());
}

}  // namespace
}  // namespace stagefs::scale

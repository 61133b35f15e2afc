// Volumes that older versions of stagefs wrote, and this one: they open, recover, are clean and hold what they held; and
// versions from the future are refused.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/bytes.h"
#include "core/format.h"
#include "fs/volume/check.h"
#include "fs/volume/format.h"
#include "fs/volume/header.h"
#include "fs/volume/volume.h"
#include "gtest/gtest.h"
#include "tests/fuzz/engine_calls.h"
#include "tests/fuzz/volume_calls.h"
#include "tests/golden/golden_device.h"
#include "tests/golden/golden_image.h"
#include "tests/golden/golden_volume.h"

namespace stagefs::golden {
namespace {

constexpr char kDirectory[] = "tests/golden";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

std::vector<std::string> GoldenFiles() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(kDirectory)) {
    if (entry.path().extension() == ".golden") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

sal::SimulatedImage ImageIn(const std::string& path) {
  absl::StatusOr<sal::SimulatedImage> image = Decode(ReadFile(path));
  EXPECT_TRUE(image.ok()) << path << ": " << image.status();
  return image.value_or(sal::SimulatedImage());
}

void ExpectClean(core::Engine& engine) {
  volume::CheckOptions options;
  options.verify_data = true;
  const absl::StatusOr<volume::CheckReport> report = volume::Check(engine, options);
  ASSERT_TRUE(report.ok()) << report.status();
  for (const volume::Problem& problem : report->problems) ADD_FAILURE() << ToString(problem);
}

class GoldenImageTest : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenImageTest() : device_(ImageIn(GetParam())) {}
  bool crashed() const { return absl::StrContains(GetParam(), "-crashed"); }

  Device device_;
};

TEST_P(GoldenImageTest, OpensIsCleanAndHoldsWhatItHeld) {
  core::RecoveryReport report;
  const absl::Status opened = device_.Open(&report);
  ASSERT_TRUE(opened.ok()) << opened;
  EXPECT_EQ(report.clean, !crashed());
  EXPECT_EQ(report.frames > 0, crashed());
  EXPECT_TRUE(report.warnings.empty()) << report.warnings.front();
  EXPECT_EQ(device_.engine().info().label, "golden");
  ExpectClean(device_.engine());
  const auto volume = volume::Volume::Open(device_.engine());
  ASSERT_TRUE(volume.ok()) << volume.status();
  EXPECT_EQ(Describe(**volume), ReadFile(absl::StrCat(kDirectory, "/contents.txt")));
  (*volume)->Close();
}

TEST_P(GoldenImageTest, CanBeChangedAndClosedAndOpenedAgain) {
  ASSERT_TRUE(device_.Open().ok());
  {
    const auto volume = volume::Volume::Open(device_.engine());
    ASSERT_TRUE(volume.ok()) << volume.status();
    for (const char* const name : {"inline", "another name of linked", "long symlink"}) {
      const absl::Status removed = fuzz::WaitForStatus(**volume, [&](auto done) {
        (*volume)->Unlink(volume::kRootIno, name, std::move(done));
      });
      EXPECT_TRUE(removed.ok()) << name << ": " << removed;
    }
    const auto made = fuzz::WaitFor<volume::Attributes>(**volume, [&](auto done) {
      (*volume)->MakeDirectory(volume::kRootIno, "new", {.mode = 0755}, std::move(done));
    });
    EXPECT_TRUE(made.ok()) << made.status();
    (*volume)->Close();
  }
  ExpectClean(device_.engine());
  ASSERT_TRUE(device_.Close().ok());
  core::RecoveryReport report;
  ASSERT_TRUE(device_.Open(&report).ok());
  EXPECT_TRUE(report.clean);
  ExpectClean(device_.engine());
}

INSTANTIATE_TEST_SUITE_P(AllVersions, GoldenImageTest, ::testing::ValuesIn(GoldenFiles()), [](const auto& param) {
  std::string name = std::filesystem::path(param.param).stem();
  std::replace_if(name.begin(), name.end(), [](char c) { return std::isalnum(c) == 0; }, '_');
  return name;
});

TEST(GoldenTest, ThereAreImagesOfThisVersion) {
  const std::string version = absl::StrCat("engine", core::kVersionMajor, ".", core::kVersionMinor, "-volume",
                                           volume::kVersionMajor, ".", volume::kVersionMinor);
  for (const char* const kind : {"-closed", "-crashed"}) {
    EXPECT_TRUE(std::filesystem::exists(absl::StrCat(kDirectory, "/", version, kind, ".golden")))
        << "the format has changed: bazel run //tests/golden:make_golden -- $PWD/tests/golden";
  }
}

TEST(GoldenTest, AnEngineFromTheFutureIsRefused) {
  Device device(ImageIn(GoldenFiles().front()));
  for (uint32_t slot = 0; slot < 2; ++slot) {
    const uint64_t place = core::kSuperblockPlaces[slot] * core::kBlockBytes;
    std::vector<std::byte> block(core::kBlockBytes);
    device.store().ReadRaw(place, block.data(), block.size());
    auto superblock = core::Load<core::Superblock>(block.data());
    superblock.version_major = core::kVersionMajor + 1;
    core::EncodeSuperblock(superblock, slot, block.data());
    device.store().WriteRaw(place, block.data(), block.size());
  }
  const absl::Status status = device.Open();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

TEST(GoldenTest, AVolumeFromTheFutureIsRefused) {
  Device device(ImageIn(GoldenFiles().front()));
  ASSERT_TRUE(device.Open().ok());
  // Header and copy: one alone would be taken for damaged.
  const core::Block copy = volume::HeaderCopyBlock(device.engine().capacity_blocks());
  const auto changed = fuzz::RunAndWait(device.engine(), [copy](core::Transaction& tx) -> absl::Status {
    for (const core::Block block : {volume::kHeaderBlock, copy}) {
      const absl::StatusOr<std::byte*> header = tx.Modify(block);
      if (!header.ok()) return header.status();
      constexpr size_t kVersionMajorOffset = 8;
      core::Store<uint32_t>(*header + kVersionMajorOffset, volume::kVersionMajor + 1);
    }
    return absl::OkStatus();
  });
  ASSERT_TRUE(changed.ok()) << changed.status();
  const absl::Status status = volume::Volume::Open(device.engine()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  const absl::Status checked = volume::Check(device.engine(), {}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(checked)) << checked;
}

}  // namespace
}  // namespace stagefs::golden

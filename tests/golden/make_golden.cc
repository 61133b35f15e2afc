// Writes the golden images of this version, and what they hold, to a directory:
//
//   bazel run //tests/golden:make_golden -- $PWD/tests/golden
//
// To be run once for each version of the format, before anything is released that writes it; the images are then
// committed and never made again.

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/format.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"
#include "sal/status_macros.h"
#include "tests/golden/golden_device.h"
#include "tests/golden/golden_image.h"
#include "tests/golden/golden_volume.h"

namespace stagefs::golden {
namespace {

constexpr uint64_t kLogBytes = 4 << 20;

// "engine1.0-volume2.0".
std::string VersionName() {
  return absl::StrCat("engine", core::kVersionMajor, ".", core::kVersionMinor, "-volume", volume::kVersionMajor, ".",
                      volume::kVersionMinor);
}

absl::Status WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << bytes;
  file.close();
  if (!file) return absl::InternalError(absl::StrCat(path, " cannot be written"));
  std::printf("%s: %zu bytes\n", path.c_str(), bytes.size());
  return absl::OkStatus();
}

// A volume that is closed in order, or one whose power fails right after it was filled.
absl::StatusOr<sal::SimulatedImage> MakeImage(bool crash, std::string* description) {
  Device device;
  core::FormatOptions options;
  options.log_bytes = kLogBytes;
  options.label = "golden";
  RETURN_IF_ERROR(core::Engine::Format(device.store(), device.environment(), options));
  RETURN_IF_ERROR(device.Open());
  RETURN_IF_ERROR(volume::Volume::Format(device.engine(), {}));
  {
    ASSIGN_OR_RETURN(const auto volume, volume::Volume::Open(device.engine()));
    RETURN_IF_ERROR(Fill(*volume));
    *description = Describe(*volume);
    volume->Close();
  }
  if (crash) {
    device.Crash();
  } else {
    RETURN_IF_ERROR(device.Close());
  }
  return device.store().Crash(/*seed=*/1, sal::SimulatedStore::CrashKind::kPowerCut).durable;
}

absl::Status Make(const std::string& directory) {
  for (const bool crash : {false, true}) {
    std::string description;
    ASSIGN_OR_RETURN(const sal::SimulatedImage image, MakeImage(crash, &description));
    RETURN_IF_ERROR(WriteFile(absl::StrCat(directory, "/", VersionName(), crash ? "-crashed" : "-closed", ".golden"),
                              Encode(image)));
    RETURN_IF_ERROR(WriteFile(directory + "/contents.txt", description));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace stagefs::golden

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_golden DIRECTORY\n");
    return 2;
  }
  const absl::Status status = stagefs::golden::Make(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "make_golden: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

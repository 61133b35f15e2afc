// Fuzzes the parsing of mount options. What is taken must mean the same when each option is given twice.

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "fs/fuse/options.h"
#include "sal/check.h"

namespace stagefs::fuse {
namespace {

void Fuzz(absl::string_view text) {
  std::string taken;
  const ExtraOption extra[] = {
      {"extra", "TEXT", "an option of the caller's",
       [&taken](absl::string_view value) {
         taken = std::string(value);
         return value == "bad" ? absl::InvalidArgumentError("extra=bad") : absl::OkStatus();
       }},
      {"flag", "", "one without a value", [](absl::string_view) { return absl::OkStatus(); }},
  };
  const absl::StatusOr<MountOptions> options = ParseMountOptions(text, extra);
  if (!options.ok()) {
    STAGEFS_CHECK(absl::IsInvalidArgument(options.status()) && !options.status().message().empty());
    return;
  }
  STAGEFS_CHECK(options->threads <= 64 && options->max_background >= 1 && options->max_background <= 65535);
  const absl::StatusOr<MountOptions> twice = ParseMountOptions(absl::StrCat(text, ",", text), extra);
  STAGEFS_CHECK(twice.ok() && twice->cache == options->cache && twice->threads == options->threads &&
                twice->mount_flags == options->mount_flags && twice->read_only == options->read_only &&
                twice->read_ahead_kb == options->read_ahead_kb && twice->allow_other == options->allow_other);
}

}  // namespace
}  // namespace stagefs::fuse

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::fuse::Fuzz({reinterpret_cast<const char*>(data), size});
  return 0;
}

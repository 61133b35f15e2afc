// What the commands say to a person: error lines, sizes, progress bars.

#ifndef STAGEFS_TOOLS_TERMINAL_H_
#define STAGEFS_TOOLS_TERMINAL_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/engine.h"
#include "tools/arguments.h"

namespace stagefs::tools {

// One line on stderr: "stagefs mkfs: message".
void PrintError(const Invocation& invocation, absl::string_view message);
void PrintError(const Invocation& invocation, const absl::Status& status);

// "16 GiB", "1.5 TiB", "512 bytes".
std::string SizeText(uint64_t bytes);
// "8-4-4-4-12" hexadecimal digits.
std::string UuidText(const core::Uuid& uuid);
// Seconds since 1970 and a readable local time: "2026-01-31 12:00:00".
std::string TimeText(int64_t wall_ns);

// A bar on stderr, if that is a terminal and the work takes longer than half a second. Not thread-safe.
class ProgressBar {
 public:
  explicit ProgressBar(absl::string_view what);
  ~ProgressBar();  // erases the bar
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // `done`: 0 to 1. Cheap; may be called as often as one likes.
  void Update(double done);

 private:
  const std::string what_;
  const bool shown_;
  const std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point next_;
  bool drawn_ = false;
};

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_TERMINAL_H_

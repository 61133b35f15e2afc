#include "tools/terminal.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace stagefs::tools {

namespace {

constexpr auto kQuietTime = std::chrono::milliseconds(500);
constexpr auto kRedrawTime = std::chrono::milliseconds(100);
constexpr int kBarWidth = 40;

}  // namespace

void PrintError(const Invocation& invocation, absl::string_view message) {
  absl::FPrintF(stderr, "%s: %s\n", invocation.name, message);
}

void PrintError(const Invocation& invocation, const absl::Status& status) {
  PrintError(invocation, status.message().empty() ? absl::string_view(absl::StatusCodeToString(status.code()))
                                                  : absl::string_view(status.message()));
}

std::string SizeText(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  double value = static_cast<double>(bytes);
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  std::string number = absl::StrFormat("%.1f", value);
  if (number.ends_with(".0")) number.resize(number.size() - 2);
  return absl::StrCat(number, " ", kUnits[unit]);
}

std::string UuidText(const core::Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    absl::StrAppendFormat(&text, "%02x", uuid[i]);
  }
  return text;
}

std::string TimeText(int64_t wall_ns) {
  const time_t seconds = wall_ns / 1'000'000'000;
  tm parts = {};
  localtime_r(&seconds, &parts);
  char text[32];
  return std::string(text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts));
}

ProgressBar::ProgressBar(absl::string_view what)
    : what_(what), shown_(isatty(STDERR_FILENO) == 1), start_(std::chrono::steady_clock::now()),
      next_(start_ + kQuietTime) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::Update(double done) {
  if (!shown_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return;
  next_ = now + kRedrawTime;
  drawn_ = true;
  done = std::clamp(done, 0.0, 1.0);
  const int filled = static_cast<int>(done * kBarWidth);
  std::string bar = absl::StrFormat("\r%s [%s%s] %3.0f %%", what_, std::string(filled, '#'),
                                    std::string(kBarWidth - filled, ' '), done * 100);
  if (done > 0.02) {
    const double seconds = std::chrono::duration<double>(now - start_).count();
    absl::StrAppendFormat(&bar, ", %.0f s left ", seconds / done * (1 - done));
  }
  std::fputs(bar.c_str(), stderr);
}

}  // namespace stagefs::tools

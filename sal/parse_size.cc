#include <cmath>
#include <cstdint>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "sal/open_store.h"

namespace stagefs::sal {

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  const auto invalid = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a size: ", why, "; write 4096, 64M, 1.5G or 8TiB"));
  };
  size_t digits = 0;
  while (digits < text.size() && (absl::ascii_isdigit(text[digits]) || text[digits] == '.')) ++digits;
  const absl::string_view number = text.substr(0, digits);
  std::string unit = absl::AsciiStrToLower(text.substr(digits));

  int shift = 0;
  if (!unit.empty() && unit != "b") {
    static constexpr absl::string_view kUnits = "kmgtpe";
    const size_t index = kUnits.find(unit[0]);
    const std::string tail = unit.substr(1);
    if (index == absl::string_view::npos || (!tail.empty() && tail != "b" && tail != "ib")) {
      return invalid(absl::StrCat("unknown unit \"", unit, "\""));
    }
    shift = 10 * (static_cast<int>(index) + 1);
  }
  if (number.empty() || number == ".") return invalid("it has no number");
  uint64_t whole;
  if (absl::SimpleAtoi(number, &whole)) {
    if (whole > (UINT64_MAX >> shift)) return invalid("it is too large");
    return whole << shift;
  }
  double value;
  if (!absl::StrContains(number, ".") || !absl::SimpleAtod(number, &value)) return invalid("it is no number");
  value = std::ldexp(value, shift);
  if (value >= 18446744073709551616.0) return invalid("it is too large");
  return static_cast<uint64_t>(value);
}

}  // namespace stagefs::sal

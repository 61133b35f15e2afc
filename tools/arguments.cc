#include "tools/arguments.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "sal/open_store.h"
#include "sal/status_macros.h"

namespace stagefs::tools {

ArgumentParser::ArgumentParser(const Invocation& invocation, std::vector<std::string> operands, std::string summary)
    : invocation_(invocation), operands_(std::move(operands)), summary_(std::move(summary)) {}

void ArgumentParser::AddFlag(char short_name, absl::string_view long_name, absl::string_view help, bool* target) {
  options_.push_back({short_name, std::string(long_name), "", std::string(help), [target](absl::string_view) {
                        *target = true;
                        return absl::OkStatus();
                      }});
}

void ArgumentParser::AddValue(char short_name, absl::string_view long_name, absl::string_view value_name,
                              absl::string_view help, std::function<absl::Status(absl::string_view)> set) {
  options_.push_back({short_name, std::string(long_name), std::string(value_name), std::string(help), std::move(set)});
}

void ArgumentParser::AddText(char short_name, absl::string_view long_name, absl::string_view value_name,
                             absl::string_view help, std::string* target) {
  AddValue(short_name, long_name, value_name, help, [target](absl::string_view value) {
    *target = std::string(value);
    return absl::OkStatus();
  });
}

void ArgumentParser::AddSize(char short_name, absl::string_view long_name, absl::string_view help, uint64_t* target) {
  AddValue(short_name, long_name, "SIZE", help, [target](absl::string_view value) {
    absl::StatusOr<uint64_t> size = sal::ParseSize(value);
    if (!size.ok()) return size.status();
    if (*size == 0) return absl::InvalidArgumentError("must not be 0");
    *target = *size;
    return absl::OkStatus();
  });
}

absl::Status ArgumentParser::Usage(absl::string_view message) const {
  return absl::InvalidArgumentError(absl::StrCat(message, " (try: ", invocation_.name, " --help)"));
}

absl::Status ArgumentParser::Apply(const Option& option, absl::string_view spelling, absl::string_view value) const {
  const absl::Status status = option.set(value);
  if (status.ok()) return status;
  return Usage(absl::StrCat(spelling, " ", value, ": ", status.message()));
}

absl::Status ArgumentParser::ParseLong(absl::string_view text, size_t* index) {
  const size_t equals = text.find('=');
  const absl::string_view name = text.substr(2, equals == absl::string_view::npos ? equals : equals - 2);
  const absl::string_view spelling = text.substr(0, equals);
  for (const Option& option : options_) {
    if (option.long_name.empty() || option.long_name != name) continue;
    if (option.value_name.empty()) {
      if (equals != absl::string_view::npos) return Usage(absl::StrCat(spelling, " takes no value"));
      return Apply(option, spelling, "");
    }
    if (equals != absl::string_view::npos) return Apply(option, spelling, text.substr(equals + 1));
    if (*index + 1 >= invocation_.arguments.size()) {
      return Usage(absl::StrCat(spelling, " needs a value: ", option.value_name));
    }
    return Apply(option, spelling, invocation_.arguments[++*index]);
  }
  return Usage(absl::StrCat("unknown option ", spelling));
}

absl::Status ArgumentParser::ParseShort(absl::string_view text, size_t* index) {
  for (size_t i = 1; i < text.size(); ++i) {
    const auto option = std::find_if(options_.begin(), options_.end(),
                                     [&](const Option& candidate) { return candidate.short_name == text[i]; });
    const std::string spelling = absl::StrCat("-", text.substr(i, 1));
    if (option == options_.end()) return Usage(absl::StrCat("unknown option ", spelling));
    if (option->value_name.empty()) {
      RETURN_IF_ERROR(Apply(*option, spelling, ""));
      continue;
    }
    if (i + 1 < text.size()) return Apply(*option, spelling, text.substr(i + 1));
    if (*index + 1 >= invocation_.arguments.size()) {
      return Usage(absl::StrCat(spelling, " needs a value: ", option->value_name));
    }
    return Apply(*option, spelling, invocation_.arguments[++*index]);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ArgumentParser::Parse() {
  std::vector<std::string> found;
  bool options_ended = false;
  for (size_t i = 0; i < invocation_.arguments.size(); ++i) {
    const std::string& text = invocation_.arguments[i];
    if (options_ended || text.size() < 2 || text[0] != '-') {
      found.push_back(text);
    } else if (text == "--") {
      options_ended = true;
    } else if (text == "--help") {
      std::fputs(Help().c_str(), stdout);
      return absl::CancelledError();
    } else {
      RETURN_IF_ERROR(absl::StartsWith(text, "--") ? ParseLong(text, &i) : ParseShort(text, &i));
    }
  }
  if (found.size() < operands_.size()) {
    return Usage(absl::StrCat(absl::StripSuffix(operands_[found.size()], "..."), " is missing"));
  }
  if (found.size() > operands_.size() && !absl::EndsWith(operands_.back(), "...")) {
    return Usage(absl::StrCat("one argument too many: ", found[operands_.size()]));
  }
  return found;
}

std::string ArgumentParser::Help() const {
  std::string help = absl::StrCat("usage: ", invocation_.name, " [OPTION...] ", absl::StrJoin(operands_, " "), "\n\n",
                                  summary_, "\n\nOptions:\n");
  constexpr size_t kColumn = 30;
  for (const Option& option : options_) {
    if (option.help.empty()) continue;
    std::string left = option.short_name != 0 ? absl::StrCat("  -", std::string(1, option.short_name)) : "    ";
    if (!option.long_name.empty()) {
      absl::StrAppend(&left, option.short_name != 0 ? ", " : "  ", "--", option.long_name);
    }
    if (!option.value_name.empty()) absl::StrAppend(&left, " ", option.value_name);
    if (left.size() + 2 > kColumn) {
      left += '\n';
      left.append(kColumn, ' ');
    } else {
      left.resize(kColumn, ' ');
    }
    std::string text = option.help;
    for (size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 1)) {
      text.insert(at + 1, kColumn, ' ');
    }
    absl::StrAppend(&help, left, text, "\n");
  }
  std::string last = "      --help";
  last.resize(kColumn, ' ');
  absl::StrAppend(&help, last, "show this and do nothing\n");
  return help;
}

absl::StatusOr<uint64_t> ParseCount(absl::string_view text) {
  uint64_t value = 0;
  const bool digits = std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (text.empty() || !digits || !absl::SimpleAtoi(text, &value)) return absl::InvalidArgumentError("is not a number");
  return value;
}

absl::StatusOr<uint64_t> ParseDurationNs(absl::string_view text) {
  double unit_ns = 1e9;
  if (absl::ConsumeSuffix(&text, "ms")) {
    unit_ns = 1e6;
  } else {
    absl::ConsumeSuffix(&text, "s");
  }
  double value = 0;
  if (!absl::SimpleAtod(text, &value)) return absl::InvalidArgumentError("is not a duration such as 1s or 500ms");
  const double ns = value * unit_ns;
  if (!(ns >= 1e6 && ns <= 86400e9)) return absl::InvalidArgumentError("must be between 1ms and 86400s");
  return static_cast<uint64_t>(ns);
}

}  // namespace stagefs::tools

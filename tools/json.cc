#include "tools/json.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "sal/status_macros.h"

namespace stagefs::tools {

namespace {

std::string Quoted(absl::string_view value) {
  std::string text = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&text, "\\u%04x", c);
    } else {
      text += c;
    }
  }
  return text + "\"";
}

std::string NumberText(double value) { return std::isfinite(value) ? absl::StrFormat("%.6g", value) : "null"; }

// A cursor over the text of an object.
class Reader {
 public:
  explicit Reader(absl::string_view text) : text_(text) {}

  bool Take(char c) {
    while (at_ < text_.size() && absl::ascii_isspace(text_[at_])) ++at_;
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  absl::StatusOr<std::string> String() {
    if (!Take('"')) return Error("a string");
    std::string value;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] != '\\') {
        value += text_[at_++];
        continue;
      }
      if (++at_ == text_.size()) break;
      const char c = text_[at_++];
      uint32_t code = 0;
      if (c == 'u' && at_ + 4 <= text_.size() && absl::SimpleHexAtoi(text_.substr(at_, 4), &code) && code < 0x80) {
        value += static_cast<char>(code);
        at_ += 4;
      } else if (c == 'n') {
        value += '\n';
      } else if (c == 't') {
        value += '\t';
      } else if (c == '"' || c == '\\' || c == '/') {
        value += c;
      } else {
        return Error("a known escape");
      }
    }
    if (at_ == text_.size()) return Error("the end of a string");
    ++at_;
    return value;
  }
  absl::StatusOr<std::string> Value() {
    if (Take('"')) {
      --at_;
      return String();
    }
    std::string value;
    while (at_ < text_.size() && (absl::ascii_isalnum(text_[at_]) || text_[at_] == '-' || text_[at_] == '.')) {
      value += text_[at_++];
    }
    if (value.empty()) return Error("a value");
    return value;
  }
  absl::Status Error(absl::string_view expected) const {
    return absl::InvalidArgumentError(absl::StrCat("not a flat JSON object: ", expected, " expected at ", at_));
  }

 private:
  const absl::string_view text_;
  size_t at_ = 0;
};

}  // namespace

void JsonWriter::Add(absl::string_view name, absl::string_view raw_value) {
  absl::StrAppend(&members_, members_.empty() ? "" : ",\n", "  ", Quoted(name), ": ", raw_value);
}
void JsonWriter::Text(absl::string_view name, absl::string_view value) { Add(name, Quoted(value)); }
void JsonWriter::Number(absl::string_view name, int64_t value) { Add(name, absl::StrCat(value)); }
void JsonWriter::Number(absl::string_view name, uint64_t value) { Add(name, absl::StrCat(value)); }
void JsonWriter::Number(absl::string_view name, double value) { Add(name, NumberText(value)); }
void JsonWriter::Bool(absl::string_view name, bool value) { Add(name, value ? "true" : "false"); }
void JsonWriter::Numbers(absl::string_view name, const std::vector<double>& values) {
  Add(name, absl::StrCat("[", absl::StrJoin(values, ", ", [](std::string* out, double value) {
                           out->append(NumberText(value));
                         }), "]"));
}
void JsonWriter::Objects(absl::string_view name, const std::vector<JsonWriter>& values) {
  std::string text = absl::StrJoin(values, ",", [](std::string* out, const JsonWriter& value) {
    absl::StrAppend(out, "\n{\n", value.members_, "\n}");
  });
  // A line break within a string is written as an escape, so that each one here begins a line.
  Add(name, absl::StrCat("[", absl::StrReplaceAll(text, {{"\n", "\n    "}}), "]"));
}
std::string JsonWriter::Finish() const { return absl::StrCat("{\n", members_, "\n}\n"); }

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseFlatJson(absl::string_view text) {
  Reader reader(text);
  std::vector<std::pair<std::string, std::string>> members;
  if (!reader.Take('{')) return reader.Error("{");
  if (reader.Take('}')) return members;
  do {
    ASSIGN_OR_RETURN(std::string name, reader.String());
    if (!reader.Take(':')) return reader.Error(":");
    ASSIGN_OR_RETURN(std::string value, reader.Value());
    members.emplace_back(std::move(name), std::move(value));
  } while (reader.Take(','));
  if (!reader.Take('}')) return reader.Error("}");
  return members;
}

}  // namespace stagefs::tools

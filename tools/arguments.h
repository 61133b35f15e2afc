// ArgumentParser: what a command accepts on its command line, and the help that says so.
//
// Short options can be joined (-fv), values can follow (-o ro, --size 1G) or be attached (-oro, --size=1G); "--" ends
// the options. Options and operands may come in any order, as mount(8) hands them to its helpers.

#ifndef STAGEFS_TOOLS_ARGUMENTS_H_
#define STAGEFS_TOOLS_ARGUMENTS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace stagefs::tools {

// How a command was called.
struct Invocation {
  std::string name;      // "stagefs mkfs", or "mkfs.stagefs" when called as the helper of mkfs(8); for messages
  bool as_helper = false;
  std::vector<std::string> arguments;  // behind the name
};

class ArgumentParser {
 public:
  // `operands`: their names, for the usage line; exactly that many must be given, or more if the last name ends in
  // "...". `summary`: what the command does.
  ArgumentParser(const Invocation& invocation, std::vector<std::string> operands, std::string summary);

  // The targets must outlive Parse(). `short_name` is 0 if there is none, `long_name` empty. An empty `help` keeps the
  // option out of --help: accepted for the sake of a caller such as fsck(8), without effect.
  void AddFlag(char short_name, absl::string_view long_name, absl::string_view help, bool* target);
  // `set` is called with each value given; its error names what is wrong with the value.
  void AddValue(char short_name, absl::string_view long_name, absl::string_view value_name, absl::string_view help,
                std::function<absl::Status(absl::string_view)> set);
  void AddText(char short_name, absl::string_view long_name, absl::string_view value_name, absl::string_view help,
               std::string* target);
  // Sizes as sal::ParseSize() reads them: 64M, 16G, 8T.
  void AddSize(char short_name, absl::string_view long_name, absl::string_view help, uint64_t* target);

  // The operands. Errors: InvalidArgument, with a message for the user that says where help is. Cancelled: help was
  // asked for and has been printed; the command ends with success.
  absl::StatusOr<std::vector<std::string>> Parse();

  std::string Help() const;

 private:
  struct Option {
    char short_name = 0;
    std::string long_name;
    std::string value_name;  // empty: a flag
    std::string help;
    std::function<absl::Status(absl::string_view)> set;
  };

  absl::Status ParseLong(absl::string_view text, size_t* index);
  absl::Status ParseShort(absl::string_view text, size_t* index);
  absl::Status Apply(const Option& option, absl::string_view spelling, absl::string_view value) const;
  absl::Status Usage(absl::string_view message) const;

  const Invocation invocation_;
  const std::vector<std::string> operands_;
  const std::string summary_;
  std::vector<Option> options_;
};

// A count: decimal digits only.
absl::StatusOr<uint64_t> ParseCount(absl::string_view text);
// A duration in nanoseconds: "1s", "500ms", "2" (seconds). At least 1 ms, at most a day.
absl::StatusOr<uint64_t> ParseDurationNs(absl::string_view text);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_ARGUMENTS_H_

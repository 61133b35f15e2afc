#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include <cstdio>
#include <map>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "fs/fuse/options.h"
#include "sal/status_macros.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/mount_table.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

// The server's own text: JSON. See fuse::MountOptions::statistics.
absl::StatusOr<std::string> AskServer(const std::string& directory) {
  const auto mount = FindMount(directory);
  if (!mount.has_value()) {
    return absl::NotFoundError(absl::StrCat(directory, " is not a mount point (see mount(8) for those there are)"));
  }
  if (!IsStagefs(*mount)) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, " is mounted, but its type is ", mount->type, ", not stagefs"));
  }
  std::string text(64 << 10, '\0');
  const ssize_t length = getxattr(directory.c_str(), fuse::kStatisticsXattr, text.data(), text.size());
  if (length < 0) {
    // The latter two: it was asked while it was dying.
    if (errno == ENOTCONN || errno == ECONNABORTED || errno == ECANCELED) {
      return absl::UnavailableError(
          absl::StrCat("the server of ", directory, " is gone; what was acknowledged as durable is on ", mount->source,
                       ": run stagefs umount ", directory, ", then mount again"));
    }
    return absl::InternalError(absl::StrCat("asking the server of ", directory, ": ", strerror(errno)));
  }
  text.resize(length);
  return text;
}

// Members named *_bytes are shown in larger units, and "name"/"name_limit" pairs on one line with the share in use.
void PrintText(const std::vector<std::pair<std::string, std::string>>& members) {
  const std::map<std::string, std::string> by_name(members.begin(), members.end());
  const auto shown = [](absl::string_view name, const std::string& value) {
    uint64_t number = 0;
    const bool bytes = absl::StrContains(name, "bytes") && absl::SimpleAtoi(value, &number);
    return bytes ? SizeText(number) : value;
  };
  const auto limit_of = [&](const std::string& name) {
    if (name == "log_used_bytes") return by_name.find("log_capacity_bytes");
    const auto limit = by_name.find(name + "_limit");
    return limit != by_name.end() ? limit : name == "cached_blocks" ? by_name.find("cache_blocks_limit") : limit;
  };
  for (const auto& [name, value] : members) {
    if (absl::EndsWith(name, "_limit") || name == "log_capacity_bytes" || name == "failure") continue;
    std::string text = shown(name, value);
    if (const auto limit = limit_of(name); limit != by_name.end()) {
      double used = 0, most = 0;
      absl::StrAppend(&text, " of ", shown(name, limit->second));
      if (absl::SimpleAtod(value, &used) && absl::SimpleAtod(limit->second, &most) && most > 0) {
        absl::StrAppendFormat(&text, " (%.0f %%)", 100 * used / most);
      }
    }
    absl::PrintF("%-24s%s\n", name, text);
  }
  if (const auto failure = by_name.find("failure"); failure != by_name.end() && !failure->second.empty()) {
    absl::PrintF("\nThe volume is read-only since a failure: %s\n", failure->second);
  }
}

absl::Status Stat(const std::string& directory, bool json) {
  ASSIGN_OR_RETURN(const std::string text, AskServer(directory));
  if (json) {
    std::fputs(text.c_str(), stdout);
    if (!absl::EndsWith(text, "\n")) std::fputc('\n', stdout);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const auto members, ParseFlatJson(text));
  PrintText(members);
  return absl::OkStatus();
}

}  // namespace

int RunStat(const Invocation& invocation) {
  bool json = false;
  ArgumentParser parser(invocation, {"DIR"},
                        "Says how the server of the volume mounted at DIR fares: LSNs accepted and durable, fill of\n"
                        "the log, dirty blocks, cache, and, if the volume has turned read-only, why.");
  parser.AddFlag(0, "json", "print JSON", &json);
  const auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  const absl::Status result = operands.ok() ? Stat(operands->front(), json) : operands.status();
  if (result.ok()) return 0;
  PrintError(invocation, result);
  return 1;
}

}  // namespace stagefs::tools

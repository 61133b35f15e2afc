#include "tools/mount_table.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace stagefs::tools {

namespace {

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Spaces and the like are written as \040.
std::string Unescape(absl::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto octal = [&](size_t at) { return text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && i + 3 < text.size() && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      result += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      result += text[i];
    }
  }
  return result;
}

std::string RealPath(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> resolved(realpath(path.c_str(), nullptr), free);
  return resolved == nullptr ? "" : resolved.get();
}

std::string ReadLink(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof target);
  return length < 0 ? "" : std::string(target, length);
}

// The path with its parent resolved and its last part as it is.
std::string ResolveParent(std::string directory) {
  while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
  if (directory == "/") return directory;
  const size_t slash = directory.rfind('/');
  const std::string name = slash == std::string::npos ? directory : directory.substr(slash + 1);
  // "." and ".." name no entry of their parent: only resolving the whole path can tell what they are.
  if (name == "." || name == "..") return RealPath(directory);
  const std::string parent =
      RealPath(slash == std::string::npos ? "." : slash == 0 ? "/" : directory.substr(0, slash));
  if (parent.empty()) return "";
  return parent == "/" ? absl::StrCat("/", name) : absl::StrCat(parent, "/", name);
}

bool IsBelow(const std::string& path, const std::string& directory) {
  return absl::StartsWith(path, directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/' || directory == "/");
}

// Calls `visit` for each name in `directory` until it returns false.
template <typename Visit>
void ForEachName(const std::string& directory, Visit visit) {
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(opendir(directory.c_str()), closedir);
  if (stream == nullptr) return;
  while (const dirent* entry = readdir(stream.get())) {
    if (!visit(std::string(entry->d_name))) return;
  }
}

bool Uses(const std::string& process, const std::string& directory) {
  if (IsBelow(ReadLink(process + "/cwd"), directory) || IsBelow(ReadLink(process + "/root"), directory)) return true;
  bool found = false;
  ForEachName(process + "/fd", [&](const std::string& name) {
    found = IsBelow(ReadLink(absl::StrCat(process, "/fd/", name)), directory);
    return !found;
  });
  if (found) return true;
  return absl::StrContains(ReadText(process + "/maps"), absl::StrCat(" ", directory, "/"));
}

}  // namespace

std::vector<MountEntry> ParseMountInfo(absl::string_view text) {
  std::vector<MountEntry> entries;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    // 36 35 98:0 /root /directory options optional... - type source super-options
    const std::vector<absl::string_view> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    const std::vector<absl::string_view> left = absl::StrSplit(halves[0], ' ');
    const std::vector<absl::string_view> right = absl::StrSplit(halves[1], ' ');
    if (left.size() < 6 || right.size() < 2) continue;
    entries.push_back({std::string(left[2]), Unescape(left[4]), std::string(right[0]), Unescape(right[1])});
  }
  return entries;
}

std::optional<MountEntry> FindMount(const std::string& directory) {
  const std::vector<MountEntry> entries = ParseMountInfo(ReadText("/proc/self/mountinfo"));
  const auto find = [&](const std::string& path) -> std::optional<MountEntry> {
    for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
      if (entry->directory == path) return *entry;
    }
    return std::nullopt;
  };
  const std::string as_given = ResolveParent(directory);
  if (auto entry = find(as_given); entry.has_value() || as_given.empty()) return entry;
  return find(RealPath(directory));
}

std::optional<MountEntry> MountOf(const std::string& directory) {
  const std::string path = RealPath(directory);
  std::optional<MountEntry> found;
  // Of those at the same place the last one is on top.
  for (MountEntry& entry : ParseMountInfo(ReadText("/proc/self/mountinfo"))) {
    if (!IsBelow(path, entry.directory)) continue;
    if (!found.has_value() || entry.directory.size() >= found->directory.size()) found = std::move(entry);
  }
  return found;
}

bool IsStagefs(const MountEntry& entry) { return entry.type == "fuse.stagefs" || entry.type == "fuseblk.stagefs"; }

std::vector<std::string> UsersOf(const std::string& directory, size_t limit) {
  std::vector<std::string> users;
  ForEachName("/proc", [&](const std::string& pid) {
    const std::string process = "/proc/" + pid;
    if (absl::ascii_isdigit(pid[0]) && Uses(process, directory)) {
      users.push_back(absl::StrCat(absl::StripAsciiWhitespace(ReadText(process + "/comm")), " (", pid, ")"));
    }
    return users.size() < limit;
  });
  return users;
}

}  // namespace stagefs::tools

#include "tools/direct_access.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace stagefs::tools {
namespace {

constexpr char kRunDirectory[] = "/run/stagefs";

bool IsPath(absl::string_view address) { return address.find('/') != absl::string_view::npos; }

std::string Absolute(absl::string_view path) {
  return std::filesystem::absolute(std::string(path)).lexically_normal().string();
}

absl::Status TakeAddress(absl::string_view value, DirectAccess* target) {
  if (value.empty()) {
    target->beside_store = true;
    return absl::OkStatus();
  }
  if (!IsPath(value) && value.find(':') == absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("mount option dsa=", value, ": a path with a slash, or HOST:PORT, is expected"));
  }
  const std::string address = IsPath(value) ? Absolute(value) : std::string(value);
  std::vector<std::string>& all = target->addresses;
  if (std::find(all.begin(), all.end(), address) == all.end()) all.push_back(address);
  return absl::OkStatus();
}

}  // namespace

std::vector<fuse::ExtraOption> DirectAccessOptions(DirectAccess* target) {
  return {{"dsa", "ADDRESS", "direct access too, by the socket STORE.dsa, another path, or HOST:PORT (repeatable)",
           [target](absl::string_view value) { return TakeAddress(value, target); }, true},
          {"dsa_key", "FILE", "the keys of those who may come by HOST:PORT",
           [target](absl::string_view value) {
             target->key_file = Absolute(value);
             return absl::OkStatus();
           },
           false}};
}

absl::Status CheckDirectAccess(const DirectAccess& direct) {
  const auto remote = std::find_if(direct.addresses.begin(), direct.addresses.end(),
                                   [](const std::string& address) { return !IsPath(address); });
  if (remote != direct.addresses.end() && direct.key_file.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("mount option dsa=", *remote, " needs dsa_key=FILE: who comes over the network shows a key"));
  }
  if (remote == direct.addresses.end() && !direct.key_file.empty()) {
    return absl::InvalidArgumentError("mount option dsa_key is of no use without dsa=HOST:PORT");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> SocketOfStore(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0 || !(S_ISREG(status.st_mode) || S_ISBLK(status.st_mode))) {
    return absl::InvalidArgumentError(
        absl::StrCat("beside ", path, " there is no place for a socket; say where: -o dsa=/PATH"));
  }
  if (S_ISREG(status.st_mode)) return absl::StrCat(path, ".dsa");
  if (mkdir(kRunDirectory, 0755) != 0 && errno != EEXIST) {
    return absl::InternalError(absl::StrCat("cannot make ", kRunDirectory, ": ", strerror(errno)));
  }
  // As the client library does: a device has many names (/dev/mapper, /dev/disk/by-*).
  std::error_code ignored;
  std::filesystem::path device = std::filesystem::canonical(path, ignored);
  if (device.empty()) device = path;
  return absl::StrCat(kRunDirectory, "/", device.filename().string(), ".dsa");
}

}  // namespace stagefs::tools

#include "fs/dsa/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "fs/dsa/protocol.h"
#include "sal/status_macros.h"

namespace stagefs::dsa {
namespace {

constexpr size_t kMaxNameBytes = sizeof(HelloRequest::key_name) - 1;
constexpr size_t kMaxFileBytes = 16 << 20;  // whoever hands us /dev/zero
constexpr uint32_t kNoGroup = 65534;

absl::Status FileError(const std::string& path, absl::string_view what) {
  const std::string text = absl::StrCat("key file ", path, ": ", what, ": ", strerror(errno));
  return errno == ENOENT ? absl::NotFoundError(text) : absl::InternalError(text);
}

absl::StatusOr<std::string> ReadOpened(const std::string& path, int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) return FileError(path, "fstat");
  if (!S_ISREG(status.st_mode)) return absl::InvalidArgumentError(absl::StrCat("key file ", path, " is not a file"));
  if ((status.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "key file %s may be used by others than its owner (mode %03o); run: chmod 600 %s", path,
        status.st_mode & 07777, path));
  }
  std::string text;
  char buffer[4096];
  while (true) {
    const ssize_t count = read(fd, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FileError(path, "read");
    if (count == 0) return text;
    text.append(buffer, static_cast<size_t>(count));
    if (text.size() > kMaxFileBytes) return absl::InvalidArgumentError(absl::StrCat("key file ", path, " is too large"));
  }
}

bool TakeSecret(absl::string_view hex, std::array<uint8_t, kKeyBytes>* secret) {
  if (hex.size() != 2 * secret->size()) return false;
  for (const char digit : hex) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(digit))) return false;
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  memcpy(secret->data(), bytes.data(), secret->size());
  return true;
}

// 2^32 - 1 means "nobody" to the kernel.
bool TakeId(absl::string_view text, uint32_t* id) { return absl::SimpleAtoi(text, id) && *id != ~uint32_t{0}; }

bool TakeIdentity(absl::string_view text, Identity* identity) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  if (!TakeId(parts.first, &identity->uid)) return false;
  identity->gid = kNoGroup;
  if (text.find(':') == absl::string_view::npos) return true;
  std::vector<uint32_t> groups;
  for (const absl::string_view group : absl::StrSplit(parts.second, ',')) {
    if (!TakeId(group, &groups.emplace_back())) return false;
  }
  identity->gid = groups.front();
  identity->groups.assign(groups.begin() + 1, groups.end());
  return true;
}

}  // namespace

Keys::Keys() { MakeNonce(nobody_.secret.data()); }

absl::StatusOr<Keys> Keys::Load(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return FileError(path, "open");
  const absl::StatusOr<std::string> text = ReadOpened(path, fd);
  close(fd);
  RETURN_IF_ERROR(text.status());
  absl::StatusOr<Keys> keys = Parse(*text);
  if (!keys.ok()) return absl::InvalidArgumentError(absl::StrCat("key file ", path, ", ", keys.status().message()));
  return keys;
}

absl::StatusOr<Keys> Keys::Parse(absl::string_view text) {
  Keys keys;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const absl::Status status = keys.AddLine(line);
    if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", status.message()));
  }
  if (keys.empty()) return absl::InvalidArgumentError("there is no key in it");
  return keys;
}

absl::Status Keys::AddLine(absl::string_view line) {
  const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  if (words.size() < 3 || words.size() > 4) {
    return absl::InvalidArgumentError("NAME KEY UID[:GID[,GID...]] [ro] is expected");
  }
  Key key;
  if (words[0].size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a name has at most ", kMaxNameBytes, " bytes"));
  }
  if (!TakeSecret(words[1], &key.secret)) {
    return absl::InvalidArgumentError("a key is 64 hexadecimal digits (for one: openssl rand -hex 32)");
  }
  if (!TakeIdentity(words[2], &key.identity)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", words[2], "\" is not UID[:GID[,GID...]], in numbers"));
  }
  if (words.size() == 4 && words[3] != "ro") {
    return absl::InvalidArgumentError(absl::StrCat("\"", words[3], "\": only \"ro\" may follow"));
  }
  key.identity.read_only = words.size() == 4;
  if (!keys_.emplace(words[0], std::move(key)).second) {
    return absl::InvalidArgumentError(absl::StrCat("there is a key \"", words[0], "\" already"));
  }
  return absl::OkStatus();
}

const Key* Keys::Check(const std::string& name, const uint8_t client_nonce[32], const uint8_t server_nonce[32],
                       const uint8_t proof[32]) const {
  const auto found = keys_.find(name);
  const Key& key = found == keys_.end() ? nobody_ : found->second;
  const bool same = SameProof(ComputeProof(key.secret, kClientProofLabel, client_nonce, server_nonce, name), proof);
  return same && found != keys_.end() ? &key : nullptr;
}

std::array<uint8_t, 32> Keys::Prove(const std::string& name, const uint8_t client_nonce[32],
                                    const uint8_t server_nonce[32]) const {
  return ComputeProof(keys_.at(name).secret, kServerProofLabel, client_nonce, server_nonce, name);
}

}  // namespace stagefs::dsa

#include "fs/dsa/client/key_file.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#include <fstream>
#include <sstream>

#include "fs/dsa/protocol.h"

namespace stagefs::dsa {
namespace {

bool DecodeKey(const std::string& text, std::array<uint8_t, kKeyBytes>* key) {
  size_t decoded = 0;
  return text.size() == 2 * kKeyBytes &&
         sodium_hex2bin(key->data(), key->size(), text.data(), text.size(), nullptr, &decoded, nullptr) == 0 &&
         decoded == key->size();
}

}  // namespace

NamedKey::~NamedKey() { sodium_memzero(key.data(), key.size()); }

int ReadKeyFile(const std::string& path, NamedKey* key, std::string* error) {
  errno = 0;
  std::ifstream file(path);
  if (!file) {
    const int code = errno != 0 ? errno : EIO;
    *error = path + ": " + strerror(code);
    return -code;
  }
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string hex;
    if (!(words >> key->name) || key->name.front() == '#') continue;
    if (key->name.size() < sizeof(HelloRequest::key_name) && words >> hex && DecodeKey(hex, &key->key)) return 0;
    break;
  }
  *error = path + ": no line NAME KEY with a name of at most 31 bytes and a key of 64 hexadecimal digits";
  return -EINVAL;
}

}  // namespace stagefs::dsa

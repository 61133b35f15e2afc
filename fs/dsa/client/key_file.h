// The key that a program shows to a server on another machine: docs/direct-access.md#keys. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_KEY_FILE_H_
#define STAGEFS_FS_DSA_CLIENT_KEY_FILE_H_

#include <array>
#include <cstdint>
#include <string>

#include "fs/dsa/proof.h"

namespace stagefs::dsa {

struct NamedKey {
  ~NamedKey();  // wipes it
  std::string name;
  std::array<uint8_t, kKeyBytes> key = {};
};

// Reads the first line of `path` that is neither empty nor a comment (#): NAME HEXKEY, whatever follows. 0, -EINVAL (it
// is none), or the errno of reading.
int ReadKeyFile(const std::string& path, NamedKey* key, std::string* error);

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_KEY_FILE_H_

// Keys: who may connect from other machines, and as whom. docs/direct-access.md#keys.
//
// A line a key; '#' begins a comment:
//   NAME KEY UID[:GID[,GID...]] [ro]
// KEY is 64 hexadecimal digits. The first GID is the group of new files, the others are supplementary; without any it is
// nogroup (65534). "ro": whoever has the key may change nothing.

#ifndef STAGEFS_FS_DSA_KEYS_H_
#define STAGEFS_FS_DSA_KEYS_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fs/dsa/access.h"
#include "fs/dsa/proof.h"

namespace stagefs::dsa {

struct Key {
  std::array<uint8_t, kKeyBytes> secret = {};
  Identity identity;
};

// Constant after construction.
class Keys {
 public:
  // None: nobody gets in.
  Keys();
  // Errors: PermissionDenied (others than its owner may use the file), InvalidArgument (names the line; never the key),
  // NotFound, Internal.
  static absl::StatusOr<Keys> Load(const std::string& path);
  static absl::StatusOr<Keys> Parse(absl::string_view text);

  bool empty() const { return keys_.empty(); }
  // Whose key it is if `proof` is a client's of the key `name` over these nonces; else null. Takes as long for a name
  // that does not exist.
  const Key* Check(const std::string& name, const uint8_t client_nonce[32], const uint8_t server_nonce[32],
                   const uint8_t proof[32]) const;
  // The server's proof of the key `name`, which exists.
  std::array<uint8_t, 32> Prove(const std::string& name, const uint8_t client_nonce[32],
                                const uint8_t server_nonce[32]) const;

 private:
  absl::Status AddLine(absl::string_view line);

  absl::flat_hash_map<std::string, Key> keys_;
  Key nobody_;  // with a secret that nobody knows, for names that do not exist
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_KEYS_H_

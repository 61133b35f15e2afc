// Direct access as -o asks for it, and where its socket lies.

#ifndef STAGEFS_TOOLS_DIRECT_ACCESS_H_
#define STAGEFS_TOOLS_DIRECT_ACCESS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/fuse/options.h"

namespace stagefs::tools {

struct DirectAccess {
  bool beside_store = false;           // -o dsa
  std::vector<std::string> addresses;  // -o dsa=ADDRESS: absolute paths of sockets, or HOST:PORT
  std::string key_file;                // -o dsa_key=FILE, absolute

  bool wanted() const { return beside_store || !addresses.empty(); }
};

// The options dsa[=ADDRESS] and dsa_key=FILE, which fill `target`. Relative paths are taken from the current directory.
std::vector<fuse::ExtraOption> DirectAccessOptions(DirectAccess* target);

// Whether they fit together. Errors: InvalidArgument.
absl::Status CheckDirectAccess(const DirectAccess& direct);

// Where clients look for the server of the store at `path`: PATH.dsa beside an image file, /run/stagefs/NAME.dsa for a
// block device; that directory is made if need be. Errors: InvalidArgument (neither), Internal.
absl::StatusOr<std::string> SocketOfStore(const std::string& path);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_DIRECT_ACCESS_H_

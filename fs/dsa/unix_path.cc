#include "fs/dsa/unix_path.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

namespace stagefs::dsa {

UnixPath::UnixPath(const std::string& path) : error_(Fill(path)) {}

int UnixPath::Fill(const std::string& path) {
  std::string bounded = path;
  if (path.size() >= sizeof(address_.sun_path)) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ENAMETOOLONG;
    directory_ = OwnedFd(open(path.substr(0, slash + 1).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (directory_.get() < 0) return errno;
    bounded = "/proc/self/fd/" + std::to_string(directory_.get()) + path.substr(slash);
  }
  if (bounded.empty()) return EINVAL;
  if (bounded.size() >= sizeof(address_.sun_path)) return ENAMETOOLONG;
  address_.sun_family = AF_UNIX;
  memcpy(address_.sun_path, bounded.data(), bounded.size());
  return 0;
}

}  // namespace stagefs::dsa

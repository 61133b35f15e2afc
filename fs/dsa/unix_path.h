// UnixPath: the address of a Unix socket in the file system. Its path may be longer than the 107 bytes an address holds:
// then it is reached by way of its directory. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_UNIX_PATH_H_
#define STAGEFS_FS_DSA_UNIX_PATH_H_

#include <sys/socket.h>
#include <sys/un.h>

#include <string>

#include "sal/owned_fd.h"

namespace stagefs::dsa {

// Keeps the directory open as long as it lives: bind(2) and connect(2) want that.
class UnixPath {
 public:
  explicit UnixPath(const std::string& path);

  // 0, or an errno, and then there is no address: the path is empty, its directory cannot be opened, or the name in it
  // is too long.
  int error() const { return error_; }
  const sockaddr* address() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t size() const { return sizeof(address_); }

 private:
  int Fill(const std::string& path);

  sockaddr_un address_ = {};
  OwnedFd directory_;  // of a path that is too long
  int error_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_UNIX_PATH_H_

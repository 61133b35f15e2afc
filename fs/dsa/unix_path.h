// UnixPath: the address of a Unix socket in the file system, whose path may be longer than the 107 bytes an address holds:
// such a one is reached by way of its directory. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_UNIX_PATH_H_
#define STAGEFS_FS_DSA_UNIX_PATH_H_

#include <sys/socket.h>
#include <sys/un.h>

#include <string>

namespace stagefs::dsa {

// Keeps the directory open as long as it lives: bind(2) and connect(2) want that.
class UnixPath {
 public:
  explicit UnixPath(const std::string& path);
  UnixPath(const UnixPath&) = delete;
  UnixPath& operator=(const UnixPath&) = delete;
  ~UnixPath();

  // 0, or an errno: there is no address, its directory cannot be opened, the name in it is too long, or /proc is missing.
  int error() const { return error_; }
  const sockaddr* address() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t size() const { return sizeof(address_); }

 private:
  int Fill(const std::string& path);

  sockaddr_un address_ = {};
  int directory_ = -1;  // -1: the path is short
  int error_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_UNIX_PATH_H_

// OwnedFd: a file descriptor that closes itself. Part of libstagefs, too: it needs nothing but the standard library.

#ifndef STAGEFS_SAL_OWNED_FD_H_
#define STAGEFS_SAL_OWNED_FD_H_

#include <unistd.h>

#include <utility>

namespace stagefs {

class OwnedFd {
 public:
  explicit OwnedFd(int fd = -1) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(other.Release()) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  // The caller closes it.
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

}  // namespace stagefs

#endif  // STAGEFS_SAL_OWNED_FD_H_

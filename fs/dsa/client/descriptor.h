// Descriptor: a file descriptor that closes itself. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_DESCRIPTOR_H_
#define STAGEFS_FS_DSA_CLIENT_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace stagefs::dsa {

class Descriptor {
 public:
  explicit Descriptor(int descriptor = -1) : descriptor_(descriptor) {}
  Descriptor(Descriptor&& other) noexcept : descriptor_(other.Release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Descriptor() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  int get() const { return descriptor_; }
  // The caller closes it.
  int Release() { return std::exchange(descriptor_, -1); }

 private:
  int descriptor_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_DESCRIPTOR_H_

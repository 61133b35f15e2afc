// ServedVolume: a volume in memory, served by direct access at a socket of its own, for tests of programs.

#ifndef STAGEFS_FS_DSA_TESTING_SERVED_VOLUME_H_
#define STAGEFS_FS_DSA_TESTING_SERVED_VOLUME_H_

#include <memory>
#include <string>

namespace stagefs::dsa::testing {

class ServedVolume {
 public:
  // 256 MiB, empty. Aborts if that fails.
  ServedVolume();
  ~ServedVolume();
  ServedVolume(const ServedVolume&) = delete;
  ServedVolume& operator=(const ServedVolume&) = delete;

  // For dsa_connect().
  std::string address() const;

 private:
  struct Parts;
  const std::unique_ptr<Parts> parts_;
};

}  // namespace stagefs::dsa::testing

#endif  // STAGEFS_FS_DSA_TESTING_SERVED_VOLUME_H_

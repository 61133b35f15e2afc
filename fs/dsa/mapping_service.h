// MappingService: what maps files into the programs of local clients, as far as sessions use it.

#ifndef STAGEFS_FS_DSA_MAPPING_SERVICE_H_
#define STAGEFS_FS_DSA_MAPPING_SERVICE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "fs/volume/volume.h"

namespace stagefs::dsa {

// Programs of the same user (a user id) may share memory. Thread-safe; waits for no I/O. Errors carry an errno.
class MappingService {
 public:
  virtual ~MappingService() = default;
  // Counts a mapping of [offset, offset + length), whole pages, of a file that is kept open meanwhile. Returns a
  // descriptor to map, shared and for reading only, which the caller closes.
  virtual absl::StatusOr<int> Map(volume::Ino ino, uint32_t user, uint64_t offset, uint64_t length) = 0;
  // Takes one Map() back.
  virtual void Unmap(volume::Ino ino, uint32_t user) = 0;
  // The pages of that range are there when `done` runs, once, on any thread or inside the call.
  virtual void Populate(volume::Ino ino, uint32_t user, uint64_t offset, uint64_t length,
                        volume::StatusCallback done) = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_MAPPING_SERVICE_H_

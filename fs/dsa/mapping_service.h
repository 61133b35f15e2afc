// MappingService: what maps files into the programs of local clients, as far as sessions use it.

#ifndef STAGEFS_FS_DSA_MAPPING_SERVICE_H_
#define STAGEFS_FS_DSA_MAPPING_SERVICE_H_

#include <cstdint>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/volume/volume.h"

namespace stagefs::dsa {

// Thread-safe. `done` runs once, on any thread, or inside the call. Errors carry an errno.
class MappingService {
 public:
  virtual ~MappingService() = default;
  // The file's pages, for a client who wants [offset, offset + length), whole pages: a descriptor to map, shared and for
  // reading only, which the receiver closes. Counts a user of the file if it succeeds.
  virtual void Map(volume::Ino ino, uint64_t offset, uint64_t length,
                   absl::AnyInvocable<void(absl::StatusOr<int>) &&> done) = 0;
  // The pages of that range are there when `done` runs: whoever touches them waits for nothing.
  virtual void Populate(volume::Ino ino, uint64_t offset, uint64_t length,
                        absl::AnyInvocable<void(absl::Status) &&> done) = 0;
  // Takes back what one Map() has counted.
  virtual void Unmap(volume::Ino ino) = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_MAPPING_SERVICE_H_

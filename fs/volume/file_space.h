// fallocate and lseek: giving files space, taking it away, and finding where they have some.
//
// Everything here runs inside transaction bodies and passes on misses.

#ifndef STAGEFS_FS_VOLUME_FILE_SPACE_H_
#define STAGEFS_FS_VOLUME_FILE_SPACE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

// OK, EOPNOTSUPP (modes that Volume::Allocate() does not have), EINVAL (no length) or EFBIG.
absl::Status CheckAllocate(int mode, uint64_t offset, uint64_t length);
// Does as much of Allocate(mode) on bytes [offset, end) as fits one change; `next` is where the next one goes on.
absl::Status AllocateStep(VolumeState& state, Change& change, Ino ino, int mode, uint64_t offset, uint64_t end,
                          uint64_t* next);
// Where the next data, or the next hole, begins, from `offset` on. `whence`: SEEK_DATA or SEEK_HOLE. Space that was
// allocated and never written counts as data. ENXIO.
absl::Status SeekContent(VolumeState& state, Change& change, Ino ino, uint64_t offset, int whence, uint64_t* result);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_FILE_SPACE_H_

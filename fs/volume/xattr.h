// Extended attributes of inodes. Names of one hash share an item; larger values lie in items of their own.
//
// Everything here runs inside transaction bodies and passes on misses.

#ifndef STAGEFS_FS_VOLUME_XATTR_H_
#define STAGEFS_FS_VOLUME_XATTR_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

// Errors: ERANGE (a name of more than 255 bytes), EINVAL (an empty one, or unknown flags), E2BIG (a value of more than
// kMaxXattrBytes), EEXIST, ENODATA, ENOSPC.
absl::Status SetXattrValue(VolumeState& state, Change& change, Ino ino, absl::string_view name,
                           absl::string_view value, int flags);
absl::Status GetXattrValue(VolumeState& state, Change& change, Ino ino, absl::string_view name, std::string* result);
absl::Status ListXattrNames(VolumeState& state, Change& change, Ino ino, std::string* result);
absl::Status RemoveXattrValue(VolumeState& state, Change& change, Ino ino, absl::string_view name);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_XATTR_H_

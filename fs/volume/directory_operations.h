// What happens to names: the bodies of Volume's operations on directories. Each is all of one change.
//
// Everything here runs inside transaction bodies and passes on misses; errors are errnos (fs/volume/errno.h) as POSIX
// has them.

#ifndef STAGEFS_FS_VOLUME_DIRECTORY_OPERATIONS_H_
#define STAGEFS_FS_VOLUME_DIRECTORY_OPERATIONS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

absl::Status LookupName(VolumeState& state, Change& change, Ino directory, absl::string_view name, Attributes* result);
// Anything but a directory; `target` is a symlink's. If `open`, counts an opener.
absl::Status CreateName(VolumeState& state, Change& change, Ino directory, absl::string_view name, const NewFile& file,
                        absl::string_view target, bool open, Attributes* result);
absl::Status CreateDirectory(VolumeState& state, Change& change, Ino directory, absl::string_view name,
                             const NewFile& file, Attributes* result);
absl::Status CreateWithoutName(VolumeState& state, Change& change, const NewFile& file, Attributes* result);
absl::Status LinkName(VolumeState& state, Change& change, Ino ino, Ino directory, absl::string_view name,
                      Attributes* result);
absl::Status UnlinkName(VolumeState& state, Change& change, Ino directory, absl::string_view name);
absl::Status RemoveDirectoryName(VolumeState& state, Change& change, Ino directory, absl::string_view name);
absl::Status RenameName(VolumeState& state, Change& change, Ino directory, absl::string_view name, Ino new_directory,
                        absl::string_view new_name, uint32_t flags);
// See Volume::ReadDirectory(). Attributes that cannot be read (a bad block) have ino 0.
absl::Status ListDirectory(VolumeState& state, Change& change, Ino directory, uint64_t cookie, uint32_t max_entries,
                           bool with_attributes, std::vector<DirectoryEntry>* result);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_DIRECTORY_OPERATIONS_H_

// The entries of directories: names, by hash. Names of one hash share an item of the tree.
//
// Everything here runs inside transaction bodies and passes on misses. It keeps the directory's size (in the Inode that
// the caller holds and puts back), but neither times nor link counts.

#ifndef STAGEFS_FS_VOLUME_DIRECTORY_H_
#define STAGEFS_FS_VOLUME_DIRECTORY_H_

#include <sys/stat.h>

#include <cstdint>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/transaction.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

// What a name leads to.
struct EntryTarget {
  Ino ino = 0;
  uint8_t type = 0;  // mode >> 12
};

inline uint8_t EntryType(uint32_t mode) { return static_cast<uint8_t>((mode & S_IFMT) >> 12); }

// OK, ENAMETOOLONG, or EINVAL (empty, '/' or NUL inside, "." or "..").
absl::Status CheckName(absl::string_view name);

absl::StatusOr<std::optional<EntryTarget>> FindEntry(VolumeState& state, core::Transaction& tx, Ino directory,
                                                     absl::string_view name);
// EEXIST if the name is there. ENOSPC if too many names have this hash (no one who cannot see the seed meets that).
absl::Status AddEntry(VolumeState& state, core::Transaction& tx, Ino directory, Inode* inode, absl::string_view name,
                      EntryTarget target);
// Makes a name that is there lead elsewhere.
absl::Status SetEntry(VolumeState& state, core::Transaction& tx, Ino directory, absl::string_view name,
                      EntryTarget target);
// DataLoss if the name is not there: callers have looked.
absl::Status RemoveEntry(VolumeState& state, core::Transaction& tx, Ino directory, Inode* inode,
                         absl::string_view name);
absl::StatusOr<bool> IsEmptyDirectory(VolumeState& state, core::Transaction& tx, Ino directory);

// Calls `visit` with the entries behind `cookie`, in order of their cookies, until it returns false. The name is valid
// within the call.
absl::Status VisitEntries(VolumeState& state, core::Transaction& tx, Ino directory, uint64_t cookie,
                          absl::FunctionRef<bool(const Entry& entry, uint64_t cookie)> visit);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_DIRECTORY_H_

// Inodes as items of the tree: reading, making, changing and removing them.
//
// Everything here runs inside transaction bodies and passes on misses.

#ifndef STAGEFS_FS_VOLUME_INODE_H_
#define STAGEFS_FS_VOLUME_INODE_H_

#include <sys/stat.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/transaction.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

inline bool IsDirectory(const Inode& inode) { return S_ISDIR(inode.mode); }
inline bool IsRegular(const Inode& inode) { return S_ISREG(inode.mode); }

// The inode `ino`. `gone` is the errno if it does not exist, or is only waiting to be removed: ESTALE for operations on
// files, ENOENT for operations on names.
absl::StatusOr<Inode> GetInode(VolumeState& state, core::Transaction& tx, Ino ino, int gone);
// An inode whose existence other items promise, removable or not: DataLoss if it is not there.
absl::StatusOr<Inode> NeedInode(VolumeState& state, core::Transaction& tx, Ino ino);
absl::Status PutInode(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode);

// A directory that names may be looked up in or added to. ENOENT if it is gone or was removed; ENOTDIR.
absl::StatusOr<Inode> GetDirectory(VolumeState& state, core::Transaction& tx, Ino ino);
// A regular file. ESTALE if gone; EISDIR; EINVAL for what has no content.
absl::StatusOr<Inode> GetFile(VolumeState& state, core::Transaction& tx, Ino ino);

// Takes the next inode number and counts the inode, which the caller then puts.
absl::StatusOr<Ino> TakeInodeNumber(VolumeState& state, core::Transaction& tx);
// Removes the inode item and counts it out. All else that belonged to it must be gone.
absl::Status EraseInode(VolumeState& state, core::Transaction& tx, Ino ino);

// What a new inode in `directory` looks like (null: in none), with `nlink` links.
Inode NewInode(const Change& change, const NewFile& file, const Inode* directory, uint32_t nlink);
Attributes ToAttributes(Ino ino, const Inode& inode);

// The content or the names changed: mtime and ctime.
inline void TouchContent(const Change& change, Inode* inode) { inode->mtime_ns = inode->ctime_ns = change.now_ns; }
// The inode itself changed: ctime.
inline void TouchInode(const Change& change, Inode* inode) { inode->ctime_ns = change.now_ns; }
// Someone wrote to the file, or it changed hands: setuid goes, and setgid where it means execution.
void ClearSetIdBits(Inode* inode);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_INODE_H_

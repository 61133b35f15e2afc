#include "fs/volume/inode.h"

#include <cerrno>
#include <optional>

#include "absl/strings/str_cat.h"
#include "fs/volume/errno.h"
#include "sal/status_macros.h"

namespace stagefs::volume {

absl::StatusOr<Inode> GetInode(VolumeState& state, core::Transaction& tx, Ino ino, int gone) {
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, state.tree().Find(tx, InodeKey(ino)));
  if (!value.has_value()) return ErrnoStatus(gone);
  ASSIGN_OR_RETURN(const Inode inode, DecodeInode(*value));
  if (inode.nlink == 0 && !state.IsOpen(ino)) return ErrnoStatus(gone);
  return inode;
}

absl::StatusOr<Inode> NeedInode(VolumeState& state, core::Transaction& tx, Ino ino) {
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, state.tree().Find(tx, InodeKey(ino)));
  if (!value.has_value()) return absl::DataLossError(absl::StrCat("Inode ", ino, " is named but does not exist"));
  return DecodeInode(*value);
}

absl::Status PutInode(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode) {
  char bytes[kInodeBytes];
  EncodeInode(inode, bytes);
  return state.tree().Put(tx, InodeKey(ino), absl::string_view(bytes, sizeof(bytes)));
}

absl::StatusOr<Inode> GetDirectory(VolumeState& state, core::Transaction& tx, Ino ino) {
  ASSIGN_OR_RETURN(const Inode inode, GetInode(state, tx, ino, ENOENT));
  if (!IsDirectory(inode)) return ErrnoStatus(ENOTDIR);
  if (inode.nlink == 0) return ErrnoStatus(ENOENT);
  return inode;
}

absl::StatusOr<Inode> GetFile(VolumeState& state, core::Transaction& tx, Ino ino) {
  ASSIGN_OR_RETURN(const Inode inode, GetInode(state, tx, ino, ESTALE));
  if (IsDirectory(inode)) return ErrnoStatus(EISDIR);
  if (!IsRegular(inode)) return ErrnoStatus(EINVAL);
  return inode;
}

absl::StatusOr<Ino> TakeInodeNumber(VolumeState& state, core::Transaction& tx) {
  Ino ino = 0;
  RETURN_IF_ERROR(state.UpdateHeader(tx, [&](VolumeHeader& header) {
    ino = header.next_ino++;
    ++header.inode_count;
  }));
  return ino;
}

absl::Status EraseInode(VolumeState& state, core::Transaction& tx, Ino ino) {
  RETURN_IF_ERROR(state.Erase(tx, InodeKey(ino)));
  return state.UpdateHeader(tx, [](VolumeHeader& header) { --header.inode_count; });
}

Inode NewInode(const Change& change, const NewFile& file, const Inode* directory, uint32_t nlink) {
  Inode inode;
  inode.mode = file.mode;
  inode.nlink = nlink;
  inode.uid = file.uid;
  inode.gid = file.gid;
  inode.rdev = S_ISBLK(file.mode) || S_ISCHR(file.mode) ? file.rdev : 0;
  inode.atime_ns = inode.mtime_ns = inode.ctime_ns = inode.btime_ns = change.now_ns;
  if (directory != nullptr && (directory->mode & S_ISGID) != 0) {
    inode.gid = directory->gid;
    if (S_ISDIR(file.mode)) inode.mode |= S_ISGID;
  }
  return inode;
}

Attributes ToAttributes(Ino ino, const Inode& inode) {
  return Attributes{
      .ino = ino,
      .mode = inode.mode,
      .nlink = inode.nlink,
      .uid = inode.uid,
      .gid = inode.gid,
      .rdev = inode.rdev,
      .size_bytes = inode.size_bytes,
      .allocated_bytes = inode.blocks * core::kBlockBytes,
      .atime_ns = inode.atime_ns,
      .mtime_ns = inode.mtime_ns,
      .ctime_ns = inode.ctime_ns,
      .btime_ns = inode.btime_ns,
  };
}

void ClearSetIdBits(Inode* inode) {
  if (IsDirectory(*inode)) return;
  inode->mode &= ~uint32_t{S_ISUID};
  if ((inode->mode & S_IXGRP) != 0) inode->mode &= ~uint32_t{S_ISGID};
}

}  // namespace stagefs::volume

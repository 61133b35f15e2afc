// RenameName(): apart from the other operations on names because of its many rules.

#include <cerrno>
#include <cstdio>
#include <optional>

#include "absl/strings/str_cat.h"
#include "fs/volume/directory.h"
#include "fs/volume/directory_operations.h"
#include "fs/volume/errno.h"
#include "fs/volume/inode.h"
#include "fs/volume/orphans.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

// EINVAL if `directory` is `moved` or lies below it.
absl::Status CheckNotWithin(VolumeState& state, core::Transaction& tx, Ino directory, Ino moved) {
  ASSIGN_OR_RETURN(const VolumeHeader header, state.Header(tx));
  Ino at = directory;
  for (uint64_t steps = 0; steps <= header.inode_count; ++steps) {
    if (at == moved) return ErrnoStatus(EINVAL, "A directory cannot be moved into itself");
    if (at == kRootIno) return absl::OkStatus();
    ASSIGN_OR_RETURN(const Inode inode, NeedInode(state, tx, at));
    at = inode.parent;
  }
  return absl::DataLossError(absl::StrCat("The parents of directory ", directory, " lead in a circle"));
}

struct RenameEnd {
  Ino directory;
  Inode* parent;
  absl::string_view name;
  EntryTarget entry;
};

// Puts what `from` names to where `to` is. The entry there exists already, or is made by the caller.
absl::Status Reparent(VolumeState& state, Change& change, const RenameEnd& from, const RenameEnd& to, Inode* moved) {
  TouchInode(change, moved);
  if (IsDirectory(*moved) && from.directory != to.directory) {
    from.parent->nlink -= 1;
    to.parent->nlink += 1;
    moved->parent = to.directory;
  }
  return PutInode(state, change.tx, from.entry.ino, *moved);
}

// What the name that is renamed over leads to loses that name.
absl::Status RemoveReplaced(VolumeState& state, Change& change, const RenameEnd& to, bool by_directory,
                            const Inode& replaced) {
  if (by_directory && !IsDirectory(replaced)) return ErrnoStatus(ENOTDIR);
  if (!by_directory && IsDirectory(replaced)) return ErrnoStatus(EISDIR);
  if (IsDirectory(replaced)) {
    ASSIGN_OR_RETURN(const bool empty, IsEmptyDirectory(state, change.tx, to.entry.ino));
    if (!empty) return ErrnoStatus(ENOTEMPTY);
    to.parent->nlink -= 1;
  }
  return DropLink(state, change, to.entry.ino, replaced);
}

}  // namespace

absl::Status RenameName(VolumeState& state, Change& change, Ino directory, absl::string_view name, Ino new_directory,
                        absl::string_view new_name, uint32_t flags) {
  core::Transaction& tx = change.tx;
  state.SetNodeUse(SpaceUse::kFreeing);
  if (flags != 0 && flags != RENAME_NOREPLACE && flags != RENAME_EXCHANGE) return ErrnoStatus(EINVAL);
  RETURN_IF_ERROR(CheckName(name));
  RETURN_IF_ERROR(CheckName(new_name));
  ASSIGN_OR_RETURN(Inode old_parent, GetDirectory(state, tx, directory));
  ASSIGN_OR_RETURN(Inode other_parent, GetDirectory(state, tx, new_directory));
  RenameEnd from = {directory, &old_parent, name, {}};
  RenameEnd to = {new_directory, directory == new_directory ? &old_parent : &other_parent, new_name, {}};

  ASSIGN_OR_RETURN(const std::optional<EntryTarget> source, FindEntry(state, tx, directory, name));
  if (!source.has_value()) return ErrnoStatus(ENOENT);
  from.entry = *source;
  ASSIGN_OR_RETURN(const std::optional<EntryTarget> target, FindEntry(state, tx, new_directory, new_name));
  if (target.has_value()) {
    if (flags == RENAME_NOREPLACE) return ErrnoStatus(EEXIST);
    if (target->ino == source->ino) return absl::OkStatus();
    to.entry = *target;
  } else if (flags == RENAME_EXCHANGE) {
    return ErrnoStatus(ENOENT);
  }
  ASSIGN_OR_RETURN(Inode moved, NeedInode(state, tx, source->ino));
  if (IsDirectory(moved) && directory != new_directory) {
    RETURN_IF_ERROR(CheckNotWithin(state, tx, new_directory, source->ino));
    if (to.parent->nlink >= kMaxLinks) return ErrnoStatus(EMLINK);
  }
  Inode other;
  if (target.has_value()) {
    ASSIGN_OR_RETURN(other, NeedInode(state, tx, target->ino));
  }

  if (flags == RENAME_EXCHANGE) {
    if (IsDirectory(other) && directory != new_directory) {
      RETURN_IF_ERROR(CheckNotWithin(state, tx, directory, target->ino));
    }
    RETURN_IF_ERROR(SetEntry(state, tx, directory, name, to.entry));
    RETURN_IF_ERROR(SetEntry(state, tx, new_directory, new_name, from.entry));
    RETURN_IF_ERROR(Reparent(state, change, from, to, &moved));
    RETURN_IF_ERROR(Reparent(state, change, to, from, &other));
  } else {
    if (target.has_value()) {
      RETURN_IF_ERROR(RemoveReplaced(state, change, to, IsDirectory(moved), other));
      RETURN_IF_ERROR(SetEntry(state, tx, new_directory, new_name, from.entry));
    } else {
      RETURN_IF_ERROR(AddEntry(state, tx, new_directory, to.parent, new_name, from.entry));
    }
    RETURN_IF_ERROR(RemoveEntry(state, tx, directory, &old_parent, name));
    RETURN_IF_ERROR(Reparent(state, change, from, to, &moved));
  }
  TouchContent(change, &old_parent);
  RETURN_IF_ERROR(PutInode(state, tx, directory, old_parent));
  if (to.parent == &old_parent) return absl::OkStatus();
  TouchContent(change, &other_parent);
  return PutInode(state, tx, new_directory, other_parent);
}

}  // namespace stagefs::volume

#include "fs/volume/directory_operations.h"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>

#include "fs/volume/directory.h"
#include "fs/volume/errno.h"
#include "fs/volume/file_content.h"
#include "fs/volume/inode.h"
#include "fs/volume/orphans.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

// More than a front end's buffer holds; bounds the memory and the misses of one call.
constexpr uint32_t kMaxListedEntries = 1024;

// For names of new files: "." and ".." are there.
absl::Status CheckNewName(absl::string_view name) {
  return name == "." || name == ".." ? ErrnoStatus(EEXIST) : CheckName(name);
}

absl::Status PutSymlinkTarget(VolumeState& state, Change& change, Ino ino, Inode* inode, absl::string_view target) {
  if (target.empty()) return ErrnoStatus(ENOENT, "An empty symlink target");
  if (target.size() > kMaxSymlinkBytes) return ErrnoStatus(ENAMETOOLONG);
  if (target.size() <= kMaxInlineSymlinkBytes) {
    inode->flags |= kInodeInline;
    inode->size_bytes = target.size();
    return state.tree().Put(change.tx, InlineKey(ino), target);
  }
  return WriteContent(state, change, ino, inode, 0,
                      absl::MakeConstSpan(reinterpret_cast<const std::byte*>(target.data()), target.size()), {});
}

absl::StatusOr<EntryTarget> NeedEntry(VolumeState& state, core::Transaction& tx, Ino directory,
                                      absl::string_view name) {
  ASSIGN_OR_RETURN(const std::optional<EntryTarget> target, FindEntry(state, tx, directory, name));
  if (!target.has_value()) return ErrnoStatus(ENOENT);
  return *target;
}

}  // namespace

absl::Status LookupName(VolumeState& state, Change& change, Ino directory, absl::string_view name,
                        Attributes* result) {
  ASSIGN_OR_RETURN(const Inode parent, GetDirectory(state, change.tx, directory));
  Ino ino = directory;
  if (name == "..") {
    ino = parent.parent;
  } else if (name != ".") {
    RETURN_IF_ERROR(CheckName(name));
    ASSIGN_OR_RETURN(const EntryTarget target, NeedEntry(state, change.tx, directory, name));
    ino = target.ino;
  }
  ASSIGN_OR_RETURN(const Inode inode, NeedInode(state, change.tx, ino));
  *result = ToAttributes(ino, inode);
  return absl::OkStatus();
}

absl::Status CreateName(VolumeState& state, Change& change, Ino directory, absl::string_view name, const NewFile& file,
                        absl::string_view target, bool open, Attributes* result) {
  core::Transaction& tx = change.tx;
  RETURN_IF_ERROR(CheckNewName(name));
  ASSIGN_OR_RETURN(Inode parent, GetDirectory(state, tx, directory));
  ASSIGN_OR_RETURN(const Ino ino, TakeInodeNumber(state, tx));
  RETURN_IF_ERROR(AddEntry(state, tx, directory, &parent, name, {.ino = ino, .type = EntryType(file.mode)}));
  Inode inode = NewInode(change, file, &parent, 1);
  if (S_ISLNK(file.mode)) RETURN_IF_ERROR(PutSymlinkTarget(state, change, ino, &inode, target));
  TouchContent(change, &parent);
  RETURN_IF_ERROR(PutInode(state, tx, directory, parent));
  RETURN_IF_ERROR(PutInode(state, tx, ino, inode));
  if (open) tx.OnAccept([&state, ino](core::Lsn) { state.AddOpener(ino); });
  *result = ToAttributes(ino, inode);
  return absl::OkStatus();
}

absl::Status CreateDirectory(VolumeState& state, Change& change, Ino directory, absl::string_view name,
                             const NewFile& file, Attributes* result) {
  core::Transaction& tx = change.tx;
  RETURN_IF_ERROR(CheckNewName(name));
  ASSIGN_OR_RETURN(Inode parent, GetDirectory(state, tx, directory));
  if (parent.nlink >= kMaxLinks) return ErrnoStatus(EMLINK);
  ASSIGN_OR_RETURN(const Ino ino, TakeInodeNumber(state, tx));
  RETURN_IF_ERROR(AddEntry(state, tx, directory, &parent, name, {.ino = ino, .type = EntryType(S_IFDIR)}));
  NewFile as_directory = file;
  as_directory.mode = (file.mode & ~uint32_t{S_IFMT}) | S_IFDIR;
  Inode inode = NewInode(change, as_directory, &parent, 2);
  inode.parent = directory;
  parent.nlink += 1;
  TouchContent(change, &parent);
  RETURN_IF_ERROR(PutInode(state, tx, directory, parent));
  RETURN_IF_ERROR(PutInode(state, tx, ino, inode));
  *result = ToAttributes(ino, inode);
  return absl::OkStatus();
}

absl::Status CreateWithoutName(VolumeState& state, Change& change, const NewFile& file, Attributes* result) {
  core::Transaction& tx = change.tx;
  ASSIGN_OR_RETURN(const Ino ino, TakeInodeNumber(state, tx));
  const Inode inode = NewInode(change, file, nullptr, 0);
  RETURN_IF_ERROR(PutInode(state, tx, ino, inode));
  RETURN_IF_ERROR(PutOrphan(state, tx, ino, inode, 0));
  tx.OnAccept([&state, ino](core::Lsn) {
    state.AddOpener(ino);
    state.MarkOrphan(ino);
  });
  *result = ToAttributes(ino, inode);
  return absl::OkStatus();
}

absl::Status LinkName(VolumeState& state, Change& change, Ino ino, Ino directory, absl::string_view name,
                      Attributes* result) {
  core::Transaction& tx = change.tx;
  RETURN_IF_ERROR(CheckNewName(name));
  ASSIGN_OR_RETURN(Inode parent, GetDirectory(state, tx, directory));
  ASSIGN_OR_RETURN(Inode inode, GetInode(state, tx, ino, ESTALE));
  if (IsDirectory(inode)) return ErrnoStatus(EPERM);
  if (inode.nlink >= kMaxLinks) return ErrnoStatus(EMLINK);
  RETURN_IF_ERROR(AddEntry(state, tx, directory, &parent, name, {.ino = ino, .type = EntryType(inode.mode)}));
  inode.nlink += 1;
  if (inode.nlink == 1) RETURN_IF_ERROR(ForgetOrphan(state, tx, ino, inode));
  TouchInode(change, &inode);
  TouchContent(change, &parent);
  RETURN_IF_ERROR(PutInode(state, tx, directory, parent));
  RETURN_IF_ERROR(PutInode(state, tx, ino, inode));
  *result = ToAttributes(ino, inode);
  return absl::OkStatus();
}

absl::Status UnlinkName(VolumeState& state, Change& change, Ino directory, absl::string_view name) {
  core::Transaction& tx = change.tx;
  state.SetNodeUse(SpaceUse::kFreeing);
  RETURN_IF_ERROR(CheckName(name));
  ASSIGN_OR_RETURN(Inode parent, GetDirectory(state, tx, directory));
  ASSIGN_OR_RETURN(const EntryTarget target, NeedEntry(state, tx, directory, name));
  ASSIGN_OR_RETURN(Inode inode, NeedInode(state, tx, target.ino));
  if (IsDirectory(inode)) return ErrnoStatus(EISDIR);
  RETURN_IF_ERROR(RemoveEntry(state, tx, directory, &parent, name));
  TouchContent(change, &parent);
  RETURN_IF_ERROR(PutInode(state, tx, directory, parent));
  return DropLink(state, change, target.ino, inode);
}

absl::Status RemoveDirectoryName(VolumeState& state, Change& change, Ino directory, absl::string_view name) {
  core::Transaction& tx = change.tx;
  state.SetNodeUse(SpaceUse::kFreeing);
  if (name == "..") return ErrnoStatus(ENOTEMPTY);
  RETURN_IF_ERROR(CheckName(name));
  ASSIGN_OR_RETURN(Inode parent, GetDirectory(state, tx, directory));
  ASSIGN_OR_RETURN(const EntryTarget target, NeedEntry(state, tx, directory, name));
  ASSIGN_OR_RETURN(Inode inode, NeedInode(state, tx, target.ino));
  if (!IsDirectory(inode)) return ErrnoStatus(ENOTDIR);
  ASSIGN_OR_RETURN(const bool empty, IsEmptyDirectory(state, tx, target.ino));
  if (!empty) return ErrnoStatus(ENOTEMPTY);
  RETURN_IF_ERROR(RemoveEntry(state, tx, directory, &parent, name));
  parent.nlink -= 1;
  TouchContent(change, &parent);
  RETURN_IF_ERROR(PutInode(state, tx, directory, parent));
  return DropLink(state, change, target.ino, inode);
}

absl::Status ListDirectory(VolumeState& state, Change& change, Ino directory, uint64_t cookie, uint32_t max_entries,
                           bool with_attributes, std::vector<DirectoryEntry>* result) {
  core::Transaction& tx = change.tx;
  ASSIGN_OR_RETURN(const Inode inode, GetInode(state, tx, directory, ENOENT));
  if (!IsDirectory(inode)) return ErrnoStatus(ENOTDIR);
  if (inode.nlink == 0) return absl::OkStatus();  // removed, but open
  const size_t limit = std::clamp<uint32_t>(max_entries, 1, kMaxListedEntries);
  const auto add = [&](absl::string_view name, Ino ino, uint32_t type, uint64_t entry_cookie) {
    if (result->size() == limit) return false;
    DirectoryEntry& entry = result->emplace_back();
    entry.name.assign(name.data(), name.size());
    entry.ino = ino;
    entry.type = type;
    entry.cookie = entry_cookie;
    return true;
  };
  if (cookie < 1) add(".", directory, S_IFDIR, 1);
  if (cookie < 2) add("..", inode.parent, S_IFDIR, 2);
  RETURN_IF_ERROR(VisitEntries(state, tx, directory, cookie, [&](const Entry& entry, uint64_t entry_cookie) {
    return add(entry.name, entry.ino, uint32_t{entry.type} << 12, entry_cookie);
  }));
  if (!with_attributes) return absl::OkStatus();
  absl::Status miss;
  for (DirectoryEntry& entry : *result) {
    const absl::StatusOr<Inode> attributes = NeedInode(state, tx, entry.ino);
    if (attributes.ok()) {
      entry.attributes = ToAttributes(entry.ino, *attributes);
    } else if (!absl::IsDataLoss(attributes.status())) {
      // Going on after a miss names the other blocks that are needed, so that they are loaded together.
      miss = attributes.status();
    }
  }
  return miss;
}

}  // namespace stagefs::volume

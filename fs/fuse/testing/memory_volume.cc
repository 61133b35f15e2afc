#include "fs/fuse/testing/memory_volume.h"

#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/types.h"
#include "fs/fuse/testing/memory_pages.h"
#include "fs/volume/errno.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::fuse::testing {

using core::kBlockBytes;
using volume::Attributes;
using volume::ErrnoStatus;
using volume::Ino;

namespace {

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

struct MemoryVolume::Inode {
  struct Entry {
    InodeRef inode;
    uint64_t cookie;
  };

  // Guarded by names_mutex_.
  std::unordered_map<std::string, Entry> entries;
  std::map<uint64_t, std::string> names_by_cookie;
  uint64_t next_cookie = 3;  // 1 and 2 are "." and ".."
  Ino parent = 0;
  uint32_t openers = 0;

  Mutex mutex;
  // Guarded by `mutex`; nlink is changed under names_mutex_, too.
  Attributes attributes;
  MemoryPages pages;
  std::map<std::string, std::string, std::less<>> xattrs;
  std::string target;

  bool is_directory() const { return S_ISDIR(attributes.mode); }

  Attributes Get() {
    MutexLock lock(&mutex);
    Attributes copy = attributes;
    copy.allocated_bytes = pages.allocated_bytes();
    return copy;
  }

  void AddLinks(int count) {
    MutexLock lock(&mutex);
    attributes.nlink += count;
    attributes.ctime_ns = Now();
  }

  void Touch() {
    MutexLock lock(&mutex);
    attributes.mtime_ns = attributes.ctime_ns = Now();
  }

  void ResizeLocked(uint64_t size) {
    if (size < attributes.size_bytes) pages.Zero(size, UINT64_MAX);
    attributes.size_bytes = size;
  }
};

MemoryVolume::MemoryVolume() {
  MutexLock lock(&names_mutex_);
  auto root = std::make_shared<Inode>();
  root->attributes.ino = root->parent = next_ino_++;
  root->attributes.mode = S_IFDIR | 0755;
  root->attributes.nlink = 2;
  root->attributes.uid = getuid();
  root->attributes.gid = getgid();
  root->attributes.atime_ns = root->attributes.mtime_ns = root->attributes.ctime_ns = root->attributes.btime_ns = Now();
  inodes_[volume::kRootIno] = root;
}

MemoryVolume::~MemoryVolume() = default;

absl::Status MemoryVolume::CheckWritable() const {
  return failed_.load() ? absl::FailedPreconditionError("the volume has failed") : absl::OkStatus();
}

absl::StatusOr<MemoryVolume::InodeRef> MemoryVolume::FindLocked(Ino ino) {
  const auto found = inodes_.find(ino);
  if (found == inodes_.end()) return ErrnoStatus(ESTALE);
  return found->second;
}

absl::StatusOr<MemoryVolume::InodeRef> MemoryVolume::Find(Ino ino) {
  MutexLock lock(&names_mutex_);
  return FindLocked(ino);
}

absl::StatusOr<MemoryVolume::InodeRef> MemoryVolume::FindEntryLocked(const InodeRef& directory,
                                                                     absl::string_view name) {
  if (!directory->is_directory()) return ErrnoStatus(ENOTDIR);
  if (name.size() > volume::kMaxNameBytes) return ErrnoStatus(ENAMETOOLONG);
  if (name == ".") return directory;
  if (name == "..") return FindLocked(directory->parent);
  const auto found = directory->entries.find(std::string(name));
  if (found == directory->entries.end()) return ErrnoStatus(ENOENT);
  return found->second.inode;
}

void MemoryVolume::AddEntryLocked(const InodeRef& directory, absl::string_view name, const InodeRef& inode) {
  const uint64_t cookie = directory->next_cookie++;
  directory->entries[std::string(name)] = {inode, cookie};
  directory->names_by_cookie[cookie] = std::string(name);
  if (inode->is_directory()) {
    inode->parent = directory->attributes.ino;
    directory->AddLinks(1);
  }
  directory->Touch();
}

void MemoryVolume::TakeEntryLocked(const InodeRef& directory, absl::string_view name) {
  const auto found = directory->entries.find(std::string(name));
  if (found->second.inode->is_directory()) directory->AddLinks(-1);
  directory->names_by_cookie.erase(found->second.cookie);
  directory->entries.erase(found);
  directory->Touch();
}

void MemoryVolume::DropIfUnusedLocked(const InodeRef& inode) {
  if (inode->Get().nlink == 0 && inode->openers == 0) inodes_.erase(inode->attributes.ino);
}

void MemoryVolume::Lookup(Ino directory, absl::string_view name, volume::Callback<Attributes> done) {
  const auto found = [&]() -> absl::StatusOr<Attributes> {
    MutexLock lock(&names_mutex_);
    ASSIGN_OR_RETURN(const InodeRef parent, FindLocked(directory));
    ASSIGN_OR_RETURN(const InodeRef inode, FindEntryLocked(parent, name));
    return inode->Get();
  }();
  std::move(done)(found);
}

absl::StatusOr<Attributes> MemoryVolume::Make(Ino directory, absl::string_view name, const volume::NewFile& file,
                                              absl::string_view target, bool open) {
  RETURN_IF_ERROR(CheckWritable());
  MutexLock lock(&names_mutex_);
  auto inode = std::make_shared<Inode>();
  InodeRef parent;
  if (directory != 0) {
    ASSIGN_OR_RETURN(parent, FindLocked(directory));
    const absl::Status existing = FindEntryLocked(parent, name).status();
    if (existing.ok()) return ErrnoStatus(EEXIST);
    if (volume::ToErrno(existing) != ENOENT) return existing;
    if (parent->Get().nlink == 0) return ErrnoStatus(ENOENT);
  }
  Attributes& attributes = inode->attributes;
  attributes.ino = next_ino_++;
  attributes.mode = file.mode;
  attributes.uid = file.uid;
  attributes.gid = file.gid;
  attributes.rdev = file.rdev;
  attributes.atime_ns = attributes.mtime_ns = attributes.ctime_ns = attributes.btime_ns = Now();
  attributes.nlink = parent == nullptr ? 0 : S_ISDIR(file.mode) ? 2 : 1;
  attributes.size_bytes = target.size();
  if (parent != nullptr && (parent->Get().mode & S_ISGID)) {
    attributes.gid = parent->Get().gid;
    if (S_ISDIR(file.mode)) attributes.mode |= S_ISGID;
  }
  inode->target = std::string(target);
  inode->openers = open ? 1 : 0;
  inodes_[attributes.ino] = inode;
  if (parent != nullptr) AddEntryLocked(parent, name, inode);
  return inode->Get();
}

void MemoryVolume::Create(Ino directory, absl::string_view name, const volume::NewFile& file, bool open,
                          volume::Callback<Attributes> done) {
  std::move(done)(Make(directory, name, file, "", open));
}

void MemoryVolume::MakeDirectory(Ino directory, absl::string_view name, const volume::NewFile& file,
                                 volume::Callback<Attributes> done) {
  std::move(done)(Make(directory, name, file, "", false));
}

void MemoryVolume::MakeSymlink(Ino directory, absl::string_view name, absl::string_view target,
                               const volume::NewFile& file, volume::Callback<Attributes> done) {
  std::move(done)(Make(directory, name, file, target, false));
}

void MemoryVolume::CreateUnnamed(const volume::NewFile& file, volume::Callback<Attributes> done) {
  std::move(done)(Make(0, "", file, "", true));
}

absl::StatusOr<Attributes> MemoryVolume::LinkNow(Ino ino, Ino directory, absl::string_view name) {
  RETURN_IF_ERROR(CheckWritable());
  MutexLock lock(&names_mutex_);
  ASSIGN_OR_RETURN(const InodeRef inode, FindLocked(ino));
  ASSIGN_OR_RETURN(const InodeRef parent, FindLocked(directory));
  const absl::Status existing = FindEntryLocked(parent, name).status();
  if (existing.ok()) return ErrnoStatus(EEXIST);
  if (volume::ToErrno(existing) != ENOENT) return existing;
  inode->AddLinks(1);
  AddEntryLocked(parent, name, inode);
  return inode->Get();
}

void MemoryVolume::Link(Ino ino, Ino directory, absl::string_view name, volume::Callback<Attributes> done) {
  std::move(done)(LinkNow(ino, directory, name));
}

absl::Status MemoryVolume::Remove(Ino directory, absl::string_view name, bool is_directory) {
  RETURN_IF_ERROR(CheckWritable());
  MutexLock lock(&names_mutex_);
  ASSIGN_OR_RETURN(const InodeRef parent, FindLocked(directory));
  ASSIGN_OR_RETURN(const InodeRef inode, FindEntryLocked(parent, name));
  if (is_directory != inode->is_directory()) return ErrnoStatus(is_directory ? ENOTDIR : EISDIR);
  if (!inode->entries.empty()) return ErrnoStatus(ENOTEMPTY);
  TakeEntryLocked(parent, name);
  inode->AddLinks(is_directory ? -2 : -1);
  DropIfUnusedLocked(inode);
  return absl::OkStatus();
}

void MemoryVolume::Unlink(Ino directory, absl::string_view name, volume::StatusCallback done) {
  std::move(done)(Remove(directory, name, false));
}

void MemoryVolume::RemoveDirectory(Ino directory, absl::string_view name, volume::StatusCallback done) {
  std::move(done)(Remove(directory, name, true));
}

absl::Status MemoryVolume::RenameNow(Ino directory, absl::string_view name, Ino new_directory,
                                     absl::string_view new_name, uint32_t flags) {
  RETURN_IF_ERROR(CheckWritable());
  MutexLock lock(&names_mutex_);
  ASSIGN_OR_RETURN(const InodeRef from, FindLocked(directory));
  ASSIGN_OR_RETURN(const InodeRef to, FindLocked(new_directory));
  ASSIGN_OR_RETURN(const InodeRef inode, FindEntryLocked(from, name));
  const absl::StatusOr<InodeRef> other = FindEntryLocked(to, new_name);
  if (!other.ok() && volume::ToErrno(other.status()) != ENOENT) return other.status();
  if (other.ok() && (flags & RENAME_NOREPLACE)) return ErrnoStatus(EEXIST);
  if (flags & RENAME_EXCHANGE) {
    if (!other.ok()) return other.status();
    TakeEntryLocked(from, name);
    TakeEntryLocked(to, new_name);
    AddEntryLocked(from, name, *other);
    AddEntryLocked(to, new_name, inode);
    return absl::OkStatus();
  }
  if (other.ok()) {
    if (*other == inode) return absl::OkStatus();
    if ((*other)->is_directory() != inode->is_directory()) {
      return ErrnoStatus(inode->is_directory() ? ENOTDIR : EISDIR);
    }
    if (!(*other)->entries.empty()) return ErrnoStatus(ENOTEMPTY);
    TakeEntryLocked(to, new_name);
    (*other)->AddLinks((*other)->is_directory() ? -2 : -1);
    DropIfUnusedLocked(*other);
  }
  TakeEntryLocked(from, name);
  AddEntryLocked(to, new_name, inode);
  inode->AddLinks(0);
  return absl::OkStatus();
}

void MemoryVolume::Rename(Ino directory, absl::string_view name, Ino new_directory, absl::string_view new_name,
                          uint32_t flags, volume::StatusCallback done) {
  std::move(done)(RenameNow(directory, name, new_directory, new_name, flags));
}

void MemoryVolume::ReadSymlink(Ino ino, volume::Callback<std::string> done) {
  const absl::StatusOr<InodeRef> inode = Find(ino);
  if (!inode.ok()) return std::move(done)(inode.status());
  std::move(done)((*inode)->target);
}

void MemoryVolume::ReadDirectory(Ino directory, uint64_t cookie, uint32_t max_entries, bool with_attributes,
                                 volume::Callback<std::vector<volume::DirectoryEntry>> done) {
  using Entries = std::vector<volume::DirectoryEntry>;
  auto entries = [&]() -> absl::StatusOr<Entries> {
    MutexLock lock(&names_mutex_);
    ASSIGN_OR_RETURN(const InodeRef parent, FindLocked(directory));
    if (!parent->is_directory()) return ErrnoStatus(ENOTDIR);
    Entries list;
    const auto add = [&](absl::string_view name, const InodeRef& inode, uint64_t its_cookie) {
      volume::DirectoryEntry& entry = list.emplace_back();
      entry.name = std::string(name);
      entry.ino = inode->attributes.ino;
      entry.cookie = its_cookie;
      const Attributes attributes = inode->Get();
      entry.type = attributes.mode & S_IFMT;
      if (with_attributes) entry.attributes = attributes;
    };
    if (cookie < 1) add(".", parent, 1);
    if (cookie < 2 && list.size() < max_entries) {
      ASSIGN_OR_RETURN(const InodeRef above, FindLocked(parent->parent));
      add("..", above, 2);
    }
    for (auto next = parent->names_by_cookie.upper_bound(cookie);
         next != parent->names_by_cookie.end() && list.size() < max_entries; ++next) {
      add(next->second, parent->entries.find(next->second)->second.inode, next->first);
    }
    return list;
  }();
  std::move(done)(std::move(entries));
}

void MemoryVolume::GetAttributes(Ino ino, volume::Callback<Attributes> done) {
  const absl::StatusOr<InodeRef> inode = Find(ino);
  if (!inode.ok()) return std::move(done)(inode.status());
  std::move(done)((*inode)->Get());
}

void MemoryVolume::SetAttributes(Ino ino, const volume::AttributeChange& change, volume::Callback<Attributes> done) {
  const absl::Status writable = CheckWritable();
  if (!writable.ok()) return std::move(done)(writable);
  const absl::StatusOr<InodeRef> inode = Find(ino);
  if (!inode.ok()) return std::move(done)(inode.status());
  {
    MutexLock lock(&(*inode)->mutex);
    Attributes& attributes = (*inode)->attributes;
    const int64_t now = Now();
    if (change.mode) attributes.mode = (attributes.mode & S_IFMT) | *change.mode;
    if (change.uid) attributes.uid = *change.uid;
    if (change.gid) attributes.gid = *change.gid;
    if (change.size_bytes) {
      (*inode)->ResizeLocked(*change.size_bytes);
      attributes.mtime_ns = now;
    }
    if (change.atime_ns) attributes.atime_ns = *change.atime_ns;
    if (change.mtime_ns) attributes.mtime_ns = *change.mtime_ns;
    attributes.ctime_ns = change.ctime_ns.value_or(now);
  }
  std::move(done)((*inode)->Get());
}

void MemoryVolume::Open(Ino ino, bool truncate, volume::Callback<Attributes> done) {
  const auto opened = [&]() -> absl::StatusOr<Attributes> {
    if (truncate) RETURN_IF_ERROR(CheckWritable());
    MutexLock lock(&names_mutex_);
    ASSIGN_OR_RETURN(const InodeRef inode, FindLocked(ino));
    ++inode->openers;
    if (truncate) {
      MutexLock content_lock(&inode->mutex);
      inode->ResizeLocked(0);
      inode->attributes.mtime_ns = inode->attributes.ctime_ns = Now();
    }
    return inode->Get();
  }();
  std::move(done)(opened);
}

void MemoryVolume::Release(Ino ino) {
  MutexLock lock(&names_mutex_);
  const absl::StatusOr<InodeRef> inode = FindLocked(ino);
  STAGEFS_CHECK(inode.ok() && (*inode)->openers > 0);
  --(*inode)->openers;
  DropIfUnusedLocked(*inode);
}

void MemoryVolume::Read(Ino ino, uint64_t offset, absl::Span<std::byte> destination, volume::Callback<size_t> done) {
  const absl::StatusOr<InodeRef> found = Find(ino);
  if (!found.ok()) return std::move(done)(found.status());
  Inode& inode = **found;
  size_t size = 0;
  {
    MutexLock lock(&inode.mutex);
    const uint64_t end = inode.attributes.size_bytes;
    if (offset < end) size = std::min<uint64_t>(destination.size(), end - offset);
    inode.pages.Read(offset, destination.subspan(0, size));
  }
  std::move(done)(size);
}

void MemoryVolume::Write(Ino ino, uint64_t offset, absl::Span<const std::byte> bytes, bool append,
                         volume::Callback<size_t> done) {
  const absl::Status writable = CheckWritable();
  if (!writable.ok()) return std::move(done)(writable);
  const absl::StatusOr<InodeRef> found = Find(ino);
  if (!found.ok()) return std::move(done)(found.status());
  Inode& inode = **found;
  {
    MutexLock lock(&inode.mutex);
    if (append) offset = inode.attributes.size_bytes;
    inode.pages.Write(offset, bytes);
    inode.attributes.size_bytes = std::max(inode.attributes.size_bytes, offset + bytes.size());
    inode.attributes.mtime_ns = inode.attributes.ctime_ns = Now();
  }
  std::move(done)(bytes.size());
}

void MemoryVolume::Allocate(Ino ino, int mode, uint64_t offset, uint64_t length, volume::StatusCallback done) {
  const absl::Status writable = CheckWritable();
  if (!writable.ok()) return std::move(done)(writable);
  const bool keep_size = mode & FALLOC_FL_KEEP_SIZE;
  const int kind = mode & ~FALLOC_FL_KEEP_SIZE;
  if (kind != 0 && kind != FALLOC_FL_ZERO_RANGE && !(kind == FALLOC_FL_PUNCH_HOLE && keep_size)) {
    return std::move(done)(ErrnoStatus(EOPNOTSUPP));
  }
  const absl::StatusOr<InodeRef> found = Find(ino);
  if (!found.ok()) return std::move(done)(found.status());
  Inode& inode = **found;
  {
    MutexLock lock(&inode.mutex);
    const uint64_t end = offset + length;
    if (kind != 0) inode.pages.Zero(offset, end);
    if (kind != FALLOC_FL_PUNCH_HOLE) {
      inode.pages.Fill(offset, end);
      if (!keep_size) inode.attributes.size_bytes = std::max(inode.attributes.size_bytes, end);
    }
    inode.attributes.mtime_ns = inode.attributes.ctime_ns = Now();
  }
  std::move(done)(absl::OkStatus());
}

// The mount has no use for it.
void MemoryVolume::WriteGroup(std::vector<volume::ContentChange>, volume::Callback<volume::GroupResult> done) {
  std::move(done)(volume::ErrnoStatus(EOPNOTSUPP));
}

void MemoryVolume::Seek(Ino ino, uint64_t offset, int whence, volume::Callback<uint64_t> done) {
  const absl::StatusOr<InodeRef> found = Find(ino);
  if (!found.ok()) return std::move(done)(found.status());
  Inode& inode = **found;
  const auto position = [&]() -> absl::StatusOr<uint64_t> {
    MutexLock lock(&inode.mutex);
    const uint64_t end = inode.attributes.size_bytes;
    if (offset >= end) return ErrnoStatus(ENXIO);
    if (whence == SEEK_HOLE) return std::min(end, inode.pages.FindHole(offset));
    const std::optional<uint64_t> data = inode.pages.FindData(offset);
    if (!data.has_value() || *data >= end) return ErrnoStatus(ENXIO);
    return *data;
  }();
  std::move(done)(position);
}

void MemoryVolume::SetXattr(Ino ino, absl::string_view name, absl::string_view value, int flags,
                            volume::StatusCallback done) {
  const absl::Status status = [&]() -> absl::Status {
    RETURN_IF_ERROR(CheckWritable());
    ASSIGN_OR_RETURN(const InodeRef inode, Find(ino));
    MutexLock lock(&inode->mutex);
    const bool exists = inode->xattrs.count(std::string(name)) != 0;
    if (exists && (flags & XATTR_CREATE)) return ErrnoStatus(EEXIST);
    if (!exists && (flags & XATTR_REPLACE)) return ErrnoStatus(ENODATA);
    inode->xattrs[std::string(name)] = std::string(value);
    inode->attributes.ctime_ns = Now();
    return absl::OkStatus();
  }();
  std::move(done)(status);
}

void MemoryVolume::GetXattr(Ino ino, absl::string_view name, volume::Callback<std::string> done) {
  const auto value = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const InodeRef inode, Find(ino));
    MutexLock lock(&inode->mutex);
    const auto found = inode->xattrs.find(std::string(name));
    if (found == inode->xattrs.end()) return ErrnoStatus(ENODATA);
    return found->second;
  }();
  std::move(done)(value);
}

void MemoryVolume::ListXattrs(Ino ino, volume::Callback<std::string> done) {
  const auto names = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const InodeRef inode, Find(ino));
    MutexLock lock(&inode->mutex);
    std::string list;
    for (const auto& [name, value] : inode->xattrs) list += name + '\0';
    return list;
  }();
  std::move(done)(names);
}

void MemoryVolume::RemoveXattr(Ino ino, absl::string_view name, volume::StatusCallback done) {
  const absl::Status status = [&]() -> absl::Status {
    RETURN_IF_ERROR(CheckWritable());
    ASSIGN_OR_RETURN(const InodeRef inode, Find(ino));
    MutexLock lock(&inode->mutex);
    return inode->xattrs.erase(std::string(name)) == 1 ? absl::OkStatus() : ErrnoStatus(ENODATA);
  }();
  std::move(done)(status);
}

void MemoryVolume::GetStatFs(volume::Callback<volume::StatFs> done) {
  volume::StatFs numbers;
  numbers.total_blocks = 1 << 20;
  numbers.free_blocks = numbers.available_blocks = 1 << 19;
  {
    MutexLock lock(&names_mutex_);
    numbers.inodes = inodes_.size();
  }
  std::move(done)(numbers);
}

void MemoryVolume::Sync(volume::StatusCallback done) {
  sync_count_.fetch_add(1);
  std::move(done)(CheckWritable());
}

core::Engine& MemoryVolume::engine() {
  fprintf(stderr, "MemoryVolume has no engine\n");
  abort();
}

}  // namespace stagefs::fuse::testing

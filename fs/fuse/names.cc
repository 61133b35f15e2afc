// Handlers for names: lookup, create, link, rename, remove, and reading directories.

#include <errno.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "fs/fuse/reply.h"
#include "fs/fuse/serving.h"
#include "fs/volume/errno.h"

namespace stagefs::fuse {
namespace {

using volume::Attributes;

volume::Callback<Attributes> ReplyWithEntry(Reply reply) {
  return [reply = std::move(reply)](absl::StatusOr<Attributes> made) mutable {
    made.ok() ? reply.Entry(*made) : reply.Status(made.status());
  };
}

volume::StatusCallback ReplyWithStatus(fuse_req_t request) {
  return [reply = Reply(request)](absl::Status status) mutable { reply.Status(status); };
}

// The kernel has applied the umask.
volume::NewFile NewFileOf(fuse_req_t request, mode_t mode) {
  const fuse_ctx* caller = fuse_req_ctx(request);
  volume::NewFile file;
  file.mode = mode;
  file.uid = caller->uid;
  file.gid = caller->gid;
  return file;
}

void Lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  // What a file handle stands for, which the kernel asks of files, too (open_by_handle_at, NFS).
  if (absl::string_view(name) == ".") return ServingOf(request).volume.GetAttributes(parent, ReplyWithEntry(Reply(request)));
  ServingOf(request).volume.Lookup(parent, name, [reply = Reply(request)](absl::StatusOr<Attributes> found) mutable {
    if (found.ok()) return reply.Entry(*found);
    if (volume::ToErrno(found.status()) == ENOENT) return reply.NoEntry();
    reply.Status(found.status());
  });
}

void Mknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev) {
  volume::NewFile file = NewFileOf(request, mode);
  file.rdev = rdev;
  ServingOf(request).volume.Create(parent, name, file, /*open=*/false, ReplyWithEntry(Reply(request)));
}

void Mkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  ServingOf(request).volume.MakeDirectory(parent, name, NewFileOf(request, S_IFDIR | (mode & 07777)),
                                          ReplyWithEntry(Reply(request)));
}

void Symlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name) {
  ServingOf(request).volume.MakeSymlink(parent, name, target, NewFileOf(request, S_IFLNK | 0777),
                                        ReplyWithEntry(Reply(request)));
}

// A direct writer has found the new file before we could say that it is open here. To its creator it is as if the other
// had been first, except that the kernel still believes that there is no such name: it is told better.
void LoseNewFile(Serving& serving, fuse_ino_t parent, absl::string_view name, volume::Ino ino,
                 const absl::Status& status, Reply reply) {
  serving.volume.Release(ino);
  serving.sharing->NameChanged(parent, name, volume::Sharing::Door::kDirect, [] {});
  reply.Status(status);
}

void Create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* file) {
  Serving& serving = ServingOf(request);
  // Needed only if somebody else may be at it.
  std::string kept_name = serving.sharing != nullptr ? name : "";
  serving.volume.Create(parent, name, NewFileOf(request, S_IFREG | (mode & 07777)), /*open=*/true,
                        [&serving, parent, kept_name = std::move(kept_name), reply = Reply(request),
                         file = *file](absl::StatusOr<Attributes> made) mutable {
                          if (!made.ok()) return reply.Status(made.status());
                          const absl::Status counted = CountOpener(serving, made->ino, OpensForWriting(file));
                          if (!counted.ok()) {
                            return LoseNewFile(serving, parent, kept_name, made->ino, counted, std::move(reply));
                          }
                          SetOpenFlags(serving, made->ino, &file);
                          reply.Created(*made, file);
                        });
}

void Link(fuse_req_t request, fuse_ino_t ino, fuse_ino_t parent, const char* name) {
  Reply reply(request);
  reply.KeepNoAttributes();
  ServingOf(request).volume.Link(ino, parent, name, ReplyWithEntry(std::move(reply)));
}

void Unlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
  ServingOf(request).volume.Unlink(parent, name, ReplyWithStatus(request));
}

void Rmdir(fuse_req_t request, fuse_ino_t parent, const char* name) {
  ServingOf(request).volume.RemoveDirectory(parent, name, ReplyWithStatus(request));
}

void Rename(fuse_req_t request, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned int flags) {
  if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) return Reply(request).Error(EINVAL);
  ServingOf(request).volume.Rename(parent, name, new_parent, new_name, flags, ReplyWithStatus(request));
}

void Readlink(fuse_req_t request, fuse_ino_t ino) {
  ServingOf(request).volume.ReadSymlink(ino, [reply = Reply(request)](absl::StatusOr<std::string> target) mutable {
    target.ok() ? reply.Data(*target) : reply.Status(target.status());
  });
}

// As many entries as fit `capacity` bytes; what does not fit is asked for again by its cookie.
std::vector<char> Encode(fuse_req_t request, const std::vector<volume::DirectoryEntry>& entries, size_t capacity,
                         bool plus, Reply& reply) {
  std::vector<char> bytes(capacity);
  size_t used = 0;
  for (const volume::DirectoryEntry& entry : entries) {
    size_t needed = 0;
    if (plus) {
      fuse_entry_param parameters = ToEntry(entry.attributes, reply.AttributeSeconds(entry.attributes));
      // The kernel makes no inodes out of these two; node 0 says that there is nothing to make one of.
      if (entry.name == "." || entry.name == "..") parameters.ino = 0;
      parameters.attr.st_ino = entry.ino;
      parameters.attr.st_mode = entry.attributes.ino != 0 ? entry.attributes.mode : entry.type;
      needed = fuse_add_direntry_plus(request, bytes.data() + used, capacity - used, entry.name.c_str(), &parameters,
                                      static_cast<off_t>(entry.cookie));
    } else {
      struct stat parameters = {};
      parameters.st_ino = entry.ino;
      parameters.st_mode = entry.type;
      needed = fuse_add_direntry(request, bytes.data() + used, capacity - used, entry.name.c_str(), &parameters,
                                 static_cast<off_t>(entry.cookie));
    }
    if (needed > capacity - used) break;
    used += needed;
  }
  bytes.resize(used);
  return bytes;
}

void ReadEntries(fuse_req_t request, fuse_ino_t ino, size_t size, off_t cookie, bool plus) {
  const size_t capacity = std::min<size_t>(size, BufferPool::kLargeBytes);
  // An entry takes 24 bytes (152 with attributes) and its name, padded to 8: few are shorter than this.
  const uint32_t max_entries = std::clamp<uint32_t>(static_cast<uint32_t>(capacity / (plus ? 168 : 40)), 1, 4096);
  ServingOf(request).volume.ReadDirectory(
      ino, static_cast<uint64_t>(cookie), max_entries, plus,
      [reply = Reply(request), request, capacity,
       plus](absl::StatusOr<std::vector<volume::DirectoryEntry>> entries) mutable {
        if (!entries.ok()) return reply.Status(entries.status());
        const std::vector<char> bytes = Encode(request, *entries, capacity, plus, reply);
        if (bytes.empty() && !entries->empty()) return reply.Error(EINVAL);
        reply.Data(bytes.data(), bytes.size());
      });
}

// Answering so once makes the kernel open directories without asking, and keep their entries: right, since every change
// of a directory passes through it.
void Opendir(fuse_req_t request, fuse_ino_t, fuse_file_info*) { Reply(request).Error(ENOSYS); }

void Readdir(fuse_req_t request, fuse_ino_t ino, size_t size, off_t cookie, fuse_file_info*) {
  ReadEntries(request, ino, size, cookie, false);
}

void Readdirplus(fuse_req_t request, fuse_ino_t ino, size_t size, off_t cookie, fuse_file_info*) {
  ReadEntries(request, ino, size, cookie, true);
}

}  // namespace

void AddNameHandlers(fuse_lowlevel_ops* operations) {
  operations->lookup = Lookup;
  operations->mknod = Mknod;
  operations->mkdir = Mkdir;
  operations->symlink = Symlink;
  operations->create = Create;
  operations->link = Link;
  operations->unlink = Unlink;
  operations->rmdir = Rmdir;
  operations->rename = Rename;
  operations->readlink = Readlink;
  operations->opendir = Opendir;
  operations->readdir = Readdir;
  operations->readdirplus = Readdirplus;
}

}  // namespace stagefs::fuse

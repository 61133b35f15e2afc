// Serving: what all handlers share, and the tables of handlers, one file per group.
//
// A handler decodes its request, calls the volume and returns; the answer is sent from the volume's callback, on
// whatever thread that runs. No handler holds a lock while it calls the volume or answers.

#ifndef STAGEFS_FS_FUSE_SERVING_H_
#define STAGEFS_FS_FUSE_SERVING_H_

#include <fuse3/fuse_lowlevel.h>

#include <utility>

#include "fs/fuse/options.h"
#include "fs/fuse/privileges.h"
#include "fs/fuse/transport.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"

namespace stagefs::fuse {

struct Serving {
  Serving(volume::Volume& volume, const MountOptions& options, volume::Sharing* sharing = nullptr)
      : volume(volume), options(options), sharing(sharing), privileges(volume) {}

  volume::Volume& volume;        // outlives this
  const MountOptions& options;   // outlives this
  volume::Sharing* const sharing;  // null: nobody else uses the volume. Outlives this
  Privileges privileges;
};

inline Transport& TransportOf(fuse_req_t request) { return *static_cast<Transport*>(fuse_req_userdata(request)); }
inline Serving& ServingOf(fuse_req_t request) { return *static_cast<Serving*>(TransportOf(request).user()); }

// Counts an opener at the mount, to be called before the volume opens the file unless that makes it. EBUSY: there is a
// direct writer who shares with nobody.
absl::Status CountOpener(Serving& serving, volume::Ino ino, bool writes);
void CountClose(Serving& serving, volume::Ino ino, bool writes);
// The opener in `file`, by how it was opened, respectively by what SetOpenFlags() noted.
bool OpensForWriting(const fuse_file_info& file);
bool WasOpenedForWriting(const fuse_file_info& file);
// How the kernel is to treat an open file. To be called when its opener has been counted: see Sharing::Changed().
void SetOpenFlags(Serving& serving, volume::Ino ino, fuse_file_info* file);

// The content of `ino` has been changed through the mount, from `offset` on (to the end if `length` is 0): `done` when
// everybody who looks now sees that.
template <typename Done>
void AfterChange(Serving& serving, volume::Ino ino, uint64_t offset, uint64_t length, Done done) {
  if (serving.sharing == nullptr) return std::move(done)();
  serving.sharing->Changed(ino, offset, length, volume::Sharing::Door::kMount, std::move(done));
}

// Each fills in its part of the table.
void AddNameHandlers(fuse_lowlevel_ops* operations);       // names.cc: lookup, create, rename, readdir, ...
void AddAttributeHandlers(fuse_lowlevel_ops* operations);  // attributes.cc: getattr, setattr, xattrs, statfs
void AddContentHandlers(fuse_lowlevel_ops* operations);    // content.cc: open, read, write, fsync, fallocate, lseek

// Requests that libfuse 3.14 does not know, or that must wait for the volume: see Transport::RawHandler.
bool HandleRaw(Transport& transport, Serving& serving, const fuse_in_header& header, const void* argument,
               size_t size);  // raw.cc

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_SERVING_H_

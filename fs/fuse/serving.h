// Serving: what all handlers share, and the tables of handlers, one file per group.
//
// A handler decodes its request, calls the volume and returns; the answer is sent from the volume's callback, on
// whatever thread that runs. No handler holds a lock while it calls the volume or answers.

#ifndef STAGEFS_FS_FUSE_SERVING_H_
#define STAGEFS_FS_FUSE_SERVING_H_

#include <fuse3/fuse_lowlevel.h>

#include "fs/fuse/options.h"
#include "fs/fuse/privileges.h"
#include "fs/fuse/transport.h"
#include "fs/volume/volume.h"

namespace stagefs::fuse {

struct Serving {
  Serving(volume::Volume& volume, const MountOptions& options)
      : volume(volume), options(options), privileges(volume) {}

  volume::Volume& volume;        // outlives this
  const MountOptions& options;   // outlives this
  Privileges privileges;
};

inline Transport& TransportOf(fuse_req_t request) { return *static_cast<Transport*>(fuse_req_userdata(request)); }
inline Serving& ServingOf(fuse_req_t request) { return *static_cast<Serving*>(TransportOf(request).user()); }

// How the kernel is to treat an open file.
void SetOpenFlags(const MountOptions& options, fuse_file_info* file);

// Each fills in its part of the table.
void AddNameHandlers(fuse_lowlevel_ops* operations);       // names.cc: lookup, create, rename, readdir, ...
void AddAttributeHandlers(fuse_lowlevel_ops* operations);  // attributes.cc: getattr, setattr, xattrs, statfs
void AddContentHandlers(fuse_lowlevel_ops* operations);    // content.cc: open, read, write, fsync, fallocate, lseek

// Requests that libfuse 3.14 does not know, or that must wait for the volume: see Transport::RawHandler.
bool HandleRaw(Transport& transport, Serving& serving, const fuse_in_header& header, const void* argument,
               size_t size);  // raw.cc

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_SERVING_H_

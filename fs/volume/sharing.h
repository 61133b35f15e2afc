// Sharing: which files are open through which door (a mount, direct access), and who has to hear that content changed
// through another one. With it in place, a change that has completed at one door is seen by whatever looks later at any
// other, within contract 5 of docs/durability.md.
//
// Invariant: no file has at the same time a writer at the mount and a direct writer that did not ask for sharing.
//
// A server that offers one door only needs none of this.
//
// Thread-safe. Callbacks run on any thread, or inside the call, under no lock.

#ifndef STAGEFS_FS_VOLUME_SHARING_H_
#define STAGEFS_FS_VOLUME_SHARING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "fs/volume/volume.h"
#include "sal/mutex.h"

namespace stagefs::volume {

class Sharing {
 public:
  using Done = absl::AnyInvocable<void() &&>;
  enum class Door : uint8_t { kMount, kDirect };

  struct Opener {
    Door door = Door::kMount;
    bool writes = false;
    bool shared = false;  // kDirect: it may be together with writers at the mount
  };

  // What the kernel remembers of the mount's files. fs/fuse implements it; it may block nobody, so it works on a thread
  // of its own and calls back from there. `done` runs even if the mount is gone.
  class KernelCache {
   public:
    virtual ~KernelCache() = default;
    // Forgets the pages of [offset, offset + length), up to the end if `length` is 0, and the attributes.
    virtual void DropContent(Ino ino, uint64_t offset, uint64_t length, Done done) = 0;
    // Forgets what it knows of a name (that it does not exist, for one), and the directory's attributes and entries.
    virtual void DropName(Ino directory, absl::string_view name, Done done) = 0;
  };

  // Something that shows content without asking the volume each time: a mapped file.
  class Viewer {
   public:
    virtual ~Viewer() = default;
    // Bytes [offset, offset + length) of `ino` have changed, or (length 0) everything from `offset` on. `done` when
    // whoever looks now sees that.
    virtual void ContentChanged(Ino ino, uint64_t offset, uint64_t length, Done done) = 0;
  };

  // Both may be null, and set again; the caller sees to it that no call is under way in the old one.
  void SetKernelCache(KernelCache* cache);
  // Many files may have the same viewer. A viewer added twice to a file must be removed twice.
  void AddViewer(Ino ino, Viewer* viewer);
  void RemoveViewer(Ino ino, Viewer* viewer);

  // Counts an opener, before its door opens the file. EBUSY: see the invariant.
  absl::Status Open(Ino ino, const Opener& opener);
  // Takes it back: the same `opener`.
  void Close(Ino ino, const Opener& opener);
  // Whether a change at the mount that needs no open file (truncate(2) of a path) has to fail with EBUSY.
  absl::Status CheckMountChange(Ino ino) const;
  // Whether anybody has it open for direct writing: then the kernel must not keep attributes, nor pages over an open().
  bool DirectlyWritten(Ino ino) const;

  // The file was opened for direct writing: what the kernel kept of it goes, before `done`. Call after Open().
  void DirectWritingBegins(Ino ino, Done done);
  // Content has changed through `door`, and that change was accepted. `done` when no other door shows the old content:
  // the front end completes the operation then. Runs inside the call, and costs next to nothing, if nobody has to hear.
  void Changed(Ino ino, uint64_t offset, uint64_t length, Door door, Done done);
  // A name was made or removed through `door`.
  void NameChanged(Ino directory, absl::string_view name, Door door, Done done);

 private:
  struct Use {
    uint32_t mount_readers = 0, mount_writers = 0;
    uint32_t direct_readers = 0, direct_writers = 0, exclusive_direct_writers = 0;
    std::vector<Viewer*> viewers;
  };

  mutable Mutex mutex_;
  KernelCache* kernel_cache_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::flat_hash_map<Ino, Use> uses_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_SHARING_H_

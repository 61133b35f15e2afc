// Sharing: which files are open through which door (a mount, direct access), and who has to hear that content changed
// through another one. With it in place, a change that has completed at one door is seen by whatever looks later at any
// other, within contract 5 of docs/durability.md.
//
// Invariant: no file has at the same time a writer at the mount and a direct writer that did not ask for sharing.
//
// A server that offers one door only needs none of this. One that has it serves one mount of the volume at a time.
//
// Thread-safe. Callbacks run on any thread, or inside the call, under no lock.

#ifndef STAGEFS_FS_VOLUME_SHARING_H_
#define STAGEFS_FS_VOLUME_SHARING_H_

#include <atomic>
#include <cstdint>
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
    // Forgets the pages of [offset, offset + length), up to the end if `length` is 0, and the attributes. When `done`
    // runs, whoever reads or asks later gets what the volume has now. (0, 0) comes when direct writing of the file
    // begins and when it has ended: then attributes that are on their way to the kernel must not stay there, either.
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

  // From now on `cache` hears. Returns when no call is under way in the one before, which may then be destroyed (not to
  // be called inside such a call). Null: the mount is gone, and with it all that was open there.
  void SetKernelCache(KernelCache* cache);
  // Many files may have one viewer. A viewer added twice to a file must be removed twice; of a change it hears once.
  // Add it before the first look at the content: then no change can fall in between.
  void AddViewer(Ino ino, Viewer* viewer);
  // ContentChanged() may still be under way on another thread: a viewer lives until all calls of Changed() are over.
  void RemoveViewer(Ino ino, Viewer* viewer);

  // Counts an opener, before its door opens the file. EBUSY: see the invariant. A change at the mount that needs no
  // open file (truncate(2) of a path) is a writer for as long as it takes.
  absl::Status Open(Ino ino, const Opener& opener);
  // Takes it back: the same `opener`. With the last direct writer, what the kernel kept meanwhile goes.
  void Close(Ino ino, const Opener& opener);
  // Whether anybody has it open for direct writing, or had until now and the kernel still has to forget what it kept
  // meanwhile: then the kernel must not keep attributes, nor pages over an open(). Costs one load if there is no such
  // file at all.
  bool DirectlyWritten(Ino ino) const;

  // The file was opened for direct writing: what the kernel kept of it goes, before `done`. Call after Open(), and
  // write nothing before `done`.
  void DirectWritingBegins(Ino ino, Done done);
  // Content has changed through `door`, and that change was accepted. `done` when no other door shows the old content:
  // the front end completes the operation then. Runs inside the call, and costs next to nothing, if nobody has to hear.
  void Changed(Ino ino, uint64_t offset, uint64_t length, Door door, Done done);
  // A name was made or removed through `door`.
  void NameChanged(Ino directory, absl::string_view name, Door door, Done done);

 private:
  struct Looking {
    Viewer* viewer;
    uint32_t times;  // added and not removed
  };
  struct Use {
    bool idle() const {
      return mount_readers + mount_writers + direct_readers + direct_writers + endings == 0 && viewers.empty();
    }
    bool directly_written() const { return direct_writers + endings > 0; }

    uint32_t mount_readers = 0, mount_writers = 0;
    uint32_t direct_readers = 0, direct_writers = 0;
    uint32_t exclusive_direct_writers = 0;  // of these
    uint32_t endings = 0;                   // last direct writers that have closed, and the kernel has yet to forget
    std::vector<Looking> viewers;
  };
  using Uses = absl::flat_hash_map<Ino, Use>;

  // Lets the kernel forget what Close() says, and then DirectlyWritten() end.
  void EndDirectWriting(Ino ino, KernelCache* cache);
  // The kernel's cache, if there is one, for one call outside the lock; EndKernelCall() follows it.
  KernelCache* BeginKernelCall() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndKernelCall();
  void EraseIfIdle(Uses::iterator use) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  CondVar kernel_calls_ended_;
  KernelCache* kernel_cache_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint32_t kernel_calls_ ABSL_GUARDED_BY(mutex_) = 0;  // under way
  Uses uses_ ABSL_GUARDED_BY(mutex_);

  // Changed under mutex_, and read without it by those who only want to know that there is none.
  std::atomic<uint64_t> directly_written_files_ = 0;
  std::atomic<uint64_t> viewers_ = 0;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_SHARING_H_

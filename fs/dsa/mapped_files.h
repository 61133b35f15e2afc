// MappedFiles: the server's side of mapped files: memory files (memfds) that programs map, with as much of the files'
// content as was asked for, kept as new as the volume.
//
// A memfd is as large as what is mapped of its file, and all holes at first; a page is filled whole when a program asks
// for it (its faults bring it here, see fs/dsa/client/mapping.h), and again after each change (ContentChanged()). Pages
// beyond the end of the file are zeros. When all pages together exceed the limit the oldest are taken away (holes
// punched): programs that map them fault again; their private copies stay.
//
// Programs get a descriptor that cannot be written through, of a memfd with no permissions and sealed against
// shrinking, so nobody changes what others see; with one exception: a program that maps a hole without userfaultfd
// makes the kernel put a page of zeros there. So programs of different users get different memfds.
//
// Invariants:
//   * A page of a memfd is a hole, or whole content of the file that was read from the volume after the last change
//     whose ContentChanged() has run its `done`.
//   * Any page is read and written by one Fill at a time; who needs more of it than that waits for the Fill, or for its
//     next pass. So the newest content is the last one written.
//   * Memfds are written and punched by one thread at a time, the one that pumps; only it changes `present`.
//
// Shared memory must not be made of huge pages (shmem_enabled): a hole punched into one may leave zeros in place, which
// programs would see as content. Map() refuses then.
//
// Thread-safe. Callbacks run on any thread, or inside the call, under no lock; memory of the volume's reads is bounded.

#ifndef STAGEFS_FS_DSA_MAPPED_FILES_H_
#define STAGEFS_FS_DSA_MAPPED_FILES_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"
#include "sal/mutex.h"

namespace stagefs::dsa {

class MappedFiles final : public volume::Sharing::Viewer {
 public:
  static constexpr uint64_t kPageBytes = 4096;
  // What one Populate() brings at most.
  static constexpr uint64_t kMaxPopulateBytes = 1 << 20;
  static constexpr uint64_t kMinMemoryBytes = 4 << 20;

  struct Options {
    uint64_t memory_bytes = 64 << 20;  // of all pages together; at least kMinMemoryBytes is used
  };

  // Whose programs share a memfd: a user id.
  using User = uint32_t;

  // Who hears which files have a viewer: volume::Sharing (see sharing_registry.h).
  class Registry {
   public:
    virtual ~Registry() = default;
    virtual void AddViewer(volume::Ino ino, volume::Sharing::Viewer* viewer) = 0;
    virtual void RemoveViewer(volume::Ino ino, volume::Sharing::Viewer* viewer) = 0;
  };

  // All must outlive this.
  MappedFiles(volume::Volume& volume, Registry& registry, const Options& options);
  // Waits for reads under way. No call may be under way or come any more; what is mapped needs no Unmap().
  ~MappedFiles() override;

  // Counts a mapping of [offset, offset + length) of a regular file, which its user keeps open at the volume. Returns a
  // descriptor to be sent to the program, which the caller closes; the file's content is at the same offset in it.
  // EINVAL: the range is empty or too far out; EOPNOTSUPP: see above; or what prevents a memfd.
  absl::StatusOr<int> Map(volume::Ino ino, User user, uint64_t offset, uint64_t length) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes one Map() back. After the last one the content is gone from the memory of those who still map it.
  void Unmap(volume::Ino ino, User user) ABSL_LOCKS_EXCLUDED(mutex_);

  // `done` when the memfd has had the pages that [offset, offset + length) touches (the first kMaxPopulateBytes of
  // them); they may be taken away again at any time. Errors: EINVAL (no mapping there), or the volume's if one cannot
  // be read.
  void Populate(volume::Ino ino, User user, uint64_t offset, uint64_t length, volume::StatusCallback done)
      ABSL_LOCKS_EXCLUDED(mutex_);

  void ContentChanged(volume::Ino ino, uint64_t offset, uint64_t length, volume::Sharing::Done done) override
      ABSL_LOCKS_EXCLUDED(mutex_);

  // For tests and statistics.
  uint64_t present_bytes() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Runs `done` with the first error when its last reference goes: never under a lock.
  class Waiter;
  using WaiterRef = std::shared_ptr<Waiter>;
  struct File;
  using FileRef = std::shared_ptr<File>;
  struct Fill;
  using FillRef = std::shared_ptr<Fill>;
  using Oldest = std::list<std::pair<File*, uint64_t>>;  // files and their pages
  using Pages = absl::btree_map<uint64_t, Oldest::iterator>;

  static absl::StatusOr<FileRef> MakeFile(volume::Ino ino);
  absl::StatusOr<int> UseLocked(File& file, uint64_t end_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The one that has `page`, or null.
  static FillRef FillAt(const File& file, uint64_t page);
  // Puts `page`, which no Fill has, into one that has not begun.
  void FillPageLocked(const FileRef& file, uint64_t page, const WaiterRef& waiter)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefreshLocked(const FileRef& file, uint64_t first, uint64_t end, const WaiterRef& waiter)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // One thread at a time goes through what there is to do: reads that complete inside their call recurse no further.
  // True: the caller has to call Pump(), after releasing the lock.
  bool BeginPumpLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Pump() ABSL_LOCKS_EXCLUDED(mutex_);
  bool PumpOnce() ABSL_LOCKS_EXCLUDED(mutex_);
  void StartRead(const FillRef& fill) ABSL_LOCKS_EXCLUDED(mutex_);
  std::byte* TakeBufferLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReadDone(const FillRef& fill, absl::StatusOr<size_t> size) ABSL_LOCKS_EXCLUDED(mutex_);
  void Show(const FillRef& fill) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes a pass of `fill` to its end. The waiters returned are to be let go after releasing the lock.
  std::vector<WaiterRef> EndPassLocked(const FillRef& fill, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Evict() ABSL_LOCKS_EXCLUDED(mutex_);
  void Discard(const FileRef& file) ABSL_LOCKS_EXCLUDED(mutex_);
  void ForgetLocked(File& file, uint64_t first, uint64_t end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  volume::Volume& volume_;
  Registry& registry_;
  const uint64_t max_pages_;

  // No other lock is taken under it. Guards the files' fields, too.
  mutable Mutex mutex_;
  CondVar idle_;
  absl::btree_map<std::pair<volume::Ino, User>, FileRef> files_ ABSL_GUARDED_BY(mutex_);
  Oldest oldest_ ABSL_GUARDED_BY(mutex_);          // all present pages, in the order they became so
  std::deque<FillRef> waiting_ ABSL_GUARDED_BY(mutex_);   // for a buffer
  std::deque<FillRef> read_ ABSL_GUARDED_BY(mutex_);      // to be shown
  std::deque<FileRef> unmapped_ ABSL_GUARDED_BY(mutex_);  // to be discarded
  std::vector<std::byte*> buffers_ ABSL_GUARDED_BY(mutex_);
  bool pumping_ ABSL_GUARDED_BY(mutex_) = false;
  size_t reads_ ABSL_GUARDED_BY(mutex_) = 0;  // under way
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_MAPPED_FILES_H_

// KernelCache: makes the mount's kernel forget, when content or names were changed by direct access, and decides which
// attributes it may keep.
//
// Threads that hold nothing send the notifications. The kernel takes one of a page only when it has the lock of that
// page, which it keeps while a READ or WRITE of it is under way: so they wait for requests to be answered, and nothing
// that answers requests may wait for them. It takes one of a name only when it has the lock of the directory, which a
// program that lists it can hold for as long as it likes (by taking the listing into memory whose faults it handles
// itself): so those go by a thread of their own, and content does not wait for them.
//
// Attributes are the hard part: an answer may be under way with what the volume had a moment ago, and be believed for
// ever. They may be kept only if all of this holds:
//   1. No direct writer has the file open when the answer is made, and
//   2. no direct writing began or ended, of whatever file, while the volume was asked (generation()). With 1, they are
//      true when the answer is made.
//   3. The kernel drops them if direct writing begins before it has taken them. If it knows the inode, it does so by
//      itself: a notification gives the inode a newer attr_version, and attributes that were asked for under an older
//      one are not believed. If it does not know it yet (the answer to a LOOKUP or CREATE will make it known) the
//      notification fails with ENOENT. As long as an answer about that inode may be under way, it is sent again
//      until the kernel knows the inode.
// For names and directories the same holds, with the making of a name in place of direct writing.
// Answers to SETATTR and LINK are believed whatever happened meanwhile: with direct access they carry attributes that
// are not to be kept at all (Reply::KeepNoAttributes).
//
// Thread-safe.

#ifndef STAGEFS_FS_FUSE_KERNEL_CACHE_H_
#define STAGEFS_FS_FUSE_KERNEL_CACHE_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "fs/volume/sharing.h"
#include "sal/mutex.h"

namespace stagefs::fuse {

// The way to the kernel. Each call returns 0 or an errno; ENOENT: the kernel knows no such inode, directory or name.
// They may wait for requests to be answered.
class KernelNotifier {
 public:
  // The attributes of `ino`, and the pages of [offset, offset + length), to the end if `length` is 0.
  virtual int ForgetContent(volume::Ino ino, uint64_t offset, uint64_t length) = 0;
  // Whatever it knows of `name` in `directory`. Returns when no lookup or listing there is under way that was begun
  // before.
  virtual int ForgetName(volume::Ino directory, absl::string_view name) = 0;

 protected:
  ~KernelNotifier() = default;
};

class KernelCache final : public volume::Sharing::KernelCache {
 public:
  using Ino = volume::Ino;
  using Done = volume::Sharing::Done;

  // How long an answer may be under way, from here until the kernel has made an inode of it. Only for one of which the
  // kernel knows nothing (rule 3) is this time ever waited for.
  static constexpr std::chrono::milliseconds kAnswerLasts{1000};

  // `sharing` and `notifier` outlive this.
  KernelCache(const volume::Sharing& sharing, KernelNotifier& notifier);
  // No call may come any more. What waits is sent once more, and its `done` runs, before this returns.
  ~KernelCache() override;
  KernelCache(const KernelCache&) = delete;
  KernelCache& operator=(const KernelCache&) = delete;

  void DropContent(Ino ino, uint64_t offset, uint64_t length, Done done) override;
  void DropName(Ino directory, absl::string_view name, Done done) override;

  // To be taken before the volume is asked for attributes.
  uint64_t generation() const { return generation_.load(); }
  // Whether an answer with attributes of `ino`, which the volume was asked for since `generation`, may be kept.
  bool MayKeepAttributes(Ino ino, uint64_t generation);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kRetryAfter{2};
  static constexpr size_t kSlots = 4096;

  struct Drop {
    Ino ino;  // or the directory
    uint64_t offset = 0, length = 0;
    std::string name;  // empty: content
    Done done;
    Clock::time_point due = {};  // of the next attempt
  };

  // A thread, and what it has to send.
  class Lane {
   public:
    explicit Lane(KernelCache& cache);
    ~Lane();
    void Post(Drop drop);

   private:
    void Run();
    // The next one to be tried, when it is due; false: this is the end.
    bool Take(Drop* drop);

    KernelCache& cache_;
    Mutex mutex_;
    CondVar changed_;
    bool ending_ ABSL_GUARDED_BY(mutex_) = false;
    std::deque<Drop> drops_ ABSL_GUARDED_BY(mutex_);
    std::deque<Drop> retries_ ABSL_GUARDED_BY(mutex_);  // in the order in which they are due
    std::thread thread_;
  };

  // Whether that is all; else it has to be tried again.
  bool Send(const Drop& drop);
  bool AnswerMayBeUnderWay(Ino ino) const;
  std::atomic<int64_t>& Slot(Ino ino) { return answered_ms_[ino % kSlots]; }

  const volume::Sharing& sharing_;
  KernelNotifier& notifier_;
  std::atomic<uint64_t> generation_ = 0;
  // When an answer was made about any of a slot's inodes, on the monotonic clock. 0: never.
  std::array<std::atomic<int64_t>, kSlots> answered_ms_ = {};
  std::atomic<bool> ending_ = false;

  Lane content_, names_;
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_KERNEL_CACHE_H_

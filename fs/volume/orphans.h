// What an inode leaves behind: inodes without links, and extents behind the end of a truncated file. Removing much is
// done in bounded changes of its own; an orphan item says what is left, so that it goes on after a crash.
//
// Invariants:
//   * An inode has an orphan item if and only if it has no links or kInodeTruncatePending.
//   * The item says kInode if and only if the inode has no links.
//   * While a truncation is pending, nothing maps a block from its from_block on, nor does the file grow.

#ifndef STAGEFS_FS_VOLUME_ORPHANS_H_
#define STAGEFS_FS_VOLUME_ORPHANS_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/transaction.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"
#include "sal/environment.h"
#include "sal/mutex.h"

namespace stagefs::volume {

// --- In bodies ---

// Writes the orphan item that fits `inode`. `from_block` counts if a truncation is pending.
absl::Status PutOrphan(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode, uint64_t from_block);
// The last link of `ino` is gone (nlink is 0): removes it, if it is small and not open, or leaves it to the remover.
absl::Status RemoveUnlinked(VolumeState& state, core::Transaction& tx, Ino ino, Inode inode);
// One name of `ino` is gone (a directory's only one): counts down, and if it was the last does RemoveUnlinked().
absl::Status DropLink(VolumeState& state, Change& change, Ino ino, Inode inode);
// The opposite for an inode that has just got its first link: nlink is 1. The caller puts the inode.
absl::Status ForgetOrphan(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode);
// Does a bounded part of what the orphan item of `ino` asks for. True: nothing (more) is to be done now.
absl::StatusOr<bool> RemovalStep(VolumeState& state, core::Transaction& tx, Ino ino);

// --- In the background ---

// Remover works through the inodes given to it, one bounded change after the other.
//
// Thread-safe. Callbacks run on executor threads, under no lock.
class Remover {
 public:
  // `state` must outlive this object, which takes in what it is told of from here on.
  explicit Remover(VolumeState& state);
  ~Remover();  // Stop() first.
  Remover(const Remover&) = delete;
  Remover& operator=(const Remover&) = delete;

  // Takes in `ino`. May be called in accept hooks.
  void Queue(Ino ino);
  // Takes in all that a crash left behind, a few at a time.
  void StartRecovery();
  // Calls `retry` when some more has been removed, and returns true. False: there is nothing to remove.
  bool WhenProgress(absl::AnyInvocable<void() &&> retry);
  // Runs steps for `ino` until nothing is left to do; `done` gets the first error.
  void Finish(Ino ino, absl::AnyInvocable<void(absl::Status) &&> done);
  // Stops after the step in progress and waits for it. What is left is found at the next Volume::Open().
  void Stop();

 private:
  struct Step;

  void StartIfNeeded() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunStep();
  void StepDone(const Step& step, const absl::Status& status);

  VolumeState& state_;
  sal::Environment& environment_;
  const std::unique_ptr<sal::Event> idle_;  // set when stopped and no step is in progress

  Mutex mutex_;
  std::deque<Ino> queue_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<Ino> queued_ ABSL_GUARDED_BY(mutex_);  // what is in queue_
  bool recovering_ ABSL_GUARDED_BY(mutex_) = false;
  Ino recovery_cursor_ ABSL_GUARDED_BY(mutex_) = 0;  // orphans from this inode number on are still to be looked at
  bool running_ ABSL_GUARDED_BY(mutex_) = false;     // a step is in progress or posted
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<absl::AnyInvocable<void() &&>> waiters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_ORPHANS_H_

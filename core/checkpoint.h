// Checkpointer: destages every dirty block, then moves the log's tail. docs/recovery.md#checkpoint.
//
// One checkpoint at a time. Its steps: snapshot all dirty images and cut the log there; log intents for them; when
// those are durable, write the images and the changed table blocks; flush; write both superblocks, one after the
// other; let the ring be reused. Changes go on being accepted all along.
//
// Recovery ends with the same code, in BeginEpoch().
//
// Every method runs in a section of the monitor unless it says otherwise.

#ifndef STAGEFS_CORE_CHECKPOINT_H_
#define STAGEFS_CORE_CHECKPOINT_H_

#include <memory>
#include <vector>

#include "core/state.h"

namespace stagefs::core {

class Checkpointer {
 public:
  explicit Checkpointer(State* state);

  // Starts one if the log, the dirty blocks or the table are half full.
  void StartIfNeeded(Outbox& outbox);
  // Starts one, if none runs, for a change that the ring has no room for.
  void StartForRoom(Outbox& outbox);
  // `done` when a checkpoint that began after now is over. The log is then empty if nothing was accepted meanwhile.
  void Request(Engine::DurableCallback done, Outbox& outbox);
  // Like Request(), and the superblocks then begin a new epoch: salt, number, empty log. Nothing may be accepted
  // meanwhile, and the log is to be Start()ed anew after it.
  void RequestNewEpoch(uint64_t salt, Engine::DurableCallback done, Outbox& outbox);
  // Marks the volume clean with the next checkpoint.
  void SetClean() { clean_ = true; }
  // The state changed: log progress, a flush, a failure.
  void Poke(Outbox& outbox);

 private:
  enum class Step : uint8_t { kIdle, kHashing, kIntents, kIntentsDurable, kHome, kHomeFlush, kSuperblock,
                              kSuperblockFlush, kMarking };
  static constexpr uint32_t kMaxWritesInFlight = 64;

  void Start(Outbox& outbox);
  // These three run outside of sections, on an executor thread.
  void Hash();
  void LogIntents();
  void MarkHome();
  bool LogSomeIntents(Outbox& outbox);
  void SnapshotTable(Outbox& outbox);
  bool MayGoHome(Outbox& outbox);
  bool NextWrite(sal::Request& request);
  void WriteHome(Outbox& outbox);
  void SubmitWrites(Outbox& outbox);
  void WriteDone(sal::Request* write, absl::Status status, Outbox& outbox);
  void WriteSuperblock(Outbox& outbox);
  void SuperblockWritten(absl::Status status, Outbox& outbox);
  void NextSuperblock(Outbox& outbox);
  void Finish(Outbox& outbox);
  void Abort(Outbox& outbox);

  State* const state_;
  Step step_ = Step::kIdle;
  bool clean_ = false;
  bool new_epoch_ = false;
  uint64_t new_salt_ = 0;
  std::vector<Engine::DurableCallback> waiting_;  // for the one that runs
  std::vector<Engine::DurableCallback> next_;     // for the one after it

  // Of the checkpoint that runs.
  std::vector<BlockCache::DirtyImage> images_;
  std::vector<uint64_t> entries_;  // of images_
  std::vector<ChecksumTable::DirtyBlock> table_images_;
  LogPlace target_;          // the new tail
  Lsn covered_lsn_ = 0;      // every change up to it will be home
  Lsn snapshot_lsn_ = 0;     // the table snapshot is as of this one
  uint64_t changes_at_start_ = 0;
  size_t next_image_ = 0;    // to be named, written or marked, depending on step_
  size_t next_table_image_ = 0;
  bool logging_intents_ = false;  // LogIntents() runs, or is about to
  std::vector<std::unique_ptr<sal::Request>> writes_;  // home, kMaxWritesInFlight of them
  std::vector<sal::Request*> idle_writes_;             // those that are not in flight
  uint64_t cover_ = 0;       // the flush that is waited for
  uint32_t slots_written_ = 0;
  AlignedMemory superblock_block_ = AlignedMemory(kBlockBytes);
  sal::Request superblock_request_;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_CHECKPOINT_H_

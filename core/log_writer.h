// LogWriter: takes changes in LSN order, cuts them into frames, writes the frames in order, and knows what is durable.
//
// Changes are copied into the active staging region. A frame is cut when somebody waits for durability and no frame is
// on its way (group commit: what arrives meanwhile shares the next frame), or when enough has gathered. A region is
// sealed when full and free again when its frames are written.
//
// Invariants (docs/recovery.md):
//   1. durable_lsn() passes a frame only if every earlier one is durable, and it was written before a flush that has
//      completed was submitted, or was written with FUA.
//   2. A frame is submitted only when the extents it names are written and flushed.
//   4. A written block is not rewritten before both superblocks know a tail beyond it.
//   8. The last reserve_blocks() of the ring are for intents alone.
//   * No more than window_blocks of the log are not known to be durable.
//
// Not thread-safe: every method runs in a section of the monitor.

#ifndef STAGEFS_CORE_LOG_WRITER_H_
#define STAGEFS_CORE_LOG_WRITER_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "core/aligned_memory.h"
#include "core/broken.h"
#include "core/engine.h"
#include "core/first_touch.h"
#include "core/flush_queue.h"
#include "core/format.h"
#include "core/monitor.h"

namespace stagefs::core {

// A place in the log: where a frame lies or will lie, and what it must carry to be the one expected there.
struct LogPlace {
  uint64_t position = 0;  // absolute, in blocks
  uint64_t sequence = 0;
  uint64_t chain = 0;
};

class LogWriter {
 public:
  struct Options {
    uint64_t region_bytes = 3 << 20;
    uint64_t region_count = 4;
    uint64_t reserve_blocks = 0;
    Broken broken = Broken::kNothing;
  };
  // `on_progress` runs in a section of the monitor whenever frames were written or became durable; `on_failure`
  // likewise with the first error.
  LogWriter(Monitor* monitor, FlushQueue* flushes, const Options& options,
            std::function<void(Outbox&)> on_progress, std::function<void(absl::Status, Outbox&)> on_failure);

  // Begins to write at `head` in the epoch that `superblock` names. What lies before is durable up to `durable_lsn`,
  // and its frames say so up to `recorded_lsn`; the ring is free but for [tail, head).
  void Start(const Superblock& superblock, LogPlace tail, LogPlace head, Lsn durable_lsn, Lsn recorded_lsn);

  // Whether a change of `change_bytes` could be appended now. Intents may use the reserve.
  bool HasRoom(uint64_t change_bytes, bool is_intent) const;
  // Whether the ring has room for it. If not, only a checkpoint helps; what else HasRoom() asks for comes by itself.
  bool RingHasRoom(uint64_t change_bytes, bool is_intent) const;
  // Whether a change of that size could ever be appended, to an empty log.
  bool CanEverFit(uint64_t change_bytes) const;
  // Appends a change and returns where its `change_bytes` bytes go, to be filled in before the section ends. Requires
  // HasRoom(). LSNs ascend.
  std::byte* Append(Lsn lsn, uint64_t change_bytes, Outbox& outbox);
  // The change just appended names an extent that is still being written. Returns the sequence of its frame, for
  // ExtentWritten() when its write has completed.
  uint64_t AwaitExtent();
  void ExtentWritten(uint64_t frame_sequence, Outbox& outbox);

  // Cuts what has gathered (nothing if that is nothing), and returns the place of the next frame.
  LogPlace CutHere(Outbox& outbox);
  // Cuts a frame without changes if the log does not yet record durable_lsn(), so that a later reader can tell decay
  // from a crash.
  void RecordDurable(Lsn next_lsn, Outbox& outbox);
  // Whether a durable frame says that `lsn` is durable: if a frame up to `lsn` is damaged later, that will be seen.
  bool DurableIsRecorded(Lsn lsn) const { return lsn <= record_lsn_; }
  // Starts what it takes to make that so. Requires lsn <= durable_lsn(). Ask again when there was progress.
  void WantDurableRecord(Lsn next_lsn, Outbox& outbox);
  // The ring before `tail` may be reused.
  void SetReuse(LogPlace tail) { reuse_position_ = tail.position; }

  // Calls `done` when `lsn` is durable, and starts what that takes.
  void WhenDurable(Lsn lsn, Engine::DurableCallback done, Outbox& outbox);
  // Asks for durability up to `lsn` without a callback.
  void Want(Lsn lsn, Outbox& outbox);
  // Cuts, submits and flushes what can be.
  void Pump(Outbox& outbox);
  // Nothing is written or acknowledged any more; all waiters get `reason`.
  void Fail(const absl::Status& reason, Outbox& outbox);

  Lsn durable_lsn() const { return durable_lsn_; }
  bool idle() const { return frames_.empty() && active_.change_count == 0; }
  uint64_t used_blocks() const { return head_.position - reuse_position_; }
  uint64_t usable_blocks() const { return log_blocks_ - options_.reserve_blocks; }
  uint64_t frames_cut() const { return frames_cut_; }
  uint64_t bytes_written() const { return bytes_written_; }
  uint64_t flush_count() const { return flushes_->completed(); }
  FirstTouch& first_touch() { return first_touch_; }

 private:
  static constexpr uint64_t kFrameTargetBytes = 512 << 10;

  struct Region {
    uint64_t offset = 0;  // in memory_
    uint32_t unwritten_frames = 0;
    bool sealed = false;  // no more frames begin here
  };
  // The frame that is being gathered, at `offset` of the active region.
  struct Active {
    uint64_t offset = 0;
    uint64_t payload_bytes = 0;
    uint32_t change_count = 0;
    Lsn first_lsn = 0, last_lsn = 0;
    uint32_t extents_pending = 0;
    uint64_t extents_cover = 0;
  };
  struct Frame {
    enum class State : uint8_t { kWaiting, kWriting, kWritten };
    Region* region = nullptr;
    uint64_t offset = 0, blocks = 0;
    LogPlace place;
    Lsn first_lsn = 0, last_lsn = 0;
    Lsn recorded_lsn = 0;  // what it says is durable
    uint32_t extents_pending = 0;
    uint64_t extents_cover = 0;  // the flush that covers the extents
    State state = State::kWaiting;
    bool wanted = false;         // durable soon, whatever LSNs are waited for
    bool fua = false;
    uint64_t cover = 0;  // the flush that covers the frame
    uint32_t parts_left = 0;
    std::vector<sal::Request> parts;
  };

  void Cut(Lsn first_lsn_if_empty);
  uint64_t EndWith(uint64_t change_bytes) const;
  std::byte* Memory(const Region& region, uint64_t offset) const { return memory_.data() + region.offset + offset; }
  bool TakeRegion(uint64_t payload_bytes);
  bool RegionFits(uint64_t payload_bytes) const;
  bool ShouldCut() const;
  void SubmitReady(Outbox& outbox);
  void SubmitFrame(Frame& frame, bool fua, Outbox& outbox);
  void PartWritten(uint64_t sequence, absl::Status status);
  void AdvanceDurable(Outbox& outbox);
  void WantFlushes();
  void StartFlush(Outbox& outbox);
  bool IsDurable(const Frame& frame) const;

  Monitor* const monitor_;
  FlushQueue* const flushes_;
  const Options options_;
  const std::function<void(Outbox&)> on_progress_;
  const std::function<void(absl::Status, Outbox&)> on_failure_;

  // Set by Start().
  uint64_t log_start_ = 0, log_blocks_ = 0, window_blocks_ = 0, epoch_ = 0, salt_ = 0;
  uint8_t uuid_[16] = {};

  const AlignedMemory memory_;  // of the regions, one behind the other
  FirstTouch first_touch_;
  std::vector<std::unique_ptr<Region>> regions_;
  Region* active_region_ = nullptr;
  Active active_;
  std::deque<Frame> frames_;  // cut, not durable; ascending sequence
  LogPlace head_;             // of the next frame to be cut
  uint64_t reuse_position_ = 0;
  uint64_t durable_position_ = 0;  // end of the durable frames
  Lsn durable_lsn_ = 0;
  Lsn last_cut_lsn_ = 0;
  Lsn recorded_durable_lsn_ = 0;  // by frames that are cut
  Lsn record_lsn_ = 0;            // by frames that are durable
  Lsn wanted_lsn_ = 0;
  std::multimap<Lsn, Engine::DurableCallback> waiters_;
  absl::Status failure_;
  uint64_t frames_cut_ = 0, bytes_written_ = 0;
  sal::Request flush_request_;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_LOG_WRITER_H_

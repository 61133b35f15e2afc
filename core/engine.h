// Engine: the ordered staging engine. Makes a persistent byte-addressable device out of a block store.
//
// It offers home blocks [0, capacity_blocks()) and knows nothing of files. Every change is accepted in one order (its
// LSN), staged in memory, logged, and later written home (destaged). docs/recovery.md numbers the invariants.
//
// Durability: what Run() accepts is ordered and visible, not durable. WhenDurable() says when it is. Without being
// asked the engine makes everything durable every flush_interval.
//
// Failure: after a failed write or flush nothing more becomes durable and no change is accepted; WhenDurable() and
// Run() of changes fail with FailedPrecondition that tells the first error. Reads go on.
//
// Thread-safe. `done` callbacks run on an executor or I/O thread or inside the call, under no lock.

#ifndef STAGEFS_CORE_ENGINE_H_
#define STAGEFS_CORE_ENGINE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/broken.h"
#include "core/transaction.h"
#include "core/types.h"
#include "sal/block_store.h"
#include "sal/environment.h"

namespace stagefs::core {

using Uuid = std::array<uint8_t, 16>;

struct FormatOptions {
  uint64_t size_bytes = 0;  // 0: all of the store
  uint64_t log_bytes = 0;   // 0: a 64th of the size, at least 8 MiB and at most 256 MiB
  std::string label;        // at most 63 bytes
  Uuid uuid = {};           // all zeros: a random one
  // Called with the part done, 0 to 1. May be empty.
  std::function<void(double)> progress;
};

struct EngineOptions {
  // Bounds all memory the engine holds: block images, the checksum table, staging regions. At least 32 MiB.
  uint64_t cache_bytes = 256 << 20;
  // How many home blocks may be dirty (staged, not yet home). Bounds recovery, too. 0: as many as the cache can hold
  // (about 15,000 with the default one) and the log's reserve allows.
  uint64_t dirty_blocks = 0;
  uint64_t flush_interval_ns = 1'000'000'000;
  // Writes nothing to the store, not even recovery: the recovered state is held in memory.
  bool read_only = false;
  // Open although the log is corrupt beyond the recovered prefix, and drop what follows (fsck -y). Without it such a
  // volume opens read-only.
  bool accept_log_loss = false;
  // A checkpoint deals with so many blocks before it lets changes go on; at least 1. Their intents are one change: it has
  // one block in the log if nothing joins it. Tests have small volumes, and small pieces.
  uint64_t blocks_per_piece = 160;
  // For tests alone.
  Broken broken = Broken::kNothing;
};

// What Open() found. `warnings` are for the user: one superblock bad, store larger than the volume, blocks lost.
struct RecoveryReport {
  bool clean = false;              // the log was empty
  uint64_t frames = 0;             // frames replayed
  uint64_t changes = 0;            // changes replayed
  Lsn recovered_lsn = 0;           // P: the volume is exactly the changes up to this LSN
  // The log is corrupt behind P, and changes up to this LSN, at least, had been durable; 0: it is not.
  Lsn lost_up_to_lsn = 0;
  std::vector<Block> lost_blocks;  // home blocks that could not be recovered (the first 1000)
  uint64_t lost_block_count = 0;
  std::vector<std::string> warnings;
};

// What a superblock says, for `stagefs info`. Sizes in bytes.
struct VolumeInfo {
  Uuid uuid = {};
  std::string label;
  uint32_t version_major = 0, version_minor = 0;
  uint64_t size_bytes = 0, capacity_bytes = 0;
  uint64_t log_start_bytes = 0, log_bytes = 0;
  uint64_t table_start_bytes = 0, table_bytes = 0;
  uint64_t home_start_bytes = 0;
  uint64_t epoch = 0, checkpoint = 0;
  Lsn next_lsn = 0;
  bool clean = false;
  int64_t created_ns = 0;  // wall clock
  std::array<std::string, 2> slots;  // "valid", or what is wrong with it
};

struct EngineStats {
  Lsn accepted_lsn = 0, durable_lsn = 0;
  uint64_t changes = 0, frames = 0, flushes = 0;
  uint64_t log_bytes_written = 0, extent_bytes_written = 0, destage_bytes_written = 0, bytes_read = 0;
  uint64_t checkpoints = 0, parked = 0;
  uint64_t log_used_bytes = 0, log_capacity_bytes = 0;
  uint64_t dirty_blocks = 0, dirty_blocks_limit = 0;
  uint64_t cached_blocks = 0, cache_blocks_limit = 0;
  uint64_t staged_bytes = 0, staged_bytes_limit = 0;
  uint64_t quarantined_blocks = 0;
  uint64_t checksum_errors = 0;
  bool read_only = false;
  std::string failure;  // why the volume is read-only; empty: it is not, or was opened so
};

// A buffer of whole blocks for WriteExtent(), counted against the staging memory until the last reference is gone.
// Fill bytes(), then Seal() it; from then on it must not change.
class StagedData {
 public:
  virtual ~StagedData() = default;
  virtual absl::Span<std::byte> bytes() = 0;
  virtual uint64_t block_count() const = 0;
  // Computes the checksums: off the lock, once.
  virtual void Seal() = 0;
};

class Engine {
 public:
  using Body = absl::AnyInvocable<absl::Status(Transaction&)>;
  using Done = absl::AnyInvocable<void(absl::StatusOr<Lsn>) &&>;
  using DurableCallback = absl::AnyInvocable<void(absl::Status) &&>;

  // Writes an empty volume: superblocks, log, checksum table. All home blocks read as zeros. Durable on return.
  // Errors: InvalidArgument (too small, too large a log, ...), or the store's.
  static absl::Status Format(sal::BlockStore& store, sal::Environment& environment, const FormatOptions& options);
  // Reads the superblocks and nothing else. Errors: InvalidArgument (not a volume), FailedPrecondition (a version from
  // the future; a store smaller than the volume), DataLoss (both superblocks bad).
  static absl::StatusOr<VolumeInfo> Inspect(sal::BlockStore& store, sal::Environment& environment);
  // Recovers and serves. Errors: as Inspect(), and the store's. `store` and `environment` must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Open(sal::BlockStore& store, sal::Environment& environment,
                                                      const EngineOptions& options, RecoveryReport* report);
  virtual ~Engine() = default;  // Close() or Abandon() first.

  virtual uint64_t capacity_blocks() const = 0;
  virtual const VolumeInfo& info() const = 0;

  // Runs `body` (now, on this thread, if what it needs is in memory) and calls `done` when it was accepted, with its
  // LSN, or failed, with the body's error. Bodies that change nothing get the LSN of the latest change, so that waiting
  // for it to be durable waits for all they saw. If there is no room (log, dirty blocks, staging), the request is
  // parked until there is. If the body fails with ResourceExhausted while releases are pending, those are made durable
  // and the body runs again before the error is believed.
  virtual void Run(Body body, Done done) = 0;
  // Calls `done` with OK once every change up to `lsn` is durable. Starts what that takes.
  virtual void WhenDurable(Lsn lsn, DurableCallback done) = 0;
  // Destages everything and empties the log, without stopping. `done` when the superblocks say so.
  virtual void Checkpoint(DurableCallback done) = 0;

  // A buffer of `block_count` (1 to 512) blocks, or null if staging memory is used up: then WhenStaging() calls back
  // once when it is worth trying again. After a failure (see health()) it calls back at once, though no memory may ever
  // come back.
  virtual std::shared_ptr<StagedData> TryStage(uint64_t block_count) = 0;
  virtual void WhenStaging(absl::AnyInvocable<void() &&> retry) = 0;

  virtual Lsn accepted_lsn() const = 0;
  virtual Lsn durable_lsn() const = 0;
  // OK, or why nothing is accepted any more.
  virtual absl::Status health() const = 0;
  virtual EngineStats stats() const = 0;
  virtual sal::Environment& environment() = 0;

  // Checkpoints, marks the volume clean and stops. Every Run() must be over. Blocks. The first error, if any.
  virtual absl::Status Close() = 0;
  // Stops without writing anything more, as after a crash. Waits for I/O in flight. Blocks.
  virtual void Abandon() = 0;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_ENGINE_H_

// Transaction: one change in the making. A body (see Engine::Run) fills it; the engine accepts it whole or not at all.
//
// A body runs under the engine's sequencer lock: no other body runs meanwhile, and what it reads is the state after all
// accepted changes. It may run several times (a block was not in memory, there was no room), so it must have no effect
// except through its Transaction: a run that fails leaves no trace. In-memory state that belongs to the change is
// brought up to date in OnAccept().
//
// Misses: a method that needs a block that is not in memory returns Unavailable; the body passes that on as it is. The
// engine then drops the lock, loads every block that was missed or prefetched, pins them, and runs the body again.
//
// Not thread-safe: belongs to the body that it was given to.

#ifndef STAGEFS_CORE_TRANSACTION_H_
#define STAGEFS_CORE_TRANSACTION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/types.h"

namespace stagefs::core {

class StagedData;

class Transaction {
 public:
  virtual ~Transaction() = default;

  // --- Blocks in memory: for structures, which are read and changed a few bytes at a time. ---

  // The content of `block` as this transaction sees it: kBlockBytes bytes. Valid until the body returns, or until the
  // block is changed through this transaction. Errors: Unavailable (miss: pass it on), DataLoss (its checksum does not
  // match: EIO for what needs it).
  virtual absl::StatusOr<const std::byte*> Read(Block block) = 0;
  // The same, to be changed in place: a private copy, which replaces the block when the change is accepted. The engine
  // logs the bytes that differ, so callers need not say what they touched. Valid until the body returns.
  virtual absl::StatusOr<std::byte*> Modify(Block block) = 0;
  // A block that the caller has just taken from free space: all zeros, whatever it held before. Otherwise as Modify().
  // Errors: Unavailable (its checksum table entry is not in memory).
  virtual absl::StatusOr<std::byte*> Fresh(Block block) = 0;
  // Loads `block` along with the next miss, so that a body which knows what it will need runs twice, not n times.
  virtual void Prefetch(Block block) = 0;

  // --- Bytes: for the content of files. ---

  // Copies `bytes` to byte `address` and up; logged inline. Whole blocks need no base; parts of blocks do. Blocks that
  // were just taken from free space must be made Fresh() or Zero()ed first, in this transaction.
  virtual absl::Status Write(uint64_t address, absl::Span<const std::byte> bytes) = 0;
  // Makes a range of bytes zero. Whole blocks become "never written": that costs no I/O and no log space per block, so
  // this is also how fresh space is prepared. Bounded: at most kMaxZeroBlocks whole blocks in one transaction.
  virtual absl::Status Zero(uint64_t address, uint64_t length) = 0;
  // Makes `range` hold blocks [first_in_data, +range.count) of `data`, which are written straight to their home, before
  // the log frame that names them. The range must be free space that is not Quarantined(). Visible at once.
  virtual absl::Status WriteExtent(BlockRange range, std::shared_ptr<const StagedData> data,
                                   uint64_t first_in_data) = 0;
  // Says that nothing refers to `range` any more. Until the change is durable and every read that began before is
  // over, the range is Quarantined() and must not be given to anybody.
  virtual void Release(BlockRange range) = 0;
  // The first run of blocks within `range` that must not be used yet, or nothing. Allocators ask this about every range
  // before they take it, whatever they take it for.
  virtual std::optional<BlockRange> Quarantined(BlockRange range) = 0;
  // Plans a read of bytes [address, address + length) into `destination`, carried out after the body has returned OK
  // and before the `done` of Engine::Run() is called; it sees the state as of this body or later. Any alignment; cheap
  // when address, length and destination are aligned to kBlockBytes. `destination` must live until `done`.
  // A block whose checksum does not match makes `done` get DataLoss.
  virtual void ReadInto(uint64_t address, uint64_t length, std::byte* destination) = 0;
  // Whether `block` was never written since it was last zeroed: reads as zeros, holds no data. Errors: Unavailable.
  virtual absl::StatusOr<bool> NeverWritten(Block block) = 0;

  // --- The change as a whole ---

  // Runs `hook` once, under the sequencer lock, when the change has been accepted (or, for a body that changed nothing,
  // when it has returned OK). Hooks run in the order in which they were given.
  virtual void OnAccept(absl::AnyInvocable<void(Lsn)> hook) = 0;

  // A transaction that would log more than this is refused (InvalidArgument); bodies keep themselves below it.
  static constexpr uint64_t kMaxLoggedBytes = 2 << 20;
  static constexpr uint64_t kMaxZeroBlocks = 1 << 16;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_TRANSACTION_H_

// MemoryTransaction: the transactions of MemoryEngine. Lives while its body runs, under the engine's lock.

#ifndef STAGEFS_FS_VOLUME_TESTING_MEMORY_TRANSACTION_H_
#define STAGEFS_FS_VOLUME_TESTING_MEMORY_TRANSACTION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "core/transaction.h"
#include "fs/volume/testing/memory_engine.h"

namespace stagefs::volume::testing {

class MemoryTransaction : public core::Transaction {
 public:
  struct PlannedRead {
    uint64_t address;
    uint64_t length;
    std::byte* destination;
  };

  // `resident`: the blocks that will not be missed (again). Both must outlive the transaction.
  MemoryTransaction(MemoryEngine& engine, absl::flat_hash_set<core::Block>* resident)
      : engine_(engine), resident_(resident) {}

  // --- core::Transaction ---
  absl::StatusOr<const std::byte*> Read(core::Block block) override;
  absl::StatusOr<std::byte*> Modify(core::Block block) override;
  absl::StatusOr<std::byte*> Fresh(core::Block block) override;
  void Prefetch(core::Block block) override;
  absl::Status Write(uint64_t address, absl::Span<const std::byte> bytes) override;
  absl::Status Zero(uint64_t address, uint64_t length) override;
  absl::Status WriteExtent(core::BlockRange range, std::shared_ptr<const core::StagedData> data,
                           uint64_t first_in_data) override;
  void Release(core::BlockRange range) override;
  std::optional<core::BlockRange> Quarantined(core::BlockRange range) override;
  void ReadInto(uint64_t address, uint64_t length, std::byte* destination) override;
  absl::StatusOr<bool> NeverWritten(core::Block block) override;
  void OnAccept(absl::AnyInvocable<void(core::Lsn)> hook) override { hooks_.push_back(std::move(hook)); }

  // --- For the engine ---
  bool missed() const { return missed_; }
  // What was missed or prefetched is there the next time.
  void LoadMissed();
  bool Changed() const;
  uint64_t logged_bytes() const;
  const std::vector<core::BlockRange>& released() const { return released_; }
  const std::vector<PlannedRead>& reads() const { return reads_; }
  std::vector<std::pair<core::Block, MemoryEngine::Slot>> TakeSlots();
  std::vector<absl::AnyInvocable<void(core::Lsn)>> TakeHooks() { return std::move(hooks_); }
  // What reads of a block see. `slot` may be null: never written.
  static const std::byte* ImageOf(const MemoryEngine::Slot* slot);

 private:
  using Use = MemoryEngine::Slot::Use;
  // A block as this transaction sees it.
  struct Changing {
    std::unique_ptr<MemoryEngine::Image> image;  // null: never written
    Use use = Use::kNever;
    bool replaced = false;  // all of it is new: nothing of the base is left
    bool extent = false;    // not logged
  };

  // Unavailable if this touch of `block` is a miss.
  absl::Status Touch(core::Block block);
  absl::Status CheckRange(core::BlockRange range) const;
  Use UseOf(core::Block block) const;
  // The private copy of a block that is in use.
  absl::StatusOr<Changing*> Change(core::Block block, bool whole);
  // A block that is about to be taken into use or overwritten whole.
  Changing& Replace(core::Block block);

  MemoryEngine& engine_;
  absl::flat_hash_set<core::Block>* const resident_;
  absl::flat_hash_map<core::Block, Changing> changing_;
  absl::flat_hash_set<core::Block> to_load_;
  bool missed_ = false;
  std::vector<core::BlockRange> released_;
  std::vector<PlannedRead> reads_;
  std::vector<absl::AnyInvocable<void(core::Lsn)>> hooks_;
  bool structural_ = false;  // something besides bytes changed: Zero, WriteExtent, Release, Fresh
};

}  // namespace stagefs::volume::testing

#endif  // STAGEFS_FS_VOLUME_TESTING_MEMORY_TRANSACTION_H_

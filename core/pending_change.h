// PendingChange: the engine's Transaction. Collects a change on private images, then encodes and applies it.
//
// The record order within a change is Zero, Extent, Release, Write: a block that is zeroed or released after it was
// written loses its write, one that is written after it was zeroed keeps it, so that order says the same as the calls.
//
// Lives for one run of a body, in a section of the monitor.

#ifndef STAGEFS_CORE_PENDING_CHANGE_H_
#define STAGEFS_CORE_PENDING_CHANGE_H_

#include <map>
#include <memory>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "core/state.h"
#include "core/transaction.h"

namespace stagefs::core {

struct PlannedRead {
  uint64_t address = 0;
  uint64_t length = 0;
  std::byte* destination = nullptr;
};

// What a body missed, or could not get.
struct Misses {
  absl::btree_set<Block> blocks;
  absl::btree_set<uint64_t> table_blocks;
  bool no_image = false;  // the cache is full of what cannot be evicted

  bool any() const { return !blocks.empty() || !table_blocks.empty(); }
};

class PendingChange final : public Transaction {
 public:
  // `failed`: blocks that could not be loaded, and why.
  PendingChange(State* state, const absl::flat_hash_map<Block, absl::Status>* failed)
      : state_(state), failed_(failed) {}

  absl::StatusOr<const std::byte*> Read(Block block) override;
  absl::StatusOr<std::byte*> Modify(Block block) override;
  absl::StatusOr<std::byte*> Fresh(Block block) override;
  void Prefetch(Block block) override;
  absl::Status Write(uint64_t address, absl::Span<const std::byte> bytes) override;
  absl::Status Zero(uint64_t address, uint64_t length) override;
  absl::Status WriteExtent(BlockRange range, std::shared_ptr<const StagedData> data, uint64_t first_in_data) override;
  void Release(BlockRange range) override;
  std::optional<BlockRange> Quarantined(BlockRange range) override;
  void ReadInto(uint64_t address, uint64_t length, std::byte* destination) override;
  absl::StatusOr<bool> NeverWritten(Block block) override;
  void OnAccept(absl::AnyInvocable<void(Lsn)> hook) override { hooks_.push_back(std::move(hook)); }

  // What was missed, with the prefetches if anything was.
  Misses TakeMisses();
  bool empty() const { return touched_.empty() && zeros_.empty() && extents_.empty() && releases_.empty(); }
  const std::vector<PlannedRead>& reads() const { return reads_; }

  // Finds out which records the change has, and counts what it commits of the bounded things.
  void Encode();
  // False if the change turned out to change nothing.
  bool has_records() const { return !records_.empty(); }
  uint64_t encoded_bytes() const { return encoded_bytes_; }
  uint64_t new_dirty_blocks() const { return new_dirty_blocks_; }
  const absl::btree_set<uint64_t>& table_blocks() const { return table_blocks_; }

  // Makes the change the accepted state. `place` is where its bytes go in the log.
  void Apply(Lsn lsn, std::byte* place, Outbox& outbox);
  void RunHooks(Lsn lsn);

 private:
  struct Touched {
    ImageRef base;   // what the log's reader has before this change; null: zeros if `zeroed`, else unknown
    ImageRef image;  // private
    bool zeroed = false;       // starts from zeros
    bool zero_record = false;  // ... and no range in zeros_ says so
    bool changed = false;      // the change logs bytes of it; set by Encode()
  };
  struct ExtentPart {
    BlockRange range;
    std::shared_ptr<const StagedBuffer> data;
    uint64_t first_in_data = 0;
    std::vector<uint64_t> entries;  // of the checksum table; made by Encode()
  };
  // Its payload lies in an image or in entries of this change, and is copied once, to its place in the log.
  struct Record {
    RecordHeader header;
    const void* payload = nullptr;
    uint64_t payload_bytes = 0;
  };

  absl::Status RequireTable(Block block);
  absl::Status RequireTable(BlockRange range);
  // The image of `block` as accepted, from memory; null and a miss if it is not there.
  absl::StatusOr<BlockCache::Entry*> Cached(Block block);
  absl::StatusOr<ImageRef> NewImage();
  const ExtentPart* OwnExtent(Block block) const;
  bool OwnZero(Block block) const;
  void Forget(BlockRange range);
  void AddRecord(RecordKind kind, uint64_t address, uint16_t length, uint32_t count, const void* payload,
                 uint64_t payload_bytes);
  void EncodeDifferences(Block block, Touched& touched);
  void Log(Lsn lsn, std::byte* place) const;
  void SubmitExtent(std::unique_ptr<ExtentsInFlight::Extent> extent, Outbox& outbox);

  State* const state_;
  const absl::flat_hash_map<Block, absl::Status>* const failed_;
  absl::btree_map<Block, Touched> touched_;
  std::vector<BlockRange> zeros_;
  std::vector<ExtentPart> extents_;
  std::vector<BlockRange> releases_;
  std::vector<PlannedRead> reads_;
  absl::InlinedVector<absl::AnyInvocable<void(Lsn)>, 4> hooks_;
  absl::InlinedVector<ImageRef, 16> handed_out_;  // keeps what Read() returned alive while the body runs
  Misses misses_;
  absl::btree_set<Block> prefetches_;

  absl::InlinedVector<Record, 8> records_;
  uint64_t encoded_bytes_ = 0;
  uint64_t new_dirty_blocks_ = 0;
  absl::btree_set<uint64_t> table_blocks_;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_PENDING_CHANGE_H_

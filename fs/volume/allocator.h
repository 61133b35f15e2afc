// Allocator: which home blocks are free. Groups of kGroupBlocks blocks, each with a bitmap in its first block (bit set:
// in use), and a summary block for every kSummaryGroups groups with the number of bits set in each, so that a search
// looks only at groups that have something. What was never written reads as zeros, "nothing in use", so formatting
// writes none of them, however large the volume.
//
// Invariants:
//   * A block is in use if its bit is set or IsReserved() says so.
//   * The summary's count of a group is the number of bits set in its bitmap.
//   * The free count is the number of blocks not in use.
//   * What Allocate() and Take() return was free and not Quarantined().
//
// Every method runs inside a transaction body and passes on its misses. The work of one call is bounded, whatever the
// state of the volume. In memory there are only hints where to look first; they change in OnAccept() only.
// Format: docs/format-volume.md#allocation. Not thread-safe: the engine's sequencer lock serialises bodies.

#ifndef STAGEFS_FS_VOLUME_ALLOCATOR_H_
#define STAGEFS_FS_VOLUME_ALLOCATOR_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/transaction.h"
#include "core/types.h"
#include "fs/volume/btree.h"

namespace stagefs::volume {

// Who may dip how deep: data leaves the reserve to metadata, and metadata leaves the last part of it to what frees
// space (unlink, truncate, rename), so that a full volume can delete.
enum class SpaceUse : uint8_t { kData, kMetadata, kFreeing };

// Where a volume of some capacity keeps its bitmaps, summaries and header.
class AllocationLayout {
 public:
  static constexpr uint64_t kGroupBlocks = 8 * core::kBlockBytes;    // 32768 blocks, 128 MiB
  static constexpr uint64_t kSummaryGroups = core::kBlockBytes / 2;  // 2048 groups, 256 GiB; a u16 each
  // Reserved blocks at the start of a group: 0 the bitmap; in group 0, 1 the volume's header (fs/volume/header.h); in
  // the first group of each summary, 2 the summary. The header's copy is 1 in group 1, or 63 in group 0 if there is no
  // other group: its checksum then lies in another sector than the header's.
  static constexpr uint64_t kBitmapIndex = 0, kHeaderIndex = 1, kSummaryIndex = 2, kNearCopyIndex = 63;
  static constexpr uint64_t kMaxReserved = 64;
  // The number of free blocks: u64 in the volume's header, behind the bytes of fs/volume/format.h.
  static constexpr uint64_t kFreeCountAddress = 1 * core::kBlockBytes + 256;

  explicit AllocationLayout(uint64_t capacity_blocks);

  uint64_t capacity_blocks() const { return capacity_blocks_; }
  // A last group of less than kMaxReserved blocks does not count: its blocks are never used.
  uint64_t group_count() const { return group_count_; }
  static uint64_t GroupOf(core::Block block) { return block / kGroupBlocks; }
  static core::Block BitmapBlock(uint64_t group) { return group * kGroupBlocks + kBitmapIndex; }
  static core::Block SummaryBlock(uint64_t group) {
    return group / kSummaryGroups * kSummaryGroups * kGroupBlocks + kSummaryIndex;
  }
  // The byte in the summary block where the group's count lies.
  static uint64_t SummaryOffset(uint64_t group) { return 2 * (group % kSummaryGroups); }
  // Blocks of the group, reserved ones too.
  uint64_t BlocksIn(uint64_t group) const;
  static bool IsReserved(uint64_t group, uint64_t index) {
    return index == kBitmapIndex || (index == kHeaderIndex && group <= 1) ||
           (index == kSummaryIndex && group % kSummaryGroups == 0) || (index == kNearCopyIndex && group == 0);
  }
  static uint64_t ReservedIn(uint64_t group) {
    return 1 + (group <= 1 ? 1 : 0) + (group % kSummaryGroups == 0 ? 1 : 0) + (group == 0 ? 1 : 0);
  }
  core::Block HeaderCopyBlock() const {
    return group_count_ > 1 ? kGroupBlocks + kHeaderIndex : core::Block{kNearCopyIndex};
  }
  uint64_t UsableIn(uint64_t group) const { return BlocksIn(group) - ReservedIn(group); }
  // Blocks that files and nodes can have, all groups together.
  uint64_t usable_blocks() const;
  // Whether all of `range` can be given to files and nodes.
  bool IsUsable(core::BlockRange range) const;

 private:
  uint64_t capacity_blocks_;
  uint64_t group_count_;
};

class Allocator {
 public:
  static constexpr uint64_t kGroupBlocks = AllocationLayout::kGroupBlocks;
  static constexpr uint64_t kMinCapacityBlocks = 64;
  // How many groups one call looks into: for a run of `wanted`, and for one of `minimum`.
  static constexpr uint64_t kGroupsForWanted = 8;
  static constexpr uint64_t kGroupsForMinimum = 64;

  // `count_block`: where the number of free blocks is kept, kHeaderIndex; the copy's block where block 1 is lost and
  // nothing may be written.
  explicit Allocator(uint64_t capacity_blocks, core::Block count_block = AllocationLayout::kHeaderIndex);

  // Makes all blocks that are not reserved free; on a freshly formatted engine, before the header is written. Errors:
  // InvalidArgument (less than kMinCapacityBlocks).
  absl::Status Format(core::Transaction& tx);

  // Takes a run of `wanted` blocks, or as much of it as there is in one piece, at least `minimum`; near `goal` if
  // possible (0: anywhere). Never returns a range that is Quarantined(), nor one that spans groups. Errors:
  // ResourceExhausted (not enough free blocks for this use, or no piece of `minimum` in kGroupsForMinimum groups that
  // have as many free blocks), Unavailable, DataLoss.
  absl::StatusOr<core::BlockRange> Allocate(core::Transaction& tx, uint64_t wanted, uint64_t minimum, core::Block goal,
                                            SpaceUse use);
  // Takes exactly `range`. Errors: FailedPrecondition (not all of it is free), ResourceExhausted (quarantined).
  absl::Status Take(core::Transaction& tx, core::BlockRange range);
  // Gives `range` back: clears its bits and Release()s it. A range that is not wholly in use is DataLoss.
  absl::Status Free(core::Transaction& tx, core::BlockRange range);

  // As of the transaction. Kept in the volume header, so that statfs needs no scan.
  absl::StatusOr<uint64_t> FreeBlocks(core::Transaction& tx);
  // The same, added up from the summaries: one block for every 256 GiB.
  absl::StatusOr<uint64_t> CountFreeBlocks(core::Transaction& tx) const;
  // What kData leaves free: 1 % of the capacity, at least 256 blocks and at most 16384, but never more than an eighth.
  // kMetadata leaves half of it, kFreeing nothing.
  uint64_t reserve_blocks() const;
  const AllocationLayout& layout() const { return layout_; }

 private:
  // Every 16th group is for nodes first: metadata lies together, and data goes there last.
  static constexpr uint64_t kMetadataGroupStride = 16;
  static bool IsMetadataGroup(uint64_t group) { return group % kMetadataGroupStride == 0; }

  // One call of Allocate().
  struct Search {
    uint64_t wanted;
    uint64_t minimum;
    uint64_t groups_seen = 0;
    uint64_t first_group = ~uint64_t{0};  // seen first, by itself
    core::BlockRange best = {};           // count 0: nothing yet

    bool Over() const;
  };

  // Looks for a run in a group, from block `from` of it on, and then before it.
  absl::Status SearchGroup(core::Transaction& tx, uint64_t group, uint64_t from, Search* search);
  // Looks into the groups behind `start`, all around, that are for metadata or are not.
  absl::Status SearchGroups(core::Transaction& tx, uint64_t start, bool metadata_groups, Search* search);
  // The piece that starts at `goal`, if it is worth taking.
  absl::Status SearchAt(core::Transaction& tx, core::Block goal, Search* search);
  // The group's free blocks, by its summary block.
  uint64_t FreeBySummary(const std::byte* summary, uint64_t group) const;
  // Sets or clears the bits of `range`, which lies in one group, all of whose bits are the other way.
  absl::Status Mark(core::Transaction& tx, core::BlockRange range, bool in_use);
  absl::Status AddToFreeCount(core::Transaction& tx, int64_t delta);

  const AllocationLayout layout_;
  const core::Block count_block_;
  // Where data without a goal, or with one that is taken, goes on. A hint.
  core::Block data_rotor_;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_ALLOCATOR_H_

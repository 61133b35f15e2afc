// VolumeState: what all operations of a volume share: the tree and its storage, the allocator, the header, the counts
// of openers. Change: one run of one operation's body.
//
// Invariants:
//   * The header's inode count is the number of inode items.
//   * An inode without links exists only while it has an orphan item.
//   * In-memory state (open files) changes in Transaction::OnAccept() only.
//
// Not thread-safe: everything here is used inside transaction bodies and accept hooks, which the engine's sequencer
// lock serialises, unless a comment says otherwise.

#ifndef STAGEFS_FS_VOLUME_VOLUME_STATE_H_
#define STAGEFS_FS_VOLUME_VOLUME_STATE_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/engine.h"
#include "core/transaction.h"
#include "fs/volume/allocator.h"
#include "fs/volume/btree.h"
#include "fs/volume/format.h"
#include "fs/volume/volume.h"

namespace stagefs::volume {

// One run of a body. A body that must not go on before the removal of what an inode left behind (a pending truncation)
// is finished returns FinishRemovalFirst(ino): the removal runs, then the body again.
struct Change {
  core::Transaction& tx;
  int64_t now_ns;             // the time of the change
  Ino finish_removal_of = 0;  // set by FinishRemovalFirst()
  // What was to go to extents and is logged for want of free ones.
  uint64_t logged_instead_bytes = 0;

  static constexpr uint64_t kMostLoggedInsteadBytes = kMaxWriteBytes;

  absl::Status FinishRemovalFirst(Ino ino) {
    finish_removal_of = ino;
    return absl::AbortedError("A removal has to be finished first");
  }
};

class VolumeState : public BTreeStorage {
 public:
  // Smaller runs of whole blocks are logged inline; larger ones are written straight to fresh space.
  static constexpr uint64_t kExtentThresholdBytes = 64 << 10;

  // `engine` must outlive this object.
  // `header_block`: kHeaderBlock, or the copy's where nothing may be written and block 1 is lost.
  VolumeState(core::Engine& engine, uint64_t capacity_blocks, uint64_t hash_seed, uint64_t hash_mask,
              core::Block header_block = kHeaderBlock);

  core::Engine& engine() { return engine_; }
  BTree& tree() { return tree_; }
  Allocator& allocator() { return allocator_; }
  uint64_t capacity_blocks() const { return capacity_blocks_; }

  // Constant: may be called from any thread.
  uint64_t HashOf(absl::string_view name) const;

  // Erases an item that must be there: DataLoss if it is not.
  absl::Status Erase(core::Transaction& tx, const Key& key);

  // For whom the tree's nodes are allocated from here on; set at the start of each body.
  void SetNodeUse(SpaceUse use) { node_use_ = use; }
  SpaceUse node_use() const { return node_use_; }

  // --- The header ---
  absl::StatusOr<VolumeHeader> Header(core::Transaction& tx);
  absl::Status UpdateHeader(core::Transaction& tx, absl::FunctionRef<void(VolumeHeader&)> update);

  // --- BTreeStorage ---
  absl::StatusOr<Root> GetRoot(core::Transaction& tx) override;
  absl::Status SetRoot(core::Transaction& tx, Root root) override;
  absl::StatusOr<core::Block> AllocateNode(core::Transaction& tx, core::Block near) override;
  absl::Status FreeNode(core::Transaction& tx, core::Block block) override;
  uint64_t NodeVolume() const override { return hash_seed_; }

  // --- Openers ---
  bool IsOpen(Ino ino) const { return open_.contains(ino); }
  // In accept hooks only.
  void AddOpener(Ino ino) { ++open_[ino].count; }
  // The last opener of an inode that MarkOrphan() named hands it to the remover.
  void DropOpener(Ino ino);
  // `ino` has an orphan item now: hands it to the remover, at once or when its last opener is gone.
  void MarkOrphan(Ino ino);
  // It has a name again (Link() of an unnamed file).
  void UnmarkOrphan(Ino ino);
  // Who is told of inodes with work for the remover. Set once, before any operation. Called in accept hooks.
  void SetRemovalSink(absl::AnyInvocable<void(Ino)> sink) { removal_sink_ = std::move(sink); }
  void QueueRemoval(Ino ino) { removal_sink_(ino); }

 private:
  struct OpenState {
    uint32_t count = 0;
    bool orphan = false;
  };

  core::Engine& engine_;
  const uint64_t capacity_blocks_;
  const uint64_t hash_seed_;
  const uint64_t hash_mask_;
  const core::Block header_block_;
  Allocator allocator_;
  BTree tree_;
  SpaceUse node_use_ = SpaceUse::kMetadata;
  absl::flat_hash_map<Ino, OpenState> open_;
  absl::AnyInvocable<void(Ino)> removal_sink_;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_VOLUME_STATE_H_

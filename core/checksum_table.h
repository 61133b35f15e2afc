// ChecksumTable: the part of the checksum table that is in memory. docs/format.md#checksum-table.
//
// It holds the state after all accepted changes. Blocks of the table are changed copy-on-write, so a checkpoint's
// snapshot is a reference; they are written only as of an LSN that is durable.
//
// Not thread-safe: every method runs in a section of the monitor.

#ifndef STAGEFS_CORE_CHECKSUM_TABLE_H_
#define STAGEFS_CORE_CHECKSUM_TABLE_H_

#include <cstdint>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "core/format.h"
#include "core/image.h"

namespace stagefs::core {

class ChecksumTable {
 public:
  struct DirtyBlock {
    uint64_t index = 0;
    ImageRef image;
  };

  // At most `limit` table blocks may be committed: dirty, or held for a dirty home block whose entry will change when
  // that goes home. The pool must hold three times that: they, their copies while a snapshot is out, and clean ones.
  ChecksumTable(ImagePool* pool, uint64_t limit) : pool_(pool), limit_(limit) {}

  static uint64_t IndexOf(Block block) { return block / kEntriesPerTableBlock; }

  bool Has(uint64_t index) const { return blocks_.contains(index); }
  // Requires Has(IndexOf(block)).
  uint64_t Get(Block block);
  void Set(Block block, uint64_t entry);
  void SetRange(BlockRange range, uint64_t entry);

  // An image for loading a table block into, evicting a clean unpinned one if need be. Null if there is none: changes
  // to come and snapshots must always find images, so loading leaves them their share.
  ImageRef AllocateForLoad();
  // Adds a block that was read and checked. Ignored if it is there already.
  void Insert(uint64_t index, ImageRef image);
  void Pin(uint64_t index);
  void Unpin(uint64_t index);

  // A home block in this table block became dirty, or is no longer. Keeps the table block in memory meanwhile.
  void Hold(uint64_t index);
  void Unhold(uint64_t index);

  // Whether `additional` more table blocks may be committed.
  bool MayCommit(uint64_t additional) const { return committed_.size() + additional <= limit_; }
  bool IsCommitted(uint64_t index) const { return committed_.contains(index); }
  // A snapshot, ascending.
  std::vector<DirtyBlock> DirtyBlocks();
  void MarkWritten(const DirtyBlock& written);
  uint64_t committed_count() const { return committed_.size(); }
  uint64_t limit() const { return limit_; }

 private:
  struct Entry {
    uint64_t index = 0;
    ImageRef image;
    bool shared = false;  // a snapshot may hold the image: copy before a change
    bool dirty = false;
    uint32_t holds = 0;
    uint32_t pins = 0;
    uint64_t last_use = 0;
  };
  Entry& At(Block block);
  std::byte* Changeable(Entry& entry);
  void UpdateCommitted(const Entry& entry);

  ImagePool* const pool_;
  const uint64_t limit_;
  absl::flat_hash_map<uint64_t, Entry> blocks_;
  absl::btree_set<uint64_t> committed_;
  std::vector<uint64_t> clock_;  // indices of blocks_, in no order; the hand sweeps over it
  size_t hand_ = 0;
  uint64_t uses_ = 0;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_CHECKSUM_TABLE_H_

// BlockCache: the images of home blocks in memory, clean and dirty.
//
// A dirty image is the newest accepted content of its block; it stays until it is home, or until the block is zeroed,
// released or replaced by an extent. Clean images are kept while there is room, the least recently used go first.
//
// Not thread-safe: every method runs in a section of the monitor.

#ifndef STAGEFS_CORE_BLOCK_CACHE_H_
#define STAGEFS_CORE_BLOCK_CACHE_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "core/checksum_table.h"
#include "core/image.h"
#include "core/types.h"

namespace stagefs::core {

class BlockCache {
 public:
  struct Entry {
    Block block = 0;
    ImageRef image;
    bool dirty = false;
    bool never_written = false;  // clean zeros without a home: the first change logs a Zero record
    Lsn lsn = 0;         // of the latest change, if dirty
    Lsn intent_lsn = 0;  // of the image that the latest intent names
    // Differs between two lives of a block in the cache, and of this object: an intent is only good for the life it was
    // made in. 0: no block's.
    uint64_t incarnation = 0;
    uint32_t pins = 0;  // a pinned entry is not evicted
    Entry* newer = nullptr;  // in the list of clean entries
    Entry* older = nullptr;
  };

  // A dirty block as it was when the snapshot was taken.
  struct DirtyImage {
    Block block = 0;
    ImageRef image;
    Lsn lsn = 0, intent_lsn = 0;
    uint64_t incarnation = 0;
    Entry* entry = nullptr;  // for EntryOf()
  };

  // Dirty blocks hold their block of `table`.
  BlockCache(ImagePool* pool, ChecksumTable* table) : pool_(pool), table_(table) {}

  // Null if the block is not in memory. Counts as a use.
  Entry* Find(Block block);
  // Adds a clean block that is not there yet.
  Entry* InsertClean(Block block, ImageRef image, bool never_written);
  // Makes `image` the newest content of `block`, changed by `lsn`.
  Entry* SetDirty(Block block, ImageRef image, Lsn lsn);
  // Forgets the blocks: their content no longer matters.
  void Erase(BlockRange range);

  void Pin(Entry* entry) { ++entry->pins; }
  // Unpins `block` if it is still there in the same life.
  void Unpin(Block block, uint64_t incarnation);

  // An image, evicting a clean one if need be; null if everything is dirty, pinned or otherwise in use.
  ImageRef Allocate();

  // Ascending by block, in place of what is there.
  void GetDirtyImages(std::vector<DirtyImage>* images) const;
  // The block of `image` if it is still in memory and in the same life, else null. Does not count as a use.
  static Entry* EntryOf(const DirtyImage& image) {
    return image.entry->incarnation == image.incarnation ? image.entry : nullptr;
  }
  // Has the CPU fetch what EntryOf() will look at.
  static void Prefetch(const DirtyImage& image) { __builtin_prefetch(image.entry); }
  // `image` of the same life is home: the block is clean unless it was changed since.
  void MarkHome(const DirtyImage& written);

  uint64_t dirty_count() const { return dirty_.size(); }
  uint64_t size() const { return entries_.size(); }

 private:
  void LinkClean(Entry* entry);
  void UnlinkClean(Entry* entry);
  void EraseEntry(Block block);

  ImagePool* const pool_;
  ChecksumTable* const table_;
  absl::flat_hash_map<Block, Entry*> entries_;
  std::deque<Entry> slab_;         // all entries there ever were at a time; they never move
  std::vector<Entry*> free_slab_;  // those that are no block's
  absl::btree_map<Block, Entry*> dirty_;
  Entry* newest_ = nullptr;
  Entry* oldest_ = nullptr;
  uint64_t next_incarnation_ = 1;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_BLOCK_CACHE_H_

#include "core/block_cache.h"

#include <utility>

#include "sal/check.h"

namespace stagefs::core {

void BlockCache::LinkClean(Entry* entry) {
  entry->older = newest_;
  entry->newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = entry;
  newest_ = entry;
}

void BlockCache::UnlinkClean(Entry* entry) {
  (entry->newer != nullptr ? entry->newer->older : newest_) = entry->older;
  (entry->older != nullptr ? entry->older->newer : oldest_) = entry->newer;
}

BlockCache::Entry* BlockCache::Find(Block block) {
  const auto it = entries_.find(block);
  if (it == entries_.end()) return nullptr;
  Entry* const entry = it->second;
  if (!entry->dirty && entry != newest_) {
    UnlinkClean(entry);
    LinkClean(entry);
  }
  return entry;
}

BlockCache::Entry* BlockCache::InsertClean(Block block, ImageRef image, bool never_written) {
  if (free_slab_.empty()) free_slab_.push_back(&slab_.emplace_back());
  Entry* const entry = free_slab_.back();
  free_slab_.pop_back();
  entry->block = block;
  entry->image = std::move(image);
  entry->never_written = never_written;
  entry->incarnation = next_incarnation_++;
  STAGEFS_CHECK(entries_.emplace(block, entry).second);
  LinkClean(entry);
  return entry;
}

BlockCache::Entry* BlockCache::SetDirty(Block block, ImageRef image, Lsn lsn) {
  const auto it = entries_.find(block);
  Entry* const entry = it == entries_.end() ? InsertClean(block, ImageRef(), false) : it->second;
  entry->image = std::move(image);
  entry->lsn = lsn;
  entry->never_written = false;
  if (!entry->dirty) {
    UnlinkClean(entry);
    entry->dirty = true;
    dirty_.emplace(block, entry);
    table_->Hold(ChecksumTable::IndexOf(block));
  }
  return entry;
}

void BlockCache::EraseEntry(Block block) {
  const auto it = entries_.find(block);
  if (it == entries_.end()) return;
  Entry* const entry = it->second;
  if (entry->dirty) {
    dirty_.erase(block);
    table_->Unhold(ChecksumTable::IndexOf(block));
  } else {
    UnlinkClean(entry);
  }
  entries_.erase(it);
  *entry = Entry();
  free_slab_.push_back(entry);
}

void BlockCache::Erase(BlockRange range) {
  if (range.count <= entries_.size()) {
    for (Block block = range.first; block < range.end(); ++block) EraseEntry(block);
    return;
  }
  std::vector<Block> inside;
  for (const auto& [block, entry] : entries_) {
    if (block >= range.first && block < range.end()) inside.push_back(block);
  }
  for (const Block block : inside) EraseEntry(block);
}

void BlockCache::Unpin(Block block, uint64_t incarnation) {
  const auto it = entries_.find(block);
  if (it == entries_.end() || it->second->incarnation != incarnation) return;
  STAGEFS_CHECK(it->second->pins > 0);
  --it->second->pins;
}

ImageRef BlockCache::Allocate() {
  ImageRef image = pool_->Allocate();
  for (Entry* entry = oldest_; !image && entry != nullptr;) {
    Entry* const newer = entry->newer;
    if (entry->pins == 0) {
      EraseEntry(entry->block);
      image = pool_->Allocate();
    }
    entry = newer;
  }
  return image;
}

void BlockCache::GetDirtyImages(std::vector<DirtyImage>* images) const {
  images->clear();
  images->reserve(dirty_.size());
  for (const auto& [block, entry] : dirty_) {
    images->push_back({block, entry->image, entry->lsn, entry->intent_lsn, entry->incarnation, entry});
  }
}

void BlockCache::MarkHome(const DirtyImage& written) {
  Entry* const entry = EntryOf(written);
  if (entry == nullptr || !entry->dirty || entry->lsn != written.lsn) return;
  entry->dirty = false;
  entry->lsn = entry->intent_lsn = 0;
  dirty_.erase(written.block);
  table_->Unhold(ChecksumTable::IndexOf(written.block));
  LinkClean(entry);
}

}  // namespace stagefs::core

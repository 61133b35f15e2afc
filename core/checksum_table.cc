#include "core/checksum_table.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/checksum.h"
#include "sal/check.h"

namespace stagefs::core {
namespace {

// Byte offset of a block's entry within its table block: the first eight bytes of each sector are its checksum.
uint64_t EntryOffset(Block block) {
  const uint64_t within = block % kEntriesPerTableBlock;
  return within / kEntriesPerSector * kTableSectorBytes + 8 + within % kEntriesPerSector * 8;
}

}  // namespace

ChecksumTable::Entry& ChecksumTable::At(Block block) {
  const auto it = blocks_.find(IndexOf(block));
  STAGEFS_CHECK(it != blocks_.end());
  it->second.last_use = ++uses_;
  return it->second;
}

uint64_t ChecksumTable::Get(Block block) { return Load<uint64_t>(At(block).image.data() + EntryOffset(block)); }

std::byte* ChecksumTable::Changeable(Entry& entry) {
  if (entry.shared) {
    ImageRef copy = pool_->Allocate();
    STAGEFS_CHECK(bool{copy});  // loading leaves enough
    std::memcpy(copy.data(), entry.image.data(), kBlockBytes);
    entry.image = std::move(copy);
    entry.shared = false;
  }
  entry.dirty = true;
  UpdateCommitted(entry);
  return entry.image.data();
}

void ChecksumTable::UpdateCommitted(const Entry& entry) {
  if (entry.dirty || entry.holds > 0) {
    committed_.insert(entry.index);
  } else {
    committed_.erase(entry.index);
  }
}

void ChecksumTable::Hold(uint64_t index) {
  Entry& entry = blocks_.at(index);
  if (entry.holds++ == 0) UpdateCommitted(entry);
}

void ChecksumTable::Unhold(uint64_t index) {
  Entry& entry = blocks_.at(index);
  if (--entry.holds == 0) UpdateCommitted(entry);
}

void ChecksumTable::Set(Block block, uint64_t entry) {
  Store(Changeable(At(block)) + EntryOffset(block), entry);
}

void ChecksumTable::SetRange(BlockRange range, uint64_t entry) {
  for (Block block = range.first; block < range.end();) {
    std::byte* const table_block = Changeable(At(block));
    const Block end = std::min(range.end(), (IndexOf(block) + 1) * kEntriesPerTableBlock);
    for (; block < end; ++block) Store(table_block + EntryOffset(block), entry);
  }
}

ImageRef ChecksumTable::AllocateForLoad() {
  // Leaves the copies that changes may need while a snapshot is out.
  if (pool_->free_count() > limit_) return pool_->Allocate();
  for (size_t tries = 0; tries < clock_.size(); ++tries) {
    hand_ = hand_ + 1 < clock_.size() ? hand_ + 1 : 0;
    const auto it = blocks_.find(clock_[hand_]);
    if (it->second.dirty || it->second.holds > 0 || it->second.pins > 0) continue;
    if (tries < 8 && it->second.last_use + blocks_.size() / 2 > uses_) continue;
    blocks_.erase(it);
    clock_[hand_] = clock_.back();
    clock_.pop_back();
    return pool_->free_count() > limit_ ? pool_->Allocate() : ImageRef();
  }
  return ImageRef();
}

void ChecksumTable::Insert(uint64_t index, ImageRef image) {
  Entry entry;
  entry.index = index;
  entry.image = std::move(image);
  entry.last_use = ++uses_;
  if (blocks_.emplace(index, std::move(entry)).second) clock_.push_back(index);
}

void ChecksumTable::Pin(uint64_t index) { ++blocks_.at(index).pins; }

void ChecksumTable::Unpin(uint64_t index) { --blocks_.at(index).pins; }

std::vector<ChecksumTable::DirtyBlock> ChecksumTable::DirtyBlocks() {
  std::vector<DirtyBlock> blocks;
  blocks.reserve(committed_.size());
  for (const uint64_t index : committed_) {
    Entry& entry = blocks_.at(index);
    if (!entry.dirty) continue;
    entry.shared = true;
    blocks.push_back({index, entry.image});
  }
  return blocks;
}

void ChecksumTable::MarkWritten(const DirtyBlock& written) {
  Entry& entry = blocks_.at(written.index);
  if (!(entry.image == written.image)) return;  // changed since; stays dirty
  entry.shared = false;
  entry.dirty = false;
  UpdateCommitted(entry);
}

}  // namespace stagefs::core

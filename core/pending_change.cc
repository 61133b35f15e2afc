#include "core/pending_change.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/checksum.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::core {
namespace {

alignas(kBlockBytes) constexpr std::byte kZeros[kBlockBytes] = {};

absl::Status Miss() { return absl::UnavailableError("not in memory"); }

bool Contains(const BlockRange& range, Block block) { return block >= range.first && block < range.end(); }

}  // namespace

absl::Status PendingChange::RequireTable(Block block) {
  if (block >= state_->superblock.home_blocks) {
    return absl::OutOfRangeError(absl::StrCat("block ", block, " lies beyond the last, ",
                                              state_->superblock.home_blocks - 1));
  }
  const uint64_t index = ChecksumTable::IndexOf(block);
  if (state_->table.Has(index)) return absl::OkStatus();
  misses_.table_blocks.insert(index);
  return Miss();
}

absl::Status PendingChange::RequireTable(BlockRange range) {
  if (range.count == 0) return absl::OkStatus();
  if (range.end() > state_->superblock.home_blocks || range.end() < range.first) return RequireTable(range.end());
  absl::Status status;
  for (Block block = range.first; block < range.end();
       block = (ChecksumTable::IndexOf(block) + 1) * kEntriesPerTableBlock) {
    status.Update(RequireTable(block));
  }
  return status;
}

absl::StatusOr<ImageRef> PendingChange::NewImage() {
  ImageRef image = state_->cache.Allocate();
  if (!image) {
    misses_.no_image = true;
    return Miss();
  }
  return image;
}

const PendingChange::ExtentPart* PendingChange::OwnExtent(Block block) const {
  for (const ExtentPart& part : extents_) {
    if (Contains(part.range, block)) return &part;
  }
  return nullptr;
}

bool PendingChange::OwnZero(Block block) const {
  return std::any_of(zeros_.begin(), zeros_.end(), [block](const BlockRange& r) { return Contains(r, block); });
}

absl::StatusOr<BlockCache::Entry*> PendingChange::Cached(Block block) {
  if (BlockCache::Entry* const entry = state_->cache.Find(block)) return entry;
  if (const auto it = failed_->find(block); it != failed_->end()) return it->second;
  // What needs no I/O is made here: the body need not run again for it.
  const bool table_known = state_->table.Has(ChecksumTable::IndexOf(block));
  const bool never_written = table_known && state_->table.Get(block) == kNeverWritten;
  const ExtentsInFlight::Extent* const extent = never_written ? nullptr : state_->extents.Find(block);
  if (never_written || extent != nullptr) {
    ASSIGN_OR_RETURN(ImageRef image, NewImage());
    std::memcpy(image.data(), never_written ? kZeros : extent->At(block), kBlockBytes);
    return state_->cache.InsertClean(block, std::move(image), never_written);
  }
  if (block >= state_->superblock.home_blocks) return RequireTable(block);
  misses_.blocks.insert(block);
  return Miss();
}

absl::StatusOr<const std::byte*> PendingChange::Read(Block block) {
  if (const auto it = touched_.find(block); it != touched_.end()) return it->second.image.data();
  if (!extents_.empty()) {
    if (const ExtentPart* const part = OwnExtent(block)) {
      return part->data->block(part->first_in_data + block - part->range.first);
    }
  }
  if (OwnZero(block)) return kZeros;
  ASSIGN_OR_RETURN(BlockCache::Entry* const entry, Cached(block));
  handed_out_.push_back(entry->image);
  return entry->image.data();
}

absl::StatusOr<std::byte*> PendingChange::Modify(Block block) {
  if (const auto it = touched_.find(block); it != touched_.end()) return it->second.image.data();
  RETURN_IF_ERROR(RequireTable(block));
  Touched touched;
  const std::byte* content = kZeros;
  if (OwnZero(block)) {
    touched.zeroed = true;
  } else if (const ExtentPart* const part = OwnExtent(block)) {
    content = part->data->block(part->first_in_data + block - part->range.first);
    ASSIGN_OR_RETURN(touched.base, NewImage());
    std::memcpy(touched.base.data(), content, kBlockBytes);
  } else {
    ASSIGN_OR_RETURN(BlockCache::Entry* const entry, Cached(block));
    if (entry->never_written) {
      touched.zeroed = touched.zero_record = true;
    } else {
      touched.base = entry->image;
      content = touched.base.data();
    }
  }
  ASSIGN_OR_RETURN(touched.image, NewImage());
  std::memcpy(touched.image.data(), content, kBlockBytes);
  return touched_.emplace(block, std::move(touched)).first->second.image.data();
}

absl::StatusOr<std::byte*> PendingChange::Fresh(Block block) {
  RETURN_IF_ERROR(RequireTable(block));
  ASSIGN_OR_RETURN(ImageRef image, NewImage());
  std::memset(image.data(), 0, kBlockBytes);
  Touched& touched = touched_[block];
  touched = {ImageRef(), std::move(image), /*zeroed=*/true, /*zero_record=*/!OwnZero(block)};
  return touched.image.data();
}

void PendingChange::Prefetch(Block block) {
  if (block < state_->superblock.home_blocks && state_->cache.Find(block) == nullptr) prefetches_.insert(block);
}

absl::Status PendingChange::Write(uint64_t address, absl::Span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const Block block = address / kBlockBytes;
    const uint64_t offset = address % kBlockBytes;
    const uint64_t count = std::min<uint64_t>(kBlockBytes - offset, bytes.size());
    std::byte* image = nullptr;
    const auto it = touched_.find(block);
    if (count < kBlockBytes || it != touched_.end() || OwnZero(block) || OwnExtent(block) != nullptr) {
      ASSIGN_OR_RETURN(image, Modify(block));
    } else {
      // A whole block needs no base; if there is one in memory, only what differs is logged.
      RETURN_IF_ERROR(RequireTable(block));
      Touched touched;
      if (BlockCache::Entry* const entry = state_->cache.Find(block)) {
        touched.zeroed = touched.zero_record = entry->never_written;
        if (!entry->never_written) touched.base = entry->image;
      }
      ASSIGN_OR_RETURN(touched.image, NewImage());
      image = touched_.emplace(block, std::move(touched)).first->second.image.data();
    }
    std::memcpy(image + offset, bytes.data(), count);
    address += count;
    bytes.remove_prefix(count);
  }
  return absl::OkStatus();
}

void PendingChange::Forget(BlockRange range) {
  touched_.erase(touched_.lower_bound(range.first), touched_.lower_bound(range.end()));
}

absl::Status PendingChange::Zero(uint64_t address, uint64_t length) {
  const uint64_t end = address + length;
  const Block first_whole = (address + kBlockBytes - 1) / kBlockBytes;
  const Block end_whole = end / kBlockBytes;
  if (first_whole >= end_whole) {  // no whole block: one part, or two
    for (uint64_t at = address; at < end;) {
      const uint64_t count = std::min(kBlockBytes - at % kBlockBytes, end - at);
      ASSIGN_OR_RETURN(std::byte* const image, Modify(at / kBlockBytes));
      std::memset(image + at % kBlockBytes, 0, count);
      at += count;
    }
    return absl::OkStatus();
  }
  const BlockRange whole = {first_whole, end_whole - first_whole};
  if (whole.count > kMaxZeroBlocks) {
    return absl::InvalidArgumentError(absl::StrCat("zeroing ", whole.count, " blocks in one transaction; the most is ",
                                                   kMaxZeroBlocks));
  }
  RETURN_IF_ERROR(RequireTable(whole));
  for (const ExtentPart& part : extents_) {
    if (part.range.Overlaps(whole)) return absl::InvalidArgumentError("zeroing an extent of the same transaction");
  }
  if (const uint64_t head = first_whole * kBlockBytes - address; head > 0) RETURN_IF_ERROR(Zero(address, head));
  if (const uint64_t tail = end % kBlockBytes; tail > 0) RETURN_IF_ERROR(Zero(end - tail, tail));
  Forget(whole);
  zeros_.push_back(whole);
  return absl::OkStatus();
}

absl::Status PendingChange::WriteExtent(BlockRange range, std::shared_ptr<const StagedData> data,
                                        uint64_t first_in_data) {
  auto buffer = std::static_pointer_cast<const StagedBuffer>(std::move(data));
  STAGEFS_CHECK(buffer->sealed() && first_in_data + range.count <= buffer->block_count() && range.count > 0);
  RETURN_IF_ERROR(RequireTable(range));
  STAGEFS_CHECK(!Quarantined(range).has_value());
  Forget(range);
  extents_.push_back({range, std::move(buffer), first_in_data, {}});
  return absl::OkStatus();
}

void PendingChange::Release(BlockRange range) {
  if (range.count == 0) return;
  Forget(range);
  releases_.push_back(range);
}

std::optional<BlockRange> PendingChange::Quarantined(BlockRange range) {
  if (state_->options.broken == Broken::kReuseBeforeDurable) return std::nullopt;
  std::optional<BlockRange> first = state_->quarantine.FirstIn(range);
  for (const BlockRange& released : releases_) {  // what this very change releases
    if (!released.Overlaps(range)) continue;
    const Block begin = std::max(released.first, range.first);
    if (!first.has_value() || begin < first->first) {
      first = BlockRange{begin, std::min(released.end(), range.end()) - begin};
    }
  }
  return first;
}

void PendingChange::ReadInto(uint64_t address, uint64_t length, std::byte* destination) {
  if (length == 0) return;
  const Block first = address / kBlockBytes;
  // Misses are found by TakeMisses(): the body need not care.
  RequireTable(BlockRange{first, (address + length - 1) / kBlockBytes - first + 1}).IgnoreError();
  reads_.push_back({address, length, destination});
}

absl::StatusOr<bool> PendingChange::NeverWritten(Block block) {
  if (touched_.contains(block) || OwnExtent(block) != nullptr) return false;
  if (OwnZero(block)) return true;
  if (const BlockCache::Entry* const entry = state_->cache.Find(block)) return entry->never_written;
  RETURN_IF_ERROR(RequireTable(block));
  return state_->table.Get(block) == kNeverWritten;
}

Misses PendingChange::TakeMisses() {
  if (misses_.any()) misses_.blocks.insert(prefetches_.begin(), prefetches_.end());
  return std::move(misses_);
}

void PendingChange::AddRecord(RecordKind kind, uint64_t address, uint16_t length, uint32_t count,
                              const void* payload, uint64_t payload_bytes) {
  records_.push_back({{static_cast<uint8_t>(kind), 0, length, count, address}, payload, payload_bytes});
  encoded_bytes_ += sizeof(RecordHeader) + PadTo8(payload_bytes);
}

// Logs the runs of bytes in which the image differs from what the log's reader has. Runs that lie closer together than
// a record header are one.
void PendingChange::EncodeDifferences(Block block, Touched& touched) {
  const std::byte* const now = touched.image.data();
  const size_t records_before = records_.size();
  if (!touched.base && !touched.zeroed) {
    touched.changed = true;
    AddRecord(RecordKind::kWrite, block * kBlockBytes, kBlockBytes, 0, now, kBlockBytes);
    return;
  }
  const std::byte* const before = touched.base ? touched.base.data() : kZeros;
  constexpr uint64_t kWord = 8;
  constexpr uint64_t kLine = 256;
  constexpr uint64_t kGap = sizeof(RecordHeader);
  const auto differs = [&](uint64_t at) { return std::memcmp(now + at, before + at, kWord) != 0; };
  for (uint64_t at = 0; at < kBlockBytes;) {
    if (!differs(at)) {
      // Most of a block is equal, as a rule: that is found out in long strides.
      const bool line_equal = at % kLine == 0 && std::memcmp(now + at, before + at, kLine) == 0;
      at += line_equal ? kLine : kWord;
      continue;
    }
    const uint64_t start = at;
    uint64_t end = at + kWord;
    for (at = end; at < kBlockBytes && at - end < kGap; at += kWord) {
      if (differs(at)) end = at + kWord;
    }
    AddRecord(RecordKind::kWrite, block * kBlockBytes + start, end - start, 0, now + start, end - start);
  }
  touched.changed = records_.size() > records_before;
}

void PendingChange::Encode() {
  encoded_bytes_ = sizeof(ChangeHeader);
  const bool log_zeros = state_->options.broken != Broken::kNoZeroForFreshBlocks;
  for (const BlockRange& range : zeros_) {
    if (log_zeros) AddRecord(RecordKind::kZero, range.first, 0, range.count, nullptr, 0);
  }
  for (const auto& [block, touched] : touched_) {
    if (touched.zero_record && log_zeros) AddRecord(RecordKind::kZero, block, 0, 1, nullptr, 0);
  }
  for (ExtentPart& part : extents_) {
    part.entries.reserve(part.range.count);
    for (uint64_t i = 0; i < part.range.count; ++i) {
      part.entries.push_back(TableEntry(part.data->content_hash(part.first_in_data + i), part.range.first + i,
                                        state_->volume_salt));
    }
    AddRecord(RecordKind::kExtent, part.range.first, 0, part.range.count, part.entries.data(),
              part.entries.size() * sizeof(uint64_t));
  }
  for (const BlockRange& range : releases_) {
    AddRecord(RecordKind::kRelease, range.first, 0, range.count, nullptr, 0);
  }
  for (auto& [block, touched] : touched_) EncodeDifferences(block, touched);

  // What it commits of the bounded things.
  const auto commit_tables = [this](BlockRange range) {
    for (uint64_t index = ChecksumTable::IndexOf(range.first); index <= ChecksumTable::IndexOf(range.end() - 1);
         ++index) {
      if (!state_->table.IsCommitted(index)) table_blocks_.insert(index);
    }
  };
  for (const BlockRange& range : zeros_) commit_tables(range);
  for (const ExtentPart& part : extents_) commit_tables(part.range);
  for (const auto& [block, touched] : touched_) {
    const BlockCache::Entry* const entry = state_->cache.Find(block);
    if (entry == nullptr || !entry->dirty) ++new_dirty_blocks_;
    commit_tables({block, 1});
  }
}

void PendingChange::Log(Lsn lsn, std::byte* place) const {
  Store(place, ChangeHeader{static_cast<uint32_t>(encoded_bytes_), static_cast<uint32_t>(records_.size()), lsn});
  place += sizeof(ChangeHeader);
  for (const Record& record : records_) {
    Store(place, record.header);
    place += sizeof(RecordHeader);
    if (record.payload_bytes == 0) continue;
    const uint64_t padded_bytes = PadTo8(record.payload_bytes);
    std::memset(place + padded_bytes - 8, 0, 8);  // what pads the payload
    std::memcpy(place, record.payload, record.payload_bytes);
    place += padded_bytes;
  }
}

void PendingChange::Apply(Lsn lsn, std::byte* place, Outbox& outbox) {
  Log(lsn, place);
  for (const BlockRange& range : zeros_) {
    state_->cache.Erase(range);
    state_->table.SetRange(range, kNeverWritten);
  }
  for (const ExtentPart& part : extents_) {
    state_->cache.Erase(part.range);
    for (uint64_t i = 0; i < part.range.count; ++i) state_->table.Set(part.range.first + i, part.entries[i]);
    const uint64_t largest = state_->monitor.store().geometry().max_request_bytes / kBlockBytes;
    for (uint64_t at = 0; at < part.range.count; at += largest) {
      auto extent = std::make_unique<ExtentsInFlight::Extent>();
      extent->range = {part.range.first + at, std::min(largest, part.range.count - at)};
      extent->data = part.data;
      extent->first_in_data = part.first_in_data + at;
      SubmitExtent(std::move(extent), outbox);
    }
  }
  for (const BlockRange& range : releases_) {
    state_->cache.Erase(range);
    const uint64_t destages = state_->destages_over + (state_->destage_running ? 1 : 0);
    state_->quarantine.Add(range, {lsn, state_->next_read, destages});
  }
  for (auto& [block, touched] : touched_) {
    if (touched.zero_record) {
      state_->cache.Erase({block, 1});  // a new life: intents for the old one are void
      state_->table.Set(block, kNeverWritten);
    }
    // A block left all zeros has no redo from which recovery could write it home, so it must not be destaged either.
    if (!touched.changed) continue;
    state_->cache.SetDirty(block, std::move(touched.image), lsn);
  }
}

void PendingChange::SubmitExtent(std::unique_ptr<ExtentsInFlight::Extent> extent, Outbox& outbox) {
  State* const state = state_;
  extent->frame_sequence = state->log->AwaitExtent();
  ExtentsInFlight::Extent* const e = state->extents.Add(std::move(extent));
  sal::Request& request = e->request;
  request.op = sal::Request::Op::kWrite;
  request.offset_bytes = state->HomeOffset(e->range.first);
  request.length_bytes = e->range.count * kBlockBytes;
  request.buffers.push_back({const_cast<std::byte*>(e->At(e->range.first)), request.length_bytes});
  state->stats.extent_bytes_written += request.length_bytes;
  outbox.Submit(&request, [state, e](absl::Status status) {
    std::unique_ptr<ExtentsInFlight::Extent> finished;  // frees its buffer outside the section
    state->monitor.Run([&](Outbox& inner) {
      // After a failure the buffer stays: it is the only copy that reads can be served from.
      if (!status.ok()) return state->Fail(std::move(status), inner);
      finished = state->extents.Remove(e->range.first);
      state->log->ExtentWritten(finished->frame_sequence, inner);
      state->on_progress(inner);
    });
  });
}

void PendingChange::RunHooks(Lsn lsn) {
  for (auto& hook : hooks_) hook(lsn);
}

}  // namespace stagefs::core

#include "core/recovery.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/checksum.h"
#include "sal/blocking_io.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::core {

absl::StatusOr<SuperblockPair> ReadSuperblocks(sal::BlockStore& store, sal::Environment& environment) {
  SuperblockPair pair;
  const AlignedMemory block(kBlockBytes);
  bool found = false;
  size_t unreadable = 0;
  for (uint32_t slot = 0; slot < kSuperblockPlaces.size(); ++slot) {
    const uint64_t offset = kSuperblockPlaces[slot] * kBlockBytes;
    if (offset + kBlockBytes > store.geometry().size_bytes) {
      pair.slots[slot] = absl::InvalidArgumentError("lies beyond the end of the store");
      continue;
    }
    pair.slots[slot] = sal::BlockingRead(store, environment, offset, block.data(), kBlockBytes);
    if (!pair.slots[slot].ok()) {
      ++unreadable;
      continue;
    }
    const absl::StatusOr<Superblock> superblock = DecodeSuperblock(block.data(), slot);
    pair.slots[slot] = superblock.status();
    if (!superblock.ok()) continue;
    if (!found || superblock->checkpoint > pair.newest.checkpoint) pair.newest = *superblock;
    found = true;
  }
  if (unreadable == pair.slots.size()) {
    return absl::Status(pair.slots[0].code(), absl::StrCat(store.name(), ": neither superblock can be read: ",
                                                           pair.slots[0].message(), "; mend the store first"));
  }
  if (!found) {
    for (const absl::Status& slot : pair.slots) {
      if (absl::IsFailedPrecondition(slot)) {
        return absl::FailedPreconditionError(absl::StrCat(store.name(), ": ", slot.message()));
      }
    }
    if (absl::IsInvalidArgument(pair.slots[0]) && absl::IsInvalidArgument(pair.slots[1])) {
      return absl::InvalidArgumentError(absl::StrCat(
          store.name(), ": not a stagefs volume; `stagefs mkfs` makes one (and destroys what is there)"));
    }
    return absl::DataLossError(absl::StrCat(store.name(), ": both superblocks are damaged: the first: ",
                                            pair.slots[0].message(), "; the second: ", pair.slots[1].message(),
                                            ". The volume cannot be opened; restore it from a backup"));
  }
  const uint64_t size_bytes = pair.newest.size_blocks * kBlockBytes;
  if (store.geometry().size_bytes < size_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(store.name(), ": the store has ", store.geometry().size_bytes, " bytes, the volume needs ",
                     size_bytes, ": the image was truncated; restore its full length first"));
  }
  return pair;
}

absl::Status Recovery::Run() {
  reader_.emplace(&state_->monitor.store(), &state_->monitor.environment(), state_->superblock,
                  state_->options.broken);
  RETURN_IF_ERROR(FindPrefix());
  RETURN_IF_ERROR(LoadBases());
  RETURN_IF_ERROR(Replay());
  Install();
  return absl::OkStatus();
}

// Calls visit(record, lsn, number); `number` counts all records of the log.
template <typename Visit>
absl::Status Recovery::ForEachRecord(const LogReader::Frame& frame, uint64_t* number, Visit visit) {
  ChangeReader changes(frame.payload, state_->superblock.home_blocks);
  while (changes.NextChange()) {
    while (changes.NextRecord()) RETURN_IF_ERROR(visit(changes.record(), changes.lsn(), ++*number));
  }
  return changes.status();
}

// First pass: how far the log goes, and what becomes of each block.
absl::Status Recovery::FindPrefix() {
  last_lsn_ = state_->superblock.covered_lsn;
  uint64_t number = 0;
  for (;;) {
    ASSIGN_OR_RETURN(const std::optional<LogReader::Frame> frame, reader_->Next());
    if (!frame.has_value()) break;
    RETURN_IF_ERROR(ForEachRecord(*frame, &number, [this](const Record& record, Lsn, uint64_t record_number) {
      return PlanRecord(record, record_number);
    }));
    ++report_->frames;
    report_->changes += frame->header.change_count;
    RETURN_IF_ERROR(TakeLsns(*frame));
  }
  end_ = reader_->place();
  ASSIGN_OR_RETURN(const LogReader::Beyond beyond, reader_->ScanBeyond());
  report_->recovered_lsn = last_lsn_;
  state_->next_lsn = std::max({last_lsn_, beyond.highest_lsn, beyond.highest_durable}) + kLsnGap;
  if (beyond.highest_durable > last_lsn_) report_->lost_up_to_lsn = beyond.highest_durable;
  if (beyond.highest_durable > last_lsn_ && !state_->options.accept_log_loss) {
    state_->read_only = true;
    report_->warnings.push_back(absl::StrCat(
        "the log is corrupt behind LSN ", last_lsn_, ": changes up to LSN ", beyond.highest_durable,
        " were durable and are lost. The volume is read-only at LSN ", last_lsn_,
        "; `stagefs fsck -y` accepts the loss"));
  }
  return absl::OkStatus();
}

// LSNs ascend along the log.
absl::Status Recovery::TakeLsns(const LogReader::Frame& frame) {
  ChangeReader changes(frame.payload, state_->superblock.home_blocks);
  while (changes.NextChange()) {
    if (changes.lsn() <= last_lsn_ || changes.lsn() >= state_->superblock.covered_lsn + kMostLsnsPerEpoch) {
      return absl::DataLossError(
          absl::StrCat("log frame holds nonsense: LSN ", changes.lsn(), " behind LSN ", last_lsn_));
    }
    last_lsn_ = changes.lsn();
  }
  last_lsn_ = std::max(last_lsn_, frame.header.durable_lsn);
  recorded_lsn_ = std::max(recorded_lsn_, frame.header.durable_lsn);
  return absl::OkStatus();
}

// Brings the table blocks for `range` into memory.
absl::Status Recovery::NeedTable(BlockRange range) {
  for (uint64_t index = ChecksumTable::IndexOf(range.first);
       range.count > 0 && index <= ChecksumTable::IndexOf(range.end() - 1); ++index) {
    if (state_->table.Has(index)) continue;
    ImageRef image = state_->table.AllocateForLoad();
    if (!image) {
      return absl::ResourceExhaustedError(absl::StrCat(
          state_->monitor.store().name(), ": the log changes more of the checksum table than a cache of ",
          state_->options.cache_bytes, " bytes can hold; open the volume with a larger cache"));
    }
    RETURN_IF_ERROR(sal::BlockingRead(state_->monitor.store(), state_->monitor.environment(),
                                      state_->TableOffset(index), image.data(), kBlockBytes));
    if (const int bad = CheckTableBlock(image.data(), index, state_->volume_salt); bad > 0) {
      report_->warnings.push_back(absl::StrCat(bad, " bad sectors in block ", index, " of the checksum table"));
    }
    state_->table.Insert(index, std::move(image));
  }
  return absl::OkStatus();
}

void Recovery::Revoke(BlockRange range) {
  if (state_->options.broken == Broken::kNoRevocation) return;
  for (auto it = plans_.lower_bound(range.first); it != plans_.end() && it->first < range.end();) {
    state_->table.Unhold(ChecksumTable::IndexOf(it->first));
    it = plans_.erase(it);
  }
}

// The table is replayed in this pass already: at the first redo of a block it says what its base is.
absl::Status Recovery::PlanRecord(const Record& record, uint64_t number) {
  const BlockRange range = {record.address, record.count};
  switch (record.kind) {
    case RecordKind::kWrite: {
      const Block block = record.address / kBlockBytes;
      if (plans_.contains(block)) break;
      RETURN_IF_ERROR(NeedTable({block, 1}));
      state_->table.Hold(ChecksumTable::IndexOf(block));
      plans_[block] = {number, state_->table.Get(block), record.count == kBlockBytes, std::nullopt};
      break;
    }
    case RecordKind::kZero:
      Revoke(range);
      RETURN_IF_ERROR(NeedTable(range));
      state_->table.SetRange(range, kNeverWritten);
      break;
    case RecordKind::kRelease:
      Revoke(range);
      break;
    case RecordKind::kExtent:
      Revoke(range);
      RETURN_IF_ERROR(NeedTable(range));
      for (uint64_t i = 0; i < record.count; ++i) {
        state_->table.Set(range.first + i, Load<uint64_t>(record.payload + i * sizeof(uint64_t)));
      }
      break;
    case RecordKind::kIntent:
      for (uint64_t i = 0; i < record.count; ++i) {
        const IntentEntry intent = Load<IntentEntry>(record.payload + i * sizeof(IntentEntry));
        if (const auto it = plans_.find(intent.block); it != plans_.end()) it->second.intent = intent;
        RETURN_IF_ERROR(NeedTable({intent.block, 1}));
        state_->table.Set(intent.block, intent.table_entry);
      }
      break;
  }
  return absl::OkStatus();
}

absl::Status Recovery::LoadBases() {
  constexpr size_t kReadsInFlight = 64;
  struct Read {
    sal::Request request;
    Block block = 0;
    absl::Status status;
  };
  std::vector<std::unique_ptr<Read>> reads;
  const auto finish_reads = [&]() -> absl::Status {
    if (reads.empty()) return absl::OkStatus();
    const std::unique_ptr<sal::Event> all_done = state_->monitor.environment().NewEvent();
    std::atomic<size_t> left = reads.size();
    for (const std::unique_ptr<Read>& read : reads) {
      read->request.done = [&left, &all_done, raw = read.get()](absl::Status status) {
        raw->status = std::move(status);
        if (--left == 0) all_done->Set();
      };
      state_->monitor.store().Submit(&read->request);
    }
    all_done->Wait();
    for (const std::unique_ptr<Read>& read : reads) RETURN_IF_ERROR(CheckBase(read->block, read->status));
    reads.clear();
    return absl::OkStatus();
  };

  for (const auto& [block, plan] : plans_) {
    Replayed& replayed = blocks_[block];
    replayed.image = state_->images.Allocate();
    if (!replayed.image) {
      return absl::ResourceExhaustedError(absl::StrCat(
          state_->monitor.store().name(), ": the log changes ", plans_.size(), " blocks, more than a cache of ",
          state_->options.cache_bytes, " bytes can hold; open the volume with a larger cache"));
    }
    if (plan.base_entry == kNeverWritten || plan.whole_first) {
      std::memset(replayed.image.data(), 0, kBlockBytes);
      continue;
    }
    // With an intent the home may be torn: old, new, or both. Replay makes it whole and the intent tells.
    if (plan.base_entry == kPoisoned && !plan.intent.has_value()) {
      replayed.bad = state_->options.broken != Broken::kNoPoison;
    }
    auto read = std::make_unique<Read>();
    read->block = block;
    read->request.op = sal::Request::Op::kRead;
    read->request.offset_bytes = state_->HomeOffset(block);
    read->request.length_bytes = kBlockBytes;
    read->request.buffers.push_back({replayed.image.data(), kBlockBytes});
    reads.push_back(std::move(read));
    if (reads.size() == kReadsInFlight) RETURN_IF_ERROR(finish_reads());
  }
  return finish_reads();
}

absl::Status Recovery::CheckBase(Block block, const absl::Status& read_status) {
  const BlockPlan& plan = plans_.at(block);
  Replayed& replayed = blocks_.at(block);
  if (!read_status.ok()) {
    if (!state_->options.accept_log_loss) {
      return absl::Status(read_status.code(),
                          absl::StrCat(state_->monitor.store().name(), ": home block ", block,
                                       ", which the log changes, cannot be read: ", read_status.message(),
                                       "; if the store cannot be mended, `stagefs fsck -y` accepts its loss"));
    }
    replayed.bad = true;
    return absl::OkStatus();
  }
  if (plan.intent.has_value() || state_->options.broken == Broken::kNoPoison) return absl::OkStatus();
  if (TableEntry(ContentHash(replayed.image.data()), block, state_->volume_salt) != plan.base_entry) {
    replayed.bad = true;
  }
  return absl::OkStatus();
}

// Second pass: applies the redo that counts, in LSN order.
absl::Status Recovery::Replay() {
  if (!plans_.empty()) {
    reader_->Rewind();
    uint64_t number = 0;
    for (uint64_t i = 0; i < report_->frames; ++i) {
      ASSIGN_OR_RETURN(const std::optional<LogReader::Frame> frame, reader_->Next());
      if (!frame.has_value()) {
        return absl::DataLossError(absl::StrCat(state_->monitor.store().name(),
                                                ": the log reads differently the second time, at frame ", i));
      }
      RETURN_IF_ERROR(ForEachRecord(*frame, &number, [this](const Record& record, Lsn lsn, uint64_t record_number) {
        if (record.kind == RecordKind::kWrite) Redo(record, lsn, record_number);
        return absl::OkStatus();
      }));
    }
  }
  for (auto& [block, replayed] : blocks_) VerifyIntent(block, plans_.at(block), replayed);
  return absl::OkStatus();
}

void Recovery::Redo(const Record& record, Lsn lsn, uint64_t number) {
  const Block block = record.address / kBlockBytes;
  const auto it = plans_.find(block);
  if (it == plans_.end() || number < it->second.first_redo) return;
  Replayed& replayed = blocks_.at(block);
  if (it->second.intent.has_value() && lsn > it->second.intent->lsn) VerifyIntent(block, it->second, replayed);
  std::memcpy(replayed.image.data() + record.address % kBlockBytes, record.payload, record.count);
  if (record.count == kBlockBytes) replayed.bad = false;  // whatever was there is gone
  replayed.lsn = lsn;
}

// Home plus redo up to the intent must be what the intent says: that tells a torn home from a decayed one.
void Recovery::VerifyIntent(Block block, const BlockPlan& plan, Replayed& replayed) {
  if (!plan.intent.has_value() || replayed.verified) return;
  replayed.verified = true;
  const uint64_t found = TableEntry(ContentHash(replayed.image.data()), block, state_->volume_salt);
  if (found != plan.intent->table_entry && state_->options.broken != Broken::kNoPoison) replayed.bad = true;
}

void Recovery::Lose(Block block) {
  state_->table.Set(block, kPoisoned);
  ++report_->lost_block_count;
  constexpr size_t kMostListed = 1000;
  if (report_->lost_blocks.size() < kMostListed) report_->lost_blocks.push_back(block);
  report_->warnings.push_back(absl::StrCat("home block ", block,
                                           " is damaged and the log holds only part of it: its content is lost"));
}

void Recovery::Install() {
  for (auto& [block, replayed] : blocks_) {
    if (replayed.bad) {
      Lose(block);
    } else {
      BlockCache::Entry* const entry = state_->cache.SetDirty(block, std::move(replayed.image), replayed.lsn);
      // Another intent for the same image would say nothing new; without this, every crash in recovery would add some.
      const std::optional<IntentEntry>& intent = plans_.at(block).intent;
      if (intent.has_value()) entry->intent_lsn = intent->lsn;
    }
    state_->table.Unhold(ChecksumTable::IndexOf(block));  // the cache holds it itself now
  }
  blocks_.clear();
  state_->accepted_lsn = last_lsn_;
  const Superblock& superblock = state_->superblock;
  state_->log->Start(superblock, {superblock.tail_position, superblock.tail_sequence, superblock.tail_chain}, end_,
                     last_lsn_, report_->frames == 0 ? last_lsn_ : recorded_lsn_);
  report_->clean = report_->frames == 0 && (superblock.flags & kCleanFlag) != 0;
}

}  // namespace stagefs::core

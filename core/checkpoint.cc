#include "core/checkpoint.h"

#include <algorithm>
#include <utility>

#include "core/checksum.h"
#include "sal/check.h"

namespace stagefs::core {

void Checkpointer::StartIfNeeded(Outbox& outbox) {
  if (step_ != Step::kIdle || !state_->failure.ok() || state_->read_only) return;
  const bool needed = state_->log->used_blocks() * 2 > state_->log->usable_blocks() ||
                      state_->cache.dirty_count() * 2 > state_->plan.dirty_limit ||
                      state_->table.committed_count() * 2 > state_->table.limit();
  if (needed) Start(outbox);
}

void Checkpointer::StartForRoom(Outbox& outbox) {
  if (step_ == Step::kIdle && state_->failure.ok() && !state_->read_only) Start(outbox);
}

void Checkpointer::Request(Engine::DurableCallback done, Outbox& outbox) {
  if (!state_->failure.ok() || state_->read_only) {
    outbox.Call([done = std::move(done), status = state_->failure]() mutable { std::move(done)(status); });
    return;
  }
  next_.push_back(std::move(done));
  if (step_ == Step::kIdle) Start(outbox);
}

void Checkpointer::RequestNewEpoch(uint64_t salt, Engine::DurableCallback done, Outbox& outbox) {
  STAGEFS_CHECK(step_ == Step::kIdle);
  new_epoch_ = true;
  new_salt_ = salt;
  Request(std::move(done), outbox);
}

void Checkpointer::Start(Outbox& outbox) {
  step_ = Step::kHashing;
  state_->destage_running = true;
  waiting_.swap(next_);
  // Every change up to covered_lsn_ lies before target_ in the log, and its effect is in images_, in extents that are
  // durable before the intents are, or in the table.
  target_ = state_->log->CutHere(outbox);
  covered_lsn_ = state_->accepted_lsn;
  images_ = state_->cache.DirtyImages();
  entries_.assign(images_.size(), 0);
  next_image_ = 0;
  changes_at_start_ = state_->stats.changes;
  outbox.Post([this] { Hash(); });
}

void Checkpointer::Hash() {
  for (size_t i = 0; i < images_.size(); ++i) {
    entries_[i] = TableEntry(ContentHash(images_[i].image.data()), images_[i].block, state_->volume_salt);
  }
  state_->monitor.Run([&](Outbox& outbox) {
    step_ = Step::kIntents;
    Poke(outbox);
  });
}

void Checkpointer::Poke(Outbox& outbox) {
  if (step_ == Step::kIdle) return;
  if (!state_->failure.ok()) return Abort(outbox);
  switch (step_) {
    case Step::kIntents:
      return LogIntents(outbox);
    case Step::kIntentsDurable:
      if (state_->log->durable_lsn() < snapshot_lsn_ &&
          (state_->options.broken != Broken::kDestageBeforeDurable || new_epoch_)) {
        return;
      }
      if (!MayGoHome(outbox)) return;
      step_ = Step::kHome;
      PlanWrites();
      // On a thread of its own: this one may have requests of clients to answer, and who submits gets the completions.
      return outbox.Post([this] { state_->monitor.Run([this](Outbox& inner) { WriteHome(inner); }); });
    case Step::kHomeFlush:
      if (!state_->flushes.Covered(cover_) && state_->options.broken != Broken::kTailBeforeFlush) return;
      slots_written_ = 0;
      return WriteSuperblock(outbox);
    case Step::kSuperblockFlush:
      if (state_->flushes.Covered(cover_)) NextSuperblock(outbox);
      return;
    default:
      return;
  }
}

// Names every image that no intent names yet. A block that was released, zeroed or replaced since the snapshot is left
// out, here and of what is written home.
void Checkpointer::LogIntents(Outbox& outbox) {
  if (state_->options.broken == Broken::kNoIntents) {
    for (size_t i = 0; i < images_.size(); ++i) state_->table.Set(images_[i].block, entries_[i]);
    return SnapshotTable(outbox);
  }
  while (next_image_ < images_.size()) {
    const size_t end = std::min(images_.size(), next_image_ + kIntentsPerChange);
    constexpr uint64_t kOverhead = sizeof(ChangeHeader) + sizeof(RecordHeader);
    const uint64_t most_bytes = kOverhead + (end - next_image_) * sizeof(IntentEntry);
    if (!state_->log->HasRoom(most_bytes, /*is_intent=*/true)) {
      state_->log->Want(state_->accepted_lsn, outbox);  // makes room, and pokes
      return;
    }
    std::vector<IntentEntry> intents;
    for (; next_image_ < end; ++next_image_) {
      BlockCache::DirtyImage& image = images_[next_image_];
      BlockCache::Entry* const entry = state_->cache.Find(image.block);
      if (entry == nullptr || entry->incarnation != image.incarnation) {
        image.image = ImageRef();
        continue;
      }
      state_->table.Set(image.block, entries_[next_image_]);
      if (entry->intent_lsn >= image.lsn) continue;  // recovery was here before
      entry->intent_lsn = image.lsn;
      intents.push_back({image.block, image.lsn, entries_[next_image_]});
    }
    if (intents.empty()) continue;
    const uint64_t bytes = kOverhead + intents.size() * sizeof(IntentEntry);
    const Lsn lsn = state_->next_lsn++;
    std::byte* const place = state_->log->Append(lsn, bytes, outbox);
    Store(place, ChangeHeader{static_cast<uint32_t>(bytes), 1, lsn});
    Store(place + sizeof(ChangeHeader), RecordHeader{static_cast<uint8_t>(RecordKind::kIntent), 0, 0,
                                                     static_cast<uint32_t>(intents.size()), 0});
    std::copy_n(reinterpret_cast<const std::byte*>(intents.data()), intents.size() * sizeof(IntentEntry),
                place + kOverhead);
    state_->accepted_lsn = lsn;
  }
  SnapshotTable(outbox);
}

void Checkpointer::SnapshotTable(Outbox& outbox) {
  table_images_ = state_->table.DirtyBlocks();
  for (const ChecksumTable::DirtyBlock& block : table_images_) {
    SealTableBlock(block.image.data(), block.index, state_->volume_salt);
  }
  snapshot_lsn_ = state_->accepted_lsn;
  step_ = Step::kIntentsDurable;
  state_->log->Want(snapshot_lsn_, outbox);
  Poke(outbox);  // it may be durable already
}

// Homes and table are about to be ahead of the log's older frames. If one of those decays now, recovery must see that
// and not take it for the end: so a later frame has to say first that they were durable.
bool Checkpointer::MayGoHome(Outbox& outbox) {
  if (images_.empty() && table_images_.empty()) return true;
  if (state_->options.broken == Broken::kDestageBeforeDurable || state_->log->DurableIsRecorded(snapshot_lsn_)) {
    return true;
  }
  state_->log->WantDurableRecord(state_->next_lsn, outbox);
  return false;
}

// Neighbouring blocks go in one request.
void Checkpointer::PlanWrites() {
  const sal::Geometry& geometry = state_->monitor.store().geometry();
  const uint64_t most = std::min<uint64_t>(geometry.max_request_bytes / kBlockBytes, geometry.max_buffers);
  uint64_t end_offset = 0;
  const auto add = [&](uint64_t offset_bytes, std::byte* data) {
    if (writes_.empty() || offset_bytes != end_offset || writes_.back()->request.buffers.size() >= most) {
      auto write = std::make_unique<Write>();
      write->request.op = sal::Request::Op::kWrite;
      write->request.offset_bytes = offset_bytes;
      writes_.push_back(std::move(write));
    }
    sal::Request& request = writes_.back()->request;
    request.buffers.push_back({data, kBlockBytes});
    request.length_bytes += kBlockBytes;
    end_offset = offset_bytes + kBlockBytes;
    state_->stats.destage_bytes_written += kBlockBytes;
  };
  writes_.clear();
  next_write_ = 0;
  for (const BlockCache::DirtyImage& image : images_) {
    if (image.image) add(state_->HomeOffset(image.block), image.image.data());
  }
  for (const ChecksumTable::DirtyBlock& block : table_images_) {
    add(state_->TableOffset(block.index), block.image.data());
  }
}

void Checkpointer::WriteHome(Outbox& outbox) {
  if (step_ != Step::kHome) return;  // aborted
  if (!state_->failure.ok()) return Abort(outbox);
  SubmitWrites(outbox);
}

// Half of what may be in flight at a time: a request alone costs the store almost as much as many together.
void Checkpointer::SubmitWrites(Outbox& outbox) {
  if (writes_in_flight_ > kMaxWritesInFlight / 2) return;
  while (next_write_ < writes_.size() && writes_in_flight_ < kMaxWritesInFlight) {
    Write* const write = writes_[next_write_++].get();
    ++writes_in_flight_;
    outbox.Submit(&write->request, [this, write](absl::Status status) {
      state_->monitor.Run([&](Outbox& inner) { WriteDone(write, std::move(status), inner); });
    });
  }
  if (writes_in_flight_ > 0) return;
  step_ = Step::kHomeFlush;
  cover_ = state_->flushes.NextCover();
  state_->flushes.Want(cover_);
  state_->log->Pump(outbox);
  Poke(outbox);
}

void Checkpointer::WriteDone(Write* write, absl::Status status, Outbox& outbox) {
  --writes_in_flight_;
  write->request.buffers.clear();
  if (!status.ok()) state_->Fail(std::move(status), outbox);
  WriteHome(outbox);
}

// The slot that holds the older superblock is written first, so that there is a good one at any moment.
void Checkpointer::WriteSuperblock(Outbox& outbox) {
  step_ = Step::kSuperblock;
  Superblock& superblock = state_->superblock;
  if (slots_written_ == 0) {
    // If nothing was accepted since the start, everything is home and the log is empty.
    const bool all_home = state_->stats.changes == changes_at_start_ && state_->log->idle();
    if (all_home) {
      target_ = state_->log->CutHere(outbox);
      covered_lsn_ = snapshot_lsn_;
    }
    if (new_epoch_) {
      STAGEFS_CHECK(all_home);
      if (state_->options.broken != Broken::kSameSaltAgain) superblock.epoch += 1;
      superblock.salt = new_salt_;
      // LSNs of this epoch lie above any that the last one may have given away, and the superblock remembers.
      covered_lsn_ = state_->accepted_lsn = state_->next_lsn - 1;
    }
    superblock.checkpoint += 1;
    superblock.tail_position = target_.position;
    superblock.tail_sequence = target_.sequence;
    superblock.tail_chain = target_.chain;
    superblock.covered_lsn = covered_lsn_;
    superblock.flags = clean_ && all_home ? kCleanFlag : 0;
  }
  const uint32_t slot = (superblock.slot + 1 + slots_written_) % kSuperblockPlaces.size();
  EncodeSuperblock(superblock, slot, superblock_block_.data());
  superblock_request_ = sal::Request();
  superblock_request_.op = sal::Request::Op::kWrite;
  superblock_request_.fua = state_->monitor.store().geometry().fua;
  superblock_request_.offset_bytes = kSuperblockPlaces[slot] * kBlockBytes;
  superblock_request_.length_bytes = kBlockBytes;
  superblock_request_.buffers.push_back({superblock_block_.data(), kBlockBytes});
  outbox.Submit(&superblock_request_, [this](absl::Status status) {
    state_->monitor.Run([&](Outbox& inner) { SuperblockWritten(std::move(status), inner); });
  });
}

void Checkpointer::SuperblockWritten(absl::Status status, Outbox& outbox) {
  if (!status.ok()) state_->Fail(std::move(status), outbox);
  if (step_ != Step::kSuperblock) return;  // aborted
  if (superblock_request_.fua) return NextSuperblock(outbox);
  step_ = Step::kSuperblockFlush;
  cover_ = state_->flushes.NextCover();
  state_->flushes.Want(cover_);
  state_->log->Pump(outbox);
}

void Checkpointer::NextSuperblock(Outbox& outbox) {
  ++slots_written_;
  const bool both = slots_written_ == kSuperblockPlaces.size();
  if (both || state_->options.broken == Broken::kReuseBeforeSuperblocks) state_->log->SetReuse(target_);
  if (both) return Finish(outbox);
  WriteSuperblock(outbox);
}

void Checkpointer::Finish(Outbox& outbox) {
  for (const BlockCache::DirtyImage& image : images_) {
    if (image.image) state_->cache.MarkHome(image);
  }
  for (const ChecksumTable::DirtyBlock& block : table_images_) state_->table.MarkWritten(block);
  images_.clear();
  entries_.clear();
  table_images_.clear();
  writes_.clear();
  step_ = Step::kIdle;
  new_epoch_ = false;
  state_->destage_running = false;
  ++state_->destages_over;
  ++state_->stats.checkpoints;
  for (Engine::DurableCallback& done : waiting_) {
    outbox.Call([done = std::move(done)]() mutable { std::move(done)(absl::OkStatus()); });
  }
  waiting_.clear();
  state_->on_progress(outbox);
  if (!next_.empty() && step_ == Step::kIdle) Start(outbox);
}

// After a failure: the images stay dirty in memory, where reads find them.
void Checkpointer::Abort(Outbox& outbox) {
  step_ = Step::kIdle;
  for (std::vector<Engine::DurableCallback>* list : {&waiting_, &next_}) {
    for (Engine::DurableCallback& done : *list) {
      outbox.Call([done = std::move(done), reason = state_->failure]() mutable { std::move(done)(reason); });
    }
    list->clear();
  }
}

}  // namespace stagefs::core

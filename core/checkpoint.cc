#include "core/checkpoint.h"

#include <algorithm>
#include <utility>

#include "core/checksum.h"
#include "sal/check.h"

namespace stagefs::core {
namespace {

// How far ahead entries of images are fetched: in a large cache none of them is near.
constexpr size_t kPrefetched = 8;

}  // namespace

Checkpointer::Checkpointer(State* state) : state_(state) {
  for (uint32_t i = 0; i < kMaxWritesInFlight; ++i) {
    writes_.push_back(std::make_unique<sal::Request>());
    idle_writes_.push_back(writes_.back().get());
  }
}

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
  state_->cache.GetDirtyImages(&images_);
  entries_.assign(images_.size(), 0);
  next_image_ = 0;
  changes_at_start_ = state_->stats.changes;
  outbox.Post([this] { Hash(); });
}

void Checkpointer::Hash() {
  for (size_t i = 0; i < images_.size(); ++i) {
    if (i % state_->options.blocks_per_piece == 0) state_->monitor.environment().GiveWay();
    entries_[i] = TableEntry(ContentHash(images_[i].image.data()), images_[i].block, state_->volume_salt);
  }
  state_->monitor.Run([&](Outbox&) {
    step_ = Step::kIntents;
    logging_intents_ = true;
  });
  LogIntents();
}

void Checkpointer::Poke(Outbox& outbox) {
  if (step_ == Step::kIdle) return;
  if (!state_->failure.ok()) return Abort(outbox);
  switch (step_) {
    case Step::kIntents:
      if (!std::exchange(logging_intents_, true)) outbox.Post([this] { LogIntents(); });
      return;
    case Step::kIntentsDurable:
      if (state_->log->durable_lsn() < snapshot_lsn_ &&
          (state_->options.broken != Broken::kDestageBeforeDurable || new_epoch_)) {
        return;
      }
      if (!MayGoHome(outbox)) return;
      step_ = Step::kHome;
      next_image_ = next_table_image_ = 0;
      // On a thread of its own: this one may have requests of clients to answer, and who submits gets the completions.
      return outbox.Post([this] {
        state_->monitor.environment().GiveWay();
        state_->monitor.Run([this](Outbox& inner) { WriteHome(inner); });
      });
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

// Names every image that no intent names yet.
void Checkpointer::LogIntents() {
  for (bool more = true; more;) {
    state_->monitor.Run([&](Outbox& outbox) {
      more = state_->failure.ok() && LogSomeIntents(outbox);
      if (!state_->failure.ok()) Abort(outbox);
    });
    if (more) state_->monitor.environment().GiveWay();
  }
}

// Returns whether there are more that can be logged at once. A block that was released, zeroed or replaced since the
// snapshot is left out, here and of what is written home.
bool Checkpointer::LogSomeIntents(Outbox& outbox) {
  if (state_->options.broken == Broken::kNoIntents) {
    for (size_t i = 0; i < images_.size(); ++i) state_->table.Set(images_[i].block, entries_[i]);
    next_image_ = images_.size();
  }
  if (next_image_ == images_.size()) {
    logging_intents_ = false;
    SnapshotTable(outbox);
    return false;
  }
  const size_t end = std::min(images_.size(), next_image_ + state_->options.blocks_per_piece);
  if (!state_->log->HasRoom(IntentChangeBytes(end - next_image_), /*is_intent=*/true)) {
    logging_intents_ = false;
    state_->log->Want(state_->accepted_lsn, outbox);  // makes room, and pokes
    return false;
  }
  std::vector<IntentEntry> intents;
  for (; next_image_ < end; ++next_image_) {
    BlockCache::DirtyImage& image = images_[next_image_];
    if (next_image_ + kPrefetched < end) BlockCache::Prefetch(images_[next_image_ + kPrefetched]);
    BlockCache::Entry* const entry = BlockCache::EntryOf(image);
    if (entry == nullptr) {
      image.image = ImageRef();
      continue;
    }
    state_->table.Set(image.block, entries_[next_image_]);
    if (entry->intent_lsn >= image.lsn) continue;  // recovery was here before
    entry->intent_lsn = image.lsn;
    intents.push_back({image.block, image.lsn, entries_[next_image_]});
  }
  if (intents.empty()) return true;
  const uint64_t bytes = IntentChangeBytes(intents.size());
  const Lsn lsn = state_->next_lsn++;
  std::byte* const place = state_->log->Append(lsn, bytes, outbox);
  Store(place, ChangeHeader{static_cast<uint32_t>(bytes), 1, lsn});
  Store(place + sizeof(ChangeHeader), RecordHeader{static_cast<uint8_t>(RecordKind::kIntent), 0, 0,
                                                   static_cast<uint32_t>(intents.size()), 0});
  std::copy_n(reinterpret_cast<const std::byte*>(intents.data()), intents.size() * sizeof(IntentEntry),
              place + IntentChangeBytes(0));
  state_->accepted_lsn = lsn;
  return true;
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

// Makes `request` the next to be written home, of one block or of neighbouring ones. False if there is none left.
bool Checkpointer::NextWrite(sal::Request& request) {
  const sal::Geometry& geometry = state_->monitor.store().geometry();
  const uint64_t most = std::min<uint64_t>(geometry.max_request_bytes / kBlockBytes, geometry.max_buffers);
  request.op = sal::Request::Op::kWrite;
  request.length_bytes = 0;
  request.buffers.clear();
  const auto add = [&](uint64_t offset_bytes, std::byte* data) {
    if (request.buffers.empty()) request.offset_bytes = offset_bytes;
    if (offset_bytes != request.offset_bytes + request.length_bytes || request.buffers.size() >= most) return false;
    request.buffers.push_back({data, kBlockBytes});
    request.length_bytes += kBlockBytes;
    return true;
  };
  for (; next_image_ < images_.size(); ++next_image_) {
    const BlockCache::DirtyImage& image = images_[next_image_];
    if (image.image && !add(state_->HomeOffset(image.block), image.image.data())) return true;
  }
  for (; next_table_image_ < table_images_.size(); ++next_table_image_) {
    const ChecksumTable::DirtyBlock& block = table_images_[next_table_image_];
    if (!add(state_->TableOffset(block.index), block.image.data())) return true;
  }
  return !request.buffers.empty();
}

void Checkpointer::WriteHome(Outbox& outbox) {
  if (step_ != Step::kHome) return;  // aborted
  if (!state_->failure.ok()) return Abort(outbox);
  SubmitWrites(outbox);
}

// Half of what may be in flight at a time: a request alone costs the store almost as much as many together.
void Checkpointer::SubmitWrites(Outbox& outbox) {
  if (idle_writes_.size() < kMaxWritesInFlight / 2) return;
  while (!idle_writes_.empty() && NextWrite(*idle_writes_.back())) {
    sal::Request* const write = idle_writes_.back();
    idle_writes_.pop_back();
    state_->stats.destage_bytes_written += write->length_bytes;
    outbox.Submit(write, [this, write](absl::Status status) {
      state_->monitor.Run([&](Outbox& inner) { WriteDone(write, std::move(status), inner); });
    });
  }
  if (idle_writes_.size() < kMaxWritesInFlight) return;
  step_ = Step::kHomeFlush;
  cover_ = state_->flushes.NextCover();
  state_->flushes.Want(cover_);
  state_->log->Pump(outbox);
  Poke(outbox);
}

void Checkpointer::WriteDone(sal::Request* write, absl::Status status, Outbox& outbox) {
  idle_writes_.push_back(write);
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
  if (!both) return WriteSuperblock(outbox);
  step_ = Step::kMarking;
  next_image_ = 0;
  outbox.Post([this] { MarkHome(); });
}

void Checkpointer::MarkHome() {
  for (bool more = true; more;) {
    state_->monitor.Run([&](Outbox& outbox) {
      more = false;
      if (step_ != Step::kMarking) return;  // aborted
      if (!state_->failure.ok()) return Abort(outbox);
      const size_t end = std::min(images_.size(), next_image_ + state_->options.blocks_per_piece);
      for (; next_image_ < end; ++next_image_) {
        BlockCache::DirtyImage& image = images_[next_image_];
        if (next_image_ + kPrefetched < end) BlockCache::Prefetch(images_[next_image_ + kPrefetched]);
        if (image.image) state_->cache.MarkHome(image);
        image.image = ImageRef();
      }
      more = end < images_.size();
      if (!more) Finish(outbox);
    });
    if (more) state_->monitor.environment().GiveWay();
  }
}

void Checkpointer::Finish(Outbox& outbox) {
  for (const ChecksumTable::DirtyBlock& block : table_images_) state_->table.MarkWritten(block);
  images_.clear();
  entries_.clear();
  table_images_.clear();
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

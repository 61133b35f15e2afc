#include "core/engine_impl.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/recovery.h"
#include "sal/blocking_io.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::core {

EngineImpl::EngineImpl(sal::BlockStore* store, sal::Environment* environment, const Superblock& superblock,
                       const EngineOptions& options, const MemoryPlan& plan)
    : info_(ToVolumeInfo(superblock)),
      state_(std::make_unique<State>(store, environment, superblock, options, plan)),
      loader_(
          state_.get(),
          [this](OperationRef operation, Outbox& outbox) {
            outbox.Call([this, operation = std::move(operation)]() mutable { Attempt(std::move(operation)); });
          },
          [this](OperationRef operation, Outbox& outbox) {
            state_->starved = true;
            Park(std::move(operation), outbox);
          }),
      reader_(state_.get()),
      checkpointer_(state_.get()) {
  state_->on_progress = [this](Outbox& outbox) { OnProgress(outbox); };
  MutexLock lock(&timer_link_->mutex);
  timer_link_->engine = this;
}

EngineImpl::~EngineImpl() {
  {
    MutexLock lock(&timer_link_->mutex);
    timer_link_->engine = nullptr;
  }
  state_->monitor.Stop();
}

absl::Status EngineImpl::Recover(RecoveryReport* report) {
  Recovery recovery(state_.get(), report);
  RETURN_IF_ERROR(recovery.Run());
  if (state_->read_only) return absl::OkStatus();
  sal::BlockStore& store = state_->monitor.store();
  // What was read may so far be in a volatile cache only (after kill -9). It must be durable before home changes.
  if (state_->options.broken != Broken::kNoFlushBeforeReplay) {
    RETURN_IF_ERROR(sal::BlockingFlush(store, environment()));
  }
  uint64_t salt = environment().Random();
  if (state_->options.broken == Broken::kSameSaltAgain) salt = state_->superblock.salt;
  RETURN_IF_ERROR(BlockOn([&](DurableCallback done) {
    state_->monitor.Run([&](Outbox& outbox) { checkpointer_.RequestNewEpoch(salt, std::move(done), outbox); });
  }));
  state_->monitor.Run([&](Outbox&) {
    const Superblock& superblock = state_->superblock;
    const LogPlace head = {superblock.tail_position, superblock.tail_sequence, superblock.tail_chain};
    state_->log->Start(superblock, head, head, state_->accepted_lsn, state_->accepted_lsn);
  });
  return absl::OkStatus();
}

// Runs `start` with a callback and waits for that.
absl::Status EngineImpl::BlockOn(absl::FunctionRef<void(DurableCallback)> start) {
  const std::unique_ptr<sal::Event> over = environment().NewEvent();
  absl::Status result;
  start([&](absl::Status status) {
    result = std::move(status);
    over->Set();
  });
  over->Wait();
  return result;
}

void EngineImpl::Run(Body body, Done done) {
  auto operation = std::make_shared<Operation>();
  operation->body = std::move(body);
  operation->done = std::move(done);
  Attempt(std::move(operation));
}

void EngineImpl::Attempt(OperationRef operation) {
  state_->monitor.Run([&](Outbox& outbox) { AttemptInSection(std::move(operation), outbox); });
}

void EngineImpl::AttemptInSection(OperationRef operation, Outbox& outbox) {
  state_->TouchAhead(outbox);
  if (absl::Status fatal = operation->fatal; !fatal.ok()) {
    return Complete(std::move(operation), std::move(fatal), {}, outbox);
  }
  PendingChange change(state_.get(), &operation->failed);
  absl::Status status = operation->body(change);
  Misses misses = change.TakeMisses();
  if (misses.no_image) {
    state_->starved = true;
    return Park(std::move(operation), outbox);
  }
  if (misses.any() && (status.ok() || absl::IsUnavailable(status))) {
    // What a body that got to its end planned to read is most likely what it will plan again.
    if (status.ok() && operation->early_reads.empty()) {
      reader_.ReadEarly(
          change.reads(), operation,
          [this](OperationRef arrived, Outbox& inner) { loader_.Arrived(std::move(arrived), inner); }, outbox);
    }
    operation->wanted = std::move(misses);
    return loader_.Load(std::move(operation), outbox);
  }
  if (!status.ok()) {
    if (absl::IsResourceExhausted(status) && !state_->quarantine.empty() && state_->failure.ok()) {
      loader_.Unpin(*operation);
      waiting_for_releases_.push_back(std::move(operation));
      state_->log->Want(state_->accepted_lsn, outbox);
      return;
    }
    return Complete(std::move(operation), std::move(status), {}, outbox);
  }
  Accept(change, operation, outbox);
}

void EngineImpl::Accept(PendingChange& change, const OperationRef& operation, Outbox& outbox) {
  if (!change.empty()) change.Encode();
  if (change.has_records()) {
    if (absl::Status status = CheckSize(change); !status.ok()) {
      return Complete(operation, std::move(status), {}, outbox);
    }
    if (!HasRoom(change)) {
      // A large change may lack room in a small ring that is not half full.
      if (!state_->log->RingHasRoom(change.encoded_bytes(), /*is_intent=*/false)) checkpointer_.StartForRoom(outbox);
      return Park(operation, outbox);
    }
    const Lsn lsn = state_->next_lsn++;
    std::byte* const place = state_->log->Append(lsn, change.encoded_bytes(), outbox);
    state_->accepted_lsn = lsn;
    ++state_->stats.changes;
    change.Apply(lsn, place, outbox);
    ArmTimer(outbox);
  }
  change.RunHooks(state_->accepted_lsn);
  Complete(operation, state_->accepted_lsn, change.reads(), outbox);
  if (change.has_records()) {
    state_->log->Pump(outbox);
    checkpointer_.StartIfNeeded(outbox);
  }
}

absl::Status EngineImpl::CheckSize(const PendingChange& change) const {
  RETURN_IF_ERROR(state_->failure);
  if (state_->read_only) return absl::FailedPreconditionError("the volume is open read-only");
  if (change.encoded_bytes() > Transaction::kMaxLoggedBytes + (Transaction::kMaxLoggedBytes >> 3) ||
      !state_->log->CanEverFit(change.encoded_bytes())) {
    return absl::InvalidArgumentError(
        absl::StrCat("a change of ", change.encoded_bytes(), " logged bytes is too large"));
  }
  if (change.new_dirty_blocks() > state_->plan.dirty_limit / 2 ||
      change.table_blocks().size() > state_->table.limit() / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a change of ", change.new_dirty_blocks(), " blocks in ", change.table_blocks().size(),
                     " blocks of the checksum table is too large for the cache"));
  }
  return absl::OkStatus();
}

bool EngineImpl::HasRoom(const PendingChange& change) const {
  return state_->log->HasRoom(change.encoded_bytes(), /*is_intent=*/false) &&
         state_->cache.dirty_count() + change.new_dirty_blocks() <= state_->plan.dirty_limit &&
         state_->table.MayCommit(change.table_blocks().size());
}

// Completes `operation` with `result`, after the reads that it planned.
void EngineImpl::Complete(OperationRef operation, absl::StatusOr<Lsn> result, const std::vector<PlannedRead>& reads,
                          Outbox& outbox) {
  loader_.Unpin(*operation);
  if (state_->starved) OnProgress(outbox);  // its images and pins may be what they wait for
  if (reads.empty()) {
    outbox.Call([operation = std::move(operation), result = std::move(result)]() mutable {
      std::move(operation->done)(std::move(result));
    });
    return;
  }
  const absl::Span<const Operation::EarlyRead> early = operation->early_reads;
  reader_.Start(
      reads, early,
      [operation = std::move(operation), result = std::move(result)](absl::Status status) mutable {
        if (!status.ok()) result = std::move(status);
        std::move(operation->done)(std::move(result));
      },
      outbox);
}

// Parks `operation` until something has made room, and sees to it that something will.
void EngineImpl::Park(OperationRef operation, Outbox& outbox) {
  loader_.Unpin(*operation);
  ++state_->stats.parked;
  parked_.push_back(std::move(operation));
  if (!state_->failure.ok()) return OnProgress(outbox);
  state_->log->Want(state_->accepted_lsn, outbox);
  checkpointer_.StartIfNeeded(outbox);
}

void EngineImpl::OnProgress(Outbox& outbox) {
  std::deque<OperationRef> runnable;
  if (state_->quarantine.Expire(state_->QuarantineState()) || !state_->failure.ok()) {
    runnable.swap(waiting_for_releases_);
  }
  runnable.insert(runnable.end(), parked_.begin(), parked_.end());
  parked_.clear();
  state_->starved = false;
  for (OperationRef& operation : runnable) {
    outbox.Post([this, operation = std::move(operation)]() mutable { Attempt(std::move(operation)); });
  }
  checkpointer_.Poke(outbox);
  checkpointer_.StartIfNeeded(outbox);
}

void EngineImpl::ArmTimer(Outbox& outbox) {
  if (timer_armed_ || closing_) return;
  timer_armed_ = true;
  outbox.Call([link = timer_link_, environment = &environment(), delay_ns = state_->options.flush_interval_ns] {
    environment->PostAfter(delay_ns, [link] {
      MutexLock lock(&link->mutex);
      if (link->engine == nullptr) return;
      // Only posted here: nothing may be called back under the link's lock.
      EngineImpl* const engine = link->engine;
      engine->state_->monitor.Run([engine](Outbox& inner) { inner.Post([engine] { engine->OnTimer(); }); });
    });
  });
}

// Every flush interval while there is something to make durable; once more, idle, to record that it is.
void EngineImpl::OnTimer() {
  state_->monitor.Run([&](Outbox& outbox) {
    timer_armed_ = false;
    if (closing_ || !state_->failure.ok()) return;
    if (state_->log->durable_lsn() < state_->accepted_lsn) {
      state_->log->Want(state_->accepted_lsn, outbox);
      ArmTimer(outbox);
    } else {
      state_->log->RecordDurable(state_->next_lsn, outbox);
    }
  });
}

void EngineImpl::WhenDurable(Lsn lsn, DurableCallback done) {
  state_->monitor.Run([&](Outbox& outbox) { state_->log->WhenDurable(lsn, std::move(done), outbox); });
}

void EngineImpl::Checkpoint(DurableCallback done) {
  state_->monitor.Run([&](Outbox& outbox) { checkpointer_.Request(std::move(done), outbox); });
}

std::shared_ptr<StagedData> EngineImpl::TryStage(uint64_t block_count) {
  return state_->staging->Allocate(block_count);
}

void EngineImpl::WhenStaging(absl::AnyInvocable<void() &&> retry) {
  // Buffers may come back in a section: the retry must not run there.
  state_->staging->WhenAvailable([this, retry = std::move(retry)]() mutable { environment().Post(std::move(retry)); });
}

Lsn EngineImpl::accepted_lsn() const {
  Lsn lsn = 0;
  state_->monitor.Run([&](Outbox&) { lsn = state_->accepted_lsn; });
  return lsn;
}

Lsn EngineImpl::durable_lsn() const {
  Lsn lsn = 0;
  state_->monitor.Run([&](Outbox&) { lsn = state_->log->durable_lsn(); });
  return lsn;
}

absl::Status EngineImpl::health() const {
  absl::Status status;
  state_->monitor.Run([&](Outbox&) { status = state_->failure; });
  return status;
}

EngineStats EngineImpl::stats() const {
  EngineStats stats;
  state_->monitor.Run([&](Outbox&) {
    stats = state_->stats;
    stats.accepted_lsn = state_->accepted_lsn;
    stats.durable_lsn = state_->log->durable_lsn();
    stats.frames = state_->log->frames_cut();
    stats.flushes = state_->log->flush_count();
    stats.log_bytes_written = state_->log->bytes_written();
    stats.log_used_bytes = state_->log->used_blocks() * kBlockBytes;
    stats.log_capacity_bytes = state_->log->usable_blocks() * kBlockBytes;
    stats.dirty_blocks = state_->cache.dirty_count();
    stats.dirty_blocks_limit = state_->plan.dirty_limit;
    stats.cached_blocks = state_->cache.size();
    stats.cache_blocks_limit = state_->plan.images;
    stats.staged_bytes = state_->staging->used_bytes();
    stats.staged_bytes_limit = state_->staging->limit_bytes();
    stats.quarantined_blocks = state_->quarantine.block_count();
    stats.read_only = state_->read_only || !state_->failure.ok();
  });
  return stats;
}

absl::Status EngineImpl::Close() {
  bool nothing_to_do = false;
  state_->monitor.Run([&](Outbox&) {
    closing_ = true;
    checkpointer_.SetClean();
    nothing_to_do = state_->read_only;
  });
  absl::Status status = health();
  if (status.ok() && !nothing_to_do) {
    status = BlockOn([&](DurableCallback done) { WhenDurable(accepted_lsn(), std::move(done)); });
  }
  if (status.ok() && !nothing_to_do) status = BlockOn([&](DurableCallback done) { Checkpoint(std::move(done)); });
  Abandon();
  return status;
}

void EngineImpl::Abandon() {
  {
    MutexLock lock(&timer_link_->mutex);
    timer_link_->engine = nullptr;
  }
  state_->monitor.Stop();
}

}  // namespace stagefs::core

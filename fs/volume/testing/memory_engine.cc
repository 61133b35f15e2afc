#include "fs/volume/testing/memory_engine.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/volume/testing/memory_transaction.h"
#include "sal/check.h"

namespace stagefs::volume::testing {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using core::Lsn;

// Staging memory in use, and who waits for it. Buffers may outlive the engine, so they share it.
struct MemoryEngine::Staging {
  Mutex mutex;
  uint64_t free_blocks ABSL_GUARDED_BY(mutex) = 0;
  std::vector<absl::AnyInvocable<void() &&>> waiting ABSL_GUARDED_BY(mutex);

  void GiveBack(uint64_t count, sal::Environment& environment) {
    std::vector<absl::AnyInvocable<void() &&>> retries;
    {
      MutexLock lock(&mutex);
      free_blocks += count;
      retries.swap(waiting);
    }
    for (auto& retry : retries) environment.Post(std::move(retry));
  }
};

namespace {

class MemoryStagedData : public core::StagedData {
 public:
  MemoryStagedData(uint64_t block_count, absl::AnyInvocable<void(uint64_t)> give_back)
      : bytes_(block_count * kBlockBytes), give_back_(std::move(give_back)) {}
  ~MemoryStagedData() override { give_back_(block_count()); }

  absl::Span<std::byte> bytes() override { return absl::MakeSpan(bytes_); }
  uint64_t block_count() const override { return bytes_.size() / kBlockBytes; }
  void Seal() override {}

 private:
  std::vector<std::byte> bytes_;
  absl::AnyInvocable<void(uint64_t)> give_back_;
};

}  // namespace

struct MemoryEngine::Request {
  Body body;
  Done done;
  absl::flat_hash_set<Block> resident;  // touched before, or missed and loaded
  bool thrown_away = false;             // once is enough to show that the body can be run again
  absl::StatusOr<Lsn> result = absl::UnknownError("not run");
};

MemoryEngine::MemoryEngine(sal::Environment& environment, const Options& options)
    : MemoryEngine(environment, options, {}) {}

MemoryEngine::MemoryEngine(sal::Environment& environment, const Options& options, State state)
    : environment_(environment),
      options_(options),
      staging_(std::make_shared<Staging>()),
      blocks_(std::move(state)),
      random_(options.seed) {
  info_.capacity_bytes = info_.size_bytes = options.capacity_blocks * kBlockBytes;
  info_.version_major = 1;
  MutexLock lock(&staging_->mutex);
  staging_->free_blocks = options.staging_blocks;
}

MemoryEngine::~MemoryEngine() = default;

MemoryEngine::State MemoryEngine::Snapshot() {
  MutexLock lock(&mutex_);
  return blocks_;
}

void MemoryEngine::MakeDurable() {
  std::vector<DurableCallback> callbacks;
  {
    MutexLock lock(&mutex_);
    EndQuarantines();
    callbacks.swap(waiting_);
  }
  for (DurableCallback& callback : callbacks) std::move(callback)(absl::OkStatus());
}

void MemoryEngine::FailChanges(absl::Status status, uint64_t count) {
  MutexLock lock(&mutex_);
  injected_ = std::move(status);
  injected_count_ = count;
}

void MemoryEngine::Break(absl::Status status) {
  MutexLock lock(&mutex_);
  failure_ = absl::FailedPreconditionError(absl::StrCat("read-only after a failure: ", status.ToString()));
}

void MemoryEngine::SpoilBlock(Block block) {
  MutexLock lock(&mutex_);
  blocks_[block].bad = true;
}

void MemoryEngine::Poke(uint64_t address, absl::Span<const std::byte> bytes) {
  MutexLock lock(&mutex_);
  for (uint64_t i = 0; i < bytes.size(); ++i) {
    Slot& slot = blocks_[(address + i) / kBlockBytes];
    auto image = slot.image ? std::make_shared<Image>(*slot.image) : std::make_shared<Image>();
    (*image)[(address + i) % kBlockBytes] = bytes[i];
    slot.image = std::move(image);
  }
}

uint64_t MemoryEngine::body_runs() {
  MutexLock lock(&mutex_);
  return body_runs_;
}

absl::StatusOr<Lsn> MemoryEngine::RunAndWait(Body body) {
  // Shared with the callback, which may still be returning from Set() when Wait() is over.
  struct Waiter {
    std::unique_ptr<sal::Event> event;
    absl::StatusOr<Lsn> result;
  };
  auto waiter = std::make_shared<Waiter>();
  waiter->event = environment_.NewEvent();
  Run(std::move(body), [waiter](absl::StatusOr<Lsn> lsn) {
    waiter->result = std::move(lsn);
    waiter->event->Set();
  });
  waiter->event->Wait();
  return waiter->result;
}

void MemoryEngine::Run(Body body, Done done) {
  auto request = std::make_shared<Request>();
  request->body = std::move(body);
  request->done = std::move(done);
  Go(std::move(request));
}

void MemoryEngine::Go(std::shared_ptr<Request> request) {
  while (!RunOnce(*request)) {
    if (options_.asynchronous) {
      environment_.Post([this, request] { Go(request); });
      return;
    }
  }
  request->body = nullptr;
  std::move(request->done)(std::move(request->result));
}

bool MemoryEngine::RunOnce(Request& request) {
  MutexLock lock(&mutex_);
  ++body_runs_;
  MemoryTransaction transaction(*this, &request.resident);
  const absl::Status status = request.body(transaction);
  // A body passes misses on as they are, and says Unavailable for nothing else.
  STAGEFS_CHECK(absl::IsUnavailable(status) == transaction.missed());
  if (transaction.missed()) {
    transaction.LoadMissed();
    return false;
  }
  if (status.ok()) return Accept(transaction, request);
  if (absl::IsResourceExhausted(status) && EndQuarantines()) return false;
  request.result = status;
  return true;
}

bool MemoryEngine::Accept(MemoryTransaction& transaction, Request& request) {
  if (!request.thrown_away && Chance(options_.rerun_probability)) {
    request.thrown_away = true;
    return false;
  }
  const bool changed = transaction.Changed();
  if (changed) {
    absl::Status refusal = failure_;
    if (refusal.ok() && options_.read_only) refusal = absl::FailedPreconditionError("the volume is open read-only");
    if (refusal.ok() && injected_count_ > 0) {
      --injected_count_;
      refusal = injected_;
    }
    if (refusal.ok() && transaction.logged_bytes() > core::Transaction::kMaxLoggedBytes) {
      refusal = absl::InvalidArgumentError(
          absl::StrCat("a transaction would log ", transaction.logged_bytes(), " bytes, more than the most allowed"));
    }
    if (!refusal.ok()) {
      request.result = refusal;
      return true;
    }
    ++accepted_;
    for (auto& [block, slot] : transaction.TakeSlots()) blocks_[block] = std::move(slot);
    if (options_.durability == Durability::kAtOnce) {
      durable_ = accepted_;
    } else {
      for (const BlockRange& range : transaction.released()) quarantines_.push_back({range, accepted_});
    }
  }
  for (auto& hook : transaction.TakeHooks()) std::move(hook)(accepted_);
  request.result = accepted_;
  for (const MemoryTransaction::PlannedRead& read : transaction.reads()) {
    const absl::Status status = ReadBytes(read.address, read.length, read.destination);
    if (!status.ok()) request.result = status;
  }
  return true;
}

bool MemoryEngine::EndQuarantines() {
  durable_ = accepted_;
  const bool any = !quarantines_.empty();
  quarantines_.clear();
  return any;
}

bool MemoryEngine::Chance(double probability) {
  return probability > 0 && static_cast<double>(random_.Next() >> 11) < probability * static_cast<double>(1ull << 53);
}

const MemoryEngine::Slot* MemoryEngine::FindSlot(Block block) const {
  const auto found = blocks_.find(block);
  return found == blocks_.end() ? nullptr : &found->second;
}

absl::Status MemoryEngine::ReadBytes(uint64_t address, uint64_t length, std::byte* destination) {
  while (length > 0) {
    const Block block = address / kBlockBytes;
    const uint64_t offset = address % kBlockBytes;
    const uint64_t part = std::min(length, kBlockBytes - offset);
    const Slot* slot = FindSlot(block);
    if (slot != nullptr && slot->bad) return absl::DataLossError(absl::StrCat("block ", block, ": bad checksum"));
    std::memcpy(destination, MemoryTransaction::ImageOf(slot) + offset, part);
    address += part;
    destination += part;
    length -= part;
  }
  return absl::OkStatus();
}

void MemoryEngine::WhenDurable(Lsn lsn, DurableCallback done) {
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    STAGEFS_CHECK(lsn <= accepted_);
    if (lsn > durable_) {
      status = failure_;
      if (status.ok() && options_.durability == Durability::kHeld) {
        waiting_.push_back(std::move(done));
        return;
      }
      if (status.ok()) EndQuarantines();
    }
  }
  std::move(done)(status);
}

void MemoryEngine::Checkpoint(DurableCallback done) { WhenDurable(accepted_lsn(), std::move(done)); }

std::shared_ptr<core::StagedData> MemoryEngine::TryStage(uint64_t block_count) {
  STAGEFS_CHECK(block_count >= 1 && block_count <= 512);
  {
    MutexLock lock(&staging_->mutex);
    if (staging_->free_blocks < block_count) return nullptr;
    staging_->free_blocks -= block_count;
  }
  sal::Environment* environment = &environment_;
  return std::make_shared<MemoryStagedData>(block_count, [staging = staging_, environment](uint64_t count) {
    staging->GiveBack(count, *environment);
  });
}

void MemoryEngine::WhenStaging(absl::AnyInvocable<void() &&> retry) {
  MutexLock lock(&staging_->mutex);
  if (staging_->free_blocks == options_.staging_blocks) {
    environment_.Post(std::move(retry));
    return;
  }
  staging_->waiting.push_back(std::move(retry));
}

Lsn MemoryEngine::accepted_lsn() const {
  MutexLock lock(&mutex_);
  return accepted_;
}

Lsn MemoryEngine::durable_lsn() const {
  MutexLock lock(&mutex_);
  return durable_;
}

absl::Status MemoryEngine::health() const {
  MutexLock lock(&mutex_);
  return failure_;
}

core::EngineStats MemoryEngine::stats() const {
  MutexLock lock(&mutex_);
  core::EngineStats stats;
  stats.accepted_lsn = stats.changes = accepted_;
  stats.durable_lsn = durable_;
  for (const Quarantine& quarantine : quarantines_) stats.quarantined_blocks += quarantine.range.count;
  stats.read_only = options_.read_only || !failure_.ok();
  stats.failure = failure_.ok() ? "" : failure_.ToString();
  return stats;
}

absl::Status MemoryEngine::Close() {
  MakeDurable();
  return health();
}

}  // namespace stagefs::volume::testing

// EngineImpl: accepts changes, and wires the parts together: loader, reader, log writer, checkpointer.

#ifndef STAGEFS_CORE_ENGINE_IMPL_H_
#define STAGEFS_CORE_ENGINE_IMPL_H_

#include <deque>
#include <memory>

#include "core/checkpoint.h"
#include "core/engine.h"
#include "core/loader.h"
#include "core/operation.h"
#include "core/reader.h"
#include "core/state.h"
#include "sal/mutex.h"

namespace stagefs::core {

class EngineImpl final : public Engine {
 public:
  EngineImpl(sal::BlockStore* store, sal::Environment* environment, const Superblock& superblock,
             const EngineOptions& options, const MemoryPlan& plan);
  ~EngineImpl() override;

  // Recovers, and begins a new epoch unless read-only. Blocks.
  absl::Status Recover(RecoveryReport* report);

  uint64_t capacity_blocks() const override { return info_.capacity_bytes / kBlockBytes; }
  const VolumeInfo& info() const override { return info_; }
  void Run(Body body, Done done) override;
  void WhenDurable(Lsn lsn, DurableCallback done) override;
  void Checkpoint(DurableCallback done) override;
  std::shared_ptr<StagedData> TryStage(uint64_t block_count) override;
  void WhenStaging(absl::AnyInvocable<void() &&> retry) override;
  Lsn accepted_lsn() const override;
  Lsn durable_lsn() const override;
  absl::Status health() const override;
  EngineStats stats() const override;
  sal::Environment& environment() override { return state_->monitor.environment(); }
  absl::Status Close() override;
  void Abandon() override;

 private:
  // Lets timers that fire after the engine is gone find that out.
  struct TimerLink {
    Mutex mutex;
    EngineImpl* engine ABSL_GUARDED_BY(mutex) = nullptr;
  };

  void Attempt(OperationRef operation);
  void AttemptInSection(OperationRef operation, Outbox& outbox);
  void Accept(PendingChange& change, const OperationRef& operation, Outbox& outbox);
  void Complete(OperationRef operation, absl::StatusOr<Lsn> result, const std::vector<PlannedRead>& reads,
                Outbox& outbox);
  void Park(OperationRef operation, Outbox& outbox);
  bool HasRoom(const PendingChange& change) const;
  absl::Status CheckSize(const PendingChange& change) const;
  void OnProgress(Outbox& outbox);
  void ArmTimer(Outbox& outbox);
  void OnTimer();
  absl::Status BlockOn(absl::FunctionRef<void(DurableCallback)> start);

  VolumeInfo info_;
  std::unique_ptr<State> state_;
  Loader loader_;
  Reader reader_;
  Checkpointer checkpointer_;
  const std::shared_ptr<TimerLink> timer_link_ = std::make_shared<TimerLink>();

  // In sections of the monitor:
  std::deque<OperationRef> parked_;  // wait for room
  std::deque<OperationRef> waiting_for_releases_;
  bool timer_armed_ = false;
  bool closing_ = false;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_ENGINE_IMPL_H_

// ObservedEngine: an engine for a volume to run on, which passes everything on and notes the order: which LSN each
// Run() got, when its body ran for the last time, and what was acknowledged as durable.
//
// The `done` of a Run() is expected before any other body runs, unless it waited for reads; Current::fresh says whether
// that was so. Then the state that the body saw is the state after all changes whose `done` has run.
//
// Not thread-safe: lives on a simulated environment's thread.

#ifndef STAGEFS_TESTS_SIMULATOR_OBSERVED_ENGINE_H_
#define STAGEFS_TESTS_SIMULATOR_OBSERVED_ENGINE_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "core/engine.h"

namespace stagefs::simulator {

class ObservedEngine : public core::Engine {
 public:
  // Of the Run() whose `done` is running.
  struct Current {
    core::Lsn lsn = 0;      // of its change; 0 if it failed or changed nothing
    int64_t wall_ns = 0;    // when its body ran last
    bool fresh = false;     // no body has run since
  };

  // `engine` must outlive this object.
  explicit ObservedEngine(core::Engine* engine) : engine_(engine), acknowledged_(engine->accepted_lsn()), last_change_(acknowledged_) {}

  // Null outside of `done` callbacks.
  const Current* current() const { return current_; }
  // `on_body` is called each time the body of the next Run() begins.
  void WatchNextRun(std::function<void()> on_body) { watch_ = std::move(on_body); }
  // The highest LSN that was said to be durable.
  core::Lsn acknowledged() const { return acknowledged_; }

  uint64_t capacity_blocks() const override { return engine_->capacity_blocks(); }
  const core::VolumeInfo& info() const override { return engine_->info(); }
  void Run(Body body, Done done) override;
  void WhenDurable(core::Lsn lsn, DurableCallback done) override;
  void Checkpoint(DurableCallback done) override;
  std::shared_ptr<core::StagedData> TryStage(uint64_t block_count) override { return engine_->TryStage(block_count); }
  void WhenStaging(absl::AnyInvocable<void() &&> retry) override { engine_->WhenStaging(std::move(retry)); }
  core::Lsn accepted_lsn() const override { return engine_->accepted_lsn(); }
  core::Lsn durable_lsn() const override { return engine_->durable_lsn(); }
  absl::Status health() const override { return engine_->health(); }
  core::EngineStats stats() const override { return engine_->stats(); }
  sal::Environment& environment() override { return engine_->environment(); }
  absl::Status Close() override { return engine_->Close(); }
  void Abandon() override { engine_->Abandon(); }

 private:
  DurableCallback Noting(core::Lsn lsn, DurableCallback done);

  core::Engine* const engine_;
  core::Lsn acknowledged_;
  core::Lsn last_change_;
  uint64_t body_runs_ = 0;
  const Current* current_ = nullptr;
  std::function<void()> watch_;
};

}  // namespace stagefs::simulator

#endif  // STAGEFS_TESTS_SIMULATOR_OBSERVED_ENGINE_H_

#include "tests/simulator/observed_engine.h"

#include "sal/environment.h"

namespace stagefs::simulator {

void ObservedEngine::Run(Body body, Done done) {
  struct Noted {
    Current current;
    uint64_t body_run = 0;
    std::function<void()> watch;
  };
  auto noted = std::make_shared<Noted>();
  noted->watch = std::exchange(watch_, nullptr);
  engine_->Run(
      [this, noted, body = std::move(body)](core::Transaction& tx) mutable {
        noted->body_run = ++body_runs_;
        noted->current.lsn = 0;
        noted->current.wall_ns = environment().WallNs();
        if (noted->watch) noted->watch();
        absl::Status status = body(tx);
        if (status.ok()) {
          tx.OnAccept([this, noted](core::Lsn lsn) {
            // Bodies that changed nothing get the LSN of the change before.
            if (lsn > last_change_) noted->current.lsn = last_change_ = lsn;
          });
        }
        return status;
      },
      [this, noted, done = std::move(done)](absl::StatusOr<core::Lsn> lsn) mutable {
        noted->current.fresh = noted->body_run == body_runs_;
        const Current* const outer = std::exchange(current_, &noted->current);
        std::move(done)(std::move(lsn));
        current_ = outer;
      });
}

core::Engine::DurableCallback ObservedEngine::Noting(core::Lsn lsn, DurableCallback done) {
  return [this, lsn, done = std::move(done)](absl::Status status) mutable {
    if (status.ok()) acknowledged_ = std::max(acknowledged_, lsn);
    std::move(done)(std::move(status));
  };
}

void ObservedEngine::WhenDurable(core::Lsn lsn, DurableCallback done) {
  engine_->WhenDurable(lsn, Noting(lsn, std::move(done)));
}

void ObservedEngine::Checkpoint(DurableCallback done) {
  engine_->Checkpoint(Noting(engine_->accepted_lsn(), std::move(done)));
}

}  // namespace stagefs::simulator

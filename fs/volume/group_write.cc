#include "fs/volume/group_write.h"

#include <cerrno>
#include <memory>
#include <utility>

#include "fs/volume/errno.h"
#include "fs/volume/volume_operation.h"

namespace stagefs::volume {

void GroupWrite::Start(VolumeState& state, Remover& remover, StagingTurn& turn, const GroupLimits& limits,
                       std::vector<ContentChange> parts, Callback<GroupResult> done) {
  GroupPlan plan(std::move(parts), limits);
  if (absl::Status status = plan.Make(); !status.ok()) return std::move(done)(std::move(status));
  (new GroupWrite(state, remover, turn, std::move(plan), std::move(done)))->Stage();
}

GroupWrite::GroupWrite(VolumeState& state, Remover& remover, StagingTurn& turn, GroupPlan plan,
                       Callback<GroupResult> done)
    : state_(state),
      remover_(remover),
      turn_(turn),
      plan_(std::move(plan)),
      change_(state, plan_),
      done_(std::move(done)) {}

void GroupWrite::Stage() {
  buffers_taken_ = 0;
  if (change_.buffers().empty()) return Run();
  if (change_.buffers().size() == 1) return TakeBuffers();
  turn_.Begin([this] { TakeBuffers(); });
}

void GroupWrite::TakeBuffers() {
  core::Engine& engine = state_.engine();
  for (; buffers_taken_ < change_.buffers().size(); ++buffers_taken_) {
    GroupChange::Buffer& buffer = change_.buffers()[buffers_taken_];
    buffer.data = engine.TryStage(buffer.block_count);
    if (buffer.data != nullptr) continue;
    // After a failure no buffer may come back. The change would be refused anyway.
    if (absl::Status health = engine.health(); !health.ok()) return Staged(std::move(health));
    // It holds staged data that are not its own: others may do so too, and nobody would ever get enough.
    if (plan_.has_staged_parts()) return Staged(ErrnoStatus(ENOMEM, "Staging memory is used up"));
    return engine.WhenStaging([this] { TakeBuffers(); });
  }
  Staged(absl::OkStatus());
}

void GroupWrite::Staged(absl::Status status) {
  if (change_.buffers().size() > 1) turn_.End();
  if (!status.ok()) return Finished(std::move(status));
  change_.Fill();
  Run();
}

void GroupWrite::Run() {
  RunOperation<GroupResult>(
      state_, remover_,
      [this](Change& change, GroupResult* result) {
        absl::Status status = change_.Run(change, result);
        body_ok_ = status.ok();
        logged_instead_ = change.logged_instead_bytes > 0;
        return status;
      },
      [this](absl::StatusOr<GroupResult> result) { Finished(std::move(result)); });
}

void GroupWrite::Finished(absl::StatusOr<GroupResult> result) {
  if (change_.needs_new_buffers() && absl::IsAborted(result.status())) {
    change_.DropBuffers();
    return Stage();
  }
  if (body_ok_ && absl::IsInvalidArgument(result.status())) {  // the engine finds the change too large
    result = ErrnoStatus(logged_instead_ ? ENOSPC : E2BIG, result.status().message());
  }
  Callback<GroupResult> done = std::move(done_);
  delete this;
  std::move(done)(std::move(result));
}

}  // namespace stagefs::volume

#include "core/state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/checksum.h"
#include "core/first_touch.h"

namespace stagefs::core {

absl::StatusOr<MemoryPlan> MemoryPlan::Make(const EngineOptions& options, uint64_t log_blocks) {
  constexpr uint64_t kMinCacheBytes = 32 << 20;
  if (options.cache_bytes < kMinCacheBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a cache of ", options.cache_bytes, " bytes is too small; at least ", kMinCacheBytes));
  }
  MemoryPlan plan;
  const uint64_t region_bytes = plan.log.region_bytes;
  plan.log.region_count = std::clamp<uint64_t>(options.cache_bytes / 16 / region_bytes, 2, 8);
  plan.staging_bytes = std::max<uint64_t>(options.cache_bytes / 4, 4 << 20);
  plan.table_images = std::max<uint64_t>(options.cache_bytes / 8 / kBlockBytes, 256);
  plan.table_limit = plan.table_images / 3;
  const uint64_t rest = options.cache_bytes - plan.log.region_count * region_bytes - plan.staging_bytes -
                        plan.table_images * kBlockBytes;
  plan.images = rest / kBlockBytes;
  // Twice the dirty blocks (a destage holds the images it is writing) and a quarter for everything else.
  const uint64_t most_dirty = plan.images * 3 / 8;
  // An intent for each of them must fit the reserve of the ring: once for a destage under way, once for a recovery.
  const auto reserve_for = [&](uint64_t dirty) {
    // At worst each piece ends up in a frame of its own.
    const uint64_t piece = options.blocks_per_piece;
    return 2 * (dirty / piece * FrameBlocks(IntentChangeBytes(piece)) + FrameBlocks(IntentChangeBytes(dirty % piece)) + 8);
  };
  plan.dirty_limit = options.dirty_blocks == 0 ? most_dirty : options.dirty_blocks;
  while (options.dirty_blocks == 0 && reserve_for(plan.dirty_limit) > log_blocks / 8 && plan.dirty_limit > 64) {
    plan.dirty_limit /= 2;
  }
  plan.log.reserve_blocks = reserve_for(plan.dirty_limit);
  if (plan.dirty_limit < 16 || plan.dirty_limit > most_dirty || plan.log.reserve_blocks > log_blocks / 4) {
    return absl::InvalidArgumentError(absl::StrCat(
        plan.dirty_limit, " dirty blocks: must be at least 16, at most ", most_dirty, " with a cache of ",
        options.cache_bytes, " bytes, and their intents must fit a quarter of the log of ", log_blocks, " blocks"));
  }
  plan.log.broken = options.broken;
  return plan;
}

State::State(sal::BlockStore* store, sal::Environment* environment, const Superblock& the_superblock,
             const EngineOptions& the_options, const MemoryPlan& the_plan)
    : options(the_options),
      plan(the_plan),
      volume_salt(VolumeSalt(the_superblock)),
      monitor(store, environment),
      superblock(the_superblock),
      images(the_plan.images),
      table_images(the_plan.table_images),
      staging(std::make_shared<StagingMemory>(the_plan.staging_bytes)),
      table(&table_images, the_plan.table_limit),
      cache(&images, &table),
      read_only(the_options.read_only) {
  log = std::make_unique<LogWriter>(
      &monitor, &flushes, plan.log, [this](Outbox& outbox) { on_progress(outbox); },
      [this](absl::Status cause, Outbox& outbox) { Fail(std::move(cause), outbox); });
}

void State::Fail(absl::Status cause, Outbox& outbox) {
  if (!failure.ok()) return;
  failure = absl::FailedPreconditionError(
      absl::StrCat("the volume is read-only since a write failed: ", cause.ToString()));
  stats.failure = std::string(failure.message());
  log->Fail(failure, outbox);
  // Extents that were not written keep their buffers, for reads.
  staging->StopWaiting();
  monitor.environment().Log(absl::StrCat("stagefs: ", monitor.store().name(), ": ", failure.message(),
                                         "; nothing more is accepted, reads go on; unmount, mend the store, run fsck"));
  on_progress(outbox);
}

void State::TouchAhead(Outbox& outbox) {
  for (FirstTouch* memory : {&images.first_touch(), &table_images.first_touch(), &staging->first_touch(),
                             &log->first_touch()}) {
    if (!memory->IsDue()) continue;
    outbox.Post([this, memory] {
      do {
        monitor.environment().GiveWay();
      } while (memory->GoAhead());
    });
  }
}

Quarantine::Condition State::QuarantineState() const {
  return {log->durable_lsn(), active_reads.empty() ? next_read : *active_reads.begin(), destages_over};
}

}  // namespace stagefs::core

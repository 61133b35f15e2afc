// State: what the parts of the engine share, under the monitor. Acceptance (acceptor.cc), loading (loader.cc), reading
// (reader.cc), checkpoint (checkpoint.cc) and recovery (recovery.cc) each work on it.

#ifndef STAGEFS_CORE_STATE_H_
#define STAGEFS_CORE_STATE_H_

#include <memory>
#include <optional>
#include <set>

#include "absl/container/btree_map.h"
#include "core/block_cache.h"
#include "core/broken.h"
#include "core/checksum_table.h"
#include "core/engine.h"
#include "core/flush_queue.h"
#include "core/format.h"
#include "core/image.h"
#include "core/log_writer.h"
#include "core/monitor.h"
#include "core/quarantine.h"
#include "core/staging.h"

namespace stagefs::core {

// The size of a change of so many intents.
inline constexpr uint64_t IntentChangeBytes(uint64_t intents) {
  return sizeof(ChangeHeader) + sizeof(RecordHeader) + intents * sizeof(IntentEntry);
}

// How the engine's memory is shared out. All follow from EngineOptions::cache_bytes.
struct MemoryPlan {
  uint64_t images = 0;        // for home blocks
  uint64_t table_images = 0;  // for blocks of the checksum table
  uint64_t table_limit = 0;   // committed table blocks
  uint64_t dirty_limit = 0;   // dirty home blocks
  uint64_t staging_bytes = 0;
  LogWriter::Options log;

  // Errors: InvalidArgument (the cache is too small for what it must hold).
  static absl::StatusOr<MemoryPlan> Make(const EngineOptions& options, uint64_t log_blocks);
};

// Extents that are accepted and still on their way to the store: reads are served from their buffers.
class ExtentsInFlight {
 public:
  struct Extent {
    BlockRange range;
    std::shared_ptr<const StagedBuffer> data;
    uint64_t first_in_data = 0;
    uint64_t frame_sequence = 0;
    sal::Request request;
    const std::byte* At(Block block) const { return data->block(first_in_data + block - range.first); }
  };

  Extent* Add(std::unique_ptr<Extent> extent) {
    Extent* const raw = extent.get();
    extents_[raw->range.first] = std::move(extent);
    return raw;
  }
  const Extent* Find(Block block) const {
    auto it = extents_.upper_bound(block);
    if (it == extents_.begin()) return nullptr;
    --it;
    return block < it->second->range.end() ? it->second.get() : nullptr;
  }
  std::unique_ptr<Extent> Remove(Block first) {
    auto node = extents_.extract(first);
    return std::move(node.mapped());
  }

 private:
  absl::btree_map<Block, std::unique_ptr<Extent>> extents_;
};

struct State {
  State(sal::BlockStore* store, sal::Environment* environment, const Superblock& superblock,
        const EngineOptions& options, const MemoryPlan& plan);

  // Byte offset on the store.
  uint64_t HomeOffset(Block block) const { return (superblock.home_start + block) * kBlockBytes; }
  uint64_t TableOffset(uint64_t index) const { return (superblock.table_start + index) * kBlockBytes; }

  // The first error stops everything but reads.
  void Fail(absl::Status cause, Outbox& outbox);
  // Has memory made resident that will soon be used for the first time.
  void TouchAhead(Outbox& outbox);
  // What Quarantine needs to know to let blocks go.
  Quarantine::Condition QuarantineState() const;

  // Constant after construction.
  const EngineOptions options;
  const MemoryPlan plan;
  const uint64_t volume_salt;
  Monitor monitor;

  // Everything below is used in sections of the monitor only (and by recovery, before there are any).
  Superblock superblock;
  FlushQueue flushes;
  ImagePool images;
  ImagePool table_images;
  std::shared_ptr<StagingMemory> staging;
  ChecksumTable table;
  BlockCache cache;
  ExtentsInFlight extents;
  Quarantine quarantine;
  std::unique_ptr<LogWriter> log;
  Lsn accepted_lsn = 0;
  Lsn next_lsn = 1;
  bool read_only = false;
  absl::Status failure;  // why nothing is accepted any more

  uint64_t next_read = 1;           // number of the next planned read
  std::set<uint64_t> active_reads;  // numbers
  uint64_t destages_over = 0;
  bool destage_running = false;

  bool starved = false;  // an operation is parked for want of an image, which any other may give back

  EngineStats stats;
  // Called in a section when there may be more room, or less to wait for, than before.
  std::function<void(Outbox&)> on_progress;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_STATE_H_

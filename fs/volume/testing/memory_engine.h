// MemoryEngine: core::Engine in memory, for tests of what is built on the engine.
//
// It keeps the engine's contract towards bodies: they run one at a time, on private copies that replace the state when
// the body returns OK; a body that fails leaves no trace; LSNs count up. It is harder on its callers than the engine:
//   * Misses are injected by seed: the first touch of a block within a Run() may return Unavailable, and the body then
//     runs again. A body that swallows a miss, or says Unavailable without one, aborts the test.
//   * Runs that returned OK are thrown away and run again by seed, as when there is no room in the log.
//   * It aborts the test when a body uses what it must not: a released block not made Fresh() or Zero()ed or written as
//     an extent since, a quarantined block, WriteExtent() onto blocks in use, Release() of blocks that nobody took.
//   * Released blocks read as 0xDB.
//
// Callbacks run inside the calls, on the calling thread, or through the environment if Options::asynchronous says so.
// Thread-safe if `environment` is.

#ifndef STAGEFS_FS_VOLUME_TESTING_MEMORY_ENGINE_H_
#define STAGEFS_FS_VOLUME_TESTING_MEMORY_ENGINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "core/engine.h"
#include "core/transaction.h"
#include "core/types.h"
#include "sal/environment.h"
#include "sal/mutex.h"
#include "sal/random.h"

namespace stagefs::volume::testing {

class MemoryTransaction;

class MemoryEngine : public core::Engine {
 public:
  enum class Durability : uint8_t {
    kAtOnce,     // a change is durable when it is accepted
    kWhenAsked,  // when WhenDurable() or Checkpoint() is called, or a body finds no space; till then releases are
                 // quarantined
    kHeld,       // when MakeDurable() is called; WhenDurable() waits for it
  };

  struct Options {
    uint64_t capacity_blocks = 8192;
    uint64_t seed = 1;
    double miss_probability = 0;   // of the first touch of a block in a Run()
    double rerun_probability = 0;  // of a run that returned OK to be thrown away and run again
    Durability durability = Durability::kAtOnce;
    uint64_t staging_blocks = 1 << 20;  // TryStage() gives null beyond it
    bool asynchronous = false;          // Run() goes on through the environment after a miss
    bool read_only = false;
  };

  using Image = std::array<std::byte, core::kBlockBytes>;

  // What a volume is made of, as of one moment. Cheap: images are shared.
  struct Slot {
    enum class Use : uint8_t { kNever, kInUse, kReleased };
    std::shared_ptr<const Image> image;  // null: never written
    Use use = Use::kNever;
    bool bad = false;  // its checksum does not match
  };
  using State = absl::flat_hash_map<core::Block, Slot>;

  // `environment` must outlive the engine.
  MemoryEngine(sal::Environment& environment, const Options& options);
  // One that starts with `state`: what a recovery would find after a crash at that moment.
  MemoryEngine(sal::Environment& environment, const Options& options, State state);
  ~MemoryEngine() override;

  // --- For tests ---

  // The state after the changes accepted so far.
  State Snapshot();
  // Everything accepted so far becomes durable: quarantines end, callbacks run.
  void MakeDurable();
  // The next `count` runs of bodies that changed something fail with `status` instead of being accepted.
  void FailChanges(absl::Status status, uint64_t count);
  // As after a failed write of the log: no change is accepted any more.
  void Break(absl::Status status);
  // The checksum of `block` does not match from here on, until it is overwritten whole.
  void SpoilBlock(core::Block block);
  // Changes bytes behind everybody's back; checksums match.
  void Poke(uint64_t address, absl::Span<const std::byte> bytes);
  // How often a body was run, accepted or not.
  uint64_t body_runs();

  // Runs `body` and waits for its end. Must not be called within bodies.
  absl::StatusOr<core::Lsn> RunAndWait(Body body);

  // --- core::Engine ---
  uint64_t capacity_blocks() const override { return options_.capacity_blocks; }
  const core::VolumeInfo& info() const override { return info_; }
  void Run(Body body, Done done) override;
  void WhenDurable(core::Lsn lsn, DurableCallback done) override;
  void Checkpoint(DurableCallback done) override;
  std::shared_ptr<core::StagedData> TryStage(uint64_t block_count) override;
  void WhenStaging(absl::AnyInvocable<void() &&> retry) override;
  core::Lsn accepted_lsn() const override;
  core::Lsn durable_lsn() const override;
  absl::Status health() const override;
  core::EngineStats stats() const override;
  sal::Environment& environment() override { return environment_; }
  absl::Status Close() override;
  void Abandon() override {}

 private:
  friend class MemoryTransaction;
  struct Request;
  struct Quarantine {
    core::BlockRange range;
    core::Lsn lsn;
  };

  // Runs the body until it is accepted or fails, or, if asynchronous, has missed.
  void Go(std::shared_ptr<Request> request);
  // One run under the lock. True: it is over, and `request->result` says how.
  bool RunOnce(Request& request) ABSL_LOCKS_EXCLUDED(mutex_);
  // `transaction` returned OK: applies it, unless something is in the way. True: it is over.
  bool Accept(MemoryTransaction& transaction, Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool EndQuarantines() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Chance(double probability) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const Slot* FindSlot(core::Block block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReadBytes(uint64_t address, uint64_t length, std::byte* destination)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  sal::Environment& environment_;
  const Options options_;
  core::VolumeInfo info_;
  struct Staging;
  std::shared_ptr<Staging> staging_;

  mutable Mutex mutex_;
  State blocks_ ABSL_GUARDED_BY(mutex_);
  sal::Random64 random_ ABSL_GUARDED_BY(mutex_);
  core::Lsn accepted_ ABSL_GUARDED_BY(mutex_) = 0;
  core::Lsn durable_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<Quarantine> quarantines_ ABSL_GUARDED_BY(mutex_);
  std::vector<DurableCallback> waiting_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  absl::Status injected_ ABSL_GUARDED_BY(mutex_);
  uint64_t injected_count_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t body_runs_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stagefs::volume::testing

#endif  // STAGEFS_FS_VOLUME_TESTING_MEMORY_ENGINE_H_

// Workloads of the engine sweep: short lists of operations on slots (see EngineModel), named, or random by seed.

#ifndef STAGEFS_TESTS_CRASH_ENGINE_WORKLOAD_H_
#define STAGEFS_TESTS_CRASH_ENGINE_WORKLOAD_H_

#include <cstdint>
#include <string>
#include <vector>

namespace stagefs::crash {

struct Op {
  enum class Kind : uint8_t {
    kCreatePart,    // slot gets `a` fresh blocks, zeroed as a range; bytes are written into part of each
    kCreateFresh,   // slot gets `a` blocks made Fresh() one by one, with some bytes in each
    kCreateWhole,   // slot gets `a` blocks, written whole and inline
    kCreateExtent,  // slot gets `a` blocks, written as an extent
    kOverwrite,     // `b` bytes at byte `a` of the slot
    kPatch,         // a few words of block `a` of the slot, by Modify()
    kZero,          // `b` bytes at byte `a` of the slot, in place
    kRelease,       // slot gives its blocks back
    kMoveAndPatch,  // slot gets new blocks with the content of the old, changed; the old ones are released
    kDurable,       // asks for durability of all that was accepted
    kCheckpoint,    // asks for a checkpoint
    kLetRun,        // lets `a` nanoseconds pass
    kClose,         // closes the engine; only at the end
  };
  Kind kind;
  int slot = 0;
  uint64_t a = 0;
  uint64_t b = 0;
  bool wait = true;  // for its completion, before the next operation begins
};
// A slot that already owns blocks releases them in the same change when it gets new ones.

struct Workload {
  std::string name;
  std::vector<Op> ops;
  uint64_t arena_blocks = 24;
  bool log_nearly_wrapped = false;  // begins with the log's head just before the end of the ring
};

// For writing workloads down.
inline constexpr uint64_t kMicrosecond = 1000;
Op CreatePart(int slot, uint64_t blocks);
Op CreateFresh(int slot, uint64_t blocks);
Op CreateWhole(int slot, uint64_t blocks);
Op CreateExtent(int slot, uint64_t blocks);
Op Overwrite(int slot, uint64_t offset_bytes, uint64_t length_bytes);
Op Patch(int slot, uint64_t block);
Op Zero(int slot, uint64_t offset_bytes, uint64_t length_bytes);
Op Release(int slot);
Op MoveAndPatch(int slot);
Op Durable();
Op Checkpoint();
Op LetRun(uint64_t ns);
Op Close();
// The same, without waiting.
Op Async(Op op);

// The named ones.
std::vector<Workload> ShortWorkloads();    // one to three changes
std::vector<Workload> DestageWorkloads();  // changes while blocks are being destaged
std::vector<Workload> WrapWorkloads();     // the log's ring wraps
// Two frames are on their way at once, so that a crash may leave the second without the first.
std::vector<Workload> TwoFramesInFlightWorkloads();
// The ring fills up while a checkpoint is under way, and changes wait for room.
std::vector<Workload> FullLogWorkloads();
// `op_count` random operations.
Workload RandomWorkload(uint64_t seed, uint64_t op_count);

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_ENGINE_WORKLOAD_H_

// SimulatedStore: a disk with a volatile cache whose power can fail at any request, on a SimulatedEnvironment.
//
// Requests complete after random latencies, so those in flight together are reordered. A write that completed is in the
// disk's cache: reads see it, power failure may lose it. A flush makes durable exactly the writes that had completed
// when it was submitted; a FUA write is durable when it completes. Everything random comes from Options::seed.
//
// What the engine above must survive, losing nothing that was acknowledged as durable:
//   * loss of power at any request: each write that was completed but not flushed, or in flight, is kept, dropped, or
//     torn (each atomic unit old or new), whatever happens to the others (CutAt, Crash with kPowerCut);
//   * kill -9 at any request: in-flight writes land whole, in part or not at all, and the cache stays volatile (kKill);
//   * completions in any order, any latency (kSlowFlush); discarded blocks that read as anything;
//   * requests that fail and say so (kReadError, kWriteError, kFlushError, kDeviceFull): a failed read is an error for
//     who needs it, a failed write or flush ends all changes, and what was acknowledged before is there after the
//     next start.
// What it may only detect (DataLoss, an error, a warning of the recovery; never wrong bytes):
//   * bits that decay in what was durable (kDecay, CorruptByte), wherever they lie;
//   * writes that complete with OK and land with a wrong bit (kCorruptedWrite), in part (kTornWrite), elsewhere
//     (kMisdirectedWrite) or not at all (kLostWrite), if they are of home blocks, or of one slot of the superblock.
// What nobody can detect from the disk alone:
//   * an old image of the whole disk put back in its place;
//   * a disk that lies about flushes or FUA and then loses power (lie_about_flush, lie_about_fua): it may come back as
//     an older, consistent state. Tests use these switches to show that a sweep bites;
//   * damage of any kind to the log's last frames before a crash, behind which no frame says that they were durable:
//     the log then ends earlier, as if the power had failed earlier, at a prefix of what was accepted. (With a later
//     frame that says so, the damage is seen, and the volume opens read-only.)
//   * a write of the checksum table of which sectors keep their old content, which was valid (kLostWrite, kTornWrite,
//     kMisdirectedWrite there): entries of the table are as of an earlier time. Where the home block has changed since,
//     the two disagree and that is seen; but an entry that says "never written" makes the block read as zeros, and a
//     block that was zeroed since reads as it did before. The same if writes of a home block and of its table entry
//     are lost together.
//
// The store also aborts when a caller changes a write's memory while it is in flight, and counts requests that overlap
// a write in flight: the result of those is anybody's guess.
//
// Not thread-safe: lives on its environment's thread.

#ifndef STAGEFS_SAL_SIMULATED_STORE_H_
#define STAGEFS_SAL_SIMULATED_STORE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "sal/block_store.h"
#include "sal/random.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_image.h"

namespace stagefs::sal {

// A write that the disk may still lose.
struct SimulatedWrite {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  std::shared_ptr<const std::vector<std::byte>> data;  // null: zeros
  // Parts (offset, length on the disk) that never arrived, or were made durable anew since.
  std::vector<std::pair<uint64_t, uint64_t>> excluded;

  void ApplyTo(SimulatedImage& image) const;
  // Takes away some of its units of `unit_bytes`: its end, its beginning, or any of them. A write of one stays whole.
  void Tear(uint64_t unit_bytes, Random64& random);
};

// All that a disk holds, with its cache. Cheap to copy.
struct SimulatedDisk {
  SimulatedImage durable;                // what survives for certain
  SimulatedImage current;                // what reads see: `durable` and then all of `unflushed`
  std::deque<SimulatedWrite> unflushed;  // completed, in the order of completion
};

// What the disk may do to a request, at most one of these to each. "OK" is what the caller hears.
enum class SimulatedFault : uint8_t {
  kReadError,         // a read fails with DataLoss; the next one may not
  kWriteError,        // a write fails with Unavailable; some of it may have landed
  kFlushError,        // a flush fails with Unavailable; nothing has become durable by it
  kDeviceFull,        // from now on, writes to space that was never written fail with Unavailable
  kSlowFlush,         // a flush takes a hundred times as long
  kLostWrite,         // a write does not land; OK
  kTornWrite,         // some atomic units of a write do not land; OK
  kMisdirectedWrite,  // a write lands elsewhere; OK
  kCorruptedWrite,    // a write lands with one bit wrong; OK
  kDecay,             // one bit of something written earlier turns over, on the medium
};
inline constexpr size_t kSimulatedFaultKinds = 10;

// The faults of a disk, by chance.
struct SimulatedFaultPlan {
  // Of so many requests that a kind could hit, one is hit; 0: none.
  std::array<uint32_t, kSimulatedFaultKinds> one_in = {};
  // Whether `fault` may damage this range: of the write, or what lies where it goes astray, or what decays. Empty: yes.
  std::function<bool(SimulatedFault fault, uint64_t offset_bytes, uint64_t length_bytes)> may_hit;

  uint32_t& operator[](SimulatedFault fault) { return one_in[static_cast<size_t>(fault)]; }
};

struct SimulatedStoreOptions {
  uint64_t seed = 1;
  uint64_t size_bytes = 64 << 20;
  bool fua = true;
  bool discard = true;
  uint32_t atomic_write_bytes = 512;
  uint32_t max_request_bytes = 1 << 20;
  uint64_t shortest_latency_ns = 10'000;
  uint64_t longest_latency_ns = 200'000;
  bool lie_about_flush = false;  // flushes complete and do nothing
  bool lie_about_fua = false;    // FUA writes complete as ordinary ones
};

class SimulatedStore : public BlockStore {
 public:
  enum class CrashKind {
    kPowerCut,  // unflushed and in-flight writes are each kept, dropped or torn
    kKill,      // the process dies, the disk lives: completed writes stay (in the cache), in-flight ones may land
  };

  // Starts with what `disk` holds: nothing, or the result of Image() or Crash(). `environment` must outlive the store.
  SimulatedStore(SimulatedEnvironment& environment, const SimulatedStoreOptions& options, SimulatedDisk disk = {});
  ~SimulatedStore() override;
  SimulatedStore(const SimulatedStore&) = delete;
  SimulatedStore& operator=(const SimulatedStore&) = delete;

  using BlockStore::Submit;
  const Geometry& geometry() const override { return geometry_; }
  const std::string& name() const override { return name_; }
  void Submit(absl::Span<Request* const> requests) override;

  // Requests submitted so far, of every kind.
  uint64_t request_count() const { return request_count_; }
  // Power fails as soon as request number `n` (from 1, counted from the store's beginning) has been submitted, that
  // request being in flight: from then on nothing takes effect, and every request, in flight or later, completes with
  // Unavailable. 0: never.
  void CutAt(uint64_t n) { cut_at_ = n; }
  // Power fails now.
  void CutNow() { power_off_ = true; }
  bool power_off() const { return power_off_; }

  // What the disk holds after a crash now, or at the moment power failed. May be called again, with other seeds.
  SimulatedDisk Crash(uint64_t seed, CrashKind kind) const;
  // For those who choose themselves what a power cut leaves: durable() and any of the writes of AtRisk(), whole or torn
  // (ApplyTo). AtRisk() has the completed ones in the order of completion, then those in flight.
  const SimulatedImage& durable() const { return disk_.durable; }
  std::vector<SimulatedWrite> AtRisk() const;
  // What the disk holds, with its cache; without what is in flight.
  SimulatedDisk Image() const { return disk_; }

  // Behind the engine's back. WriteRaw and CorruptByte are durable at once.
  void ReadRaw(uint64_t offset_bytes, void* destination, uint64_t length_bytes) const;
  void WriteRaw(uint64_t offset_bytes, const void* source, uint64_t length_bytes);
  void CorruptByte(uint64_t offset_bytes);

  // What goes wrong from here on.
  void SetFaults(SimulatedFaultPlan faults) { faults_ = std::move(faults); }
  // How many requests were hit so far.
  uint64_t fault_count(SimulatedFault fault) const { return fault_counts_[static_cast<size_t>(fault)]; }

  // Requests that overlapped a write, zeroing or discard in flight (or were one, and overlapped a read).
  uint64_t overlapping_requests() const { return overlapping_requests_; }
  // Writes that a crash now could lose.
  uint64_t unflushed_writes() const { return disk_.unflushed.size(); }

 private:
  struct InFlight {
    Request* request;
    Request::Op op;
    bool fua;
    SimulatedWrite write;       // for what writes, as it will land; for reads its range only
    std::shared_ptr<const std::vector<std::byte>> submitted = nullptr;  // kWrite: what the caller gave
    uint64_t flush_up_to = 0;   // kFlush: writes completed before this sequence number become durable
    absl::Status error = absl::OkStatus();  // what the caller is told in the end
  };

  InFlight Capture(Request* request);
  void CountOverlaps(const InFlight& added);
  // Whether `fault` hits a request for this range now; counts it if so.
  bool Hits(SimulatedFault fault, uint64_t offset_bytes, uint64_t length_bytes);
  // Changes `added` as the faults want.
  void InjectFaults(InFlight& added);
  void DamageWrite(InFlight& added);
  void Misdirect(SimulatedWrite& write);
  void Decay();
  void Finish(uint64_t id);
  void FinishWrite(InFlight& done);
  void Exclude(uint64_t offset_bytes, uint64_t length_bytes);

  // Constant after construction.
  SimulatedEnvironment& environment_;
  const SimulatedStoreOptions options_;
  Geometry geometry_;
  const std::string name_;

  Random64 random_;
  SimulatedDisk disk_;
  uint64_t first_unflushed_ = 0;  // sequence number of disk_.unflushed.front(): how many completed before it
  std::map<uint64_t, InFlight> in_flight_;  // by request number; what was in flight at a cut stays here
  uint64_t outstanding_ = 0;                // requests whose `done` has not run
  uint64_t request_count_ = 0;
  uint64_t cut_at_ = 0;
  bool power_off_ = false;
  uint64_t overlapping_requests_ = 0;

  SimulatedFaultPlan faults_;
  std::array<uint64_t, kSimulatedFaultKinds> fault_counts_ = {};
  bool full_ = false;
  // Ranges that were written lately: decay chooses among them. A ring; `places_written_` counts all.
  std::array<std::pair<uint64_t, uint64_t>, 256> places_ = {};
  uint64_t places_written_ = 0;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_SIMULATED_STORE_H_

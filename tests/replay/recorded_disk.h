// RecordedDisk: what a disk holds, at any position of a record of its requests, if its power fails there.
//
// It is the disk of sal/simulated_store.h: what has completed before a flush was submitted that has completed since is
// durable, and so is a FUA write that has completed. Everything else is at risk: whatever happens to the others, each
// write may be kept, dropped or torn (each aligned atomic unit old or new). Those that had completed are applied in the
// order of completion, those in flight after them and in any order. Discarded blocks read as zeros or as garbage.
//
// Not thread-safe.

#ifndef STAGEFS_TESTS_REPLAY_RECORDED_DISK_H_
#define STAGEFS_TESTS_REPLAY_RECORDED_DISK_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "sal/random.h"
#include "sal/simulated_image.h"
#include "tests/replay/record_reader.h"

namespace stagefs::replay {

// A write that the disk may still lose.
struct WriteAtRisk {
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  absl::Span<const std::byte> data;  // empty: zeros
  // Parts (offset, length on the disk) that never arrived, or that a later FUA write has made durable.
  std::vector<std::pair<uint64_t, uint64_t>> excluded;

  void ApplyTo(sal::SimulatedImage& image) const;
  // Takes away some of its units of `unit_bytes`: its end, its beginning, or any of them. A write of one stays whole.
  void Tear(uint64_t unit_bytes, sal::Random64& random);
};

class RecordedDisk {
 public:
  struct Options {
    // Flushes and FUA do nothing: a disk that lies. To show that a check bites.
    bool ignore_flushes = false;
  };
  // What a power cut does to the writes at risk.
  enum class Fate {
    kRandom,  // by seed; all kept and all dropped are among what may come out
    kKeep,
    kDrop,
  };
  struct CutReport {
    uint64_t kept = 0;
    uint64_t dropped = 0;
    uint64_t torn = 0;
  };

  // `base` is what the disk held, durably, when the record began. `reader` must outlive this object.
  RecordedDisk(RecordReader& reader, sal::SimulatedImage base, const Options& options);

  // Lets all events up to `position` happen; positions only grow. Errors: OutOfRange (the record ends before),
  // DataLoss.
  absl::Status AdvanceTo(uint64_t position);
  // What the disk holds when power fails here. May be called again, with other seeds.
  sal::SimulatedImage Cut(uint64_t seed, Fate fate, CutReport* report) const;

 private:
  struct InFlight {
    RecordEvent event;
    uint64_t flush_up_to = 0;  // kFlush: covers unflushed writes before this number
  };

  absl::Status Apply(const RecordEvent& event);
  void Finish(const InFlight& request);
  WriteAtRisk WriteOf(const RecordEvent& event) const;

  RecordReader& reader_;
  const Options options_;
  const std::vector<std::byte> garbage_;  // what discarded blocks may read as

  sal::SimulatedImage durable_;
  std::deque<WriteAtRisk> unflushed_;  // completed, in the order of completion
  uint64_t first_unflushed_ = 0;       // number of unflushed_.front()
  std::map<uint64_t, InFlight> in_flight_;
};

}  // namespace stagefs::replay

#endif  // STAGEFS_TESTS_REPLAY_RECORDED_DISK_H_

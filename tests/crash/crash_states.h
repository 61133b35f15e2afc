// CrashStates: everything that a power cut can leave of a disk at one moment: what is durable, with any subset of the
// writes at risk on top of it, and some subsets with torn writes.

#ifndef STAGEFS_TESTS_CRASH_CRASH_STATES_H_
#define STAGEFS_TESTS_CRASH_CRASH_STATES_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "sal/simulated_image.h"
#include "sal/simulated_store.h"

namespace stagefs::crash {

// Equal for images with equal content, and for no others that one will meet.
uint64_t Fingerprint(const sal::SimulatedImage& image);

class CrashStates {
 public:
  // Of each write at risk: 0 lost, 1 arrived, 2 and more: torn in some way.
  using Fates = std::vector<uint8_t>;

  static constexpr size_t kMostForAllSubsets = 8;  // writes; of more than so many, kSampledSubsets are taken
  static constexpr size_t kSampledSubsets = 128;
  static constexpr size_t kTornWays = 2;     // in which a write may be torn
  static constexpr size_t kTornStates = 8;   // in which some writes are

  // `seed` chooses what is sampled and where writes are torn. `durable` must outlive this object.
  CrashStates(const sal::SimulatedImage& durable, std::vector<sal::SimulatedWrite> at_risk, uint64_t seed);

  const std::vector<Fates>& all() const { return all_; }
  sal::SimulatedImage Image(const Fates& fates) const;
  // Fingerprint(Image(fates)), in a fraction of the time.
  uint64_t FingerprintOf(const Fates& fates) const;
  // The writes at risk that touch any of `ranges` (offset and length in bytes), in order.
  std::vector<bool> Touching(const std::vector<std::pair<uint64_t, uint64_t>>& ranges) const;

 private:
  // A write at risk, whole or torn.
  struct Way {
    sal::SimulatedWrite write;
    uint64_t difference = 0;  // what it adds to the fingerprint, if no other write touches its pages
  };

  void AddWays(const sal::SimulatedWrite& write, uint64_t seed);
  void ChooseStates(uint64_t seed);
  const Way& WayOf(size_t write, uint8_t fate) const { return ways_[write][fate - 1]; }

  const sal::SimulatedImage& durable_;
  std::vector<sal::SimulatedWrite> at_risk_;  // by offset, unless they overlap
  std::vector<std::vector<Way>> ways_;  // of each write
  bool overlapping_ = false;            // some of the writes touch the same page
  uint64_t durable_fingerprint_ = 0;
  std::vector<Fates> all_;
};

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_CRASH_STATES_H_

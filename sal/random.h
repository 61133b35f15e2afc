// Random64: a small seeded generator (SplitMix64) for simulation and tests. The same seed gives the same numbers on
// every machine, which the standard library's distributions do not promise. For salts and keys: Environment::Random().

#ifndef STAGEFS_SAL_RANDOM_H_
#define STAGEFS_SAL_RANDOM_H_

#include <cstdint>

namespace stagefs::sal {

class Random64 {
 public:
  explicit Random64(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
  // Uniform in [0, bound), `bound` > 0. The bias of the remainder does not matter here.
  uint64_t Below(uint64_t bound) { return Next() % bound; }
  // Uniform in [low, high].
  uint64_t Between(uint64_t low, uint64_t high) { return low + Below(high - low + 1); }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_RANDOM_H_

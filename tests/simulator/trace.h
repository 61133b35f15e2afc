// Trace: what happened in a simulation, as a hash (two runs of one seed must have the same) and, if asked for, as text.

#ifndef STAGEFS_TESTS_SIMULATOR_TRACE_H_
#define STAGEFS_TESTS_SIMULATOR_TRACE_H_

#include <cstdint>
#include <cstdio>
#include <initializer_list>

#include "absl/strings/string_view.h"

namespace stagefs::simulator {

class Trace {
 public:
  explicit Trace(bool verbose) : verbose_(verbose) {}

  void Mix(std::initializer_list<uint64_t> numbers) {
    for (const uint64_t number : numbers) {
      hash_ = (hash_ ^ number) * 0x100000001b3;
      hash_ ^= hash_ >> 29;
    }
  }
  bool verbose() const { return verbose_; }
  void Say(absl::string_view line) const {
    if (verbose_) std::printf("%.*s\n", static_cast<int>(line.size()), line.data());
  }
  uint64_t hash() const { return hash_; }

 private:
  const bool verbose_;
  uint64_t hash_ = 0xcbf29ce484222325;
};

}  // namespace stagefs::simulator

#endif  // STAGEFS_TESTS_SIMULATOR_TRACE_H_

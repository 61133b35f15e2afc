// What the sweeps of the engine and of the volume share: how a violation says where it was found, and recovery that is
// cut short itself.

#ifndef STAGEFS_TESTS_CRASH_CUT_RECOVERY_H_
#define STAGEFS_TESTS_CRASH_CUT_RECOVERY_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "sal/random.h"
#include "sal/simulated_store.h"

namespace stagefs::crash {

// `status`, if it is an error, with the place where it came up.
inline absl::Status Within(absl::string_view where, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::InternalError(absl::StrCat(where, ": ", status.message()));
}

inline const char* Name(sal::SimulatedStore::CrashKind kind) {
  return kind == sal::SimulatedStore::CrashKind::kPowerCut ? "power cut" : "kill";
}

// Lets `disk` be recovered one to three times, and cuts that at request `first_cut`, then at random ones. The disk is
// left as the last of these crashes left it, and `where` says what has happened. `recover(n, disk, cut)` makes the nth
// run, cuts its power at request `cut` at the latest, and returns the run.
template <typename Recover>
void CutRecovery(uint64_t first_cut, sal::Random64& random, Recover recover, sal::SimulatedDisk* disk,
                 std::string* where) {
  uint64_t cut = first_cut;
  const uint64_t times = random.Between(1, 3);
  *where = "recovery cut";
  for (uint64_t n = 0; n < times; ++n) {
    const auto run = recover(n, *disk, cut);
    const auto kind =
        random.OneIn(4) ? sal::SimulatedStore::CrashKind::kKill : sal::SimulatedStore::CrashKind::kPowerCut;
    absl::StrAppend(where, " at request ", cut, " (", Name(kind), ")");
    *disk = run->Crash(random.Next(), kind);
    cut = random.Between(1, 24);
  }
}

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_CUT_RECOVERY_H_

// PrefixFinder: which LSN of the last life a recovery went back to.
//
// Usually RecoveryReport::recovered_lsn says it. But a recovery that was cut may have begun a new epoch, whose LSNs lie
// far above; the next one then reports one of those, and the state is the one that the first had found.
//
// Not thread-safe.

#ifndef STAGEFS_TESTS_SIMULATOR_PREFIX_H_
#define STAGEFS_TESTS_SIMULATOR_PREFIX_H_

#include <set>
#include <vector>

#include "core/types.h"

namespace stagefs::simulator {

class PrefixFinder {
 public:
  // A life has ended: none of its LSNs is higher than `last_lsn`.
  void BeginRecovery(core::Lsn acknowledged, core::Lsn last_lsn) {
    acknowledged_ = acknowledged;
    last_lsn_ = last_lsn;
    found_.clear();
  }
  // A recovery that was cut short had found `recovered_lsn`; 0: it did not come so far.
  void NoteAttempt(core::Lsn recovered_lsn) {
    if (recovered_lsn != 0 && recovered_lsn <= last_lsn_) found_.insert(recovered_lsn);
  }
  // The prefixes that a recovery which reports `recovered_lsn` may stand for, longest first.
  std::vector<core::Lsn> Candidates(core::Lsn recovered_lsn) const {
    if (recovered_lsn <= last_lsn_) return {recovered_lsn};
    return {found_.rbegin(), found_.rend()};
  }
  core::Lsn acknowledged() const { return acknowledged_; }

 private:
  core::Lsn acknowledged_ = 0;
  core::Lsn last_lsn_ = 0;
  std::set<core::Lsn> found_;
};

}  // namespace stagefs::simulator

#endif  // STAGEFS_TESTS_SIMULATOR_PREFIX_H_

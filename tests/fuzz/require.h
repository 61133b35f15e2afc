// RequireOk: what must succeed whatever the input says. Ends the process otherwise, as STAGEFS_CHECK does, and says why.

#ifndef STAGEFS_TESTS_FUZZ_REQUIRE_H_
#define STAGEFS_TESTS_FUZZ_REQUIRE_H_

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/status/status.h"

namespace stagefs::fuzz {

inline void RequireOk(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "stagefs: %s must succeed, but: %s\n", what, status.ToString().c_str());
  std::abort();
}

}  // namespace stagefs::fuzz

#endif  // STAGEFS_TESTS_FUZZ_REQUIRE_H_

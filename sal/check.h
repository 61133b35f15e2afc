// CHECK: for our own mistakes, on in production too. What the world does wrong is an absl::Status, never a CHECK.

#ifndef STAGEFS_SAL_CHECK_H_
#define STAGEFS_SAL_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define STAGEFS_CHECK(condition)                                                                  \
  do {                                                                                            \
    if (!(condition)) [[unlikely]] {                                                              \
      std::fprintf(stderr, "stagefs: %s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                               \
    }                                                                                             \
  } while (false)

#endif  // STAGEFS_SAL_CHECK_H_

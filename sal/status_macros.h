// Early return for absl::Status and absl::StatusOr; Debian 12's Abseil has no such macros of its own.

#ifndef STAGEFS_SAL_STATUS_MACROS_H_
#define STAGEFS_SAL_STATUS_MACROS_H_

#include <utility>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define STAGEFS_CONCAT_INNER(a, b) a##b
#define STAGEFS_CONCAT(a, b) STAGEFS_CONCAT_INNER(a, b)

// Returns the status of `expression` from the enclosing function unless it is OK.
#define RETURN_IF_ERROR(expression)                            \
  do {                                                         \
    ::absl::Status status_macro_value = (expression);          \
    if (ABSL_PREDICT_FALSE(!status_macro_value.ok())) {        \
      return status_macro_value;                               \
    }                                                          \
  } while (false)

// Assigns the value of a StatusOr `expression` to `target`, or returns its status.
#define ASSIGN_OR_RETURN(target, expression) \
  ASSIGN_OR_RETURN_INNER(STAGEFS_CONCAT(status_or_, __LINE__), target, expression)
#define ASSIGN_OR_RETURN_INNER(name, target, expression)  \
  auto name = (expression);                               \
  if (ABSL_PREDICT_FALSE(!name.ok())) {                   \
    return std::move(name).status();                      \
  }                                                       \
  target = *std::move(name)

#endif  // STAGEFS_SAL_STATUS_MACROS_H_

// What every store checks of a request before it starts it.

#ifndef STAGEFS_SAL_REQUEST_CHECK_H_
#define STAGEFS_SAL_REQUEST_CHECK_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "sal/block_store.h"

namespace stagefs::sal {

// "write of 4096 bytes at 8192", for messages.
std::string Describe(const Request& request);

// Errors: OutOfRange (ends beyond the store), InvalidArgument (not aligned to the store's blocks, too large, too many
// buffers, or buffers that do not add up; for kFlush everything is fine). `name` is the store's, for the message.
absl::Status CheckRequest(const Geometry& geometry, absl::string_view name, const Request& request);

// Runs `done`. It is taken out of the request first, because it may destroy the request or give it a new one.
inline void Complete(Request* request, absl::Status status) {
  auto done = std::move(request->done);
  done(std::move(status));
}

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_REQUEST_CHECK_H_

// MarkClient: puts marks into a record that another process is writing. sal/record_marks.h has the other end.
//
// Not thread-safe.

#ifndef STAGEFS_TESTS_REPLAY_MARK_CLIENT_H_
#define STAGEFS_TESTS_REPLAY_MARK_CLIENT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace stagefs::replay {

class MarkClient {
 public:
  // Errors: InvalidArgument (the path is too long for a socket), Unavailable (nobody listens on it).
  static absl::StatusOr<std::unique_ptr<MarkClient>> Connect(const std::string& path);
  ~MarkClient();
  MarkClient(const MarkClient&) = delete;
  MarkClient& operator=(const MarkClient&) = delete;

  // Returns the position of the mark, once it is in the record. Errors: Unavailable (the store is gone).
  absl::StatusOr<uint64_t> Mark(absl::string_view text);

 private:
  explicit MarkClient(int socket) : socket_(socket) {}
  const int socket_;
};

}  // namespace stagefs::replay

#endif  // STAGEFS_TESTS_REPLAY_MARK_CLIENT_H_

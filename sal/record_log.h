// RecordLog: the file that a RecordStore writes. Events are appended from any thread, and one thread writes them out.
//
// Memory is bounded: Append() waits while more than kBufferBytes have not been written yet. After the first error of
// the file nothing more is appended (what is there stays a prefix of what happened), and status() says why.
//
// Thread-safe. Format: sal/record_format.h.

#ifndef STAGEFS_SAL_RECORD_LOG_H_
#define STAGEFS_SAL_RECORD_LOG_H_

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "sal/block_store.h"
#include "sal/mutex.h"
#include "sal/record_format.h"

namespace stagefs::sal {

class RecordLog {
 public:
  static constexpr size_t kBufferBytes = 16 << 20;

  // Creates the file `path` for a store of this geometry. Errors: AlreadyExists (a record is never overwritten),
  // Internal.
  static absl::StatusOr<std::unique_ptr<RecordLog>> Create(const std::string& path, const Geometry& geometry);
  // Writes out what has been appended. The file is not flushed: a record is for crashes of what it records.
  ~RecordLog();
  RecordLog(const RecordLog&) = delete;
  RecordLog& operator=(const RecordLog&) = delete;

  // Appends an event and its data, and returns its position.
  uint64_t Append(const RecordEventHeader& header, absl::Span<const iovec> data = {});
  // The same; numbers the request of a submission, and returns that number.
  uint64_t AppendSubmission(RecordEventHeader header, absl::Span<const iovec> data);
  absl::Status status() const;

 private:
  RecordLog(const std::string& path, int descriptor);

  void WaitForRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t AppendLocked(const RecordEventHeader& header, absl::Span<const iovec> data)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteOut();
  absl::Status WriteAll(const std::vector<std::byte>& bytes) const;

  // Constant after construction.
  const std::string path_;
  const int descriptor_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<std::byte> buffer_ ABSL_GUARDED_BY(mutex_);
  uint64_t event_count_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t request_count_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread writer_;  // runs WriteOut()
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_RECORD_LOG_H_

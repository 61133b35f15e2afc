// RecordStore (`record:FILE,URL`): another store, and in FILE a record of all that changes it, so that a replay
// (tests/replay) can make what the store would hold had the power failed at any moment.
//
// Everything is passed on unchanged. Submissions are recorded before the store underneath hears of them, completions
// before their user does: sal/record_format.h says why that is enough. FILE.sock takes marks: sal/record_marks.h. Once
// FILE cannot be written any more, every change completes with Unavailable: a gap would be taken for the truth.
//
// For tests: Submit() copies what is written, and waits while the record's buffer is full. FILE must not lie on what
// the store itself carries.
//
// Thread-safe.

#ifndef STAGEFS_SAL_RECORD_STORE_H_
#define STAGEFS_SAL_RECORD_STORE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "sal/block_store.h"
#include "sal/record_log.h"
#include "sal/record_marks.h"

namespace stagefs::sal {

class RecordStore : public BlockStore {
 public:
  // Errors: AlreadyExists (FILE does), InvalidArgument (its path is too long for FILE.sock), Internal.
  static absl::StatusOr<std::unique_ptr<RecordStore>> Open(const std::string& file, std::unique_ptr<BlockStore> inner);

  // Puts a mark into the record and returns its position.
  uint64_t Mark(absl::string_view text);
  const BlockStore& inner() const { return *inner_; }

  using BlockStore::Submit;
  const Geometry& geometry() const override { return inner_->geometry(); }
  const std::string& name() const override { return inner_->name(); }
  void Submit(absl::Span<Request* const> requests) override;
  void RegisterMemory(absl::Span<const iovec> areas) override { inner_->RegisterMemory(areas); }

 private:
  RecordStore(std::unique_ptr<BlockStore> inner, std::unique_ptr<RecordLog> log, std::unique_ptr<RecordMarks> marks);

  void Record(Request& request);
  absl::Status RecordCompletion(uint64_t request_number, absl::Status status);

  // In the order of their lives: marks go into the log, and the store's completions do until it is gone.
  const std::unique_ptr<RecordLog> log_;
  const std::unique_ptr<RecordMarks> marks_;
  const std::unique_ptr<BlockStore> inner_;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_RECORD_STORE_H_

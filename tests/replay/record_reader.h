// RecordReader: the events of a record, one after the other. Format: sal/record_format.h.
//
// Not thread-safe.

#ifndef STAGEFS_TESTS_REPLAY_RECORD_READER_H_
#define STAGEFS_TESTS_REPLAY_RECORD_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "sal/record_format.h"

namespace stagefs::replay {

struct RecordEvent {
  sal::RecordEventKind kind;
  bool fua;
  uint64_t request_number;
  uint64_t offset_bytes;
  uint64_t length_bytes;
  // A mark's text, or what a write writes (empty: zeros). Points into the record; valid as long as its reader.
  absl::Span<const std::byte> data;
};

class RecordReader {
 public:
  // Errors: NotFound, DataLoss (not a record), Internal.
  static absl::StatusOr<std::unique_ptr<RecordReader>> Open(const std::string& path);
  ~RecordReader();
  RecordReader(const RecordReader&) = delete;
  RecordReader& operator=(const RecordReader&) = delete;

  uint64_t size_bytes() const { return header_.size_bytes; }
  uint32_t atomic_write_bytes() const { return header_.atomic_write_bytes; }
  // How many events have been read.
  uint64_t position() const { return position_; }
  // Reads the next event; false at the end. Errors: DataLoss, with the position.
  absl::StatusOr<bool> Next(RecordEvent* event);

 private:
  RecordReader(const std::byte* bytes, size_t length, const sal::RecordFileHeader& header);

  const std::byte* const bytes_;  // the file, mapped
  const size_t length_;
  const sal::RecordFileHeader header_;
  size_t offset_ = sizeof(sal::RecordFileHeader);
  uint64_t position_ = 0;
};

}  // namespace stagefs::replay

#endif  // STAGEFS_TESTS_REPLAY_RECORD_READER_H_

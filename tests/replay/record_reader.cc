#include "tests/replay/record_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

namespace stagefs::replay {

using sal::RecordEventHeader;
using sal::RecordEventKind;
using sal::RecordFileHeader;

absl::StatusOr<std::unique_ptr<RecordReader>> RecordReader::Open(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return absl::NotFoundError(absl::StrCat(path, ": ", strerror(errno)));
  struct stat status = {};
  RecordFileHeader header = {};
  void* mapped = MAP_FAILED;
  if (fstat(descriptor, &status) == 0 && pread(descriptor, &header, sizeof(header), 0) == sizeof(header)) {
    mapped = mmap(nullptr, status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  }
  close(descriptor);
  if (header.magic != sal::kRecordMagic || header.atomic_write_bytes == 0) {
    return absl::DataLossError(absl::StrCat(path, " is not a record"));
  }
  if (mapped == MAP_FAILED) return absl::InternalError(absl::StrCat(path, ": mmap: ", strerror(errno)));
  return absl::WrapUnique(new RecordReader(static_cast<const std::byte*>(mapped), status.st_size, header));
}

RecordReader::RecordReader(const std::byte* bytes, size_t length, const RecordFileHeader& header)
    : bytes_(bytes), length_(length), header_(header) {}

RecordReader::~RecordReader() { munmap(const_cast<std::byte*>(bytes_), length_); }

absl::StatusOr<bool> RecordReader::Next(RecordEvent* event) {
  RecordEventHeader header;
  if (length_ - offset_ < sizeof(header)) return false;
  memcpy(&header, bytes_ + offset_, sizeof(header));
  const auto kind = static_cast<RecordEventKind>(header.kind);
  const bool ranged =
      kind == RecordEventKind::kWrite || kind == RecordEventKind::kZero || kind == RecordEventKind::kDiscard;
  if (kind < RecordEventKind::kWrite || kind > RecordEventKind::kMark ||
      (ranged && (header.offset_bytes > header_.size_bytes ||
                  header.length_bytes > header_.size_bytes - header.offset_bytes))) {
    return absl::DataLossError(absl::StrCat("event ", position_ + 1, " of the record is damaged: kind ", header.kind,
                                            ", ", header.length_bytes, " bytes at ", header.offset_bytes));
  }
  const bool has_data =
      kind == RecordEventKind::kMark || (kind == RecordEventKind::kWrite && (header.flags & sal::kRecordZeros) == 0);
  const size_t data_offset = offset_ + sizeof(header);
  const uint64_t data_bytes = has_data ? header.length_bytes : 0;
  if (length_ - data_offset < data_bytes) return false;
  *event = {.kind = kind,
            .fua = (header.flags & sal::kRecordFua) != 0,
            .request_number = header.request_number,
            .offset_bytes = header.offset_bytes,
            .length_bytes = header.length_bytes,
            .data = absl::MakeConstSpan(bytes_ + data_offset, data_bytes)};
  offset_ = data_offset + data_bytes;
  ++position_;
  return true;
}

}  // namespace stagefs::replay

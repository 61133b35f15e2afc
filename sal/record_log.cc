#include "sal/record_log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"

namespace stagefs::sal {

namespace {

void AppendBytes(const void* source, size_t length, std::vector<std::byte>& buffer) {
  const auto* bytes = static_cast<const std::byte*>(source);
  buffer.insert(buffer.end(), bytes, bytes + length);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RecordLog>> RecordLog::Create(const std::string& path, const Geometry& geometry) {
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor < 0 && errno == EEXIST) {
    return absl::AlreadyExistsError(absl::StrCat("record ", path, " exists already; remove it or name another"));
  }
  if (descriptor < 0) return absl::InternalError(absl::StrCat("record ", path, ": ", strerror(errno)));
  auto log = absl::WrapUnique(new RecordLog(path, descriptor));
  const RecordFileHeader header = {.magic = kRecordMagic,
                                   .size_bytes = geometry.size_bytes,
                                   .atomic_write_bytes = geometry.atomic_write_bytes,
                                   .reserved = 0};
  MutexLock lock(&log->mutex_);
  AppendBytes(&header, sizeof(header), log->buffer_);
  log->changed_.SignalAll();
  return log;
}

RecordLog::RecordLog(const std::string& path, int descriptor)
    : path_(path), descriptor_(descriptor), writer_([this] { WriteOut(); }) {}

RecordLog::~RecordLog() {
  {
    MutexLock lock(&mutex_);
    ending_ = true;
    changed_.SignalAll();
  }
  writer_.join();
  close(descriptor_);
}

uint64_t RecordLog::Append(const RecordEventHeader& header, absl::Span<const iovec> data) {
  MutexLock lock(&mutex_);
  WaitForRoom();
  return AppendLocked(header, data);
}

uint64_t RecordLog::AppendSubmission(RecordEventHeader header, absl::Span<const iovec> data) {
  MutexLock lock(&mutex_);
  WaitForRoom();
  header.request_number = ++request_count_;
  AppendLocked(header, data);
  return header.request_number;
}

void RecordLog::WaitForRoom() {
  while (buffer_.size() > kBufferBytes) changed_.Wait(&mutex_);
}

uint64_t RecordLog::AppendLocked(const RecordEventHeader& header, absl::Span<const iovec> data) {
  ++event_count_;
  if (!status_.ok()) return event_count_;
  if (buffer_.empty()) changed_.SignalAll();
  AppendBytes(&header, sizeof(header), buffer_);
  for (const iovec& piece : data) AppendBytes(piece.iov_base, piece.iov_len, buffer_);
  return event_count_;
}

absl::Status RecordLog::status() const {
  MutexLock lock(&mutex_);
  return status_;
}

void RecordLog::WriteOut() {
  std::vector<std::byte> writing;
  while (true) {
    {
      MutexLock lock(&mutex_);
      while (buffer_.empty() && !ending_) changed_.Wait(&mutex_);
      if (buffer_.empty()) return;
      writing.clear();
      writing.swap(buffer_);
      changed_.SignalAll();
    }
    const absl::Status status = WriteAll(writing);
    if (status.ok()) continue;
    MutexLock lock(&mutex_);
    status_ = status;
    buffer_.clear();
    changed_.SignalAll();
  }
}

absl::Status RecordLog::WriteAll(const std::vector<std::byte>& bytes) const {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = write(descriptor_, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::UnavailableError(absl::StrCat("record ", path_, ": ", strerror(errno)));
    done += count;
  }
  return absl::OkStatus();
}

}  // namespace stagefs::sal

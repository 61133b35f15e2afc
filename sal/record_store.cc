#include "sal/record_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "sal/request_check.h"
#include "sal/status_macros.h"

namespace stagefs::sal {

namespace {

RecordEventKind KindOf(Request::Op op) {
  switch (op) {
    case Request::Op::kZero: return RecordEventKind::kZero;
    case Request::Op::kDiscard: return RecordEventKind::kDiscard;
    case Request::Op::kFlush: return RecordEventKind::kFlush;
    default: return RecordEventKind::kWrite;
  }
}

bool IsZeros(const iovec& piece) {
  const auto* bytes = static_cast<const std::byte*>(piece.iov_base);
  return piece.iov_len == 0 || (bytes[0] == std::byte{0} && std::memcmp(bytes, bytes + 1, piece.iov_len - 1) == 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RecordStore>> RecordStore::Open(const std::string& file,
                                                               std::unique_ptr<BlockStore> inner) {
  ASSIGN_OR_RETURN(std::unique_ptr<RecordLog> log, RecordLog::Create(file, inner->geometry()));
  ASSIGN_OR_RETURN(std::unique_ptr<RecordMarks> marks, RecordMarks::Listen(absl::StrCat(file, ".sock"), *log));
  return absl::WrapUnique(new RecordStore(std::move(inner), std::move(log), std::move(marks)));
}

RecordStore::RecordStore(std::unique_ptr<BlockStore> inner, std::unique_ptr<RecordLog> log,
                         std::unique_ptr<RecordMarks> marks)
    : log_(std::move(log)), marks_(std::move(marks)), inner_(std::move(inner)) {}

uint64_t RecordStore::Mark(absl::string_view text) {
  const RecordEventHeader header = {.request_number = 0,
                                    .offset_bytes = 0,
                                    .length_bytes = text.size(),
                                    .kind = static_cast<uint8_t>(RecordEventKind::kMark),
                                    .flags = 0,
                                    .reserved = {}};
  const iovec data = {const_cast<char*>(text.data()), text.size()};
  return log_->Append(header, absl::MakeConstSpan(&data, 1));
}

void RecordStore::Submit(absl::Span<Request* const> requests) {
  for (Request* request : requests) {
    // What the store underneath will refuse changes nothing.
    if (request->op == Request::Op::kRead || !CheckRequest(geometry(), name(), *request).ok()) continue;
    Record(*request);
  }
  inner_->Submit(requests);
}

void RecordStore::Record(Request& request) {
  const bool ranged = request.op != Request::Op::kFlush;
  RecordEventHeader header = {.request_number = 0,
                              .offset_bytes = ranged ? request.offset_bytes : 0,
                              .length_bytes = ranged ? request.length_bytes : 0,
                              .kind = static_cast<uint8_t>(KindOf(request.op)),
                              .flags = request.fua ? kRecordFua : uint8_t{0},
                              .reserved = {}};
  absl::Span<const iovec> data;
  if (request.op == Request::Op::kWrite) {
    if (std::all_of(request.buffers.begin(), request.buffers.end(), IsZeros)) {
      header.flags |= kRecordZeros;
    } else {
      data = request.buffers;
    }
  }
  const uint64_t number = log_->AppendSubmission(header, data);
  request.done = [this, number, done = std::move(request.done)](absl::Status status) mutable {
    done(RecordCompletion(number, std::move(status)));
  };
}

absl::Status RecordStore::RecordCompletion(uint64_t request_number, absl::Status status) {
  const auto kind = status.ok() ? RecordEventKind::kCompleted : RecordEventKind::kFailed;
  log_->Append({.request_number = request_number,
                .offset_bytes = 0,
                .length_bytes = 0,
                .kind = static_cast<uint8_t>(kind),
                .flags = 0,
                .reserved = {}});
  return status.ok() ? log_->status() : status;
}

}  // namespace stagefs::sal

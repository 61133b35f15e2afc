#include "sal/request_check.h"

#include "absl/strings/str_cat.h"

namespace stagefs::sal {

std::string Describe(const Request& request) {
  const char* name = "";
  switch (request.op) {
    case Request::Op::kRead: name = "read"; break;
    case Request::Op::kWrite: name = request.fua ? "durable write" : "write"; break;
    case Request::Op::kFlush: return "flush";
    case Request::Op::kDiscard: name = "discard"; break;
    case Request::Op::kZero: name = "zeroing"; break;
  }
  return absl::StrCat(name, " of ", request.length_bytes, " bytes at ", request.offset_bytes);
}

absl::Status CheckRequest(const Geometry& geometry, absl::string_view name, const Request& request) {
  if (request.op == Request::Op::kFlush) return absl::OkStatus();
  const auto invalid = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", Describe(request), ": ", why));
  };
  if (request.offset_bytes % geometry.block_size_bytes != 0 || request.length_bytes % geometry.block_size_bytes != 0) {
    return invalid(absl::StrCat("not aligned to blocks of ", geometry.block_size_bytes, " bytes"));
  }
  if (request.offset_bytes > geometry.size_bytes || request.length_bytes > geometry.size_bytes - request.offset_bytes) {
    return absl::OutOfRangeError(absl::StrCat(name, ": ", Describe(request), ": beyond the end of the store, of ",
                                              geometry.size_bytes, " bytes"));
  }
  if (request.op != Request::Op::kRead && request.op != Request::Op::kWrite) return absl::OkStatus();
  if (request.length_bytes > geometry.max_request_bytes) {
    return invalid(absl::StrCat("larger than the largest request, ", geometry.max_request_bytes, " bytes"));
  }
  if (request.buffers.size() > geometry.max_buffers) {
    return invalid(absl::StrCat(request.buffers.size(), " buffers, at most ", geometry.max_buffers, " are allowed"));
  }
  uint64_t total = 0;
  for (const iovec& buffer : request.buffers) {
    if (reinterpret_cast<uintptr_t>(buffer.iov_base) % geometry.block_size_bytes != 0 ||
        buffer.iov_len % geometry.block_size_bytes != 0) {
      return invalid(absl::StrCat("a buffer is not aligned to ", geometry.block_size_bytes, " bytes"));
    }
    total += buffer.iov_len;
  }
  if (total != request.length_bytes) return invalid(absl::StrCat("its buffers hold ", total, " bytes"));
  return absl::OkStatus();
}

}  // namespace stagefs::sal

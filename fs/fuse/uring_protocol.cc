#include "fs/fuse/uring_protocol.h"

#include <string.h>

#include "absl/strings/str_cat.h"

namespace stagefs::fuse {

absl::StatusOr<absl::Span<std::byte>> AssembleRequest(const UringHeaders& headers, absl::Span<std::byte> payload) {
  fuse_in_header in;
  memcpy(&in, headers.in_out, sizeof(in));
  const size_t payload_bytes = headers.payload_bytes;
  if (payload_bytes > payload.size() || in.len < sizeof(in) + payload_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("request ", in.unique, " of ", in.len, " bytes claims a payload of ",
                                                   payload_bytes, "; there is room for ", payload.size()));
  }
  const size_t argument_bytes = in.len - sizeof(in) - payload_bytes;
  if (argument_bytes > sizeof(headers.op_in)) {
    return absl::InvalidArgumentError(absl::StrCat("request ", in.unique, " of ", in.len, " bytes claims an argument of ",
                                                   argument_bytes, "; there is room for ", sizeof(headers.op_in)));
  }
  std::byte* const start = payload.data() - argument_bytes - sizeof(in);
  memcpy(start, &in, sizeof(in));
  memcpy(start + sizeof(in), headers.op_in, argument_bytes);
  return absl::MakeSpan(start, in.len);
}

absl::Status PlaceReply(absl::Span<const iovec> message, UringHeaders* headers, absl::Span<std::byte> payload) {
  if (message.empty() || message[0].iov_len != sizeof(fuse_out_header)) {
    return absl::InvalidArgumentError("a reply does not begin with its header");
  }
  size_t size = 0;
  for (const iovec& piece : message.subspan(1)) {
    if (piece.iov_len > payload.size() - size) {
      return absl::InvalidArgumentError(
          absl::StrCat("a reply of more than ", size + piece.iov_len, " bytes; there is room for ", payload.size()));
    }
    std::byte* const to = payload.data() + size;
    if (piece.iov_base != to) memmove(to, piece.iov_base, piece.iov_len);
    size += piece.iov_len;
  }
  memcpy(headers->in_out, message[0].iov_base, sizeof(fuse_out_header));
  headers->payload_bytes = static_cast<uint32_t>(size);
  return absl::OkStatus();
}

}  // namespace stagefs::fuse

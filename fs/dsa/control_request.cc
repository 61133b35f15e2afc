#include "fs/dsa/control_request.h"

#include <errno.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/volume/errno.h"

namespace stagefs::dsa {
namespace {

using volume::ErrnoStatus;

absl::Status Malformed(const char* what) { return ErrnoStatus(EINVAL, absl::StrCat("malformed request: ", what)); }

absl::Status WrongSize() { return Malformed("its size"); }
absl::Status NotZero() { return Malformed("reserved bytes that are not zero"); }

template <typename T>
std::optional<T> TakeWhole(std::span<const std::byte> body) {
  const std::optional<T> value = Take<T>(&body);
  return body.empty() ? value : std::nullopt;
}

// What comes before and with the version is the same in all versions; so that is looked at first.
absl::StatusOr<ControlRequest> DecodeHello(std::span<const std::byte> body) {
  std::span<const std::byte> left = body;
  const std::optional<uint64_t> magic = Take<uint64_t>(&left);
  const std::optional<uint16_t> version = Take<uint16_t>(&left);
  if (!magic.has_value() || *magic != kMagic || !version.has_value()) return ErrnoStatus(EPROTO, "not stagefs");
  if (*version != kVersion) {
    return ErrnoStatus(EPROTONOSUPPORT, absl::StrCat("the server speaks version ", kVersion, " of direct access, the "
                                                     "client version ", *version));
  }
  const std::optional<HelloRequest> hello = TakeWhole<HelloRequest>(body);
  if (!hello.has_value()) return WrongSize();
  if (hello->reserved != 0 || hello->reserved2 != 0) return NotZero();
  return *hello;
}

absl::StatusOr<ControlRequest> DecodeOpen(std::span<const std::byte> body) {
  const std::optional<OpenRequest> request = Take<OpenRequest>(&body);
  if (!request.has_value()) return WrongSize();
  return OpenMessage{*request, std::string(reinterpret_cast<const char*>(body.data()), body.size())};
}

absl::StatusOr<ControlRequest> DecodeCreateQueue(std::span<const std::byte> body) {
  const std::optional<CreateQueueRequest> request = Take<CreateQueueRequest>(&body);
  if (!request.has_value() || body.empty() || body.size() > kMaxEndpointNameBytes) return WrongSize();
  if (request->reserved != 0) return NotZero();
  return CreateQueueMessage{*request, {body.begin(), body.end()}};
}

// The others: a structure with one reserved field.
template <typename T>
absl::StatusOr<T> DecodeWhole(std::span<const std::byte> body) {
  const std::optional<T> request = TakeWhole<T>(body);
  if (!request.has_value()) return WrongSize();
  if (request->reserved != 0) return NotZero();
  return *request;
}

absl::StatusOr<ControlRequest> DecodeHandle(ControlType type, std::span<const std::byte> body) {
  const absl::StatusOr<HandleRequest> request = DecodeWhole<HandleRequest>(body);
  if (!request.ok()) return request.status();
  return HandleMessage{type, *request};
}

absl::StatusOr<ControlRequest> DecodeRange(ControlType type, std::span<const std::byte> body) {
  const absl::StatusOr<RangeRequest> request = DecodeWhole<RangeRequest>(body);
  if (!request.ok()) return request.status();
  return RangeMessage{type, *request};
}

}  // namespace

absl::StatusOr<ControlRequest> DecodeControlRequest(const ControlMessage& message) {
  const std::span<const std::byte> body(message.body);
  switch (const auto type = static_cast<ControlType>(message.type)) {
    case ControlType::kHello:
      return DecodeHello(body);
    case ControlType::kAuthenticate:
      if (const std::optional<Proof> proof = TakeWhole<Proof>(body)) return *proof;
      return WrongSize();
    case ControlType::kOpen:
      return DecodeOpen(body);
    case ControlType::kRegister: {
      const absl::StatusOr<RegisterRequest> request = DecodeWhole<RegisterRequest>(body);
      if (!request.ok()) return request.status();
      return *request;
    }
    case ControlType::kCreateQueue:
      return DecodeCreateQueue(body);
    case ControlType::kStat:
    case ControlType::kClose:
    case ControlType::kDeregister:
    case ControlType::kDestroyQueue:
    case ControlType::kUnmap:
      return DecodeHandle(type, body);
    case ControlType::kMap:
    case ControlType::kPopulate:
      return DecodeRange(type, body);
  }
  return ErrnoStatus(EOPNOTSUPP, absl::StrCat("unknown request ", message.type));
}

}  // namespace stagefs::dsa

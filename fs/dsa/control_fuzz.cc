// Fuzzes what the server makes of a client's bytes: messages, then requests. However the bytes are cut in pieces the
// messages are the same, no more is kept than allowed, and what is taken for a request is one, byte for byte.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <variant>
#include <vector>

#include "fs/dsa/control_request.h"
#include "fs/dsa/control_stream.h"
#include "fs/volume/errno.h"
#include "sal/check.h"
#include "tests/fuzz/input.h"

namespace stagefs::dsa {
namespace {

using Bytes = std::vector<std::byte>;

struct Parsed {
  std::vector<ControlMessage> messages;
  bool broken = false;
};

// In pieces of `piece` bytes.
Parsed Parse(std::span<const std::byte> bytes, uint32_t limit, size_t piece) {
  ControlParser parser;
  parser.SetLimit(limit);
  Parsed parsed;
  while (!bytes.empty() && !parser.broken()) {
    STAGEFS_CHECK(parser.room() > 0 && parser.room() <= limit);
    const size_t count = std::min({piece, parser.room(), bytes.size()});
    parser.Add(bytes.first(count));
    bytes = bytes.subspan(count);
    while (auto message = parser.Next()) {
      STAGEFS_CHECK(message->body.size() + sizeof(ControlHeader) <= limit);
      parsed.messages.push_back(*std::move(message));
    }
  }
  parsed.broken = parser.broken();
  return parsed;
}

// The body that a request was decoded from.
struct Encode {
  template <typename T>
  Bytes operator()(const T& request) const {
    const auto bytes = std::as_bytes(std::span(&request, 1));
    return {bytes.begin(), bytes.end()};
  }
  Bytes operator()(const OpenMessage& message) const {
    return Joined((*this)(message.request), std::as_bytes(std::span(message.path)));
  }
  Bytes operator()(const CreateQueueMessage& message) const {
    return Joined((*this)(message.request), std::span(message.name));
  }
  Bytes operator()(const HandleMessage& message) const { return (*this)(message.request); }
  Bytes operator()(const RangeMessage& message) const { return (*this)(message.request); }

  static Bytes Joined(Bytes first, std::span<const std::byte> second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
  }
};

void Fuzz(fuzz::Input input) {
  const uint32_t limit = input.Bool() ? 1024 : kMaxControlBytes;
  const size_t piece = 1 + input.Below(300);
  const auto rest = std::as_bytes(std::span(input.rest().data(), input.rest().size()));
  const Parsed whole = Parse(rest, limit, rest.size() + 1), cut = Parse(rest, limit, piece);
  STAGEFS_CHECK(whole.broken == cut.broken && whole.messages.size() == cut.messages.size());
  for (size_t i = 0; i < whole.messages.size(); ++i) {
    const ControlMessage& message = whole.messages[i];
    STAGEFS_CHECK(message.type == cut.messages[i].type && message.request == cut.messages[i].request &&
                  message.body == cut.messages[i].body);
    const auto request = DecodeControlRequest(message);
    if (request.ok()) {
      STAGEFS_CHECK(std::visit(Encode(), *request) == message.body);
    } else {
      STAGEFS_CHECK(volume::ToErrno(request.status()) != 0 && !request.status().message().empty());
    }
  }
}

}  // namespace
}  // namespace stagefs::dsa

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::dsa::Fuzz(stagefs::fuzz::Input(data, size));
  return 0;
}

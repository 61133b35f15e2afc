// Fuzzes the batches that client and server send each other: what is read lies within the message, a valid batch is one
// that, put together again, is the same, byte for byte.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "fs/dsa/protocol.h"
#include "sal/check.h"

namespace stagefs::dsa {
namespace {

template <typename Entry>
void ReadAndWriteAgain(std::span<const std::byte> message) {
  std::array<std::byte, kMaxMessageBytes> memory;
  BatchReader<Entry> reader(message);
  if (!reader.valid()) return;
  BatchWriter<Entry> writer(memory.data(), reader.token());
  bool padded_with_zeros = true;
  while (const std::optional<Received<Entry>> received = reader.Next()) {
    const std::span<const std::byte> data = received->data;
    STAGEFS_CHECK(data.size() == received->entry.inline_bytes);
    STAGEFS_CHECK(data.empty() || (data.data() >= message.data() &&
                                   data.data() + Padded(data.size()) <= message.data() + message.size()));
    for (size_t i = data.size(); i < Padded(data.size()); ++i) {
      padded_with_zeros = padded_with_zeros && data.data()[i] == std::byte{0};
    }
    STAGEFS_CHECK(writer.Add(received->entry, data));
  }
  if (!reader.valid() || !padded_with_zeros) return;
  const std::span<const std::byte> written = writer.Finish();
  STAGEFS_CHECK(written.size() == message.size());
  STAGEFS_CHECK(std::memcmp(written.data(), message.data(), written.size()) == 0);
}

}  // namespace
}  // namespace stagefs::dsa

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace stagefs::dsa;
  const std::span<const std::byte> message(reinterpret_cast<const std::byte*>(data), size);
  ReadAndWriteAgain<WorkEntry>(message);
  ReadAndWriteAgain<CompletionEntry>(message);
  return 0;
}

// Input: a fuzzer's bytes, read as a program. What is behind the end reads as zeros, so that every input is a valid
// program and cutting one short still gives one.

#ifndef STAGEFS_TESTS_FUZZ_INPUT_H_
#define STAGEFS_TESTS_FUZZ_INPUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace stagefs::fuzz {

class Input {
 public:
  // `data` must outlive the input.
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return rest_.empty(); }
  absl::string_view rest() const { return rest_; }

  // Up to `size` bytes: fewer at the end.
  absl::string_view Bytes(size_t size) {
    const absl::string_view bytes = rest_.substr(0, size);
    rest_.remove_prefix(bytes.size());
    return bytes;
  }
  // Little-endian, of sizeof(T) bytes.
  template <typename T>
  T Number() {
    const absl::string_view bytes = Bytes(sizeof(T));
    T value = 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  uint8_t Byte() { return Number<uint8_t>(); }
  bool Bool() { return (Byte() & 1) != 0; }
  // 0 to `limit` - 1; `limit` is 1 or more. Takes no more bytes than that needs.
  uint64_t Below(uint64_t limit) {
    uint64_t value = 0;
    for (uint64_t most = limit - 1, shift = 0; most > 0; most >>= 8, shift += 8) value |= uint64_t{Byte()} << shift;
    return value % limit;
  }
  // A number of any size, small ones more often: what lengths, offsets and counts are.
  uint64_t Size() {
    switch (Byte() & 3) {
      case 0: return Byte();
      case 1: return Number<uint16_t>();
      case 2: return Number<uint32_t>();
      default: return Number<uint64_t>();
    }
  }

 private:
  absl::string_view rest_;
};

// Changes a field of `target` (8 bytes or more): sets it, adds to it, or copies bytes over it.
inline void Patch(Input& input, absl::Span<std::byte> target) {
  const uint8_t how = input.Byte();
  const size_t offset = input.Below(target.size());
  std::byte* const place = target.data() + offset;
  const size_t room = target.size() - offset;
  const size_t width = std::min<size_t>(size_t{1} << (how & 3), room);
  switch (how >> 2 & 3) {
    case 0:
    case 1: {
      const auto value = input.Number<uint64_t>();
      std::memcpy(place, &value, width);
      break;
    }
    case 2: {
      uint64_t value = 0;
      std::memcpy(&value, place, width);
      value += static_cast<uint64_t>(int64_t{input.Number<int8_t>()});
      std::memcpy(place, &value, width);
      break;
    }
    default: {
      const absl::string_view bytes = input.Bytes(std::min<size_t>(input.Byte(), room));
      std::memcpy(place, bytes.data(), bytes.size());
      break;
    }
  }
}

}  // namespace stagefs::fuzz

#endif  // STAGEFS_TESTS_FUZZ_INPUT_H_

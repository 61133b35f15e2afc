// Load and Store: plain structs and integers in and out of bytes, by memcpy. On disk everything is little-endian.

#ifndef STAGEFS_CORE_BYTES_H_
#define STAGEFS_CORE_BYTES_H_

#include <bit>
#include <cstddef>
#include <type_traits>

namespace stagefs::core {

static_assert(std::endian::native == std::endian::little, "formats are little-endian and are copied as they are");

template <typename T>
T Load(const std::byte* bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  __builtin_memcpy(&value, bytes, sizeof(T));
  return value;
}

template <typename T>
void Store(std::byte* bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  __builtin_memcpy(bytes, &value, sizeof(T));
}

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_BYTES_H_

#include "tests/golden/golden_image.h"

#include <algorithm>
#include <cstddef>

#include "core/bytes.h"

namespace stagefs::golden {
namespace {

constexpr uint64_t kMagic = 0x31304e45444c4f47;  // "GOLDEN01"
constexpr size_t kNumberBytes = 8;
constexpr size_t kShortestGap = 16;

void Append(uint64_t number, std::string* bytes) {
  bytes->append(reinterpret_cast<const char*>(&number), sizeof(number));
}

// Takes a number off `bytes`, which has it.
uint64_t Take(absl::string_view* bytes) {
  const auto number = core::Load<uint64_t>(reinterpret_cast<const std::byte*>(bytes->data()));
  bytes->remove_prefix(kNumberBytes);
  return number;
}

}  // namespace

std::string Encode(const sal::SimulatedImage& image) {
  std::string store(kStoreBytes, '\0');
  image.Read(0, store.size(), store.data());
  std::string bytes;
  Append(kMagic, &bytes);
  Append(store.size(), &bytes);
  const std::string gap(kShortestGap, '\0');
  size_t from = store.find_first_not_of('\0');
  while (from != std::string::npos) {
    const size_t end = std::min(store.find(gap, from), store.size());
    Append(from, &bytes);
    Append(end - from, &bytes);
    bytes.append(store, from, end - from);
    from = store.find_first_not_of('\0', end);
  }
  return bytes;
}

absl::StatusOr<sal::SimulatedImage> Decode(absl::string_view bytes) {
  if (bytes.size() < 2 * kNumberBytes || Take(&bytes) != kMagic || Take(&bytes) != kStoreBytes) {
    return absl::InvalidArgumentError("no golden image");
  }
  sal::SimulatedImage image;
  while (!bytes.empty()) {
    if (bytes.size() < 2 * kNumberBytes) return absl::InvalidArgumentError("a golden image that was cut short");
    const uint64_t offset = Take(&bytes), length = Take(&bytes);
    if (length > bytes.size() || offset > kStoreBytes || length > kStoreBytes - offset) {
      return absl::InvalidArgumentError("a golden image that was cut short");
    }
    image.Write(offset, length, bytes.data());
    bytes.remove_prefix(length);
  }
  return image;
}

}  // namespace stagefs::golden

#include "fs/dsa/client/memory.h"

namespace stagefs::dsa {

MappedRanges& MappedRanges::OfProcess() {
  static MappedRanges* const ranges = new MappedRanges;
  return *ranges;
}

void MappedRanges::Add(const void* address, size_t length) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto first = reinterpret_cast<uintptr_t>(address);
  ends_[first] = first + length;
}

void MappedRanges::Remove(const void* address) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ends_.erase(reinterpret_cast<uintptr_t>(address));
}

bool MappedRanges::Overlap(const void* address, size_t length) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto first = reinterpret_cast<uintptr_t>(address);
  // The ranges do not overlap each other: the last that begins before our end has the highest end of those.
  const auto next = ends_.lower_bound(first + length);
  return next != ends_.begin() && std::prev(next)->second > first;
}

}  // namespace stagefs::dsa

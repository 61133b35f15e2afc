#include "core/aligned_memory.h"

#include <map>

#include "sal/check.h"
#include "sal/mapped_memory.h"
#include "sal/mutex.h"

namespace stagefs::core {
namespace {

// Memory that was given back. Only with KeepForReuse().
class KeptMemory {
 public:
  static KeptMemory& Get() {
    static KeptMemory* const kept = new KeptMemory;
    return *kept;
  }

  void Enable() {
    MutexLock lock(&mutex_);
    enabled_ = true;
  }
  // Null if there is none of that size.
  std::byte* Take(size_t size_bytes) {
    MutexLock lock(&mutex_);
    auto node = areas_.extract(size_bytes);
    return node ? node.mapped() : nullptr;
  }
  // False if it is not to be kept.
  bool Keep(std::byte* data, size_t size_bytes) {
    MutexLock lock(&mutex_);
    if (enabled_) areas_.emplace(size_bytes, data);
    return enabled_;
  }

 private:
  Mutex mutex_;
  bool enabled_ ABSL_GUARDED_BY(mutex_) = false;
  std::multimap<size_t, std::byte*> areas_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

void AlignedMemory::KeepForReuse() { KeptMemory::Get().Enable(); }

AlignedMemory::AlignedMemory(size_t size_bytes) : data_(KeptMemory::Get().Take(size_bytes)), size_bytes_(size_bytes) {
  if (data_ != nullptr) return;
  data_ = sal::MapMemory(size_bytes);
  STAGEFS_CHECK(data_ != nullptr);
}

AlignedMemory::~AlignedMemory() {
  if (data_ != nullptr && !KeptMemory::Get().Keep(data_, size_bytes_)) sal::UnmapMemory(data_, size_bytes_);
}

}  // namespace stagefs::core

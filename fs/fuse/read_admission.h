// ReadAdmission: how much large reads may ask of the store at once.
//
// A fast disk works on all the requests it has side by side, so that they end together: of 8 MiB of read-ahead the first
// MiB comes when the last one does. What a read brings must then be copied, which takes as long as the disk did, and
// while the thread copies one after the other the disk has nothing to do. With less at once the first is copied while
// the next are read. Where the store is slow, copying is nothing beside it, and it gets all there is.
//
// Not thread-safe: belongs to the queue's thread.

#ifndef STAGEFS_FS_FUSE_READ_ADMISSION_H_
#define STAGEFS_FS_FUSE_READ_ADMISSION_H_

#include <cstdint>

namespace stagefs::fuse {

class ReadAdmission {
 public:
  static constexpr uint64_t kBytesAtOnce = 4 << 20;
  // A store that takes longer, on average, for a read is slow.
  static constexpr int64_t kSlowNs = 5'000'000;

  // Whether a read may start. Always if none is under way.
  bool MayStart() const { return under_way_bytes_ < kBytesAtOnce || mean_ns_ > kSlowNs; }
  void Started(uint64_t bytes) { under_way_bytes_ += bytes; }
  // `elapsed_ns` after it started. `bytes` as then.
  void Ended(uint64_t bytes, uint64_t elapsed_ns) {
    under_way_bytes_ -= bytes;
    mean_ns_ += (static_cast<int64_t>(elapsed_ns) - mean_ns_) / kMemory;
  }

 private:
  static constexpr int64_t kMemory = 8;  // reads, as of which the mean is

  uint64_t under_way_bytes_ = 0;
  int64_t mean_ns_ = 0;
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_READ_ADMISSION_H_

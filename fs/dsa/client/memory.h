// What stands behind the C interface's dsa_file and dsa_memory, and the process's mapped ranges. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_MEMORY_H_
#define STAGEFS_FS_DSA_CLIENT_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "fs/dsa/fabric.h"

namespace stagefs::dsa {

class Connection;

// The ranges of this process's addresses in which dsa_map() has put mappings: a remote read or write there would have to
// wait for a page that the very server has to give, so they are not registered. Thread-safe.
class MappedRanges {
 public:
  // The process's, which is never destroyed.
  static MappedRanges& OfProcess();

  void Add(const void* address, size_t length);
  void Remove(const void* address);
  bool Overlap(const void* address, size_t length) const;

 private:
  mutable std::mutex mutex_;
  std::map<uintptr_t, uintptr_t> ends_;  // by beginning; guarded by mutex_
};

}  // namespace stagefs::dsa

// Constant, but for the count.
struct dsa_file {
  stagefs::dsa::Connection* connection = nullptr;
  uint32_t handle = 0;
  std::atomic<uint32_t> mappings = 0;
};

// Constant after its making.
struct dsa_memory {
  stagefs::dsa::Connection* connection = nullptr;
  uint32_t handle = 0;
  std::byte* address = nullptr;
  size_t length = 0;
  uint32_t access = 0;  // kMayRead, kMayWrite
  std::unique_ptr<stagefs::dsa::Region> region;
};

#endif  // STAGEFS_FS_DSA_CLIENT_MEMORY_H_

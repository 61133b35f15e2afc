// MemoryStore (`mem:BYTES`): a store in memory, for tests and for trying things out; gone with the process. Sparse, so
// its size may be far larger than memory.
//
// A write is in memory when it completes, and that is as durable as it gets: flushes and FUA cost nothing.
//
// Thread-safe. Requests are carried out and completed one after the other by a thread of the store's own.

#ifndef STAGEFS_SAL_MEMORY_STORE_H_
#define STAGEFS_SAL_MEMORY_STORE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "sal/block_store.h"
#include "sal/mutex.h"

namespace stagefs::sal {

class MemoryStore : public BlockStore {
 public:
  // `size_bytes` is rounded down to whole blocks. Errors: ResourceExhausted (no address space for it).
  static absl::StatusOr<std::unique_ptr<MemoryStore>> Create(uint64_t size_bytes);
  ~MemoryStore() override;
  MemoryStore(const MemoryStore&) = delete;
  MemoryStore& operator=(const MemoryStore&) = delete;

  using BlockStore::Submit;
  const Geometry& geometry() const override { return geometry_; }
  const std::string& name() const override { return name_; }
  void Submit(absl::Span<Request* const> requests) override;

 private:
  MemoryStore(std::byte* memory, uint64_t size_bytes);
  void Serve() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Execute(const Request& request);

  // Constant after construction. The bytes are touched by the thread only.
  std::byte* const memory_;
  const std::string name_;
  Geometry geometry_;
  std::thread thread_;

  Mutex mutex_;
  CondVar changed_;
  std::deque<Request*> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_MEMORY_STORE_H_

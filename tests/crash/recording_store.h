// RecordingStore: passes requests on and remembers which of them change what the store holds, so that a sweep can cut
// at those alone: a crash at a read leaves what the crash before it left. And it remembers what was read.

#ifndef STAGEFS_TESTS_CRASH_RECORDING_STORE_H_
#define STAGEFS_TESTS_CRASH_RECORDING_STORE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "sal/block_store.h"

namespace stagefs::crash {

// Not thread-safe. `store` must outlive this object.
class RecordingStore : public sal::BlockStore {
 public:
  explicit RecordingStore(sal::BlockStore* store) : store_(store) {}

  using sal::BlockStore::Submit;
  const sal::Geometry& geometry() const override { return store_->geometry(); }
  const std::string& name() const override { return store_->name(); }
  void Submit(absl::Span<sal::Request* const> requests) override {
    const size_t changing_before = changing_.size();
    for (const sal::Request* request : requests) {
      ++count_;
      if (request->op != sal::Request::Op::kRead) {
        changing_.push_back(count_);
      } else {
        reads_.emplace_back(request->offset_bytes, request->length_bytes);
      }
    }
    store_->Submit(requests);
    if (on_change_ && changing_.size() > changing_before) on_change_();
  }
  // Calls `on_change` when requests that are not reads have been submitted; they are in flight then.
  void OnChange(std::function<void()> on_change) { on_change_ = std::move(on_change); }

  // The numbers (from 1) of the requests that were not reads, ascending.
  const std::vector<uint64_t>& changing() const { return changing_; }
  uint64_t count() const { return count_; }
  // Offsets and lengths in bytes.
  const std::vector<std::pair<uint64_t, uint64_t>>& reads() const { return reads_; }

 private:
  sal::BlockStore* const store_;
  uint64_t count_ = 0;
  std::vector<uint64_t> changing_;
  std::vector<std::pair<uint64_t, uint64_t>> reads_;
  std::function<void()> on_change_;
};

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_RECORDING_STORE_H_

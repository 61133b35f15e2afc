// FaultStore (`fault:SPEC,URL`): another store, some of whose requests fail, are delayed, torn, lost or misdirected.
// For tests: of the code above in its own process, and by URL of the tools and of a mounted volume.
//
// Thread-safe. Faulty requests complete from the inner store's completions, so a test under SimulatedEnvironment stays
// deterministic.

#ifndef STAGEFS_SAL_FAULT_STORE_H_
#define STAGEFS_SAL_FAULT_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "sal/block_store.h"
#include "sal/environment.h"
#include "sal/mutex.h"

namespace stagefs::sal {

// What goes wrong with the requests that match. Of several faults that match, the first one added counts.
struct Fault {
  enum class Action : uint8_t {
    kFail,       // nothing is done; reads complete with DataLoss, everything else with Unavailable, as EIO does
    kLose,       // nothing is done; OK
    kTear,       // a write: its first half is written; OK
    kMisdirect,  // a read or write: goes to the place right behind (or, at the end of the store, before); OK
    kFlip,       // a read: one bit is wrong; OK
    kDelay,      // starts `delay_ns` later; needs an environment
  };

  Action action = Action::kFail;
  std::optional<Request::Op> op = std::nullopt;  // nothing: any
  uint64_t request_number = 0;      // if not 0: only the n-th request that the store gets, from 1
  uint64_t offset_bytes = 0;        // only requests that touch [offset, offset + length); flushes touch everything
  uint64_t length_bytes = UINT64_MAX;
  uint64_t after = 0;               // lets the first so many requests that match pass
  uint64_t count = UINT64_MAX;      // then hits so many, and no more
  uint64_t delay_ns = 0;
};

// Parses SPEC as open_store.h describes it. Errors: InvalidArgument.
absl::StatusOr<Fault> ParseFault(absl::string_view spec);

class FaultStore : public BlockStore {
 public:
  // `environment` is for kDelay only. It, and an `inner` that is not owned, must outlive the store.
  explicit FaultStore(std::unique_ptr<BlockStore> inner, Environment* environment = nullptr);
  explicit FaultStore(BlockStore& inner, Environment* environment = nullptr);

  void Add(const Fault& fault);
  // Nothing goes wrong any more.
  void Clear();
  // How many requests were hit.
  uint64_t hits() const;
  // How many requests the store got.
  uint64_t request_count() const;
  const BlockStore& inner() const { return inner_; }

  using BlockStore::Submit;
  const Geometry& geometry() const override { return inner_.geometry(); }
  const std::string& name() const override { return inner_.name(); }
  void Submit(absl::Span<Request* const> requests) override;
  void RegisterMemory(absl::Span<const iovec> areas) override { inner_.RegisterMemory(areas); }

 private:
  struct Detour;

  std::optional<Fault> Match(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Divert(Request* request, const Fault& fault) ABSL_LOCKS_EXCLUDED(mutex_);

  // Constant after construction.
  const std::unique_ptr<BlockStore> owned_;
  BlockStore& inner_;
  Environment* const environment_;

  mutable Mutex mutex_;
  std::vector<Fault> faults_ ABSL_GUARDED_BY(mutex_);  // `after` and `count` go down as requests match
  uint64_t request_count_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t hits_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_FAULT_STORE_H_

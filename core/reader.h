// Reader: reads home blocks straight into their destination, several requests in flight, and verifies them there.
//
// Invariants:
//   * A read is registered from the section that planned it until it is over: blocks released meanwhile stay
//     quarantined, so it can never see the bytes of another owner.
//   * What it returns was the content of the range at some moment between its plan and its end, block by block.
//
// A read whose table blocks have to be loaded first reads its blocks at the same time (ReadEarly). By the time it is
// planned these bytes may be old, but whatever matches the entry that is current then is the content of that moment;
// what does not is read again.

#ifndef STAGEFS_CORE_READER_H_
#define STAGEFS_CORE_READER_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/types/span.h"
#include "core/operation.h"
#include "core/pending_change.h"
#include "core/state.h"

namespace stagefs::core {

class Reader {
 public:
  explicit Reader(State* state) : state_(state) {}

  // Starts `reads`, in a section of the monitor; the table blocks they need are in memory. `early` are those of the
  // same operation. `done` runs outside of any, with DataLoss if a block's checksum does not match.
  void Start(const std::vector<PlannedRead>& reads, absl::Span<const Operation::EarlyRead> early,
             absl::AnyInvocable<void(absl::Status) &&> done, Outbox& outbox);
  // Reads into the destinations of `reads`, in a section of the monitor, while the loader loads their table blocks:
  // whole blocks that are not in memory. Counts in operation->loads_left; `on_arrival` runs in a section as each comes.
  void ReadEarly(const std::vector<PlannedRead>& reads, const OperationRef& operation,
                 std::function<void(OperationRef, Outbox&)> on_arrival, Outbox& outbox);

 private:
  struct Batch;
  struct Piece;

  void Plan(const PlannedRead& read, Batch& batch);
  void PieceRead(Piece* piece, std::shared_ptr<Batch> batch, absl::Status status);
  void SubmitPiece(Piece* piece, std::shared_ptr<Batch> batch, Outbox& outbox);
  void ReadAgain(Piece* piece, std::shared_ptr<Batch> batch);
  // `again`: a block changed under the read, or since it was read early, in a way that needs another read.
  absl::Status Verify(Piece& piece, bool* again);
  absl::Status Recheck(Piece& piece, uint64_t index, uint64_t found, bool* again);
  void Finish(std::shared_ptr<Batch> batch);

  State* const state_;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_READER_H_

// Reader: reads home blocks straight into their destination, several requests in flight, and verifies them there.
//
// Invariants:
//   * A read is registered from the section that planned it until it is over: blocks released meanwhile stay
//     quarantined, so it can never see the bytes of another owner.
//   * What it returns was the content of the range at some moment between its plan and its end, block by block.

#ifndef STAGEFS_CORE_READER_H_
#define STAGEFS_CORE_READER_H_

#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "core/pending_change.h"
#include "core/state.h"

namespace stagefs::core {

class Reader {
 public:
  explicit Reader(State* state) : state_(state) {}

  // Starts `reads`, in a section of the monitor; the table blocks they need are in memory. `done` runs outside of any,
  // with DataLoss if a block's checksum does not match.
  void Start(const std::vector<PlannedRead>& reads, absl::AnyInvocable<void(absl::Status) &&> done, Outbox& outbox);

 private:
  struct Batch;
  struct Piece;

  void Plan(const PlannedRead& read, Batch& batch);
  void PieceRead(Piece* piece, std::shared_ptr<Batch> batch, absl::Status status);
  void SubmitPiece(Piece* piece, std::shared_ptr<Batch> batch, Outbox& outbox);
  // `again`: a block changed under the read in a way that needs another read.
  absl::Status Verify(Piece& piece, bool* again);
  absl::Status Recheck(Piece& piece, uint64_t index, uint64_t found, bool* again);
  void Finish(std::shared_ptr<Batch> batch);

  State* const state_;
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_READER_H_

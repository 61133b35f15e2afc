// QueueServer: the server's side of one queue. Works come in, go through the pipeline below, and leave as completions.
//
//   arrived_ --split--> pieces: fetching_ --bytes are there--> waiting_ --turn--> the volume --accepted--> over
//
// Invariants:
//   * Changes that are not unordered begin on the volume one after the other, in the order of their arrival, each when
//     the one before was accepted. A read begins when all such changes before it were accepted.
//   * At most `depth` works are in it; a client that posts more has broken the rules, and its queue is no longer served.
//   * What the client sends can make its own works fail, or its queue, nothing else: sizes, handles, ranges and access
//     are checked here, before use.
//   * The bytes of a write are private to the server before it looks at them.
//
// Not thread-safe: belongs to the data path's thread, except for what says otherwise.

#ifndef STAGEFS_FS_DSA_QUEUE_SERVER_H_
#define STAGEFS_FS_DSA_QUEUE_SERVER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "fs/dsa/data_path.h"
#include "fs/dsa/doorbell.h"
#include "fs/dsa/fabric.h"
#include "fs/dsa/protocol.h"
#include "fs/dsa/transfer_buffers.h"
#include "fs/dsa/work.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"

namespace stagefs::dsa {

// What the queues of a data path share. Outlives them.
struct DataContext {
  volume::Volume& volume;
  volume::Sharing& sharing;
  ClientHandles& handles;
  const DataPathOptions& options;
  TransferBuffers buffers;
  uint64_t held_bytes = 0;  // by pieces and groups of all queues
  // Thread-safe: runs `task` on the data path's thread, soon.
  std::function<void(absl::AnyInvocable<void() &&>)> post;
  // Whether this is that thread.
  std::function<bool()> is_here;
};

class QueueServer : private Endpoint::Owner {
 public:
  QueueServer(DataContext& context, uint32_t depth, uint64_t token)
      : context_(context), depth_(depth), token_(token) {}
  // Drop() before, and busy() false.
  ~QueueServer() override;

  // Makes the endpoint and, with shm, the doorbell.
  int Open(Fabric& fabric, std::span<const std::byte> client_name, std::string* error);

  const std::vector<std::byte>& name() const { return endpoint_->name(); }
  uint64_t token() const { return token_; }
  Doorbell* doorbell() { return doorbell_.get(); }
  Endpoint& endpoint() { return *endpoint_; }

  // Takes what has arrived and moves everything on. Returns how much there was to do.
  int Poll();
  // No more is taken or answered, and the client's memory no longer touched.
  void Drop();
  bool dropped() const { return endpoint_ == nullptr; }
  // The client cannot be reached, or has broken the rules: Drop() it.
  bool broken() const { return broken_; }
  // Whether something could not be sent or moved, as of the last Poll(). With shm only Poll() can tell when it can be.
  bool held_back() const { return held_back_ && doorbell_ != nullptr; }
  // Whether the volume still has something of it.
  bool busy() const { return on_volume_ > 0; }

 private:
  void Received(std::span<const std::byte> message) override;
  void Broken(int status) override;

  // --- queue_server.cc: the pipeline ---
  void Arrive(const WorkEntry& entry, std::span<const std::byte> data);
  int Check(Work* work);
  int CheckMemory(const Work& work);
  // Whether anything got on.
  bool Step();
  bool SplitWorks();
  void SplitOff(Work* work);
  bool FetchPieces();
  bool TakeMemory(Piece* piece);
  bool StartMoves(Piece* piece);
  void AddMove(Piece* piece, std::byte* local, uint64_t bytes, uint64_t remote_address);
  void MoveOver(Piece* piece, int status);
  void MovesOver(Piece* piece);
  bool Deliver();
  // Whether what was posted before it has not completed: then its bytes may still be a read's that is under way.
  bool HeldByFence(const Work& work) const { return work.Has(kFence) && work.epoch != first_epoch_; }
  bool MayStart(const Piece& piece, bool blocked) const;
  bool TakeTurns();
  void EndPiece(Piece* piece, int status);
  void EndWork(Work* work);
  void Complete(Work* work);
  void SendCompletions();

  // --- queue_operations.cc: what each kind of work does on the volume ---
  void Start(Piece* piece);
  void StartWrite(Piece* piece);
  void StartAtomic(Piece* piece);
  void StartChange(Piece* piece, std::vector<volume::ContentChange> parts);
  void Accepted(Piece* piece, absl::StatusOr<volume::GroupResult> result);
  void TellOthers(Piece* piece);
  void StartRead(Piece* piece);
  void HasRead(Piece* piece, absl::StatusOr<size_t> bytes);
  void StartFlush(Piece* piece);
  void AddToGroup(Piece* piece);
  absl::Span<const std::byte> Keep(Group* group, Piece* piece, const std::byte* bytes);
  void StartCommit(Piece* piece);
  void DropGroup();
  void AskForDurability();
  // Runs `task` here and now on the data path's thread, else there. A call of the volume is over then.
  template <typename Task>
  void Back(Task task) {
    if (context_.is_here()) return std::move(task)();
    context_.post(std::move(task));
  }

  DataContext& context_;
  const uint32_t depth_;
  const uint64_t token_;
  std::unique_ptr<Doorbell> doorbell_;
  std::unique_ptr<Endpoint> endpoint_;  // null: dropped

  std::vector<std::unique_ptr<Work>> works_;     // all there are
  std::vector<Work*> free_works_;
  std::vector<std::unique_ptr<Piece>> pieces_;
  std::vector<Piece*> free_pieces_;

  // How many works that are not over there are behind each fence: [0] for `first_epoch_`. A fence's own counts behind it.
  std::deque<uint32_t> epochs_ = {0};
  uint64_t first_epoch_ = 0;
  uint32_t active_ = 0;        // works whose completion was not sent
  std::deque<Work*> arrived_;  // not split, or not all of it
  std::deque<Piece*> fetching_, waiting_, delivering_;
  std::vector<Work*> undurable_;  // carried out, but not to be completed before they are durable
  std::deque<Work*> completed_;   // their completions wait to be sent
  bool asked_for_durability_ = false;
  uint64_t held_bytes_ = 0;         // by pieces
  uint32_t unaccepted_ = 0;         // ordered changes that the volume has
  uint32_t commits_ = 0;            // split, and not over
  uint32_t unordered_waiting_ = 0;  // pieces in waiting_ that need no turn
  uint32_t on_volume_ = 0;          // calls that have not called back
  bool waits_for_staging_ = false;
  bool splits_group_ = false;  // works that are split now are between BEGIN and COMMIT
  bool held_back_ = false;  // the endpoint has taken no more
  bool broken_ = false;
  std::unique_ptr<Group> group_;  // as of the works that had their turn
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_QUEUE_SERVER_H_

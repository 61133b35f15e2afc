// Queue: the client's end of a queue of work. Encodes posted work into batches, checks completions and keeps them for
// the program.
//
// Invariants:
//   * Each piece of work that was taken has a slot until its completion is in the ring (or is dropped, being unsignaled
//     and well). Slots in use and completions in the ring are never more than the depth: the ring cannot overflow.
//   * Nothing is written into a program's memory but by a completion that names a slot in use of this turn, is of a READ,
//     and has no more bytes than were asked for. Whatever else comes in is nonsense and ends the connection.
//   * Once the queue is broken no slot is in use: all work has been given back with -ECONNRESET.
//
// One thread at a time uses the queue; others may call what is below at any time. The lock that keeps them
// apart is held while a program's memory is copied, so nobody may wait for it who holds the control connection's.
//
// Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_QUEUE_H_
#define STAGEFS_FS_DSA_CLIENT_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fs/dsa/client/control_client.h"
#include "fs/dsa/client/memory.h"
#include "fs/dsa/client/spin_lock.h"
#include "fs/dsa/client/stagefs/dsa.h"
#include "fs/dsa/doorbell.h"
#include "fs/dsa/fabric.h"
#include "fs/dsa/protocol.h"
#include "sal/owned_fd.h"

namespace stagefs::dsa {

class Queue final : private Endpoint::Owner {
 public:
  // `owner`: whose files and memory its work may name. `control` and `fabric` outlive the queue. Errors as
  // ControlClient::Call().
  static int Create(Connection* owner, ControlClient& control, Fabric& fabric, uint32_t depth, uint32_t spin_us,
                    std::unique_ptr<Queue>* queue, std::string* error);
  // The server drops it first: then it moves no more bytes.
  ~Queue() override;

  // As dsa_post(), dsa_poll(), dsa_wait(), dsa_arm(), dsa_queue_fd().
  int Post(std::span<const dsa_work> works);
  int Poll(std::span<dsa_completion> completions);
  int Wait(int timeout_ms);
  int Arm();
  int descriptor() const { return epoll_.get(); }
  Connection* owner() const { return owner_; }
  // Why the last call failed. A literal.
  const char* error() const { return error_; }

  // --- Any thread ---

  // Moves on what is under way, unless the queue is in use at the moment.
  void Progress();
  // `memory` is about to go: what fails in it from now on was canceled.
  void Cancel(const dsa_memory* memory);
  // Moves on what is under way; whether some of it is still in `memory`. Until then bytes may be on their way there,
  // whatever the server says on the control connection.
  bool Uses(const dsa_memory* memory);

 private:
  struct Slot {
    bool in_use = false;
    bool is_canceled = false;  // its memory is about to go
    uint8_t opcode = 0;
    bool is_signaled = false;
    uint32_t turn = 0;  // how often it has been used
    uint64_t user_data = 0;
    uint64_t length = 0;
    std::byte* buffer = nullptr;
    const dsa_memory* memory = nullptr;
  };

  Queue(Connection* owner, ControlClient& control, Fabric& fabric, uint32_t depth, uint32_t spin_us);
  int Open(Fabric& fabric, std::string* error);
  int AttachDoorbell(ControlReply* reply, std::string* error);
  int MeetServer(std::string* error);
  int WatchDescriptors(std::string* error);

  int Fail(int status, const char* error);
  int Check(const dsa_work& work);
  int CheckFileRange(const dsa_work& work, uint64_t length);
  int CheckMemory(const dsa_work& work);
  WorkEntry Encode(const dsa_work& work, bool is_inline, uint64_t cookie) const;
  int Add(const dsa_work& work);
  int AddToBatch(const dsa_work& work, uint32_t index);
  bool HaveBatch();
  bool SendBatch();

  void Received(std::span<const std::byte> message) override;
  void Broken(int status) override;
  bool Complete(const CompletionEntry& entry, std::span<const std::byte> data);
  void GiveBack(Slot& slot, const dsa_completion& completion);
  void Break();

  void Move();
  void LookAtServer();
  void LookAtServerNowAndThen();
  int Ready();
  bool ReadyToSleep();
  void WakeUp();
  void Kick();
  void Sleep(int timeout_ms);

  // Constant after Open().
  Connection* const owner_;
  ControlClient& control_;
  const uint32_t depth_;
  const uint32_t spin_us_;
  const bool has_doorbell_;
  bool is_granted_ = false;
  uint32_t handle_ = 0;
  uint64_t token_ = 0;
  OwnedFd kick_;   // an event: another thread has filled the ring while this one sleeps
  OwnedFd epoll_;  // the doorbell or the endpoint's descriptor, the control connection, kick_
  std::unique_ptr<Doorbell> doorbell_;

  SpinLock lock_;
  // Guarded by lock_.
  std::unique_ptr<Endpoint> endpoint_;  // null once broken
  std::optional<BatchWriter<WorkEntry>> batch_;  // not sent yet; in endpoint_'s memory
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
  std::vector<dsa_completion> ring_;
  uint32_t ring_first_ = 0, ring_count_ = 0;
  bool must_break_ = false;
  bool is_broken_ = false;
  bool is_armed_ = false;
  bool was_kicked_ = false;
  uint32_t empty_polls_ = 0;      // of the thread that polls
  int64_t looked_at_server_ = 0;  // ns, of the coarse clock
  const char* error_ = "";
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_QUEUE_H_

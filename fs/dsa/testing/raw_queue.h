// RawQueue: a client's side of a queue as the protocol has it, for tests that want to send what no library would.
//
// Not thread-safe.

#ifndef STAGEFS_FS_DSA_TESTING_RAW_QUEUE_H_
#define STAGEFS_FS_DSA_TESTING_RAW_QUEUE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fs/dsa/data_path.h"
#include "fs/dsa/doorbell.h"
#include "fs/dsa/fabric.h"
#include "fs/dsa/protocol.h"

namespace stagefs::dsa::testing {

struct RawCompletion {
  CompletionEntry entry;
  std::string data;
};

class RawQueue : private Endpoint::Owner {
 public:
  // A queue of `path`, which must outlive it, made and connected. Ends the program if that does not work.
  RawQueue(DataPath& path, const std::string& provider, uint32_t depth);
  ~RawQueue() override;

  // Registered for the server to read and write: a client's memory. `handles` gets it.
  uint32_t Register(ClientHandles& handles, void* memory, size_t size_bytes, uint32_t access = kMayRead | kMayWrite);
  // As if the client had deregistered it behind the server's back.
  void Unregister(size_t index) { regions_[index].reset(); }

  // Sends one batch with these, with cookies from 1 up; returns the first one's.
  uint64_t Post(std::vector<WorkEntry> works, const std::vector<std::string>& data = {});
  void SendRaw(const std::string& message);
  // Waits for the completion of `cookie`, at most 20 s. Those of others are kept.
  RawCompletion Wait(uint64_t cookie);
  // Post() and Wait() of one.
  RawCompletion Do(const WorkEntry& work, const std::string& data = "");
  // Sleeps as a client does until something has come, instead of polling: true if so within `timeout_ms`.
  bool SleepUntilSomethingComes(int timeout_ms);
  // In the order of their arrival.
  const std::vector<uint64_t>& arrived() const { return arrived_; }
  uint32_t id() const { return grant_.queue; }
  uint64_t token() const { return grant_.token; }
  void Poll() { (void)endpoint_->Poll(); }

 private:
  void Received(std::span<const std::byte> message) override;
  void Broken(int) override {}
  int TrySend(size_t size_bytes);

  DataPath& path_;
  QueueGrant grant_;
  std::unique_ptr<Fabric> fabric_;
  std::vector<std::unique_ptr<Region>> regions_;
  std::unique_ptr<Doorbell> doorbell_;
  std::unique_ptr<Endpoint> endpoint_;
  uint64_t next_cookie_ = 1;
  std::map<uint64_t, RawCompletion> completions_;
  std::vector<uint64_t> arrived_;
};

// Entries to post.
WorkEntry InlineWrite(uint32_t file, uint64_t offset, size_t length, uint8_t flags = 0);
WorkEntry WriteFrom(uint32_t file, uint64_t offset, uint32_t memory, uint64_t address, uint64_t length,
                    uint8_t flags = 0);
WorkEntry ReadTo(uint32_t file, uint64_t offset, uint32_t memory, uint64_t address, uint64_t length,
                 uint8_t flags = 0);
WorkEntry Atomic(Opcode opcode, uint32_t file, uint64_t offset, uint64_t operand, uint64_t expected = 0);
WorkEntry Plain(Opcode opcode, uint8_t flags = 0);

}  // namespace stagefs::dsa::testing

#endif  // STAGEFS_FS_DSA_TESTING_RAW_QUEUE_H_

// GroupWriter: makes many pieces of a file one change, over a queue of its own: how dsa_persist() reaches the server.
//
// Small pieces travel within the batches, larger ones by way of registered memory of its own, since a program's may be
// a mapping. Thread-safe: one group at a time. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_GROUP_WRITER_H_
#define STAGEFS_FS_DSA_CLIENT_GROUP_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "fs/dsa/client/memory.h"
#include "fs/dsa/client/queue.h"

namespace stagefs::dsa {

class GroupWriter {
 public:
  struct Part {
    uint64_t offset;  // in the file
    std::span<const std::byte> bytes;
  };

  // `connection` outlives it; its queue and memory are made when they are needed first, and belong to it.
  GroupWriter(Connection& connection, uint32_t timeout_ms) : connection_(connection), timeout_ms_(timeout_ms) {}

  // Makes `parts` one change of `file`, accepted or `durable` when this returns; `lsn` gets its place in the volume's
  // order. Without parts it only makes durable what was accepted before, if it is to. 0 or a negative errno, and then
  // nothing has changed; but after -ECONNRESET and -ETIMEDOUT, which end the connection, all of it may have.
  int Write(dsa_file* file, std::span<const Part> parts, bool durable, uint64_t* lsn, std::string* error);

 private:
  int Prepare(std::string* error);
  int Die(int status);
  int PostParts(dsa_file* file, std::span<const Part> parts);
  int PostBytes(dsa_file* file, uint64_t offset, std::span<const std::byte> bytes);
  int Post(dsa_work work);
  // Until at most `left` pieces of work are under way.
  int Await(uint32_t left);
  void TakeCompletions();

  Connection& connection_;
  const uint32_t timeout_ms_;
  std::mutex mutex_;
  // Guarded by mutex_.
  Queue* queue_ = nullptr;
  dsa_memory* memory_ = nullptr;
  std::unique_ptr<std::byte[]> bytes_;  // of memory_
  size_t used_bytes_ = 0;
  uint32_t under_way_ = 0;
  bool is_dead_ = false;  // the connection has ended, and completions may belong to earlier groups
  int status_ = 0;        // the first failure of this group
  uint64_t lsn_ = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_GROUP_WRITER_H_

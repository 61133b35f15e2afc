// Connection: what dsa_connect() makes. Agrees with the server on version, key and provider, and owns what is opened on
// it: files, memory, queues, mappings.
//
// Order of locks: the control connection's, then mutex_ (tried only), then a queue's (tried only). mutex_ is never held
// during a round trip; with mutex_ a queue's lock may be waited for.
//
// Thread-safe. Errors are negative errnos, `error` gets a text for people. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_CONNECTION_H_
#define STAGEFS_FS_DSA_CLIENT_CONNECTION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "fs/dsa/client/control_client.h"
#include "fs/dsa/client/group_writer.h"
#include "fs/dsa/client/key_file.h"
#include "fs/dsa/client/memory.h"
#include "fs/dsa/client/queue.h"
#include "fs/dsa/client/stagefs/dsa.h"
#include "fs/dsa/fabric.h"

struct dsa_mapping;

namespace stagefs::dsa {

struct ConnectOptions {
  std::string provider;  // empty: the server chooses
  std::string key_file;
  uint32_t timeout_ms = 10'000;
  uint32_t spin_us = 20;
};

class Connection {
 public:
  // As dsa_connect().
  static int Connect(const std::string& address, const ConnectOptions& options, std::unique_ptr<Connection>* connection,
                     std::string* error);
  // Ends what is still open on it.
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const std::string& provider() const { return fabric_->provider(); }
  // Whether files can be mapped: the server is on this machine, and willing.
  bool can_map() const { return can_map_; }
  ControlClient& control() { return control_; }
  GroupWriter& group_writer() { return group_writer_; }
  uint32_t spin_us() const { return spin_us_; }

  // As the calls of the C interface. What they make belongs to the connection until the call that ends it.
  int Open(const std::string& path, uint32_t flags, uint32_t mode, dsa_file** file, std::string* error);
  int Stat(const dsa_file* file, FileAttributes* attributes, std::string* error);
  int Close(dsa_file* file, std::string* error);
  // `address` may not be part of a mapping.
  int Register(void* address, size_t length, uint32_t access, dsa_memory** memory, std::string* error);
  int Deregister(dsa_memory* memory, std::string* error);
  int CreateQueue(uint32_t depth, uint32_t spin_us, Queue** queue, std::string* error);
  void DestroyQueue(Queue* queue);
  int Map(dsa_file* file, uint64_t offset, uint64_t length, dsa_mapping** mapping, std::string* error);
  void Unmap(dsa_mapping* mapping);

 private:
  template <typename Object>
  using Owned = std::unordered_map<const Object*, std::unique_ptr<Object>>;

  Connection(OwnedFd socket, bool is_remote, const ConnectOptions& options);
  int Hello(const std::string& wish, const NamedKey& key, std::string* error);
  int Authenticate(const HelloRequest& request, const HelloReply& reply, const NamedKey& key, std::string* error);
  bool AnyQueueUses(const dsa_memory* memory);
  // While a round trip waits for what needs the progress of this side.
  void MoveQueues();
  template <typename Object>
  Object* Keep(Owned<Object>* owned, std::unique_ptr<Object> object);
  template <typename Object>
  std::unique_ptr<Object> Take(Owned<Object>* owned, Object* object);

  // Constant after Connect().
  const bool is_remote_;
  const uint32_t spin_us_;
  const uint32_t timeout_ms_;
  uint32_t max_depth_ = 0;
  bool can_map_ = false;

  ControlClient control_;
  std::unique_ptr<Fabric> fabric_;
  std::mutex mutex_;
  // Guarded by mutex_.
  Owned<dsa_file> files_;
  Owned<dsa_memory> memories_;
  Owned<Queue> queues_;
  Owned<dsa_mapping> mappings_;
  GroupWriter group_writer_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_CONNECTION_H_

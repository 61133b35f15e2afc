// The C interface. Part of libstagefs.

#include "fs/dsa/client/stagefs/dsa.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <memory>
#include <span>
#include <string>

#include "fs/dsa/client/connection.h"
#include "fs/dsa/client/entry.h"
#include "fs/dsa/client/last_error.h"
#include "fs/dsa/client/queue.h"
#include "fs/dsa/client/remote_mapping.h"
#include "fs/dsa/protocol.h"

namespace stagefs::dsa {
namespace {

constexpr int kOpenFlags = O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC;
static_assert(DSA_SHARED == kShared && (DSA_SHARED & kOpenFlags) == 0);

ConnectOptions OptionsOf(const dsa_options* given) {
  ConnectOptions options;
  if (given == nullptr) return options;
  if (given->provider != nullptr) options.provider = given->provider;
  if (given->key_file != nullptr) options.key_file = given->key_file;
  if (given->timeout_ms != 0) options.timeout_ms = given->timeout_ms;
  if (given->spin_us != 0) options.spin_us = given->spin_us;
  return options;
}

timespec TimeOf(int64_t ns) {
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  const int64_t rest = ns % kNsPerSecond;
  const int64_t seconds = ns / kNsPerSecond - (rest < 0 ? 1 : 0);
  return {seconds, rest < 0 ? rest + kNsPerSecond : rest};
}

struct dsa_stat StatOf(const FileAttributes& attributes) {
  struct dsa_stat stat = {};
  stat.ino = attributes.ino;
  stat.size = attributes.size_bytes;
  stat.allocated = attributes.allocated_bytes;
  stat.mode = attributes.mode;
  stat.nlink = attributes.nlink;
  stat.uid = attributes.uid;
  stat.gid = attributes.gid;
  stat.atime = TimeOf(attributes.atime_ns);
  stat.mtime = TimeOf(attributes.mtime_ns);
  stat.ctime = TimeOf(attributes.ctime_ns);
  return stat;
}

// A queue's calls fail with literals: nothing is allocated.
int Leave(const Queue& queue, int status) { return status < 0 ? FailWith(status, queue.error()) : status; }

int Connect(const char* address, const dsa_options* given, dsa_connection** connection, std::string* error) {
  *connection = nullptr;
  std::unique_ptr<Connection> made;
  const int status = Connection::Connect(address, OptionsOf(given), &made, error);
  if (status == 0) *connection = reinterpret_cast<dsa_connection*>(made.release());
  return status;
}

int Open(Connection& connection, const char* path, int flags, mode_t mode, dsa_file** file, std::string* error) {
  *file = nullptr;
  if ((flags & ~(kOpenFlags | DSA_SHARED)) != 0 || (flags & O_ACCMODE) == O_ACCMODE) {
    *error = "no such flags of dsa_open()";
    return -EINVAL;
  }
  return connection.Open(path, static_cast<uint32_t>(flags), mode, file, error);
}

}  // namespace
}  // namespace stagefs::dsa

using stagefs::dsa::Enter;
using stagefs::dsa::FailWith;
using stagefs::dsa::Leave;
using stagefs::dsa::Of;

const char* dsa_error(void) { return stagefs::dsa::LastError(); }

int dsa_connect(const char* address, const dsa_options* options, dsa_connection** connection) {
  return Enter([&](std::string* error) { return stagefs::dsa::Connect(address, options, connection, error); });
}

void dsa_disconnect(dsa_connection* connection) { delete Of(connection); }

const char* dsa_provider(const dsa_connection* connection) { return Of(connection)->provider().c_str(); }

int dsa_open(dsa_connection* connection, const char* path, int flags, mode_t mode, dsa_file** file) {
  return Enter([&](std::string* error) {
    return stagefs::dsa::Open(*Of(connection), path, flags, mode, file, error);
  });
}

int dsa_stat(dsa_file* file, struct dsa_stat* stat) {
  return Enter([&](std::string* error) {
    stagefs::dsa::FileAttributes attributes;
    const int status = file->connection->Stat(file, &attributes, error);
    if (status == 0) *stat = stagefs::dsa::StatOf(attributes);
    return status;
  });
}

int dsa_close(dsa_file* file) {
  if (file == nullptr) return 0;
  return Enter([&](std::string* error) { return file->connection->Close(file, error); });
}

int dsa_register(dsa_connection* connection, void* address, size_t length, int access, dsa_memory** memory) {
  return Enter([&](std::string* error) {
    *memory = nullptr;
    return Of(connection)->Register(address, length, static_cast<uint32_t>(access), memory, error);
  });
}

int dsa_deregister(dsa_memory* memory) {
  if (memory == nullptr) return 0;
  return Enter([&](std::string* error) { return memory->connection->Deregister(memory, error); });
}

int dsa_create_queue(dsa_connection* connection, uint32_t depth, dsa_queue** queue) {
  return Enter([&](std::string* error) {
    *queue = nullptr;
    stagefs::dsa::Queue* made = nullptr;
    const int status = Of(connection)->CreateQueue(depth, Of(connection)->spin_us(), &made, error);
    *queue = reinterpret_cast<dsa_queue*>(made);
    return status;
  });
}

void dsa_destroy_queue(dsa_queue* queue) {
  if (queue != nullptr) Of(queue)->owner()->DestroyQueue(Of(queue));
}

int dsa_post(dsa_queue* queue, const dsa_work* work, int count) {
  if (count < 0) return FailWith(-EINVAL, "a negative count");
  return Leave(*Of(queue), Of(queue)->Post({work, static_cast<size_t>(count)}));
}

int dsa_poll(dsa_queue* queue, dsa_completion* completions, int max) {
  if (max < 0) return FailWith(-EINVAL, "a negative count");
  return Leave(*Of(queue), Of(queue)->Poll({completions, static_cast<size_t>(max)}));
}

int dsa_wait(dsa_queue* queue, int timeout_ms) { return Leave(*Of(queue), Of(queue)->Wait(timeout_ms)); }

int dsa_queue_fd(dsa_queue* queue) { return Of(queue)->descriptor(); }

int dsa_arm(dsa_queue* queue) { return Leave(*Of(queue), Of(queue)->Arm()); }

int dsa_map(dsa_file* file, uint64_t offset, size_t length, dsa_mapping** mapping, void** address) {
  return Enter([&](std::string* error) {
    *mapping = nullptr;
    const int status = file->connection->Map(file, offset, length, mapping, error);
    if (status == 0) *address = (*mapping)->pages().address();
    return status;
  });
}

int dsa_persist(dsa_mapping* mapping, uint64_t offset, size_t length, int flags, uint64_t* lsn) {
  return Enter([&](std::string* error) {
    if ((flags & ~DSA_PERSIST_DURABLE) != 0) {
      *error = "no such flags of dsa_persist()";
      return -EINVAL;
    }
    const int status = mapping->pages().Persist(offset, length, (flags & DSA_PERSIST_DURABLE) != 0, lsn);
    if (status != 0) *error = std::string("persisting: ") + strerror(-status);
    return status;
  });
}

int dsa_unmap(dsa_mapping* mapping) {
  if (mapping != nullptr) mapping->connection().Unmap(mapping);
  return 0;
}

// DataPath: the server's side of one client's queues. A thread of its own takes the works that arrive, carries them out
// on the volume in their order, and moves the bytes by remote reads and writes of the client's memory. A client that
// stalls its thread (memory whose pages do not come) stalls nobody else.
//
// Order: works of a queue that change something begin when the one before was accepted, unless they are unordered; the
// bytes of later ones are fetched meanwhile. So arrival order is LSN order.
//
// OpenFile, Memory: what a client's handles stand for; HandleTable: the handles. Everything that a work uses is held by
// it until it is over, whatever the client closes meanwhile.

#ifndef STAGEFS_FS_DSA_DATA_PATH_H_
#define STAGEFS_FS_DSA_DATA_PATH_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"
#include "sal/mutex.h"

namespace stagefs::dsa {

// A file opened by a client: counted by the volume and by the sharing until the last reference is gone.
class OpenFile {
 public:
  // The file has been opened at both: Sharing::Open() with `opener`, Volume::Open().
  OpenFile(volume::Volume& volume, volume::Sharing& sharing, volume::Ino ino, bool reads,
           const volume::Sharing::Opener& opener)
      : volume_(volume), sharing_(sharing), ino_(ino), reads_(reads), opener_(opener) {}
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  volume::Ino ino() const { return ino_; }
  bool reads() const { return reads_; }
  bool writes() const { return opener_.writes; }

 private:
  volume::Volume& volume_;
  volume::Sharing& sharing_;
  const volume::Ino ino_;
  const bool reads_;
  const volume::Sharing::Opener opener_;
};

// Memory that a client has registered.
class Memory {
 public:
  Memory(uint64_t key, uint64_t address, uint64_t size_bytes, uint32_t access)
      : key_(key), address_(address), size_bytes_(size_bytes), access_(access) {}
  // Tells whoever waits for the client's memory to be no longer in use.
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint64_t key() const { return key_; }
  uint64_t address() const { return address_; }
  uint64_t size_bytes() const { return size_bytes_; }
  uint32_t access() const { return access_; }
  // Before the last reference goes; it is called then, on whatever thread that is.
  void SetGone(absl::AnyInvocable<void() &&> gone) { gone_ = std::move(gone); }

 private:
  const uint64_t key_, address_, size_bytes_;
  const uint32_t access_;
  absl::AnyInvocable<void() &&> gone_;
};

// One client's handles, given and taken back by its session, looked up by its data path. Thread-safe.
template <typename Object>
class HandleTable {
 public:
  // 0: there are `max_handles` already.
  uint32_t Add(std::shared_ptr<Object> object, size_t max_handles) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    if (objects_.size() >= max_handles) return 0;
    while (next_ == 0 || objects_.contains(next_)) ++next_;
    objects_.emplace(next_, std::move(object));
    return next_++;
  }
  // Null: there is no such handle.
  std::shared_ptr<Object> Find(uint32_t handle) const ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    const auto found = objects_.find(handle);
    return found == objects_.end() ? nullptr : found->second;
  }
  std::shared_ptr<Object> Remove(uint32_t handle) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    const auto found = objects_.find(handle);
    if (found == objects_.end()) return nullptr;
    std::shared_ptr<Object> object = std::move(found->second);
    objects_.erase(found);
    return object;
  }

 private:
  mutable Mutex mutex_;
  uint32_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::flat_hash_map<uint32_t, std::shared_ptr<Object>> objects_ ABSL_GUARDED_BY(mutex_);
};

struct ClientHandles {
  HandleTable<OpenFile> files;
  HandleTable<Memory> memories;
};

struct DataPathOptions {
  std::string provider = "shm";
  std::string address;  // the local IP address, unless the provider is shm
  size_t max_queues = 16;
  // Memory that the works of this client may hold at once: groups, and bytes on their way.
  uint64_t max_bytes = 64 << 20;
  // The thread polls so long after the last message, then sleeps.
  uint64_t spin_ns = 50'000;
  // Told, on the data path's thread, when a queue was dropped because its client broke the rules or could not be reached
  // any more. May be empty.
  std::function<void(uint32_t queue)> queue_broken;
};

// What a client needs to use its new queue.
struct QueueGrant {
  uint32_t queue = 0;
  uint64_t token = 0;
  std::vector<std::byte> name;  // of the server's endpoint
  // With shm: of the doorbell, as fs/dsa/doorbell.h has them, duplicated: the receiver closes them. Else -1.
  std::array<int, 3> descriptors = {-1, -1, -1};
};

// Thread-safe.
class DataPath {
 public:
  using QueueCallback = absl::AnyInvocable<void(absl::StatusOr<QueueGrant>) &&>;

  // All must outlive it. Errors: Unavailable (the provider cannot be had).
  static absl::StatusOr<std::unique_ptr<DataPath>> Start(volume::Volume& volume, volume::Sharing& sharing,
                                                         ClientHandles& handles, const DataPathOptions& options);
  // Drops the queues: works that have begun on the volume are finished there, nothing is answered any more, groups
  // without a commit vanish. Waits for the works that have begun; never for the client.
  virtual ~DataPath() = default;

  // Makes a queue for the client's endpoint of that name. `done` on the data path's thread. Errors carry an errno.
  virtual void AddQueue(uint32_t depth, std::vector<std::byte> client_name, QueueCallback done) = 0;
  // Drops it in the same way, then calls `done`: OK, or ENOENT.
  virtual void RemoveQueue(uint32_t queue, absl::AnyInvocable<void(absl::Status) &&> done) = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_DATA_PATH_H_

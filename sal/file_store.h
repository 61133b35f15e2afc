// FileStore (PATH, `file:PATH`): an image file or a block device, through io_uring with O_DIRECT.
//
// A FUA write is one write with RWF_DSYNC, a flush one fdatasync: on an image that was written once before, that costs
// what the disk's own FUA write or cache flush costs. Discards and zeroing are fallocate: holes in an image.
//
// At most kDepth requests are in the ring; later ones wait in order. The submitting thread starts its requests itself,
// with one system call for each Submit(). One thread of the store's own takes the completions and runs `done`. A thread
// that lends its ring (sal/lent_ring.h) uses that for reads, writes and flushes, and completes them itself.
//
// Thread-safe.

#ifndef STAGEFS_SAL_FILE_STORE_H_
#define STAGEFS_SAL_FILE_STORE_H_

#include <liburing.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "sal/block_store.h"
#include "sal/lent_ring.h"
#include "sal/mutex.h"
#include "sal/open_store.h"
#include "sal/opened_file.h"

namespace stagefs::sal {

class FileStore : public BlockStore {
 public:
  // `name` is the URL, for messages. Errors as OpenStore(); FailedPrecondition if there is no io_uring.
  static absl::StatusOr<std::unique_ptr<FileStore>> Open(const std::string& name, const std::string& path,
                                                         const OpenStoreOptions& options);
  ~FileStore() override;
  FileStore(const FileStore&) = delete;
  FileStore& operator=(const FileStore&) = delete;

  using BlockStore::Submit;
  const Geometry& geometry() const override { return file_.geometry; }
  const std::string& name() const override { return name_; }
  void Submit(absl::Span<Request* const> requests) override;
  // Requests of one buffer inside `areas` spare the kernel looking up their pages. Only the first call counts.
  void RegisterMemory(absl::Span<const iovec> areas) override;

  // See StoreNote().
  const std::string& note() const { return file_.note; }

  static constexpr unsigned kDepth = 256;

 private:
  class LentOperation;

  FileStore(std::string name, OpenedFile file);
  absl::Status Start();

  absl::Status Check(const Request& request) const;
  // Puts a request into the thread's own ring.
  void SubmitTo(LentRing& ring, Request* request);
  // Moves waiting requests into the ring and tells the kernel.
  void StartWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Prepare(io_uring_sqe* sqe, Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SubmitRing() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The registered area that holds all of `buffer`, or -1.
  int RegisteredArea(const iovec& buffer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void Reap() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Result(const Request& request, int result);
  absl::Status WriteZeros(const Request& request);

  // Constant after construction.
  const std::string name_;
  OpenedFile file_;
  bool ring_ready_ = false;
  std::thread reaper_;

  Mutex mutex_;
  // The submission half is guarded by mutex_; the completion half belongs to the reaper.
  io_uring ring_;
  std::deque<Request*> waiting_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<Request*, absl::Status>> refused_ ABSL_GUARDED_BY(mutex_);  // completed by the reaper
  unsigned in_ring_ ABSL_GUARDED_BY(mutex_) = 0;  // includes wake-ups
  bool wake_pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<iovec> areas_ ABSL_GUARDED_BY(mutex_);  // registered; sorted by address
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_FILE_STORE_H_

// DirectJob: what a job of fio does by direct access, and what fio wants to know of its files before.
//
// Not thread-safe: fio calls it from the job's thread. Failures are said on stderr.

#ifndef STAGEFS_FS_DSA_FIO_JOB_H_
#define STAGEFS_FS_DSA_FIO_JOB_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fs/dsa/client/stagefs/dsa.h"
#include "fs/dsa/fio/fio_abi.h"

namespace stagefs::fio {

// Filled by fio. The first member may not be an option's.
struct DirectOptions {
  void* unused;
  char* server;
  char* provider;  // these may be null
  char* key_file;
  unsigned durable;
  unsigned busy;
  unsigned shared;
};

// Both return 0 or an errno, on a connection that is closed when they return.
// Sets file->real_size; 0 if there is no such file.
int FindFileSize(const DirectOptions& options, File* file);
// Makes the file, with zeros at its end, as long as the job needs it.
int LayOutFile(const DirectOptions& options, File* file);

class DirectJob {
 public:
  // `options` must outlive this object.
  DirectJob(const DirectOptions& options, bool may_write) : options_(options), may_write_(may_write) {}
  ~DirectJob();
  DirectJob(const DirectJob&) = delete;
  DirectJob& operator=(const DirectJob&) = delete;

  // In the order of their calls. Those that return an int: 0 or an errno.
  int Connect();
  void CountUnit() { ++units_; }
  // The memory of all units, registered; null if there is none to be had.
  char* Allocate(size_t size);
  int MakeQueue();

  int Open(File* file);
  int Close(File* file);

  // kDone: it has failed, see unit->error.
  Queued Queue(Unit* unit);
  // Posts what was queued. What cannot be posted ends with an error.
  int Submit();
  // Takes at least `least` and at most `most` units that have ended; fewer when `limit` has passed, if it is not null.
  // Returns how many, or a negative errno.
  int Wait(unsigned least, unsigned most, const timespec* limit);
  // Of those that the last Wait() took.
  Unit* Ended(int index) { return ended_[index]; }

  // Ends queue and memory.
  void Free();

 private:
  // Adds what has completed to `units`, until it has `most`. Returns how many, or a negative errno.
  int Poll(std::vector<Unit*>* units, size_t most);
  static Unit* UnitOf(const dsa_completion& completion);

  const DirectOptions& options_;
  const bool may_write_;
  uint32_t units_ = 0;
  dsa_connection* connection_ = nullptr;
  dsa_queue* queue_ = nullptr;
  dsa_memory* registered_ = nullptr;
  char* memory_ = nullptr;
  size_t memory_size_ = 0;
  std::vector<dsa_work> queued_;
  std::vector<Unit*> early_;  // have ended, and Wait() has yet to give them back
  std::vector<Unit*> ended_;
};

}  // namespace stagefs::fio

#endif  // STAGEFS_FS_DSA_FIO_JOB_H_

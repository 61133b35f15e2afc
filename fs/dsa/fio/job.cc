#include "fs/dsa/fio/job.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <memory>

namespace stagefs::fio {
namespace {

using Clock = std::chrono::steady_clock;

constexpr mode_t kMode = 0644;
constexpr uint64_t kPieceBytes = 1 << 20;

struct Disconnect {
  void operator()(dsa_connection* connection) const { dsa_disconnect(connection); }
};
using Connection = std::unique_ptr<dsa_connection, Disconnect>;

struct CloseFile {
  void operator()(dsa_file* file) const { dsa_close(file); }
};
using OpenFile = std::unique_ptr<dsa_file, CloseFile>;

struct Deregister {
  void operator()(dsa_memory* memory) const { dsa_deregister(memory); }
};
struct DestroyQueue {
  void operator()(dsa_queue* queue) const { dsa_destroy_queue(queue); }
};

// Says what has failed; the errno.
int Failed(const char* what, int status) {
  std::fprintf(stderr, "libstagefs-fio: %s: %s\n", what, dsa_error());
  return -status;
}

int ConnectTo(const DirectOptions& options, dsa_connection** connection) {
  if (options.server == nullptr) {
    std::fprintf(stderr, "libstagefs-fio: --dsa_server=ADDRESS is missing\n");
    return EINVAL;
  }
  const dsa_options wanted = {options.provider, options.key_file, 0, 0};
  const int status = dsa_connect(options.server, &wanted, connection);
  return status < 0 ? Failed(options.server, status) : 0;
}

// fio takes a leading "/" away from nothing, but jobs are often written without.
std::string PathOf(const File& file) { return file.name[0] == '/' ? file.name : "/" + std::string(file.name); }

int FlagsFor(const DirectOptions& options, bool may_write) {
  return (may_write ? O_RDWR | O_CREAT : O_RDONLY) | (options.shared != 0 ? DSA_SHARED : 0);
}

// Writes zeros to [from, to), a piece at a time: the server splits them no further.
int WriteZeros(dsa_connection* connection, dsa_file* file, uint64_t from, uint64_t to) {
  std::vector<char> zeros(std::min(kPieceBytes, to - from));
  dsa_memory* memory = nullptr;
  if (const int status = dsa_register(connection, zeros.data(), zeros.size(), DSA_LOCAL_READ, &memory); status < 0) {
    return Failed("memory", status);
  }
  const std::unique_ptr<dsa_memory, Deregister> memory_owner(memory);
  dsa_queue* queue = nullptr;
  if (const int status = dsa_create_queue(connection, 1, &queue); status < 0) return Failed("queue", status);
  const std::unique_ptr<dsa_queue, DestroyQueue> queue_owner(queue);
  while (from < to) {
    dsa_work work = {};
    work.opcode = DSA_WRITE;
    work.flags = DSA_SIGNALED;
    work.file = file;
    work.offset = from;
    work.buffer = zeros.data();
    work.length = std::min<uint64_t>(zeros.size(), to - from);
    work.memory = memory;
    if (const int status = dsa_post(queue, &work, 1); status < 0) return Failed("laying out", status);
    dsa_completion completion = {};
    int count = 0;
    while ((count = dsa_poll(queue, &completion, 1)) == 0) {
      if (const int status = dsa_wait(queue, -1); status < 0) return Failed("laying out", status);
    }
    if (count < 0) return Failed("laying out", count);
    if (completion.status < 0) return Failed("laying out", completion.status);
    from += work.length;
  }
  return 0;
}

}  // namespace

int FindFileSize(const DirectOptions& options, File* file) {
  dsa_connection* connection = nullptr;
  if (const int error = ConnectTo(options, &connection); error != 0) return error;
  const Connection connection_owner(connection);
  file->real_size = 0;
  dsa_file* opened = nullptr;
  const int status = dsa_open(connection, PathOf(*file).c_str(), O_RDONLY, 0, &opened);
  if (status == -ENOENT) return 0;
  if (status < 0) return Failed(file->name, status);
  const OpenFile file_owner(opened);
  struct dsa_stat stat = {};
  if (const int stat_status = dsa_stat(opened, &stat); stat_status < 0) return Failed(file->name, stat_status);
  file->real_size = stat.size;
  return 0;
}

int LayOutFile(const DirectOptions& options, File* file) {
  const uint64_t wanted = file->offset + file->io_size;
  if (file->real_size >= wanted) return 0;
  dsa_connection* connection = nullptr;
  if (const int error = ConnectTo(options, &connection); error != 0) return error;
  const Connection connection_owner(connection);
  dsa_file* opened = nullptr;
  const int status = dsa_open(connection, PathOf(*file).c_str(), FlagsFor(options, true), kMode, &opened);
  if (status < 0) return Failed(file->name, status);
  const OpenFile file_owner(opened);
  if (const int error = WriteZeros(connection, opened, file->real_size, wanted); error != 0) return error;
  file->real_size = wanted;
  return 0;
}

DirectJob::~DirectJob() {
  Free();
  dsa_disconnect(connection_);
}

int DirectJob::Connect() { return ConnectTo(options_, &connection_); }

char* DirectJob::Allocate(size_t size) {
  void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  memory_ = static_cast<char*>(memory);
  memory_size_ = size;
  const int status = dsa_register(connection_, memory_, size, DSA_LOCAL_READ | DSA_LOCAL_WRITE, &registered_);
  if (status == 0) return memory_;
  Failed("memory", status);
  Free();
  return nullptr;
}

int DirectJob::MakeQueue() {
  const int status = dsa_create_queue(connection_, units_, &queue_);
  return status < 0 ? Failed("queue (of iodepth)", status) : 0;
}

void DirectJob::Free() {
  dsa_destroy_queue(queue_);
  queue_ = nullptr;
  dsa_deregister(registered_);
  registered_ = nullptr;
  if (memory_ != nullptr) munmap(memory_, memory_size_);
  memory_ = nullptr;
}

int DirectJob::Open(File* file) {
  dsa_file* opened = nullptr;
  const int status = dsa_open(connection_, PathOf(*file).c_str(), FlagsFor(options_, may_write_), kMode, &opened);
  if (status < 0) return Failed(file->name, status);
  file->engine_data = opened;
  return 0;
}

int DirectJob::Close(File* file) {
  const int status = dsa_close(static_cast<dsa_file*>(file->engine_data));
  file->engine_data = nullptr;
  return -status;
}

Queued DirectJob::Queue(Unit* unit) {
  dsa_work work = {};
  work.user_data = reinterpret_cast<uintptr_t>(unit);
  work.flags = DSA_SIGNALED;
  switch (unit->direction) {
    case kRead:
    case kWrite:
      work.opcode = unit->direction == kRead ? DSA_READ : DSA_WRITE;
      if (unit->direction == kWrite && options_.durable != 0) work.flags |= DSA_DURABLE;
      work.file = static_cast<dsa_file*>(unit->file->engine_data);
      work.offset = unit->offset;
      work.buffer = unit->buffer;
      work.length = unit->length;
      work.memory = registered_;
      break;
    case kSync:
    case kDataSync:
      work.opcode = DSA_FLUSH;
      break;
    default:
      unit->error = EOPNOTSUPP;
      return kDone;
  }
  queued_.push_back(work);
  return kWaiting;
}

int DirectJob::Submit() {
  size_t posted = 0;
  int status = 0;
  while (posted < queued_.size()) {
    status = dsa_post(queue_, &queued_[posted], static_cast<int>(queued_.size() - posted));
    if (status >= 0) {
      posted += status;
      continue;
    }
    // The queue has a place for every unit, but too much may be on its way: what has arrived makes room.
    if (status == -EAGAIN) status = Poll(&early_, units_);
    if (status < 0) break;
  }
  for (; posted < queued_.size(); ++posted) {
    Unit* const unit = reinterpret_cast<Unit*>(queued_[posted].user_data);
    unit->error = -status;
    early_.push_back(unit);
  }
  queued_.clear();
  return 0;
}

Unit* DirectJob::UnitOf(const dsa_completion& completion) {
  Unit* const unit = reinterpret_cast<Unit*>(completion.user_data);
  unit->error = -completion.status;
  if (completion.status == 0 && unit->direction <= kWrite) unit->residue = unit->length - completion.length;
  return unit;
}

int DirectJob::Poll(std::vector<Unit*>* units, size_t most) {
  std::array<dsa_completion, 64> completions;
  const size_t room = std::min(completions.size(), most - units->size());
  if (room == 0) return 0;
  const int count = dsa_poll(queue_, completions.data(), static_cast<int>(room));
  for (int i = 0; i < count; ++i) units->push_back(UnitOf(completions[i]));
  return count;
}

int DirectJob::Wait(unsigned least, unsigned most, const timespec* limit) {
  constexpr auto kForEver = std::chrono::hours(24);
  const auto wait = limit == nullptr ? Clock::duration(kForEver)
                                     : std::chrono::seconds(limit->tv_sec) + std::chrono::nanoseconds(limit->tv_nsec);
  const auto deadline = Clock::now() + wait;
  ended_.clear();
  for (; ended_.size() < most && !early_.empty(); early_.pop_back()) ended_.push_back(early_.back());
  while (true) {
    const int status = Poll(&ended_, most);
    if (status < 0 && ended_.empty()) return status;
    if (status < 0 || ended_.size() >= least) break;
    if (status > 0) continue;
    const auto left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) break;
    if (options_.busy != 0) continue;
    dsa_wait(queue_, static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count()));
  }
  return static_cast<int>(ended_.size());
}

}  // namespace stagefs::fio

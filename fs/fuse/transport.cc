#include "fs/fuse/transport.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/reply.h"
#include "fs/fuse/request_check.h"
#include "fs/fuse/uring_protocol.h"
#include "sal/check.h"

namespace stagefs::fuse {
namespace {

// A WRITE's payload starts this far into the request; requests are received so that it is aligned to a page.
constexpr size_t kWritePrefixBytes = sizeof(fuse_in_header) + sizeof(fuse_write_in);

// INIT flags that libfuse 3.14 does not know.
constexpr uint32_t kHandleKillprivV2 = 1u << 28;
constexpr uint32_t kInitExtended = 1u << 30;
constexpr uint32_t kDirectIoAllowMmap2 = 1u << (36 - 32);
// With an unaligned O_DIRECT buffer, 1 MiB touches 257 pages. The kernel lowers this to its own limit, 256 by default.
constexpr uint16_t kMaxPages = 260;
constexpr size_t kPageBytes = 4096;
static_assert(kMaxPages * kPageBytes >= kMaxRequestBytes);

// How long FORGETs may gather in the kernel.
constexpr std::chrono::milliseconds kForgetPause(10);

bool IsForget(uint32_t opcode) { return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET; }

size_t ThreadCount(const MountOptions& options) {
  if (options.threads != 0) return options.threads;
  return std::clamp<size_t>(std::thread::hardware_concurrency(), 2, 16);
}

constexpr const char* kOpcodeNames[FuseStats::kOpcodes] = {
    "0",           "lookup",      "forget",   "getattr",     "setattr",   "readlink",     "symlink",
    "7",           "mknod",       "mkdir",    "unlink",      "rmdir",     "rename",       "link",
    "open",        "read",        "write",    "statfs",      "release",   "19",           "fsync",
    "setxattr",    "getxattr",    "listxattr", "removexattr", "flush",    "init",         "opendir",
    "readdir",     "releasedir",  "fsyncdir", "getlk",       "setlk",     "setlkw",       "access",
    "create",      "interrupt",   "bmap",     "destroy",     "ioctl",     "poll",         "notify_reply",
    "batch_forget", "fallocate",  "readdirplus", "rename2",  "lseek",     "copy_file_range", "setupmapping",
    "removemapping", "syncfs",    "tmpfile",  "statx",       "copy_file_range_64", "54",   "55",
    "56",          "57",          "58",       "59",          "60",        "61",           "62",
    "63"};

}  // namespace

std::string FuseStatsJson(const FuseStats& stats) {
  std::string json = "{\"requests\": {";
  const char* comma = "";
  for (size_t opcode = 0; opcode < FuseStats::kOpcodes; ++opcode) {
    if (stats.requests[opcode] == 0) continue;
    absl::StrAppend(&json, comma, "\"", kOpcodeNames[opcode], "\": ", stats.requests[opcode]);
    comma = ", ";
  }
  absl::StrAppend(&json, "}, \"transport\": \"", TransportName(stats), "\", \"read_bytes\": ", stats.read_bytes, ", \"written_bytes\": ", stats.written_bytes,
                  ", \"in_flight\": ", stats.in_flight, "}");
  return json;
}

CurrentRequest& Transport::current() {
  thread_local CurrentRequest current;
  return current;
}

void Transport::DevicePort::Send(absl::Span<const iovec> message) {
  if (writev(fd, message.data(), static_cast<int>(message.size())) >= 0) return;
  // ENOENT: the request was interrupted. ENODEV and ECONNABORTED: the mount is gone.
  if (errno != ENOENT && errno != ENODEV && errno != ECONNABORTED && options_.log) {
    options_.log(absl::StrCat("sending a reply: ", strerror(errno)));
  }
}

Transport::Transport(int device_fd, const fuse_lowlevel_ops& operations, void* user, RawHandler raw,
                     const MountOptions& options)
    : options_(options),
      user_(user),
      raw_(std::move(raw)),
      buffers_(kSmallBuffers, std::max(kLargeBuffers, ThreadCount(options) + 8)) {
  char name[] = "stagefs";
  char* arguments[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  session_ = fuse_session_new(&args, &operations, sizeof(operations), this);
  fuse_opt_free_args(&args);  // the library has made copies
  STAGEFS_CHECK(session_ != nullptr);
  // libfuse never reads: the workers do. It writes through us.
  fuse_custom_io io = {};
  io.read = [](int, void*, size_t, void*) -> ssize_t {
    errno = ENOSYS;
    return -1;
  };
  io.writev = [](int, iovec* pieces, int count, void* transport) -> ssize_t {
    return static_cast<Transport*>(transport)->SendForLibrary(pieces, count);
  };
  STAGEFS_CHECK(fuse_session_custom_io(session_, &io, device_fd) == 0);
  ports_.push_back(std::make_unique<DevicePort>(device_fd, options_));
}

Transport::~Transport() {
  WaitUntilUnmounted();
  uring_.reset();
  for (size_t i = 1; i < ports_.size(); ++i) close(ports_[i]->fd);
  fuse_session_destroy(session_);  // closes that of ports_[0]
}

absl::Status Transport::PrepareUring() {
  const auto dispatch = [this](RequestPort& port, absl::Span<std::byte> request) { Dispatch(port, nullptr, request); };
  auto created = UringTransport::Create(kMaxPages * kPageBytes, dispatch, options_.log);
  if (!created.ok()) return absl::UnavailableError(created.status().message());
  uring_ = *std::move(created);
  return absl::OkStatus();
}

absl::Status Transport::Start() {
  // Signals are for the process's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const absl::Status status = StartThreads();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return status;
}

absl::Status Transport::StartThreads() {
  StartWorker(*ports_[0]);
  {
    MutexLock lock(&mutex_);
    while (!initialized_ && running_workers_ == 1) changed_.Wait(&mutex_);
    if (!initialized_) return absl::InternalError("the mount ended before the kernel began to use it");
  }
  if (over_uring_) return uring_->Register(ports_[0]->fd);
  if (uring_ != nullptr) return absl::UnavailableError("the kernel does not offer it to this mount");
  for (size_t i = 1; i < ThreadCount(options_); ++i) {
    const absl::StatusOr<int> fd = CloneDevice(ports_[0]->fd);
    if (fd.ok()) ports_.push_back(std::make_unique<DevicePort>(*fd, options_));
    StartWorker(fd.ok() ? *ports_.back() : *ports_[0]);
  }
  return absl::OkStatus();
}

void Transport::StartWorker(DevicePort& port) {
  {
    MutexLock lock(&mutex_);
    ++running_workers_;
  }
  workers_.emplace_back([this, &port] { ServeRequests(port); });
}

void Transport::WaitUntilUnmounted() {
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
  if (uring_ != nullptr) uring_->Join();
  if (in_flight_.fetch_or(kSomebodyWaits) < kOneInFlight) return;
  MutexLock lock(&mutex_);
  while (!drained_) changed_.Wait(&mutex_);
}

void Transport::EndRequest() {
  if (in_flight_.fetch_sub(kOneInFlight) != (kOneInFlight | kSomebodyWaits)) return;
  MutexLock lock(&mutex_);
  drained_ = true;
  changed_.SignalAll();
}

FuseStats Transport::stats() const {
  FuseStats stats;
  for (size_t i = 0; i < FuseStats::kOpcodes; ++i) stats.requests[i] = requests_[i].load(std::memory_order_relaxed);
  stats.read_bytes = read_bytes_.load(std::memory_order_relaxed);
  stats.written_bytes = written_bytes_.load(std::memory_order_relaxed);
  stats.in_flight = in_flight_.load(std::memory_order_relaxed) / kOneInFlight;
  stats.over_uring = over_uring_;
  return stats;
}

void Transport::ServeRequests(DevicePort& port) {
  Buffer buffer;
  do {
    if (buffer.empty()) buffer = buffers_.Take(BufferPool::kLargeBytes);
  } while (ReceiveAndDispatch(port, &buffer));
  MutexLock lock(&mutex_);
  --running_workers_;
  changed_.SignalAll();
}

bool Transport::ReceiveAndDispatch(DevicePort& port, Buffer* buffer) {
  std::byte* const start = buffer->data() - kWritePrefixBytes;
  const ssize_t size = read(port.fd, start, kWritePrefixBytes + BufferPool::kLargeBytes);
  if (size < 0) {
    // ENOENT: the request was interrupted before we got it. ENODEV: unmounted. ECONNABORTED: by force.
    if (errno == EINTR || errno == EAGAIN || errno == ENOENT) return true;
    if (errno != ENODEV && errno != ECONNABORTED && options_.log) {
      options_.log(absl::StrCat("reading requests: ", strerror(errno), "; this thread ends"));
    }
    return false;
  }
  STAGEFS_CHECK(static_cast<size_t>(size) >= sizeof(fuse_in_header));
  const uint32_t opcode = reinterpret_cast<const fuse_in_header*>(start)->opcode;
  Dispatch(port, buffer, absl::MakeSpan(start, static_cast<size_t>(size)));
  // The kernel would wake this thread for each file that it forgets. Over io_uring nothing else comes this way that
  // anybody waits for, so they may gather.
  if (over_uring_ && IsForget(opcode)) std::this_thread::sleep_for(kForgetPause);
  return true;
}

void Transport::Dispatch(RequestPort& port, Buffer* buffer, absl::Span<std::byte> request) {
  const auto* header = reinterpret_cast<const fuse_in_header*>(request.data());
  if (header->opcode < FuseStats::kOpcodes) requests_[header->opcode].fetch_add(1, std::memory_order_relaxed);
  // Inodes have no lookup counts to bring down, and every request ends by itself.
  if (IsForget(header->opcode) || header->opcode == FUSE_INTERRUPT) return;
  const void* const argument = header + 1;
  current() = {&port, buffer, header->opcode == FUSE_INIT ? static_cast<const fuse_init_in*>(argument) : nullptr};
  if (const int error = CheckRequest(request); error != 0) {
    Reply(this, *header).Error(error);
  } else if (!raw_(*header, argument, request.size() - sizeof(*header))) {
    fuse_buf whole = {};
    whole.size = request.size();
    whole.mem = request.data();
    fuse_session_process_buf(session_, &whole);
  }
  current() = {};
}

void Transport::InvalidateAttributes(uint64_t ino) {
  RequestPort* const before = std::exchange(current().port, ports_[0].get());
  fuse_lowlevel_notify_inval_inode(session_, ino, /*off=*/-1, /*len=*/0);  // a negative offset: no pages
  current().port = before;
}

int Transport::ForgetContent(volume::Ino ino, uint64_t offset, uint64_t length) {
  fuse_notify_inval_inode_out out = {};
  out.ino = ino;
  out.off = static_cast<int64_t>(offset);
  out.len = static_cast<int64_t>(length);
  const iovec pieces[] = {{&out, sizeof(out)}};
  return Notify(FUSE_NOTIFY_INVAL_INODE, pieces);
}

int Transport::ForgetName(volume::Ino directory, absl::string_view name) {
  fuse_notify_inval_entry_out out = {};
  out.parent = directory;
  out.namelen = static_cast<uint32_t>(name.size());
  char end = '\0';  // which namelen does not count
  const iovec pieces[] = {{&out, sizeof(out)}, {const_cast<char*>(name.data()), name.size()}, {&end, 1}};
  return Notify(FUSE_NOTIFY_INVAL_ENTRY, pieces);
}

int Transport::Notify(fuse_notify_code code, absl::Span<const iovec> pieces) {
  fuse_out_header header = {};  // no request's: `unique` is 0, and `error` says what this is
  header.error = code;
  header.len = sizeof(header);
  std::array<iovec, 4> message = {{{&header, sizeof(header)}}};
  STAGEFS_CHECK(pieces.size() < message.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    message[i + 1] = pieces[i];
    header.len += static_cast<uint32_t>(pieces[i].iov_len);
  }
  return writev(ports_[0]->fd, message.data(), static_cast<int>(pieces.size() + 1)) >= 0 ? 0 : errno;
}

ssize_t Transport::SendForLibrary(const iovec* pieces, int count) {
  size_t size = 0;
  for (int i = 0; i < count; ++i) size += pieces[i].iov_len;
  if (current().init != nullptr && count == 2) {
    SendInitReply(*current().init, pieces);
  } else {
    current().port->Send(absl::MakeConstSpan(pieces, count));
  }
  return static_cast<ssize_t>(size);  // libfuse would only print the error
}

void Transport::SendInitReply(const fuse_init_in& offered, const iovec* pieces) {
  STAGEFS_CHECK(pieces[1].iov_len == sizeof(fuse_init_out));
  fuse_init_out reply;
  memcpy(&reply, pieces[1].iov_base, sizeof(reply));
  reply.flags |= offered.flags & kHandleKillprivV2;
  if (reply.flags & FUSE_MAX_PAGES) reply.max_pages = kMaxPages;
  if ((offered.flags & kInitExtended) && options_.cache == CacheMode::kNone) {
    reply.flags |= kInitExtended;
    reply.flags2 |= offered.flags2 & kDirectIoAllowMmap2;
  }
  if (uring_ != nullptr && (offered.flags & kInitExtended) && (offered.flags2 & kInitOverUring)) {
    reply.flags |= kInitExtended;
    reply.flags2 |= kInitOverUring;
    over_uring_ = true;
  }
  const iovec message[] = {pieces[0], {&reply, sizeof(reply)}};
  current().port->Send(message);
  MutexLock lock(&mutex_);
  initialized_ = true;
  changed_.SignalAll();
}

}  // namespace stagefs::fuse

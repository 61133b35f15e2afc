#include "fs/fuse/mount.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::fuse {
namespace {

// Runs while libfuse answers INIT.
void Init(void* transport, fuse_conn_info* connection) {
  const MountOptions& options = static_cast<Serving*>(static_cast<Transport*>(transport)->user())->options;
  unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_READDIRPLUS |
                    FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
                    FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_EXPLICIT_INVAL_DATA;
  if (options.cache == CacheMode::kWriteBack) wanted |= FUSE_CAP_WRITEBACK_CACHE;
  connection->want = wanted & connection->capable;
  connection->max_write = kMaxRequestBytes;
  connection->max_readahead = UINT32_MAX;
  connection->max_background = options.max_background;
  connection->congestion_threshold = options.max_background * 3 / 4;
  connection->time_gran = 1;
}

fuse_lowlevel_ops Operations() {
  fuse_lowlevel_ops operations = {};
  operations.init = Init;
  AddNameHandlers(&operations);
  AddAttributeHandlers(&operations);
  AddContentHandlers(&operations);
  return operations;
}

}  // namespace

FuseServer::FuseServer(volume::Volume& volume, const MountOptions& options, volume::Sharing* sharing)
    : options_(options), serving_(volume, options_, sharing) {}

absl::StatusOr<std::unique_ptr<FuseServer>> FuseServer::Mount(volume::Volume& volume, const std::string& source_name,
                                                              const std::string& directory,
                                                              const MountOptions& options,
                                                              volume::Sharing* sharing) {
  if (options.transport == TransportChoice::kDevice) {
    return MountOver(/*over_uring=*/false, volume, source_name, directory, options, sharing);
  }
  absl::Status uring = EnableUring(options);  // before the mount: the kernel's first request says what it offers
  if (uring.ok()) {
    auto server = MountOver(/*over_uring=*/true, volume, source_name, directory, options, sharing);
    if (!absl::IsUnavailable(server.status())) return server;
    uring = server.status();
  }
  const std::string reason = absl::StrCat("FUSE over io_uring cannot be used: ", uring.message());
  if (options.transport == TransportChoice::kUring) return absl::FailedPreconditionError(reason);
  if (options.log) options.log(absl::StrCat(reason, ". Requests come by /dev/fuse"));
  return MountOver(/*over_uring=*/false, volume, source_name, directory, options, sharing);
}

absl::StatusOr<std::unique_ptr<FuseServer>> FuseServer::MountOver(bool over_uring, volume::Volume& volume,
                                                                  const std::string& source_name,
                                                                  const std::string& directory,
                                                                  const MountOptions& options,
                                                                  volume::Sharing* sharing) {
  std::unique_ptr<FuseServer> server(new FuseServer(volume, options, sharing));
  FuseServer* const self = server.get();
  const auto raw = [self](const fuse_in_header& header, const void* argument, size_t size) {
    return HandleRaw(*self->transport_, self->serving_, header, argument, size);
  };
  ASSIGN_OR_RETURN(server->mount_, MountKernel(source_name, directory, options));
  server->transport_ = std::make_unique<Transport>(self->mount_.device_fd, Operations(), &self->serving_, raw,
                                                   self->options_);
  if (sharing != nullptr) {
    // Before the first request can come: a direct writer who begins now must find whom to tell.
    server->kernel_cache_ = std::make_unique<KernelCache>(*sharing, *server->transport_);
    server->transport_->set_kernel_cache(server->kernel_cache_.get());
    sharing->SetKernelCache(server->kernel_cache_.get());
  }
  if (over_uring) RETURN_IF_ERROR(server->transport_->PrepareUring());
  RETURN_IF_ERROR(server->transport_->Start());
  TuneHost(server->mount_, server->options_);
  if (options.cache == CacheMode::kWriteBack) {
    server->Log("cache=writeback: the order of writes between fsyncs is the kernel's, not the programs'");
    if (sharing != nullptr) {
      server->Log("cache=writeback: the kernel keeps the sizes of files, and hears nothing of those that direct access "
                  "makes longer");
    }
  }
  return server;
}

FuseServer::~FuseServer() {
  if (transport_ == nullptr) return;
  RequestStop();
  transport_->WaitUntilUnmounted();
  if (kernel_cache_ == nullptr) return;
  serving_.sharing->SetKernelCache(nullptr);
  kernel_cache_.reset();  // what still waits finds no mount, and is done
}

void FuseServer::Log(const std::string& line) const {
  if (options_.log) options_.log(line);
}

void FuseServer::RequestStop() {
  {
    MutexLock lock(&mutex_);
    if (std::exchange(unmounted_, true)) return;
  }
  if (UnmountKernel(mount_.directory, /*detach=*/false).ok()) return;
  Log(absl::StrCat(mount_.directory, " is busy: taken out of sight, serving until its last user has closed"));
  const absl::Status status = UnmountKernel(mount_.directory, /*detach=*/true);
  if (!status.ok()) Log(std::string(status.message()));
}

void FuseServer::Run() {
  const int stop_fd = eventfd(0, EFD_CLOEXEC);
  STAGEFS_CHECK(stop_fd >= 0);
  std::thread signals([this, stop_fd] { TakeSignals(stop_fd); });
  transport_->WaitUntilUnmounted();
  {
    MutexLock lock(&mutex_);
    // An abort (umount -f, /sys/fs/fuse/connections) ends the connection and leaves the mount.
    if (!std::exchange(unmounted_, true) && IsDeadMount(mount_.directory)) {
      const absl::Status status = UnmountKernel(mount_.directory, /*detach=*/true);
      if (!status.ok()) Log(std::string(status.message()));
    }
  }
  const uint64_t one = 1;
  STAGEFS_CHECK(write(stop_fd, &one, sizeof(one)) == sizeof(one));
  signals.join();
  close(stop_fd);
}

void FuseServer::TakeSignals(int stop_fd) {
  sigset_t signals, blocked;
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (sigismember(&blocked, signal)) sigaddset(&signals, signal);
  }
  const int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
  STAGEFS_CHECK(signal_fd >= 0);
  pollfd waiting[] = {{signal_fd, POLLIN, 0}, {stop_fd, POLLIN, 0}};
  std::thread stopper;
  while (true) {
    if (poll(waiting, 2, -1) < 0) continue;
    if (waiting[1].revents != 0) break;
    signalfd_siginfo info;
    if (read(signal_fd, &info, sizeof(info)) != sizeof(info)) continue;
    if (stopper.joinable()) {
      Log("second signal: ending at once");
      _exit(128 + static_cast<int>(info.ssi_signo));
    }
    Log(absl::StrCat("signal ", info.ssi_signo, ": unmounting ", mount_.directory));
    stopper = std::thread([this] { RequestStop(); });  // unmounting writes back first, which may take a while
  }
  if (stopper.joinable()) stopper.join();
  close(signal_fd);
}

}  // namespace stagefs::fuse

// FuseServer: a volume, mounted as a directory.
//
//   PrepareServerProcess(log);                    // fs/fuse/kernel_mount.h, before any thread is started
//   ... open store, engine and volume ...
//   ASSIGN_OR_RETURN(server, FuseServer::Mount(*volume, "/srv/image", "/mnt", options));
//   ... tell whoever waits that the mount is usable ...
//   server->Run();                                // until it is unmounted
//   server.reset(); volume->Close(); engine->Close();
//
// The process must not look at paths on its own mount, nor sync(2): it would wait for itself.

#ifndef STAGEFS_FS_FUSE_MOUNT_H_
#define STAGEFS_FS_FUSE_MOUNT_H_

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/fuse/kernel_cache.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/options.h"
#include "fs/fuse/serving.h"
#include "fs/fuse/transport.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"
#include "sal/mutex.h"

namespace stagefs::fuse {

// Thread-safe.
class FuseServer {
 public:
  // Mounts `volume` on `directory` and serves it. On return the mount is usable: the kernel has the answer to INIT and
  // the host's settings (read-ahead) are made. If `source_name` is the path of a block device the type is fuseblk.
  // With `sharing`, it is one door of several: openers are counted there, changes told, and the kernel remembers
  // nothing that a direct writer may change (docs/fuse.md). `volume` and `sharing` must outlive the server. Errors: as
  // MountKernel(), and Internal.
  static absl::StatusOr<std::unique_ptr<FuseServer>> Mount(volume::Volume& volume, const std::string& source_name,
                                                           const std::string& directory, const MountOptions& options,
                                                           volume::Sharing* sharing = nullptr);
  // Unmounts if nobody has, and waits.
  ~FuseServer();

  // Blocks until the mount is gone, by umount(8), fusermount3, RequestStop() or an abort, and every request has been
  // answered. SIGINT, SIGTERM and SIGHUP, if PrepareServerProcess() has blocked them, stop the server as RequestStop()
  // does; a second one ends the process at once, as kill -9 would. What was accepted is then in the volume, but not
  // necessarily durable: the caller closes volume and engine. One call.
  void Run();

  // Unmounts. If the mount is busy it is taken out of sight, and Run() returns when the last user has closed. Any
  // thread but not a signal handler; returns before Run() does.
  void RequestStop();

  const std::string& directory() const { return mount_.directory; }
  // Whether sync(2) reaches the volume and umount(8) waits for it.
  bool is_fuseblk() const { return mount_.is_fuseblk; }
  FuseStats stats() const { return transport_->stats(); }

 private:
  FuseServer(volume::Volume& volume, const MountOptions& options, volume::Sharing* sharing);
  // Mount(), and `over_uring` says how. Unavailable: it turned out too late that io_uring cannot be used.
  static absl::StatusOr<std::unique_ptr<FuseServer>> MountOver(bool over_uring, volume::Volume& volume,
                                                               const std::string& source_name,
                                                               const std::string& directory,
                                                               const MountOptions& options,
                                                               volume::Sharing* sharing);
  void Log(const std::string& line) const;
  void TakeSignals(int stop_fd);

  // Constant after Mount().
  const MountOptions options_;
  Serving serving_;
  KernelMount mount_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<KernelCache> kernel_cache_;  // null without Sharing

  Mutex mutex_;
  bool unmounted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_MOUNT_H_

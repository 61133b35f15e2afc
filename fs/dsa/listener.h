// Listener: where clients come in, and who they are: a Unix socket, or an address of TCP.

#ifndef STAGEFS_FS_DSA_LISTENER_H_
#define STAGEFS_FS_DSA_LISTENER_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fs/dsa/session.h"
#include "sal/owned_fd.h"

namespace stagefs::dsa {

struct Arrival {
  OwnedFd socket;  // does not block
  Peer peer;
};

// Its end removes the Unix socket's file, if that is still this one's. Not thread-safe.
class Listener {
 public:
  // A Unix socket at `path`, for everybody (mode 0666). One that a dead server has left is replaced. Errors:
  // AlreadyExists (a server listens there; or something else is there), InvalidArgument, Internal.
  static absl::StatusOr<Listener> ListenUnix(const std::string& path);
  // `address`: HOST:PORT, [IPV6]:PORT, or :PORT for all addresses of this machine; port 0 for any. One listener for each
  // address that HOST stands for. Errors: InvalidArgument, Internal.
  static absl::StatusOr<std::vector<Listener>> ListenTcp(absl::string_view address);

  Listener(Listener&&) noexcept = default;
  Listener& operator=(Listener&&) = delete;

  int fd() const { return socket_.get(); }
  bool local() const { return file_ != nullptr; }
  // What clients connect to.
  const std::string& address() const { return address_; }
  // The next client. Errors: Unavailable (there is none now, or it has gone already), ResourceExhausted (no descriptors).
  absl::StatusOr<Arrival> Accept();

 private:
  // The Unix socket's file, removed with it.
  class SocketFile {
   public:
    explicit SocketFile(const std::string& path);
    ~SocketFile();

   private:
    const std::string path_;
    dev_t device_ = 0;
    ino_t inode_ = 0;
  };

  Listener(OwnedFd socket, std::string address) : socket_(std::move(socket)), address_(std::move(address)) {}

  OwnedFd socket_;
  std::string address_;
  std::unique_ptr<SocketFile> file_;  // null: TCP
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_LISTENER_H_

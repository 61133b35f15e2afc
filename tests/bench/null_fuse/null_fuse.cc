// null_fuse: a FUSE server that keeps files in memory and does nothing else: the yardstick for what a mount can reach.
// It has stagefs's own front end and transports over a volume of maps, so the difference is the volume's and the
// engine's.
//
//   null_fuse [-o OPTIONS] DIRECTORY          until it is unmounted or gets a signal; nothing is left
//   null_fuse [-o OPTIONS] IMAGE DIRECTORY    returns when it is mounted
//
// In the second form the files live as long as the file IMAGE does, whose content is of no interest: after unmounting,
// the same command mounts them again, to a kernel that has forgotten them. A process in the background keeps them, and
// ends when IMAGE has been removed and nothing is mounted.

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/mount.h"
#include "fs/fuse/options.h"
#include "fs/fuse/testing/memory_volume.h"

namespace stagefs::fuse {
namespace {

constexpr size_t kMaxMessageBytes = 64 << 10;

void Log(absl::string_view line) { fprintf(stderr, "null_fuse: %.*s\n", static_cast<int>(line.size()), line.data()); }

absl::StatusOr<std::unique_ptr<FuseServer>> Mount(testing::MemoryVolume& volume, const std::string& option_text,
                                                  const std::string& directory) {
  absl::StatusOr<MountOptions> options = ParseMountOptions(option_text);
  if (!options.ok()) return options.status();
  options->log = Log;
  options->statistics = FuseStatsJson;
  return FuseServer::Mount(volume, "null_fuse", directory, *options);
}

int ServeHere(const std::string& options, const std::string& directory) {
  PrepareServerProcess(Log);
  testing::MemoryVolume volume;
  auto server = Mount(volume, options, directory);
  if (!server.ok()) {
    Log(server.status().message());
    return 1;
  }
  Log("mounted");
  (*server)->Run();
  return 0;
}

// --- The second form: the keeper of the files, and how it is spoken to ---

// A name that no other file's keeper has.
sockaddr_un AddressFor(const struct stat& image, socklen_t* length) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string name = absl::StrCat("null_fuse/", image.st_dev, ":", image.st_ino);
  memcpy(address.sun_path + 1, name.data(), name.size());  // behind a zero byte: not in the file system
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

// One message asks for a mount: the options, a zero byte, the directory. One answers: kMounted, or what went wrong.
constexpr char kMounted[] = "mounted";

class Keeper {
 public:
  // `image_fd` is an O_PATH descriptor of the image, which says when the image is gone.
  Keeper(int listening_fd, int image_fd) : listening_fd_(listening_fd), image_fd_(image_fd) {}

  [[noreturn]] void Serve() {
    setsid();
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, standard);
    PrepareServerProcess(Log);
    const int notify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    // Removing it changes its count of links.
    inotify_add_watch(notify_fd, absl::StrCat("/proc/self/fd/", image_fd_).c_str(), IN_ATTRIB);
    while (!ImageIsGone()) {
      pollfd waiting[] = {{listening_fd_, POLLIN, 0}, {notify_fd, POLLIN, 0}};
      if (poll(waiting, 2, -1) < 0) continue;
      char events[4096];
      while (read(notify_fd, events, sizeof(events)) > 0) continue;
      if (waiting[0].revents != 0) ServeOneMount();
    }
    _exit(0);
  }

 private:
  bool ImageIsGone() const {
    struct stat status;
    return fstat(image_fd_, &status) != 0 || status.st_nlink == 0;
  }

  void ServeOneMount() {
    const int fd = accept4(listening_fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    std::string message(kMaxMessageBytes, '\0');
    const ssize_t size = recv(fd, message.data(), message.size(), 0);
    message.resize(size < 0 ? 0 : static_cast<size_t>(size));
    const size_t zero = message.find('\0');
    // Who has lost patience is gone: a mount would only surprise.
    const bool is_gone = recv(fd, message.data(), 1, MSG_PEEK | MSG_DONTWAIT) == 0;
    if (zero == std::string::npos || is_gone) {
      close(fd);
      return;
    }
    const auto server = Mount(volume_, message.substr(0, zero), message.substr(zero + 1));
    const std::string answer(server.ok() ? kMounted : server.status().message());
    send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
    close(fd);
    if (server.ok()) (*server)->Run();
  }

  const int listening_fd_, image_fd_;
  testing::MemoryVolume volume_;
};

int MountByKeeper(const char* image, const std::string& options, const std::string& directory) {
  const int image_fd = open(image, O_PATH | O_CLOEXEC);
  struct stat status;
  if (image_fd < 0 || fstat(image_fd, &status) != 0) {
    Log(absl::StrCat(image, ": ", strerror(errno)));
    return 1;
  }
  socklen_t length = 0;
  const sockaddr_un address = AddressFor(status, &length);
  const auto* const name = reinterpret_cast<const sockaddr*>(&address);
  // Whoever can take the name starts the keeper; it listens before the keeper runs, so nobody comes too early.
  const int listening_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (bind(listening_fd, name, length) == 0 && listen(listening_fd, 8) == 0 && fork() == 0) {
    std::make_unique<Keeper>(listening_fd, image_fd)->Serve();
  }
  close(listening_fd);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  const std::string message = absl::StrCat(options, absl::string_view("\0", 1), directory);
  if (connect(fd, name, length) != 0 || send(fd, message.data(), message.size(), MSG_NOSIGNAL) < 0) {
    Log(absl::StrCat("asking the keeper of ", image, ": ", strerror(errno)));
    return 1;
  }
  // The keeper hears nothing while its files are mounted; and if they just were, it may still be ending that.
  const timeval patience = {10, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  std::string answer(kMaxMessageBytes, '\0');
  const ssize_t size = recv(fd, answer.data(), answer.size(), 0);
  answer.resize(size < 0 ? 0 : static_cast<size_t>(size));
  if (answer == kMounted) return 0;
  Log(answer.empty() ? absl::StrCat(image, " is mounted already, or its keeper has died") : answer);
  return 1;
}

int Main(int argc, char** argv) {
  std::string options;
  int next = 1;
  if (argc > 2 && strcmp(argv[1], "-o") == 0) {
    options = argv[2];
    next = 3;
  }
  if (argc - next < 1 || argc - next > 2) {
    fprintf(stderr, "usage: null_fuse [-o OPTIONS] [IMAGE] DIRECTORY\n%s", MountOptionsHelp().c_str());
    return 2;
  }
  char directory[PATH_MAX];
  if (realpath(argv[argc - 1], directory) == nullptr) {
    Log(absl::StrCat(argv[argc - 1], ": ", strerror(errno)));
    return 1;
  }
  return argc - next == 1 ? ServeHere(options, directory) : MountByKeeper(argv[next], options, directory);
}

}  // namespace
}  // namespace stagefs::fuse

int main(int argc, char** argv) { return stagefs::fuse::Main(argc, argv); }

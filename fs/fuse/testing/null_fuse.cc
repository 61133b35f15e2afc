// null_fuse: serves a MemoryVolume, so that what the front end and the kernel cost can be measured by itself.
//
//   null_fuse [-o OPTIONS] DIRECTORY      until it is unmounted or gets a signal

#include <stdio.h>
#include <string.h>

#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/mount.h"
#include "fs/fuse/options.h"
#include "fs/fuse/testing/memory_volume.h"

int main(int argc, char** argv) {
  using stagefs::fuse::FuseServer;
  const bool has_options = argc == 4 && strcmp(argv[1], "-o") == 0;
  if (argc != 2 && !has_options) {
    fprintf(stderr, "usage: null_fuse [-o OPTIONS] DIRECTORY\n%s", stagefs::fuse::MountOptionsHelp().c_str());
    return 2;
  }
  const auto log = [](absl::string_view line) {
    fprintf(stderr, "null_fuse: %.*s\n", static_cast<int>(line.size()), line.data());
  };
  absl::StatusOr<stagefs::fuse::MountOptions> options = stagefs::fuse::ParseMountOptions(has_options ? argv[2] : "");
  if (!options.ok()) {
    log(options.status().message());
    return 2;
  }
  options->log = log;
  options->statistics = [](const stagefs::fuse::FuseStats& stats) { return stagefs::fuse::FuseStatsJson(stats); };
  char resolved[4096];
  if (realpath(argv[argc - 1], resolved) == nullptr) {
    perror(argv[argc - 1]);
    return 1;
  }
  stagefs::fuse::PrepareServerProcess(log);
  stagefs::fuse::testing::MemoryVolume volume;
  absl::StatusOr<std::unique_ptr<FuseServer>> server = FuseServer::Mount(volume, "null_fuse", resolved, *options);
  if (!server.ok()) {
    log(server.status().message());
    return 1;
  }
  log("mounted");
  (*server)->Run();
  return 0;
}

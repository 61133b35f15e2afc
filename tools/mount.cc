#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/options.h"
#include "tools/commands.h"
#include "tools/mount_table.h"
#include "tools/server.h"
#include "tools/serving.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

// Exit codes of mount(8), for its helper.
constexpr int kBadUsage = 1;
constexpr int kSystemError = 2;
constexpr int kMountFailed = 32;

struct Settings {
  bool foreground = false;
  bool fake = false;  // mount(8)'s -f: everything but the mount
  bool verbose = false;
  ServeSettings serve;
};

// Said before the store is opened, which may take a while. FuseServer::Mount() looks again.
absl::Status CheckDirectory(const std::string& directory) {
  if (fuse::IsDeadMount(directory)) return absl::OkStatus();  // FuseServer::Mount() takes it away
  struct stat status;
  if (stat(directory.c_str(), &status) != 0) {
    if (errno == ENOENT) {
      return absl::NotFoundError(
          absl::StrCat("mount point ", directory, " does not exist; make it with: mkdir -p ", directory));
    }
    return absl::InvalidArgumentError(absl::StrCat("mount point ", directory, ": ", strerror(errno)));
  }
  if (!S_ISDIR(status.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("mount point ", directory, " is not a directory"));
  }
  if (const auto mount = FindMount(directory); mount.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat("mount point ", directory, " is busy: ", mount->source, " (",
                                                      mount->type, ") is mounted on it already"));
  }
  return absl::OkStatus();
}

absl::Status ServeHere(const Invocation& invocation, ServeOptions options) {
  options.ready = [&invocation, &options] {
    absl::FPrintF(stderr, "%s: %s is mounted on %s; end with stagefs umount, or Ctrl-C\n", invocation.name,
                  options.store, options.directory);
    return false;
  };
  return Serve(options);
}

int Mount(const Invocation& invocation, Settings& settings, const std::vector<std::string>& operands) {
  const auto fail = [&](const absl::Status& status, int helper_code) {
    PrintError(invocation, status);
    return invocation.as_helper ? helper_code : 1;
  };
  const auto mount_options = ParseServeOptions(&settings.serve);
  if (!mount_options.ok()) return fail(mount_options.status(), kBadUsage);
  ServeOptions options;
  options.store = operands[0];
  options.directory = operands[1];
  options.mount = *mount_options;
  options.engine = settings.serve.engine;
  options.direct = settings.serve.direct;
  options.engine.read_only = mount_options->read_only;
  options.report = [&](absl::string_view line) { PrintError(invocation, line); };
  if (const absl::Status status = CheckDirectory(options.directory); !status.ok()) return fail(status, kMountFailed);
  if (settings.fake) return 0;
  if (settings.foreground) {
    const absl::Status status = ServeHere(invocation, options);
    return status.ok() ? 0 : fail(status, kMountFailed);
  }
  const auto code = ServeInBackground(invocation, options);
  if (!code.ok()) return fail(code.status(), kSystemError);
  if (*code != 0) return invocation.as_helper ? kMountFailed : 1;
  if (settings.verbose) absl::PrintF("%s is mounted on %s\n", options.store, options.directory);
  return 0;
}

}  // namespace

int RunMount(const Invocation& invocation) {
  Settings settings;
  bool ignored = false;
  ArgumentParser parser(invocation, {"STORE", "DIR"},
                        "Mounts the volume on STORE at the directory DIR, recovering it first if it was not\n"
                        "unmounted cleanly. Returns when the mount is usable; a server process stays behind.\n"
                        "\nMount options (-o):\n" +
                            ServeOptionsHelp());
  parser.AddFlag('v', "verbose", "say when it is mounted", &settings.verbose);
  if (invocation.as_helper) {  // as mount(8) calls it
    parser.AddFlag('f', "fake", "do everything but the mount", &settings.fake);
    parser.AddFlag('s', "sloppy", "ignore unknown mount options", &settings.serve.sloppy);
    parser.AddFlag('n', "", "", &ignored);
    parser.AddValue('t', "", "TYPE", "", [](absl::string_view) { return absl::OkStatus(); });
    parser.AddValue('N', "", "NAMESPACE", "", [](absl::string_view) { return absl::OkStatus(); });
  } else {
    parser.AddFlag('f', "foreground", "stay in the foreground", &settings.foreground);
  }
  AddServeArguments(parser, &settings.serve);
  const auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  if (!operands.ok()) {
    PrintError(invocation, operands.status());
    return kBadUsage;
  }
  return Mount(invocation, settings, *operands);
}

}  // namespace stagefs::tools

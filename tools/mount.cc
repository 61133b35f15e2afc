#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "fs/fuse/kernel_mount.h"
#include "fs/fuse/options.h"
#include "sal/open_store.h"
#include "sal/status_macros.h"
#include "tools/commands.h"
#include "tools/mount_table.h"
#include "tools/owned_fd.h"
#include "tools/server.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

// Exit codes of mount(8), for its helper.
constexpr int kBadUsage = 1;
constexpr int kSystemError = 2;
constexpr int kMountFailed = 32;

struct Settings {
  bool foreground = false;
  bool fake = false;     // mount(8)'s -f: everything but the mount
  bool sloppy = false;   // mount(8)'s -s: unknown options are no error
  bool verbose = false;
  std::vector<std::string> option_texts;
  core::EngineOptions engine;
};

absl::Status TakeCacheSize(absl::string_view value, Settings* settings) {
  ASSIGN_OR_RETURN(settings->engine.cache_bytes, sal::ParseSize(value));
  if (settings->engine.cache_bytes < 32 << 20) return absl::InvalidArgumentError("must be at least 32M");
  return absl::OkStatus();
}

absl::Status TakeDirtyBlocks(absl::string_view value, Settings* settings) {
  ASSIGN_OR_RETURN(settings->engine.dirty_blocks, ParseCount(value));
  return absl::OkStatus();
}

absl::Status TakeFlushInterval(absl::string_view value, Settings* settings) {
  ASSIGN_OR_RETURN(settings->engine.flush_interval_ns, ParseDurationNs(value));
  return absl::OkStatus();
}

constexpr char kCacheHelp[] = "memory for blocks, checksums and staging (default 256M)";
constexpr char kDirtyHelp[] = "blocks that may wait to be written home; bounds recovery (default: by cache and log)";
constexpr char kFlushHelp[] = "how long a change may stay not durable unasked (default 1s)";

std::vector<fuse::ExtraOption> EngineOptionsByName(Settings* settings) {
  const auto named = [](const char* name, absl::Status (*take)(absl::string_view, Settings*), Settings* target) {
    return [name, take, target](absl::string_view value) {
      const absl::Status status = take(value, target);
      if (status.ok()) return status;
      return absl::InvalidArgumentError(absl::StrCat("mount option ", name, "=", value, ": ", status.message()));
    };
  };
  return {{"cache_size", "SIZE", kCacheHelp, named("cache_size", TakeCacheSize, settings)},
          {"dirty_blocks", "N", kDirtyHelp, named("dirty_blocks", TakeDirtyBlocks, settings)},
          {"flush_interval", "TIME", kFlushHelp, named("flush_interval", TakeFlushInterval, settings)}};
}

absl::StatusOr<fuse::MountOptions> ParseOptions(Settings* settings) {
  const std::vector<fuse::ExtraOption> extra = EngineOptionsByName(settings);
  std::string all;
  for (const std::string& text : settings->option_texts) {
    for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
      if (settings->sloppy) {
        const auto alone = fuse::ParseMountOptions(part, extra);
        if (!alone.ok() && absl::StartsWith(alone.status().message(), "unknown mount option")) continue;
      }
      absl::StrAppend(&all, all.empty() ? "" : ",", part);
    }
  }
  return fuse::ParseMountOptions(all, extra);
}

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

// Gives up the terminal, and tells the waiting parent that the mount is usable.
bool BecomeDaemon(int parent) {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, standard);
  if (null > STDERR_FILENO) close(null);
  const char mounted = 0;
  (void)!write(parent, &mounted, 1);
  return true;
}

absl::Status ServeHere(const Invocation& invocation, ServeOptions options) {
  options.mounted = [&invocation, &options] {
    absl::FPrintF(stderr, "%s: %s is mounted on %s; end with stagefs umount, or Ctrl-C\n", invocation.name,
                  options.store, options.directory);
    return false;
  };
  return Serve(options);
}

// Returns when the mount is usable or has failed. The child prints why; so an error here has no message of its own.
absl::StatusOr<int> ServeInBackground(const Invocation& invocation, ServeOptions options) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::InternalError(absl::StrCat("pipe: ", strerror(errno)));
  const OwnedFd reader(ends[0]);
  OwnedFd writer(ends[1]);
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) return absl::InternalError(absl::StrCat("fork: ", strerror(errno)));
  if (pid == 0) {
    setsid();  // first: what the server makes of it (fs/fuse/scheduling.h) must hold for all its threads
    options.mounted = [&] { return BecomeDaemon(writer.get()); };
    const absl::Status status = Serve(options);
    if (!status.ok()) PrintError(invocation, status);
    std::fflush(nullptr);
    _exit(status.ok() ? 0 : 1);
  }
  writer = OwnedFd();
  char byte = 0;
  ssize_t count;
  while ((count = read(reader.get(), &byte, 1)) < 0 && errno == EINTR) {
  }
  if (count == 1) return 0;
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    return absl::InternalError(absl::StrCat("the server died before it was ready: ", strsignal(WTERMSIG(status))));
  }
  return 1;
}

int Mount(const Invocation& invocation, Settings& settings, const std::vector<std::string>& operands) {
  const auto fail = [&](const absl::Status& status, int helper_code) {
    PrintError(invocation, status);
    return invocation.as_helper ? helper_code : 1;
  };
  const auto mount_options = ParseOptions(&settings);
  if (!mount_options.ok()) return fail(mount_options.status(), kBadUsage);
  ServeOptions options;
  options.store = operands[0];
  options.directory = operands[1];
  options.mount = *mount_options;
  options.engine = settings.engine;
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
                        std::string(absl::StripSuffix(fuse::MountOptionsHelp(EngineOptionsByName(&settings)), "\n")));
  parser.AddValue('o', "", "OPTIONS", "mount options, separated by commas", [&](absl::string_view value) {
    settings.option_texts.emplace_back(value);
    return absl::OkStatus();
  });
  parser.AddFlag('v', "verbose", "say when it is mounted", &settings.verbose);
  if (invocation.as_helper) {  // as mount(8) calls it
    parser.AddFlag('f', "fake", "do everything but the mount", &settings.fake);
    parser.AddFlag('s', "sloppy", "ignore unknown mount options", &settings.sloppy);
    parser.AddFlag('n', "", "", &ignored);
    parser.AddValue('t', "", "TYPE", "", [](absl::string_view) { return absl::OkStatus(); });
    parser.AddValue('N', "", "NAMESPACE", "", [](absl::string_view) { return absl::OkStatus(); });
  } else {
    parser.AddFlag('f', "foreground", "stay in the foreground", &settings.foreground);
  }
  parser.AddValue(0, "cache-size", "SIZE", kCacheHelp,
                  [&](absl::string_view value) { return TakeCacheSize(value, &settings); });
  parser.AddValue(0, "dirty-blocks", "N", kDirtyHelp,
                  [&](absl::string_view value) { return TakeDirtyBlocks(value, &settings); });
  parser.AddValue(0, "flush-interval", "TIME", kFlushHelp,
                  [&](absl::string_view value) { return TakeFlushInterval(value, &settings); });
  const auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  if (!operands.ok()) {
    PrintError(invocation, operands.status());
    return kBadUsage;
  }
  return Mount(invocation, settings, *operands);
}

}  // namespace stagefs::tools

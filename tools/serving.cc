#include "tools/serving.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "sal/open_store.h"
#include "sal/owned_fd.h"
#include "sal/status_macros.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

absl::Status TakeCacheSize(absl::string_view value, ServeSettings* settings) {
  ASSIGN_OR_RETURN(settings->engine.cache_bytes, sal::ParseSize(value));
  if (settings->engine.cache_bytes < 32 << 20) return absl::InvalidArgumentError("must be at least 32M");
  return absl::OkStatus();
}

absl::Status TakeDirtyBlocks(absl::string_view value, ServeSettings* settings) {
  ASSIGN_OR_RETURN(settings->engine.dirty_blocks, ParseCount(value));
  return absl::OkStatus();
}

absl::Status TakeFlushInterval(absl::string_view value, ServeSettings* settings) {
  ASSIGN_OR_RETURN(settings->engine.flush_interval_ns, ParseDurationNs(value));
  return absl::OkStatus();
}

constexpr char kCacheHelp[] = "memory for blocks, checksums and staging (default 256M)";
constexpr char kDirtyHelp[] = "blocks that may wait to be written home; bounds recovery (default: by cache and log)";
constexpr char kFlushHelp[] = "how long a change may stay not durable unasked (default 1s)";

std::vector<fuse::ExtraOption> OptionsByName(ServeSettings* settings) {
  const auto named = [settings](const char* name, absl::Status (*take)(absl::string_view, ServeSettings*)) {
    return [name, take, settings](absl::string_view value) {
      const absl::Status status = take(value, settings);
      if (status.ok()) return status;
      return absl::InvalidArgumentError(absl::StrCat("mount option ", name, "=", value, ": ", status.message()));
    };
  };
  std::vector<fuse::ExtraOption> options = DirectAccessOptions(&settings->direct);
  const std::vector<fuse::ExtraOption> engine = {
      {"cache_size", "SIZE", kCacheHelp, named("cache_size", TakeCacheSize)},
      {"dirty_blocks", "N", kDirtyHelp, named("dirty_blocks", TakeDirtyBlocks)},
      {"flush_interval", "TIME", kFlushHelp, named("flush_interval", TakeFlushInterval)}};
  options.insert(options.end(), engine.begin(), engine.end());
  return options;
}

// Gives up the terminal, and tells the waiting parent that the volume can be used.
bool BecomeDaemon(int parent) {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, standard);
  if (null > STDERR_FILENO) close(null);
  const char ready = 0;
  (void)!write(parent, &ready, 1);
  return true;
}

}  // namespace

void AddServeArguments(ArgumentParser& parser, ServeSettings* settings) {
  parser.AddValue('o', "", "OPTIONS", "mount options, separated by commas", [settings](absl::string_view value) {
    settings->option_texts.emplace_back(value);
    return absl::OkStatus();
  });
  parser.AddValue(0, "cache-size", "SIZE", kCacheHelp,
                  [settings](absl::string_view value) { return TakeCacheSize(value, settings); });
  parser.AddValue(0, "dirty-blocks", "N", kDirtyHelp,
                  [settings](absl::string_view value) { return TakeDirtyBlocks(value, settings); });
  parser.AddValue(0, "flush-interval", "TIME", kFlushHelp,
                  [settings](absl::string_view value) { return TakeFlushInterval(value, settings); });
}

std::string ServeOptionsHelp() {
  ServeSettings unused;
  return std::string(absl::StripSuffix(fuse::MountOptionsHelp(OptionsByName(&unused)), "\n"));
}

absl::StatusOr<fuse::MountOptions> ParseServeOptions(ServeSettings* settings) {
  const std::vector<fuse::ExtraOption> extra = OptionsByName(settings);
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
  ASSIGN_OR_RETURN(fuse::MountOptions options, fuse::ParseMountOptions(all, extra));
  RETURN_IF_ERROR(CheckDirectAccess(settings->direct));
  return options;
}

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
    options.ready = [&] { return BecomeDaemon(writer.get()); };
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

}  // namespace stagefs::tools

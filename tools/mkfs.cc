#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "core/engine.h"
#include "fs/volume/volume.h"
#include "sal/open_store.h"
#include "sal/owned_fd.h"
#include "sal/real_environment.h"
#include "sal/status_macros.h"
#include "tools/commands.h"
#include "tools/signatures.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

struct MkfsOptions {
  uint64_t size_bytes = 0;
  uint64_t log_bytes = 0;
  std::string label;
  bool force = false;
  bool quiet = false;
};

// The path that `url` names, or empty if it names something else.
std::string PathOf(absl::string_view url) {
  absl::ConsumePrefix(&url, "file:");
  struct stat status;
  const std::string path(url);
  return stat(path.c_str(), &status) == 0 ? path : "";
}

absl::Status CheckSignature(const std::string& path) {
  const OwnedFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status;
  if (file.get() < 0 || fstat(file.get(), &status) != 0 || S_ISDIR(status.st_mode)) {
    return absl::OkStatus();  // OpenStore() says what is wrong
  }
  std::vector<std::byte> start(kSignatureBytes);
  size_t count = 0;
  while (count < start.size()) {
    const ssize_t got = pread(file.get(), start.data() + count, start.size() - count, count);
    if (got < 0) return absl::InternalError(absl::StrCat(path, ": reading what is there now: ", strerror(errno)));
    if (got == 0) break;
    count += got;
  }
  const std::string found = FindSignature(absl::MakeConstSpan(start).first(count));
  if (found.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(path, " contains ", found, "; to overwrite it, add --force"));
}

// Whether something is there that mkfs must not overwrite unasked. An image about to be created has nothing.
absl::Status CheckNothingLost(const std::string& url, sal::Environment& environment) {
  const std::string path = PathOf(url);
  if (path.empty()) return absl::OkStatus();
  sal::OpenStoreOptions options;
  options.read_only = true;
  options.no_lock = true;
  const auto store = sal::OpenStore(url, options);
  if (store.ok()) {
    const auto info = core::Engine::Inspect(**store, environment);
    if (info.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat(url, " contains a stagefs volume (", SizeText(info->size_bytes),
                       info->label.empty() ? "" : absl::StrCat(", label ", info->label), ", made ",
                       TimeText(info->created_ns), "); to overwrite it and lose what is in it, add --force"));
    }
    // Only InvalidArgument says that this is no volume: others are damaged, cut short, or newer than this program.
    if (!absl::IsInvalidArgument(info.status())) {
      return absl::FailedPreconditionError(absl::StrCat(
          info.status().message(), "; to overwrite what may be somebody's stagefs volume, add --force"));
    }
  }
  return CheckSignature(path);
}

absl::Status Format(const std::string& url, const MkfsOptions& options, bool created) {
  // Declared first: the store must be gone before the environment that runs its callbacks.
  sal::RealEnvironment environment;
  if (!options.force) RETURN_IF_ERROR(CheckNothingLost(url, environment));
  sal::OpenStoreOptions store_options;
  store_options.create_bytes = options.size_bytes;
  store_options.lock_wait_ms = 1000;
  ASSIGN_OR_RETURN(const std::unique_ptr<sal::BlockStore> store, sal::OpenStore(url, store_options));
  if (options.size_bytes > store->geometry().size_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(url, " has only ", SizeText(store->geometry().size_bytes), ", not ",
                                                   SizeText(options.size_bytes)));
  }
  ProgressBar progress("making the volume");
  core::FormatOptions format;
  format.size_bytes = options.size_bytes;
  format.log_bytes = options.log_bytes;
  format.label = options.label;
  format.progress = [&](double done) { progress.Update(done); };
  RETURN_IF_ERROR(core::Engine::Format(*store, environment, format));

  core::EngineOptions engine_options;
  engine_options.cache_bytes = 32 << 20;
  core::RecoveryReport report;
  ASSIGN_OR_RETURN(const std::unique_ptr<core::Engine> engine,
                   core::Engine::Open(*store, environment, engine_options, &report));
  volume::VolumeFormatOptions volume_options;
  volume_options.root_uid = getuid();
  volume_options.root_gid = getgid();
  const absl::Status formatted = volume::Volume::Format(*engine, volume_options);
  const absl::Status closed = engine->Close();
  RETURN_IF_ERROR(formatted);
  RETURN_IF_ERROR(closed);
  if (!options.quiet) {
    const core::VolumeInfo& info = engine->info();
    absl::PrintF("%s%s: a stagefs volume of %s (log %s), uuid %s%s\n", created ? "created " : "", url,
                 SizeText(info.size_bytes), SizeText(info.log_bytes), UuidText(info.uuid),
                 info.label.empty() ? "" : absl::StrCat(", label ", info.label));
  }
  return absl::OkStatus();
}

}  // namespace

int RunMkfs(const Invocation& invocation) {
  MkfsOptions options;
  bool ignored = false;
  ArgumentParser parser(invocation, {"STORE"},
                        "Makes an empty stagefs volume on STORE, an image file or a block device. Refuses to\n"
                        "overwrite a volume or another file system unless told to. Sizes: 64M, 16G, 8T.");
  parser.AddSize('s', "size", "how large; an image file that is not there is created (sparse),\n"
                 "a smaller one extended (default: all of STORE)", &options.size_bytes);
  parser.AddSize(0, "log-size", "size of the log ring (default: a 64th of the size, 8M to 256M)", &options.log_bytes);
  parser.AddText('L', "label", "TEXT", "a name for the volume, at most 63 bytes", &options.label);
  parser.AddFlag('f', "force", "overwrite what is there", &options.force);
  parser.AddFlag('q', "quiet", "print nothing on success", &options.quiet);
  parser.AddFlag('v', "verbose", "", &ignored);  // mkfs(8) hands on its -V as -v
  parser.AddFlag('V', "", "", &ignored);
  const auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  if (!operands.ok()) {
    PrintError(invocation, operands.status());
    return 1;
  }
  const std::string& url = operands->front();
  const std::string file(absl::StripPrefix(url, "file:"));
  struct stat status;
  const bool created = options.size_bytes != 0 && stat(file.c_str(), &status) != 0 && errno == ENOENT;
  const absl::Status result = Format(url, options, created);
  if (result.ok()) return 0;
  if (created) unlink(file.c_str());
  PrintError(invocation, result);
  return 1;
}

}  // namespace stagefs::tools

// The process that serves a volume, at a mount, by direct access, or both: from the store up, and down again in the same
// order.

#ifndef STAGEFS_TOOLS_SERVER_H_
#define STAGEFS_TOOLS_SERVER_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/engine.h"
#include "fs/fuse/options.h"
#include "tools/direct_access.h"

namespace stagefs::tools {

struct ServeOptions {
  std::string store;      // path or URL; relative paths are relative to the current directory
  std::string directory;  // the mount point; empty: direct access alone
  fuse::MountOptions mount;
  core::EngineOptions engine;
  DirectAccess direct;
  // One line for whoever mounts: what recovery did, warnings, settings; later, if no daemon, events. On any thread.
  std::function<void(absl::string_view)> report;
  // Called once, when the volume can be used. From then on events go to syslog if this returns true: the process has
  // become a daemon.
  std::function<bool()> ready;
};

// Mounts, serves until the mount is gone, and puts everything on the store; without a mount, until SIGINT, SIGTERM or
// SIGHUP. It changes the process: its directory, its signals, its memory locks. Errors: those of each step, or what went
// wrong at the end.
absl::Status Serve(const ServeOptions& options);

// `url` with its path made absolute, for a process that is about to change its directory.
std::string AbsoluteStore(absl::string_view url);

// How ServerLink names the server of the store at `path` that has no mount. Empty: it cannot be told from others.
std::string LinkOfStore(const std::string& path);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_SERVER_H_

// What `mount` and `serve` have in common: their options, and a server in the foreground or behind.

#ifndef STAGEFS_TOOLS_SERVING_H_
#define STAGEFS_TOOLS_SERVING_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/engine.h"
#include "fs/fuse/options.h"
#include "tools/arguments.h"
#include "tools/direct_access.h"
#include "tools/server.h"

namespace stagefs::tools {

struct ServeSettings {
  bool sloppy = false;  // mount(8)'s -s: unknown options are no error
  std::vector<std::string> option_texts;
  core::EngineOptions engine;
  DirectAccess direct;
};

// -o, and the options of the engine by their long names. `settings` must outlive the parser.
void AddServeArguments(ArgumentParser& parser, ServeSettings* settings);
// For --help: the options of -o, a line each.
std::string ServeOptionsHelp();
// What -o said; fills `settings` too. Errors: InvalidArgument.
absl::StatusOr<fuse::MountOptions> ParseServeOptions(ServeSettings* settings);

// Serves in a process of its own, without a terminal. Returns when the volume can be used (0) or has failed: then the
// child has printed why, and this is its exit code. Errors: Internal.
absl::StatusOr<int> ServeInBackground(const Invocation& invocation, ServeOptions options);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_SERVING_H_

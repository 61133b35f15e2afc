#include <errno.h>
#include <signal.h>
#include <string.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "sal/status_macros.h"
#include "tools/commands.h"
#include "tools/server.h"
#include "tools/server_link.h"
#include "tools/serving.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

absl::Status ServeHere(const Invocation& invocation, ServeOptions options) {
  options.ready = [&invocation, &options] {
    absl::FPrintF(stderr, "%s: %s is served; end with stagefs serve --stop, or Ctrl-C\n", invocation.name,
                  options.store);
    return false;
  };
  return Serve(options);
}

int Serve(const Invocation& invocation, ServeSettings& settings, const std::string& store, bool foreground) {
  const auto fail = [&](const absl::Status& status) {
    PrintError(invocation, status);
    return 1;
  };
  const auto mount_options = ParseServeOptions(&settings);
  if (!mount_options.ok()) return fail(mount_options.status());
  ServeOptions options;
  options.store = store;
  options.mount = *mount_options;
  options.engine = settings.engine;
  options.engine.read_only = mount_options->read_only;
  options.direct = settings.direct;
  if (!options.direct.wanted()) options.direct.beside_store = true;
  options.report = [&](absl::string_view line) { PrintError(invocation, line); };
  if (foreground) {
    const absl::Status status = ServeHere(invocation, options);
    return status.ok() ? 0 : fail(status);
  }
  const auto code = ServeInBackground(invocation, options);
  return code.ok() ? *code : fail(code.status());
}

// Returns when everything is on the store and the server is gone.
absl::Status Stop(const std::string& store) {
  const std::string url = AbsoluteStore(store);
  const std::string link = LinkOfStore(std::string(absl::StripPrefix(url, "file:")));
  if (link.empty()) return absl::NotFoundError(absl::StrCat("there is no store ", store));
  auto watch = ServerWatch::Connect(link);
  if (absl::IsNotFound(watch.status())) {
    return absl::NotFoundError(absl::StrCat("nothing serves ", store, " (what is mounted ends with stagefs umount)"));
  }
  RETURN_IF_ERROR(watch.status());
  if (kill(watch->pid(), SIGTERM) != 0) {
    return absl::InternalError(absl::StrCat("cannot end process ", watch->pid(), ": ", strerror(errno)));
  }
  return watch->WaitForEnd();
}

}  // namespace

int RunServe(const Invocation& invocation) {
  ServeSettings settings;
  bool foreground = false, stop = false;
  ArgumentParser parser(invocation, {"STORE"},
                        "Serves the volume on STORE by direct access, without a mount, recovering it first if it was\n"
                        "not closed cleanly. Returns when clients can come; a server process stays behind. It ends at\n"
                        "SIGTERM, or with --stop. Without -o dsa=ADDRESS the socket lies beside the store.\n"
                        "\nOptions (-o; those of the mount itself have no effect):\n" +
                            ServeOptionsHelp());
  parser.AddFlag('f', "foreground", "stay in the foreground", &foreground);
  parser.AddFlag(0, "stop", "end the server of STORE; returns when everything is on the store", &stop);
  AddServeArguments(parser, &settings);
  const auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  if (!operands.ok()) {
    PrintError(invocation, operands.status());
    return 1;
  }
  if (!stop) return Serve(invocation, settings, operands->front(), foreground);
  const absl::Status stopped = Stop(operands->front());
  if (stopped.ok()) return 0;
  PrintError(invocation, stopped);
  return 1;
}

}  // namespace stagefs::tools

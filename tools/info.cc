#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/engine.h"
#include "sal/open_store.h"
#include "sal/real_environment.h"
#include "sal/status_macros.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

std::string InfoJson(const std::string& url, const core::VolumeInfo& info, bool in_use) {
  JsonWriter json;
  json.Text("store", url);
  json.Text("uuid", UuidText(info.uuid));
  json.Text("label", info.label);
  json.Text("version", absl::StrCat(info.version_major, ".", info.version_minor));
  json.Text("created", TimeText(info.created_ns));
  json.Number("created_ns", info.created_ns);
  json.Number("size_bytes", info.size_bytes);
  json.Number("capacity_bytes", info.capacity_bytes);
  json.Number("log_start_bytes", info.log_start_bytes);
  json.Number("log_bytes", info.log_bytes);
  json.Number("table_start_bytes", info.table_start_bytes);
  json.Number("table_bytes", info.table_bytes);
  json.Number("home_start_bytes", info.home_start_bytes);
  json.Number("epoch", info.epoch);
  json.Number("checkpoint", info.checkpoint);
  json.Number("next_lsn", info.next_lsn);
  json.Bool("clean", info.clean);
  json.Bool("in_use", in_use);
  json.Text("superblock_0", info.slots[0]);
  json.Text("superblock_1", info.slots[1]);
  return json.Finish();
}

std::string InfoText(const std::string& url, const core::VolumeInfo& info, bool in_use) {
  const auto line = [](absl::string_view name, absl::string_view value) {
    return absl::StrFormat("%-14s%s\n", name, value);
  };
  const auto area = [](uint64_t bytes, uint64_t start) {
    return absl::StrFormat("%s at byte %d", SizeText(bytes), start);
  };
  const char* state = in_use       ? "in use (mounted, or a tool is at work)"
                      : info.clean ? "clean"
                                   : "needs recovery (the next mount does it)";
  return line("store", url) + line("uuid", UuidText(info.uuid)) + line("label", info.label) +
         line("version", absl::StrCat(info.version_major, ".", info.version_minor)) +
         line("created", TimeText(info.created_ns)) + line("size", SizeText(info.size_bytes)) +
         line("for files", SizeText(info.capacity_bytes)) + line("log", area(info.log_bytes, info.log_start_bytes)) +
         line("checksums", area(info.table_bytes, info.table_start_bytes)) +
         line("home blocks", area(info.capacity_bytes, info.home_start_bytes)) + line("state", state) +
         line("epoch", absl::StrFormat("%d, checkpoint %d, next LSN %d", info.epoch, info.checkpoint, info.next_lsn)) +
         line("superblocks", absl::StrCat(info.slots[0], ", ", info.slots[1]));
}

absl::Status Info(const std::string& url, bool json) {
  sal::RealEnvironment environment;
  sal::OpenStoreOptions options;
  options.read_only = true;
  options.lock_wait_ms = 0;
  bool in_use = false;
  auto store = sal::OpenStore(url, options);
  if (absl::IsFailedPrecondition(store.status())) {
    in_use = true;
    options.no_lock = true;
    store = sal::OpenStore(url, options);
  }
  RETURN_IF_ERROR(store.status());
  ASSIGN_OR_RETURN(const core::VolumeInfo info, core::Engine::Inspect(**store, environment));
  std::fputs((json ? InfoJson(url, info, in_use) : InfoText(url, info, in_use)).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

int RunInfo(const Invocation& invocation) {
  bool json = false;
  ArgumentParser parser(invocation, {"STORE"},
                        "Says what volume is on STORE, from its superblocks. Changes nothing, and works on a mounted\n"
                        "volume too, of which it shows the state of the last checkpoint.");
  parser.AddFlag(0, "json", "print JSON", &json);
  const auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  const absl::Status result = operands.ok() ? Info(operands->front(), json) : operands.status();
  if (result.ok()) return 0;
  PrintError(invocation, result);
  return 1;
}

}  // namespace stagefs::tools

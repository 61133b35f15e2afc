#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "fs/fuse/kernel_mount.h"
#include "tools/commands.h"
#include "tools/mount_table.h"
#include "tools/server_link.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

absl::Status Umount(const Invocation& invocation, const std::string& directory, bool lazy) {
  const auto mount = FindMount(directory);
  if (!mount.has_value()) return absl::NotFoundError(absl::StrCat(directory, " is not mounted"));
  if (!IsStagefs(*mount)) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, " is mounted, but its type is ", mount->type, ", not stagefs; use umount(8)"));
  }
  auto watch = ServerWatch::Connect(mount->device);
  const absl::Status unmounted = fuse::UnmountKernel(mount->directory, lazy);
  if (!unmounted.ok()) {
    const std::vector<std::string> users = UsersOf(mount->directory, 5);
    if (users.empty()) return unmounted;
    return absl::FailedPreconditionError(
        absl::StrCat(directory, " is busy, in use by ", absl::StrJoin(users, ", "), "; end those, or use --lazy"));
  }
  if (!watch.ok()) {
    PrintError(invocation, absl::StrCat("unmounted ", directory, "; ", watch.status().message(),
                                        ": whatever was not durable before is lost, the next mount recovers the rest"));
    return absl::OkStatus();
  }
  const absl::Status ended = watch->WaitForEnd();
  if (ended.ok()) return ended;
  return absl::Status(ended.code(), absl::StrCat("unmounted ", directory, ", but ", ended.message()));
}

}  // namespace

int RunUmount(const Invocation& invocation) {
  bool lazy = false;
  ArgumentParser parser(invocation, {"DIR"},
                        "Unmounts the stagefs volume at DIR. Returns when everything is on the store and the server\n"
                        "is gone; the exit code tells whether that went well.");
  parser.AddFlag('l', "lazy", "take DIR out of sight now, and wait until nobody uses it any more", &lazy);
  const auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  const absl::Status result = operands.ok() ? Umount(invocation, operands->front(), lazy) : operands.status();
  if (result.ok()) return 0;
  PrintError(invocation, result);
  return 1;
}

}  // namespace stagefs::tools

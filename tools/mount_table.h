// The kernel's table of mounts, read without touching any mounted file system, but for MountOf(): a dead server must
// not hang its umount.

#ifndef STAGEFS_TOOLS_MOUNT_TABLE_H_
#define STAGEFS_TOOLS_MOUNT_TABLE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace stagefs::tools {

struct MountEntry {
  std::string device;  // "major:minor": st_dev of what is mounted; for FUSE, minor is also the connection's number
  std::string directory;
  std::string type;    // "fuse.stagefs", "fuseblk.stagefs", "ext4"
  std::string source;
};

// The lines of a mountinfo file, oldest first. What cannot be understood is left out.
std::vector<MountEntry> ParseMountInfo(absl::string_view text);

// The topmost mount at `directory`, if one is there. Symbolic links are resolved, but never by asking the file system
// mounted there.
std::optional<MountEntry> FindMount(const std::string& directory);

// The mount on which the directory lies. Asks the file systems on the way to it.
std::optional<MountEntry> MountOf(const std::string& directory);

bool IsStagefs(const MountEntry& entry);

// Who has files open below `directory`, as "name (pid)", at most `limit` of them; only those the caller may look at.
std::vector<std::string> UsersOf(const std::string& directory, size_t limit);

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_MOUNT_TABLE_H_

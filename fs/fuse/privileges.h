// Privileges: setuid, setgid and file capabilities are lost when somebody writes to, truncates or gives away a file.
//
// Whoever does it: unlike on other file systems root's writes count, too, as they do in the volume's own rule.
//
// The kernel leaves that to us (FUSE_HANDLE_KILLPRIV_V2). Otherwise it would ask for the attribute security.capability
// before each write, which doubles the requests. Here most writes cost one look into a table of inodes that are known
// to have nothing to lose.
//
// The kernel trusts the mode it knows, for ever, and exec obeys it; so it is told to look again when bits were taken.
//
// The kernel's inode lock keeps chmod, setxattr and buffered writes to one file apart.
//
// Thread-safe.

#ifndef STAGEFS_FS_FUSE_PRIVILEGES_H_
#define STAGEFS_FS_FUSE_PRIVILEGES_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "fs/fuse/transport.h"
#include "fs/volume/volume.h"

namespace stagefs::fuse {

inline constexpr char kCapabilityXattr[] = "security.capability";

// `mode` without setuid, and without setgid if the group may execute (without that it means something else). Only
// regular files lose anything.
uint32_t ModeWithoutPrivileges(uint32_t mode);

class Privileges {
 public:
  explicit Privileges(volume::Volume& volume) : volume_(volume) {}

  // Takes capabilities, setuid and setgid from `ino`, each as a change of its own, before `done` runs, which gets the
  // first error.
  void Drop(Transport& transport, volume::Ino ino, volume::StatusCallback done);

  // `ino` is being given a mode with setuid or setgid, or a capability: look again at the next write.
  void Forget(volume::Ino ino) { Slot(ino).store(0, std::memory_order_release); }

 private:
  static constexpr size_t kSlots = 4096;

  std::atomic<volume::Ino>& Slot(volume::Ino ino) { return without_[ino % kSlots]; }
  void DropModeBits(Transport& transport, volume::Ino ino, volume::StatusCallback done);

  volume::Volume& volume_;
  std::array<std::atomic<volume::Ino>, kSlots> without_ = {};  // inodes with nothing to lose, each in its own slot
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_PRIVILEGES_H_

// Access: opening a file by its path for a client, with the permissions that open(2) on a mount would check.
//
// A path is walked from the volume's root: search permission on each directory, symbolic links followed (40 at most).
// Nothing leads out of the volume: an absolute symbolic link, or ".." in the root, is EXDEV.
//
// Invariant: a file that was opened here has been counted by the volume and by the sharing, and has been taken back from
// both when the last reference to its OpenFile is gone, also if nobody takes the result.

#ifndef STAGEFS_FS_DSA_ACCESS_H_
#define STAGEFS_FS_DSA_ACCESS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "fs/dsa/data_path.h"
#include "fs/volume/sharing.h"
#include "fs/volume/volume.h"

namespace stagefs::dsa {

// Who a client is, as far as files are concerned.
struct Identity {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;  // supplementary
  bool read_only = false;        // may change nothing, whatever its permissions

  bool InGroup(uint32_t group) const;
};

// As in the mode of a file.
inline constexpr uint32_t kMaySearch = 1, kMayChange = 2, kMayLook = 4;

// Whether `identity` has all permissions of `wanted`, by the mode bits. User 0 has.
bool MayAccess(const Identity& identity, const volume::Attributes& attributes, uint32_t wanted);

struct OpenPathRequest {
  Identity identity;
  std::string path;
  uint32_t flags = 0;  // of open(2), and kShared: fs/dsa/protocol.h
  uint32_t mode = 0;   // of a file made by O_CREAT; no umask
  bool read_only = false;  // the volume is
};

struct OpenedFile {
  std::shared_ptr<OpenFile> file;
  volume::Attributes attributes;
};

// Runs a task, one at a time and never inside the call.
using Executor = std::function<void(absl::AnyInvocable<void() &&>)>;

// Opens, and makes if O_CREAT says so, a regular file. Everything between the volume's answers, and `done`, runs on
// `executor`. `volume`, `sharing` and what the executor needs must live until `done`.
//
// Errors carry an errno, as open(2) gives it, and EBUSY (somebody else writes: Sharing::Open), EXDEV (see above), EINVAL
// (a flag that means nothing here; O_TRUNC without writing; not a regular file), EISDIR (a directory, however opened).
void OpenPath(volume::Volume& volume, volume::Sharing& sharing, Executor executor, OpenPathRequest request,
              volume::Callback<OpenedFile> done);

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_ACCESS_H_

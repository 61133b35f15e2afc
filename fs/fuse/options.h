// MountOptions: what -o says, and what the caller adds to it. docs/fuse.md explains each option to users.

#ifndef STAGEFS_FS_FUSE_OPTIONS_H_
#define STAGEFS_FS_FUSE_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace stagefs::fuse {

struct FuseStats;

// Who decides when a write(2) becomes a change of the volume.
enum class CacheMode {
  kWriteThrough,  // the kernel caches reads; each write is sent at once, so arrival order is the order of write(2)
  kWriteBack,     // the kernel gathers writes and sends them when it likes: faster, and the order is the kernel's
  kNone,          // nothing is cached; one write(2) of up to 1 MiB is one change, whatever its alignment
};

// How requests come from the kernel.
enum class TransportChoice {
  kAuto,   // over io_uring if it can be had
  kUring,  // over io_uring, or the mount fails
  kDevice  // by /dev/fuse
};

struct MountOptions {
  // --- From -o ---
  TransportChoice transport = TransportChoice::kAuto;
  CacheMode cache = CacheMode::kWriteThrough;
  uint32_t threads = 0;            // on /dev/fuse. 0: as many as there are CPUs, at least 2 and at most 16
  uint32_t max_background = 64;    // how many read-aheads, writebacks and asynchronous requests the kernel keeps going
  // How far the kernel reads ahead, in several requests at once. Set through sysfs, so only for root.
  uint32_t read_ahead_kb = 4096;
  bool read_only = false;
  std::optional<bool> allow_other;          // absent: if the server runs as root
  std::optional<bool> default_permissions;  // absent: yes. The volume checks no permissions itself
  bool fuseblk = true;             // mount as `fuseblk` when the source is a block device
  uint64_t mount_flags = 0;        // MS_NOSUID and the like, for mount(2)

  // --- From the caller ---
  // One line for the operator about a setting or an event. Thread-safe. May be empty.
  std::function<void(absl::string_view)> log;
  // Text (at most 64 KiB) that getxattr(ROOT, kStatisticsXattr) returns. Thread-safe, does not block. May be empty.
  std::function<std::string(const FuseStats&)> statistics;
};

// A hidden attribute of the root directory: the running server's statistics.
inline constexpr char kStatisticsXattr[] = "system.stagefs.stat";

// An option that the caller knows how to take, beyond those above: `-o cache_size=1G`.
struct ExtraOption {
  std::string name;
  std::string value_hint;  // empty: the option takes no value
  std::string help;
  std::function<absl::Status(absl::string_view value)> take;
  bool value_is_optional = false;  // `take` gets an empty value then
};

// Parses "name,name=value,...". What only mount(8) and fstab(5) care about (defaults, noauto, nofail, x-...) is
// ignored. Errors: InvalidArgument, naming the option and listing the known ones.
absl::StatusOr<MountOptions> ParseMountOptions(absl::string_view text, absl::Span<const ExtraOption> extra = {});

// One line per option, for --help: "  cache=MODE    ...".
std::string MountOptionsHelp(absl::Span<const ExtraOption> extra = {});

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_OPTIONS_H_

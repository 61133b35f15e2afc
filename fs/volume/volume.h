// Volume: files, directories and attributes on the engine's byte device.
//
// Every operation is asynchronous: it runs on the calling thread while what it needs is in memory, and its callback
// runs exactly once, on this or another thread, under no lock. Each changing operation is one change (one LSN), ordered
// and visible when its callback runs, durable when Sync() or the flush interval says so. A write of more than
// kMaxWriteBytes is refused: the front end splits.
//
// Names are any bytes but '/' and NUL, 1 to 255 of them ("." and ".." are the front end's, but Lookup() knows them).
// Permissions are the kernel's business (default_permissions) or the front end's; the volume checks types and existence.
//
// Errors carry an errno: fs/volume/errno.h. Format: docs/format-volume.md#the-volume.
//
// Thread-safe.

#ifndef STAGEFS_FS_VOLUME_VOLUME_H_
#define STAGEFS_FS_VOLUME_VOLUME_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "core/engine.h"

namespace stagefs::volume {

// Inode number. Never reused, so it needs no generation. The root is 1.
using Ino = uint64_t;
inline constexpr Ino kRootIno = 1;
inline constexpr uint64_t kMaxNameBytes = 255;
inline constexpr uint64_t kMaxWriteBytes = 1 << 20;
inline constexpr uint64_t kMaxGroupBytes = 16 << 20;
inline constexpr uint64_t kMaxFileBytes = (uint64_t{1} << 63) - 1;
inline constexpr uint64_t kMaxXattrBytes = 64 << 10;

struct Attributes {
  Ino ino = 0;
  uint32_t mode = 0;  // type and permissions, as in struct stat
  uint32_t nlink = 0;
  uint32_t uid = 0, gid = 0;
  uint64_t rdev = 0;
  uint64_t size_bytes = 0;
  uint64_t allocated_bytes = 0;
  int64_t atime_ns = 0, mtime_ns = 0, ctime_ns = 0, btime_ns = 0;  // since 1970
};

// Which attributes to change, and to what.
struct AttributeChange {
  std::optional<uint32_t> mode;  // permission bits only
  std::optional<uint32_t> uid, gid;
  std::optional<uint64_t> size_bytes;
  std::optional<int64_t> atime_ns, mtime_ns, ctime_ns;  // ctime is set to now if absent
};

// Who a new file belongs to. `mode` is final (the umask already applied).
struct NewFile {
  uint32_t mode = 0;
  uint32_t uid = 0, gid = 0;  // gid is the directory's if that has the setgid bit
  uint64_t rdev = 0;
};

struct DirectoryEntry {
  std::string name;
  Ino ino = 0;
  uint32_t type = 0;    // S_IFMT bits
  uint64_t cookie = 0;  // pass it to ReadDirectory() to go on behind this entry
  // Only if asked for. `ino` is 0 if the inode cannot be read (DataLoss): then the name is all there is.
  Attributes attributes;
};

struct StatFs {
  uint64_t total_blocks = 0, free_blocks = 0, available_blocks = 0;  // of core::kBlockBytes
  uint64_t inodes = 0;  // in use
};

// One part of a WriteGroup().
struct ContentChange {
  enum class Kind : uint8_t { kWrite, kWriteStaged, kCompareAndSwap, kFetchAdd };

  Kind kind = Kind::kWrite;
  Ino ino = 0;
  uint64_t offset = 0;
  // kWrite. Must stay as they are until `done`.
  absl::Span<const std::byte> bytes;
  // kWriteStaged: from Engine::TryStage(), filled and sealed; all its blocks are written, without a copy. `offset` is a
  // multiple of core::kBlockBytes.
  std::shared_ptr<const core::StagedData> staged;
  // The others, on the 8 bytes at `offset`, a multiple of 8, as a little-endian number: kCompareAndSwap stores `operand`
  // if they are `expected`; kFetchAdd adds `operand`, modulo 2^64. Bytes beyond the end of the file count as zeros; what
  // is stored there makes it grow. What stores nothing (an unequal `expected`, a kFetchAdd of 0) changes nothing.
  uint64_t expected = 0;
  uint64_t operand = 0;
};

struct GroupResult {
  core::Lsn lsn = 0;  // of the change; if nothing changed, of the latest one
  // For each part the number that was there before, if it is kCompareAndSwap or kFetchAdd; else 0.
  std::vector<uint64_t> previous;
};

template <typename T>
using Callback = absl::AnyInvocable<void(absl::StatusOr<T>) &&>;
using StatusCallback = absl::AnyInvocable<void(absl::Status) &&>;

struct VolumeFormatOptions {
  uint32_t root_uid = 0, root_gid = 0, root_mode = 0755;
};

class Volume {
 public:
  // Makes an empty file system on a freshly formatted engine. Blocks; durable on return.
  static absl::Status Format(core::Engine& engine, const VolumeFormatOptions& options);
  // Opens it, and goes on in the background with what a crash interrupted (removal of orphans). Blocks. `engine` must
  // outlive the volume. On a read-only engine nothing is changed. If the header is lost its copy is used, and the header
  // written anew if that may be; `warnings`, if given, gets a line for the user. Errors: InvalidArgument (no volume
  // here), FailedPrecondition (a version from the future; an interrupted repair that fsck has to finish), DataLoss, or
  // the engine's.
  static absl::StatusOr<std::unique_ptr<Volume>> Open(core::Engine& engine,
                                                      std::vector<std::string>* warnings = nullptr);
  virtual ~Volume() = default;
  // Waits for background work; then no operation may be started. The engine is closed by its owner.
  virtual void Close() = 0;

  // --- Names ---
  virtual void Lookup(Ino directory, absl::string_view name, Callback<Attributes> done) = 0;
  // A file, device, fifo or socket, by the type in `file.mode`. If `open`, it is also opened (see Open()).
  virtual void Create(Ino directory, absl::string_view name, const NewFile& file, bool open,
                      Callback<Attributes> done) = 0;
  virtual void MakeDirectory(Ino directory, absl::string_view name, const NewFile& file, Callback<Attributes> done) = 0;
  virtual void MakeSymlink(Ino directory, absl::string_view name, absl::string_view target, const NewFile& file,
                           Callback<Attributes> done) = 0;
  // A file created without a name (O_TMPFILE), opened; it is gone at Release() unless Link()ed before.
  virtual void CreateUnnamed(const NewFile& file, Callback<Attributes> done) = 0;
  virtual void Link(Ino ino, Ino directory, absl::string_view name, Callback<Attributes> done) = 0;
  virtual void Unlink(Ino directory, absl::string_view name, StatusCallback done) = 0;
  virtual void RemoveDirectory(Ino directory, absl::string_view name, StatusCallback done) = 0;
  // `flags`: 0, RENAME_NOREPLACE or RENAME_EXCHANGE. One change, whatever it replaces.
  virtual void Rename(Ino directory, absl::string_view name, Ino new_directory, absl::string_view new_name,
                      uint32_t flags, StatusCallback done) = 0;
  virtual void ReadSymlink(Ino ino, Callback<std::string> done) = 0;
  // Entries behind `cookie` (0: from the start, with "." and ".."), as many as fit `max_entries` (and a little memory).
  // Empty: the end. Cookies stay valid while names come and go: an entry that is there all along is seen exactly once.
  virtual void ReadDirectory(Ino directory, uint64_t cookie, uint32_t max_entries, bool with_attributes,
                             Callback<std::vector<DirectoryEntry>> done) = 0;

  // --- Inodes ---
  virtual void GetAttributes(Ino ino, Callback<Attributes> done) = 0;
  virtual void SetAttributes(Ino ino, const AttributeChange& change, Callback<Attributes> done) = 0;
  // Counts an opener: an unlinked file lives until its last Release(). `truncate`: O_TRUNC, the same change.
  virtual void Open(Ino ino, bool truncate, Callback<Attributes> done) = 0;
  virtual void Release(Ino ino) = 0;

  // --- Content ---
  // Reads into `destination`, which must live until `done`; fewer bytes than asked for only at the end of the file.
  // Fast when destination, offset and size are aligned to core::kBlockBytes.
  virtual void Read(Ino ino, uint64_t offset, absl::Span<std::byte> destination, Callback<size_t> done) = 0;
  // `bytes` (at most kMaxWriteBytes) must stay as they are until `done`. If `append`, the offset is the file's end.
  // All or nothing, one change.
  virtual void Write(Ino ino, uint64_t offset, absl::Span<const std::byte> bytes, bool append,
                     Callback<size_t> done) = 0;
  // Carries out `parts` one after the other, on any files, as one change: all or nothing. Each part sees the ones before
  // it. Sets each file's times, and takes its set-id bits, once. For few small parts it is cheap; what would be too much
  // to log is put together in whole blocks and written to fresh space. Errors: E2BIG (more than kMaxGroupBytes in all, a
  // number counting as 8, or more blocks changed in part than the cache can merge: about 7400 by default, 700 at least),
  // EINVAL (misaligned, or no regular file), ESTALE (a file that is gone), EFBIG, ENOSPC, ENOMEM (the group needs more
  // staging memory than there is; if it has kWriteStaged parts, which might be what all wait for: than is free).
  virtual void WriteGroup(std::vector<ContentChange> parts, Callback<GroupResult> done) = 0;
  // `mode` as fallocate(2): 0, KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE, ZERO_RANGE with or without KEEP_SIZE. Else EOPNOTSUPP.
  // Large ranges are several changes, in ascending order of offset.
  virtual void Allocate(Ino ino, int mode, uint64_t offset, uint64_t length, StatusCallback done) = 0;
  // SEEK_DATA or SEEK_HOLE. ENXIO beyond the end.
  virtual void Seek(Ino ino, uint64_t offset, int whence, Callback<uint64_t> done) = 0;

  // --- Extended attributes. `flags`: 0, XATTR_CREATE or XATTR_REPLACE. ---
  virtual void SetXattr(Ino ino, absl::string_view name, absl::string_view value, int flags, StatusCallback done) = 0;
  virtual void GetXattr(Ino ino, absl::string_view name, Callback<std::string> done) = 0;
  // The names, each followed by a NUL.
  virtual void ListXattrs(Ino ino, Callback<std::string> done) = 0;
  virtual void RemoveXattr(Ino ino, absl::string_view name, StatusCallback done) = 0;

  // --- The whole ---
  virtual void GetStatFs(Callback<StatFs> done) = 0;
  // `done` when everything accepted before is durable, whichever file it belongs to.
  virtual void Sync(StatusCallback done) = 0;
  virtual core::Engine& engine() = 0;
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_VOLUME_H_

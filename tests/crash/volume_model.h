// FileTree: what a volume must hold, in memory: names, links, types, modes, sizes, content, attributes and the times
// that somebody set. And the operations that change it.

#ifndef STAGEFS_TESTS_CRASH_VOLUME_MODEL_H_
#define STAGEFS_TESTS_CRASH_VOLUME_MODEL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "fs/volume/volume.h"

namespace stagefs::crash {

using volume::Ino;

struct FileNode {
  uint32_t mode = 0;  // with the type
  uint32_t nlink = 1;
  int64_t mtime_ns = 0;  // that somebody has set; 0: the volume chose it
  std::shared_ptr<const std::string> content;  // of a file, or the target of a symlink
  std::map<std::string, Ino> entries;          // of a directory, without "." and ".."
  std::map<std::string, std::string> xattrs;

  uint64_t size() const { return content == nullptr ? 0 : content->size(); }
};

// Every inode that has a name, by number; the root too.
using FileTree = std::map<Ino, FileNode>;

// The first difference, in words; empty if there is none.
std::string Difference(const FileTree& expected, const FileTree& found);
// Equal for equal trees, and for no others that one will meet.
uint64_t Fingerprint(const FileTree& tree);

struct FileOp {
  enum class Kind : uint8_t {
    kCreate, kMakeDirectory, kSymlink,  // `name`; the symlink's target is `other`
    kWrite,                             // `length` bytes at `offset`
    kAppend,                            // `length` bytes
    // Some bytes in each page of [offset, offset + length) of a mapping, but for the second page; then the writes that
    // the kernel makes of it: whole pages up to the file's end, neighbours in one, all in flight together, in ascending
    // order or (`other` is not empty) descending. With kSync behind it: msync.
    kStoreMapped,
    kTruncate,                          // to `offset` bytes
    kRename, kExchange, kLink,          // `name` to `other`
    kUnlink, kOpenUnlink,               // the second opens the file before
    kClose,                             // all files that were opened, for the last time
    kRemoveDirectory,
    kPunch, kZeroRange,                 // `length` bytes at `offset`
    kAllocate,                          // the same, with FALLOC_FL_KEEP_SIZE: nothing changes to the eye
    kGrow,                              // the same without: the file gets at least offset + length bytes
    kChangeMode,                        // to `offset`
    kSetTime,                           // mtime, to `offset`
    kSetXattr, kRemoveXattr,            // `other`, or "user.x"; `length` bytes
    kSync,
    kCheckpoint,
    kLetRun,                            // for `offset` nanoseconds
    // A group on `name` and `other`, which may be the same: `length` bytes at `offset` of both, numbers added to and
    // compared around them. The large one changes so many numbers, `length` bytes apart, that no log would hold them.
    kGroup, kLargeGroup,
  };
  Kind kind;
  std::string name = {};
  std::string other = {};
  uint64_t offset = 0;
  uint64_t length = 0;
  bool wait = true;  // until it is over, before the next one begins
};
std::string ToString(const FileOp& op);

struct FileWorkload {
  std::string name;
  std::vector<FileOp> ops;
};

// What an operation is sent to: names are looked up when it is accepted, files are known by their inode before.
struct Target {
  Ino directory = 0;
  std::string name = {};
  Ino ino = 0;  // what the name led to then; 0: nothing
  Ino other_directory = 0;
  std::string other_name = {};
  Ino other_ino = 0;
};
// "x" in the root, or "d/x". Nothing if there is no such directory.
std::optional<Target> Resolve(const FileTree& tree, absl::string_view path);
// Nothing if `op` makes no sense on `tree`: then it is left out.
std::optional<Target> Bind(const FileTree& tree, const FileOp& op);
// Whether the volume must accept `op` on `tree` (if there is space).
bool Accepts(const FileTree& tree, const FileOp& op, const Target& target);
// What a group does to the files that `target` names. Refers to `bytes`.
std::vector<volume::ContentChange> PartsOf(const FileOp& op, const Target& target, absl::string_view bytes);
bool IsGroup(FileOp::Kind kind);
// Makes the change, which must be acceptable; `created` is the number of the inode that it made, if it made one.
void Apply(const FileOp& op, const Target& target, absl::string_view bytes, Ino created, FileTree* tree);
// Whether the operation is about the content or the attributes of a file, whatever its names.
bool IsAboutInode(FileOp::Kind kind);

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_VOLUME_MODEL_H_

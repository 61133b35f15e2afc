// FileTree: what a volume must hold, in memory: names, links, types, modes, sizes, content and attributes. And the
// operations that change it.

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
  std::shared_ptr<const std::string> content;  // of a file, or the target of a symlink
  std::map<std::string, Ino> entries;          // of a directory, without "." and ".."
  std::map<std::string, std::string> xattrs;

  uint64_t size() const { return content == nullptr ? 0 : content->size(); }
};

// Every inode that has a name, by number; the root too.
using FileTree = std::map<Ino, FileNode>;

// The first difference, in words; empty if there is none.
std::string Difference(const FileTree& expected, const FileTree& found);

struct FileOp {
  enum class Kind : uint8_t {
    kCreate, kMakeDirectory, kSymlink,  // `name`; the symlink's target is `other`
    kWrite,                             // `length` bytes at `offset`
    kAppend,                            // `length` bytes
    kTruncate,                          // to `offset` bytes
    kRename, kExchange, kLink,          // `name` to `other`
    kUnlink, kOpenUnlink,               // the second opens the file before, and never closes it
    kRemoveDirectory,
    kPunch, kZeroRange,                 // `length` bytes at `offset`
    kAllocate,                          // the same, with FALLOC_FL_KEEP_SIZE: nothing changes to the eye
    kChangeMode, kSetXattr,
    kSync,                              // and waits
    kAskSync,                           // does not wait
    kCheckpoint,
    kLetRun,                            // for `offset` nanoseconds
  };
  Kind kind;
  std::string name = {};
  std::string other = {};
  uint64_t offset = 0;
  uint64_t length = 0;
};
std::string ToString(const FileOp& op);

struct FileWorkload {
  std::string name;
  std::vector<FileOp> ops;
};

// A place for a name: "x" in the root, or "d/x".
struct Place {
  Ino directory = 0;
  std::string name;
  Ino ino = 0;  // 0: nothing is there
};
// Nothing if there is no such directory.
std::optional<Place> Resolve(const FileTree& tree, absl::string_view path);
// Whether `op` makes sense on `tree`. What does not is left out.
bool Applies(const FileTree& tree, const FileOp& op);
// Makes the change; `created` is the number of the inode that the operation made, if it made one.
void Apply(const FileOp& op, absl::string_view bytes, Ino created, FileTree* tree);

// One operation, then Sync().
std::vector<FileWorkload> SingleOperations();
// Space that is freed and used again, names that are replaced, holes that are filled.
std::vector<FileWorkload> DirectedFileWorkloads();
FileWorkload RandomFileWorkload(uint64_t seed, uint64_t op_count);

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_VOLUME_MODEL_H_

// FileTree: what a volume must hold and answer, in memory: the rules of fs/volume/volume.h written down a second time,
// as simply as possible.
//
// Operations are applied in the order in which the engine ran them. Each gets the answer that the volume has to give:
// its errno, attributes to the nanosecond, names, bytes. Whether there is space it cannot know; see Result::error.
//
// Copies are cheap: blocks of content are shared.

#ifndef STAGEFS_TESTS_SIMULATOR_FILE_TREE_H_
#define STAGEFS_TESTS_SIMULATOR_FILE_TREE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/types.h"
#include "fs/volume/volume.h"

namespace stagefs::simulator {

using volume::Ino;

// A block of a file's content; null: zeros.
using Piece = std::shared_ptr<const std::array<char, core::kBlockBytes>>;
using Content = std::map<uint64_t, Piece>;

struct FileNode {
  volume::Attributes attributes;       // all but allocated_bytes
  uint32_t openers = 0;
  Ino parent = 0;                      // of a directory
  std::map<std::string, Ino> entries;  // of a directory, without "." and ".."
  Content content;                     // of a file or symlink, by block; zeros may be left out
  std::map<std::string, std::string> xattrs;
};

struct FileOp {
  enum class Kind : uint8_t {
    kLookup, kCreate, kCreateOpen, kMakeDirectory, kMakeSymlink, kCreateUnnamed, kLink, kUnlink, kRemoveDirectory,
    kRename, kReadSymlink, kReadDirectory, kGetAttributes, kSetAttributes, kOpen, kOpenTruncate, kRelease, kRead,
    kWrite, kAppend, kAllocate, kSeek, kSetXattr, kGetXattr, kListXattrs, kRemoveXattr, kStatFs, kSync, kCheckpoint,
  };
  static constexpr int kKinds = 29;

  Kind kind = Kind::kStatFs;
  Ino ino = 0;            // of the file, or the directory in which `name` lies
  std::string name = {};  // of an entry or attribute
  Ino directory = 0;      // for kLink and kRename: where the new name goes
  std::string new_name = {};  // kLink, kRename; the target of a symlink
  uint64_t offset = 0;
  uint64_t length = 0;
  int mode = 0;  // of kAllocate; the flags of kRename and kSetXattr; `whence` of kSeek; permissions of what is made
  uint64_t serial = 0;  // chooses the bytes that are written
  volume::AttributeChange change = {};
};
std::string ToString(const FileOp& op);

// The bytes that an operation writes: no zeros among them, since zeros are easily right by chance.
void FillPattern(uint64_t serial, char* bytes, uint64_t length);

// What an operation must answer.
struct Result {
  int error = 0;
  bool needs_space = false;  // it may as well fail with ENOSPC, and then changes nothing
  volume::Attributes attributes;  // of operations that give them
  uint64_t value = 0;             // bytes read or written
  std::string text;               // of a symlink or attribute
  std::set<std::string> names;    // of attributes
};

// Violations of the rules, to show that the simulator notices when model and volume differ.
enum class ModelBug : uint8_t {
  kNone,
  kTruncateKeepsTail,       // bytes behind a new, smaller end come back when the file grows
  kRenameKeepsOldTarget,    // what was renamed over keeps its link
  kAppendGoesToOldOffset,   // append writes at the beginning
  kUnlinkForgetsTime,       // the directory's times stay
};

class FileTree {
 public:
  // A volume as Format() makes it.
  static FileTree Fresh(const volume::Attributes& root);

  // Applies `op` at the time `now_ns` and returns what it has to answer. An operation with an error changes nothing.
  Result Apply(const FileOp& op, int64_t now_ns);
  // Nobody has anything open any more.
  void CloseAll();

  const std::map<Ino, FileNode>& nodes() const { return nodes_; }
  const FileNode* Find(Ino ino) const {
    const auto it = nodes_.find(ino);
    return it == nodes_.end() ? nullptr : &it->second;
  }
  Ino next_ino() const { return next_ino_; }
  // The volume may pass over numbers when it has lost the place where it keeps the next one.
  void SkipInodesTo(Ino next) { next_ino_ = std::max(next_ino_, next); }
  void set_bug(ModelBug bug) { bug_ = bug; }

 private:
  int Carry(const FileOp& op, int64_t now_ns, Result* result);
  int Make(const FileOp& op, uint32_t type, int64_t now_ns, Result* result);
  int Link(const FileOp& op, int64_t now_ns, Result* result);
  int Remove(const FileOp& op, int64_t now_ns);
  int Rename(const FileOp& op, int64_t now_ns);
  int SetAttributes(const FileOp& op, int64_t now_ns, Result* result);
  int Write(const FileOp& op, int64_t now_ns, Result* result);
  int Allocate(const FileOp& op, int64_t now_ns);
  int ChangeXattr(const FileOp& op, int64_t now_ns);
  int GetXattr(const FileOp& op, Result* result);

  // The errno, or 0 and the node.
  int GetDirectory(Ino ino, FileNode** node);
  int GetNode(Ino ino, FileNode** node);
  int GetFile(Ino ino, FileNode** node);
  FileNode& NewNode(uint32_t mode, uint64_t serial, const FileNode* directory, int64_t now_ns);
  void DropLink(Ino ino, int64_t now_ns);
  void Resize(FileNode& node, uint64_t size_bytes);
  void Forget(Ino ino);
  bool IsWithin(Ino directory, Ino moved) const;

  std::map<Ino, FileNode> nodes_;
  Ino next_ino_ = volume::kRootIno + 1;
  ModelBug bug_ = ModelBug::kNone;
};

// Makes [offset, end) of `content` zeros.
void ZeroContent(Content& content, uint64_t offset, uint64_t end);
// The block of `content`, or null.
inline Piece PieceAt(const Content& content, uint64_t block) {
  const auto it = content.find(block);
  return it == content.end() ? nullptr : it->second;
}
// Whether `found`, bytes [offset, offset + length) of one block, is what `piece` has there.
bool Matches(const Piece& piece, uint64_t offset, uint64_t length, const char* found);

}  // namespace stagefs::simulator

#endif  // STAGEFS_TESTS_SIMULATOR_FILE_TREE_H_

#include "tests/simulator/file_tree.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sal/random.h"

namespace stagefs::simulator {
namespace {

using core::kBlockBytes;
using Kind = FileOp::Kind;

constexpr uint64_t kEntryOverheadBytes = 11;
constexpr uint64_t kMaxSymlinkBytes = 4095;

uint64_t EntryBytes(const std::string& name) { return kEntryOverheadBytes + name.size(); }

bool IsDirectory(const FileNode& node) { return S_ISDIR(node.attributes.mode); }

int CheckName(const std::string& name) {
  if (name.size() > volume::kMaxNameBytes) return ENAMETOOLONG;
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos || name.find('\0') != name.npos) {
    return EINVAL;
  }
  return 0;
}

int CheckNewName(const std::string& name) { return name == "." || name == ".." ? EEXIST : CheckName(name); }

void TouchContent(FileNode& node, int64_t now_ns) { node.attributes.mtime_ns = node.attributes.ctime_ns = now_ns; }

void ClearSetIdBits(FileNode& node) {
  if (IsDirectory(node)) return;
  uint32_t& mode = node.attributes.mode;
  mode &= ~uint32_t{S_ISUID};
  if ((mode & S_IXGRP) != 0) mode &= ~uint32_t{S_ISGID};
}

// Writes bytes into copies of the blocks that they touch.
void PutContent(Content& content, uint64_t offset, const char* bytes, uint64_t length) {
  while (length > 0) {
    const uint64_t start = offset % kBlockBytes;
    const uint64_t part = std::min(length, kBlockBytes - start);
    Piece& piece = content[offset / kBlockBytes];
    auto next = std::make_shared<std::array<char, kBlockBytes>>();
    if (part < kBlockBytes && piece != nullptr) {
      *next = *piece;
    } else if (part < kBlockBytes) {
      next->fill(0);
    }
    std::memcpy(next->data() + start, bytes, part);
    piece = std::move(next);
    offset += part;
    bytes += part;
    length -= part;
  }
}

}  // namespace

void FillPattern(uint64_t serial, char* bytes, uint64_t length) {
  sal::Random64 random(serial * 0x9E3779B97F4A7C15 + 1);
  uint64_t at = 0;
  for (; at + 8 <= length; at += 8) {
    const uint64_t word = random.Next() | 0x0101010101010101;
    std::memcpy(bytes + at, &word, 8);
  }
  const uint64_t word = random.Next() | 0x0101010101010101;
  std::memcpy(bytes + at, &word, length - at);
}

void ZeroContent(Content& content, uint64_t offset, uint64_t end) {
  while (offset < end) {
    const auto it = content.lower_bound(offset / kBlockBytes);
    if (it == content.end() || it->first * kBlockBytes >= end) return;
    const uint64_t block_start = it->first * kBlockBytes;
    const uint64_t from = std::max(offset, block_start), to = std::min(end, block_start + kBlockBytes);
    if (to - from == kBlockBytes) {
      content.erase(it);
    } else if (it->second != nullptr) {
      auto next = std::make_shared<std::array<char, kBlockBytes>>(*it->second);
      std::memset(next->data() + (from - block_start), 0, to - from);
      it->second = std::move(next);
    }
    offset = to;
  }
}

bool Matches(const Piece& piece, uint64_t offset, uint64_t length, const char* found) {
  if (piece != nullptr) return std::memcmp(piece->data() + offset, found, length) == 0;
  static constexpr std::array<char, kBlockBytes> kZeros = {};
  return std::memcmp(kZeros.data(), found, length) == 0;
}

std::string ToString(const FileOp& op) {
  static constexpr const char* kNames[] = {
      "lookup", "create", "create and open", "mkdir", "symlink", "create unnamed", "link", "unlink", "rmdir", "rename",
      "readlink", "readdir", "getattr", "setattr", "open", "open and truncate", "release", "read", "write", "append",
      "allocate", "seek", "setxattr", "getxattr", "listxattr", "removexattr", "statfs", "sync", "checkpoint"};
  static_assert(std::size(kNames) == FileOp::kKinds);
  std::string text = absl::StrCat(kNames[static_cast<int>(op.kind)], " inode ", op.ino);
  if (!op.name.empty()) absl::StrAppend(&text, " \"", op.name, "\"");
  if (op.directory != 0) absl::StrAppend(&text, " to ", op.directory);
  if (op.directory != 0 || op.kind == Kind::kMakeSymlink) absl::StrAppend(&text, " \"", op.new_name, "\"");
  if (op.change.size_bytes.has_value()) absl::StrAppend(&text, " size ", *op.change.size_bytes);
  return absl::StrCat(text, " ", op.offset, "+", op.length, " mode ", op.mode, " #", op.serial);
}

FileTree FileTree::Fresh(const volume::Attributes& root) {
  FileTree tree;
  FileNode& node = tree.nodes_[volume::kRootIno];
  node.attributes = root;
  node.parent = volume::kRootIno;
  return tree;
}

Result FileTree::Apply(const FileOp& op, int64_t now_ns) {
  Result result;
  result.error = Carry(op, now_ns, &result);
  return result;
}

int FileTree::GetNode(Ino ino, FileNode** node) {
  const auto it = nodes_.find(ino);
  if (it == nodes_.end()) return ESTALE;
  *node = &it->second;
  return 0;
}

int FileTree::GetDirectory(Ino ino, FileNode** node) {
  if (GetNode(ino, node) != 0) return ENOENT;
  if (!IsDirectory(**node)) return ENOTDIR;
  return (*node)->attributes.nlink == 0 ? ENOENT : 0;
}

int FileTree::GetFile(Ino ino, FileNode** node) {
  if (const int error = GetNode(ino, node); error != 0) return error;
  if (IsDirectory(**node)) return EISDIR;
  return S_ISREG((*node)->attributes.mode) ? 0 : EINVAL;
}

FileNode& FileTree::NewNode(uint32_t mode, uint64_t serial, const FileNode* directory, int64_t now_ns) {
  const Ino ino = next_ino_++;
  FileNode& node = nodes_[ino];
  volume::Attributes& a = node.attributes;
  a.ino = ino;
  a.mode = mode;
  a.nlink = S_ISDIR(mode) ? 2 : directory == nullptr ? 0 : 1;
  a.uid = a.gid = serial % 3;
  a.atime_ns = a.mtime_ns = a.ctime_ns = a.btime_ns = now_ns;
  if (directory != nullptr && (directory->attributes.mode & S_ISGID) != 0) {
    a.gid = directory->attributes.gid;
    if (S_ISDIR(mode)) a.mode |= S_ISGID;
  }
  return node;
}

int FileTree::Make(const FileOp& op, uint32_t type, int64_t now_ns, Result* result) {
  FileNode* parent = nullptr;
  if (const int error = CheckNewName(op.name); error != 0) return error;
  if (const int error = GetDirectory(op.ino, &parent); error != 0) return error;
  if (parent->entries.contains(op.name)) return EEXIST;
  if (type == S_IFLNK && op.new_name.empty()) return ENOENT;
  if (type == S_IFLNK && op.new_name.size() > kMaxSymlinkBytes) return ENAMETOOLONG;
  FileNode& node = NewNode(type | (type == S_IFLNK ? 0777 : op.mode), op.serial, parent, now_ns);
  const Ino ino = node.attributes.ino;
  if (type == S_IFLNK) {
    PutContent(node.content, 0, op.new_name.data(), op.new_name.size());
    node.attributes.size_bytes = op.new_name.size();
  }
  if (type == S_IFDIR) {
    node.parent = op.ino;
    ++parent->attributes.nlink;
  }
  if (op.kind == Kind::kCreateOpen) ++node.openers;
  parent->entries[op.name] = ino;
  parent->attributes.size_bytes += EntryBytes(op.name);
  TouchContent(*parent, now_ns);
  result->attributes = node.attributes;
  return 0;
}

int FileTree::Link(const FileOp& op, int64_t now_ns, Result* result) {
  FileNode *parent = nullptr, *node = nullptr;
  if (const int error = CheckNewName(op.new_name); error != 0) return error;
  if (const int error = GetDirectory(op.directory, &parent); error != 0) return error;
  if (const int error = GetNode(op.ino, &node); error != 0) return error;
  if (IsDirectory(*node)) return EPERM;
  if (parent->entries.contains(op.new_name)) return EEXIST;
  ++node->attributes.nlink;
  node->attributes.ctime_ns = now_ns;
  parent->entries[op.new_name] = op.ino;
  parent->attributes.size_bytes += EntryBytes(op.new_name);
  TouchContent(*parent, now_ns);
  result->attributes = node->attributes;
  return 0;
}

void FileTree::Forget(Ino ino) {
  const auto it = nodes_.find(ino);
  if (it->second.attributes.nlink == 0 && it->second.openers == 0) nodes_.erase(it);
}

void FileTree::DropLink(Ino ino, int64_t now_ns) {
  FileNode& node = nodes_.at(ino);
  node.attributes.nlink = IsDirectory(node) ? 0 : node.attributes.nlink - 1;
  node.attributes.ctime_ns = now_ns;
  Forget(ino);
}

int FileTree::Remove(const FileOp& op, int64_t now_ns) {
  const bool directory = op.kind == Kind::kRemoveDirectory;
  if (directory && op.name == "..") return ENOTEMPTY;
  FileNode* parent = nullptr;
  if (const int error = CheckName(op.name); error != 0) return error;
  if (const int error = GetDirectory(op.ino, &parent); error != 0) return error;
  const auto entry = parent->entries.find(op.name);
  if (entry == parent->entries.end()) return ENOENT;
  const Ino ino = entry->second;
  const FileNode& node = nodes_.at(ino);
  if (!directory && IsDirectory(node)) return EISDIR;
  if (directory && !IsDirectory(node)) return ENOTDIR;
  if (!node.entries.empty()) return ENOTEMPTY;
  parent->entries.erase(entry);
  parent->attributes.size_bytes -= EntryBytes(op.name);
  if (directory) --parent->attributes.nlink;
  if (bug_ != ModelBug::kUnlinkForgetsTime) TouchContent(*parent, now_ns);
  DropLink(ino, now_ns);
  return 0;
}

bool FileTree::IsWithin(Ino directory, Ino moved) const {
  while (directory != moved && directory != volume::kRootIno) directory = nodes_.at(directory).parent;
  return directory == moved;
}

int FileTree::Rename(const FileOp& op, int64_t now_ns) {
  const bool exchange = op.mode == RENAME_EXCHANGE;
  if (op.mode != 0 && op.mode != RENAME_NOREPLACE && !exchange) return EINVAL;
  if (const int error = CheckName(op.name); error != 0) return error;
  if (const int error = CheckName(op.new_name); error != 0) return error;
  FileNode *from = nullptr, *to = nullptr;
  if (const int error = GetDirectory(op.ino, &from); error != 0) return error;
  if (const int error = GetDirectory(op.directory, &to); error != 0) return error;
  const auto source = from->entries.find(op.name);
  if (source == from->entries.end()) return ENOENT;
  const auto target = to->entries.find(op.new_name);
  const Ino moved_ino = source->second;
  const Ino other_ino = target == to->entries.end() ? 0 : target->second;
  if (other_ino != 0 && op.mode == RENAME_NOREPLACE) return EEXIST;
  if (other_ino == moved_ino) return 0;
  if (other_ino == 0 && exchange) return ENOENT;
  FileNode& moved = nodes_.at(moved_ino);
  FileNode* const other = other_ino == 0 ? nullptr : &nodes_.at(other_ino);
  if (IsDirectory(moved) && from != to && IsWithin(op.directory, moved_ino)) return EINVAL;
  if (exchange && IsDirectory(*other) && from != to && IsWithin(op.ino, other_ino)) return EINVAL;
  if (!exchange && other != nullptr) {
    if (IsDirectory(moved) && !IsDirectory(*other)) return ENOTDIR;
    if (!IsDirectory(moved) && IsDirectory(*other)) return EISDIR;
    if (!other->entries.empty()) return ENOTEMPTY;
  }

  const auto reparent = [now_ns](FileNode& node, FileNode& old_parent, FileNode& new_parent, Ino parent) {
    node.attributes.ctime_ns = now_ns;
    if (!IsDirectory(node)) return;
    --old_parent.attributes.nlink;
    ++new_parent.attributes.nlink;
    node.parent = parent;
  };
  if (exchange) {
    source->second = other_ino;
    target->second = moved_ino;
    reparent(moved, *from, *to, op.directory);
    reparent(*other, *to, *from, op.ino);
  } else {
    from->entries.erase(source);
    from->attributes.size_bytes -= EntryBytes(op.name);
    if (other == nullptr) to->attributes.size_bytes += EntryBytes(op.new_name);
    to->entries[op.new_name] = moved_ino;
    reparent(moved, *from, *to, op.directory);
    if (other != nullptr && IsDirectory(*other)) --to->attributes.nlink;
    if (other != nullptr && bug_ != ModelBug::kRenameKeepsOldTarget) DropLink(other_ino, now_ns);
  }
  TouchContent(*from, now_ns);
  TouchContent(*to, now_ns);
  return 0;
}

void FileTree::Resize(FileNode& node, uint64_t size_bytes) {
  if (size_bytes < node.attributes.size_bytes && bug_ != ModelBug::kTruncateKeepsTail) {
    // To the end of the last block: behind the end there are zeros anyway.
    const uint64_t last = node.attributes.size_bytes - 1;
    ZeroContent(node.content, size_bytes, last - last % kBlockBytes + kBlockBytes);
  }
  node.attributes.size_bytes = size_bytes;
}

int FileTree::SetAttributes(const FileOp& op, int64_t now_ns, Result* result) {
  FileNode* node = nullptr;
  if (const int error = GetNode(op.ino, &node); error != 0) return error;
  const volume::AttributeChange& wanted = op.change;
  volume::Attributes& a = node->attributes;
  if (wanted.size_bytes.has_value()) {
    if (IsDirectory(*node)) return EISDIR;
    if (!S_ISREG(a.mode)) return EINVAL;
    if (*wanted.size_bytes > volume::kMaxFileBytes) return EFBIG;
    result->needs_space = *wanted.size_bytes > a.size_bytes;
    Resize(*node, *wanted.size_bytes);
    ClearSetIdBits(*node);
    TouchContent(*node, now_ns);
  }
  if (wanted.uid.has_value()) a.uid = *wanted.uid;
  if (wanted.gid.has_value()) a.gid = *wanted.gid;
  if (wanted.uid.has_value() || wanted.gid.has_value()) ClearSetIdBits(*node);
  if (wanted.mode.has_value()) a.mode = (a.mode & S_IFMT) | (*wanted.mode & 07777);
  if (wanted.atime_ns.has_value()) a.atime_ns = *wanted.atime_ns;
  if (wanted.mtime_ns.has_value()) a.mtime_ns = *wanted.mtime_ns;
  a.ctime_ns = wanted.ctime_ns.value_or(now_ns);
  result->attributes = a;
  return 0;
}

int FileTree::Write(const FileOp& op, int64_t now_ns, Result* result) {
  if (op.length > volume::kMaxWriteBytes) return EINVAL;
  const bool append = op.kind == Kind::kAppend;
  if (!append && (op.offset > volume::kMaxFileBytes || op.length > volume::kMaxFileBytes - op.offset)) return EFBIG;
  FileNode* node = nullptr;
  if (const int error = GetFile(op.ino, &node); error != 0) return error;
  result->value = op.length;
  if (op.length == 0) return 0;
  uint64_t& size_bytes = node->attributes.size_bytes;
  const uint64_t offset = !append ? op.offset : bug_ == ModelBug::kAppendGoesToOldOffset ? 0 : size_bytes;
  if (offset > volume::kMaxFileBytes || op.length > volume::kMaxFileBytes - offset) return EFBIG;
  std::string bytes(op.length, '\0');
  FillPattern(op.serial, bytes.data(), op.length);
  PutContent(node->content, offset, bytes.data(), op.length);
  size_bytes = std::max(size_bytes, offset + op.length);
  ClearSetIdBits(*node);
  TouchContent(*node, now_ns);
  return 0;
}

int FileTree::Allocate(const FileOp& op, int64_t now_ns) {
  switch (op.mode) {
    case 0:
    case FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_ZERO_RANGE:
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
      break;
    default:
      return EOPNOTSUPP;
  }
  if (op.length == 0) return EINVAL;
  if (op.offset > volume::kMaxFileBytes || op.length > volume::kMaxFileBytes - op.offset) return EFBIG;
  FileNode* node = nullptr;
  if (const int error = GetFile(op.ino, &node); error != 0) return error;
  const uint64_t end = op.offset + op.length;
  if ((op.mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) ZeroContent(node->content, op.offset, end);
  uint64_t& size_bytes = node->attributes.size_bytes;
  if ((op.mode & FALLOC_FL_KEEP_SIZE) == 0) size_bytes = std::max(size_bytes, end);
  ClearSetIdBits(*node);
  TouchContent(*node, now_ns);
  return 0;
}

int FileTree::ChangeXattr(const FileOp& op, int64_t now_ns) {
  if (op.name.size() > volume::kMaxNameBytes) return ERANGE;
  if (op.name.empty()) return EINVAL;
  const bool set = op.kind == Kind::kSetXattr;
  if (set && op.length > volume::kMaxXattrBytes) return E2BIG;
  if (set && op.mode != 0 && op.mode != XATTR_CREATE && op.mode != XATTR_REPLACE) return EINVAL;
  FileNode* node = nullptr;
  if (const int error = GetNode(op.ino, &node); error != 0) return error;
  const bool there = node->xattrs.contains(op.name);
  if (set && there && op.mode == XATTR_CREATE) return EEXIST;
  if (!there && (!set || op.mode == XATTR_REPLACE)) return ENODATA;
  if (set) {
    std::string value(op.length, '\0');
    FillPattern(op.serial, value.data(), op.length);
    node->xattrs[op.name] = std::move(value);
  } else {
    node->xattrs.erase(op.name);
  }
  node->attributes.ctime_ns = now_ns;
  return 0;
}

int FileTree::GetXattr(const FileOp& op, Result* result) {
  if (op.name.size() > volume::kMaxNameBytes) return ERANGE;
  if (op.name.empty()) return EINVAL;
  FileNode* node = nullptr;
  if (const int error = GetNode(op.ino, &node); error != 0) return error;
  const auto found = node->xattrs.find(op.name);
  if (found == node->xattrs.end()) return ENODATA;
  result->text = found->second;
  return 0;
}

int FileTree::Carry(const FileOp& op, int64_t now_ns, Result* result) {
  FileNode* node = nullptr;
  switch (op.kind) {
    case Kind::kLookup: {
      if (const int error = GetDirectory(op.ino, &node); error != 0) return error;
      Ino ino = op.ino;
      if (op.name == "..") {
        ino = node->parent;
      } else if (op.name != ".") {
        if (const int error = CheckName(op.name); error != 0) return error;
        const auto entry = node->entries.find(op.name);
        if (entry == node->entries.end()) return ENOENT;
        ino = entry->second;
      }
      result->attributes = nodes_.at(ino).attributes;
      return 0;
    }
    case Kind::kCreate:
    case Kind::kCreateOpen:
      result->needs_space = true;
      return Make(op, S_IFREG, now_ns, result);
    case Kind::kMakeDirectory:
      result->needs_space = true;
      return Make(op, S_IFDIR, now_ns, result);
    case Kind::kMakeSymlink:
      result->needs_space = true;
      return Make(op, S_IFLNK, now_ns, result);
    case Kind::kCreateUnnamed: {
      result->needs_space = true;
      FileNode& made = NewNode(S_IFREG | op.mode, op.serial, nullptr, now_ns);
      ++made.openers;
      result->attributes = made.attributes;
      return 0;
    }
    case Kind::kLink:
      result->needs_space = true;
      return Link(op, now_ns, result);
    case Kind::kUnlink:
    case Kind::kRemoveDirectory:
      return Remove(op, now_ns);
    case Kind::kRename:
      result->needs_space = true;
      return Rename(op, now_ns);
    case Kind::kReadSymlink:
      if (const int error = GetNode(op.ino, &node); error != 0) return error;
      return S_ISLNK(node->attributes.mode) ? 0 : EINVAL;
    case Kind::kReadDirectory:
      if (GetNode(op.ino, &node) != 0) return ENOENT;
      return IsDirectory(*node) ? 0 : ENOTDIR;
    case Kind::kGetAttributes:
      if (const int error = GetNode(op.ino, &node); error != 0) return error;
      result->attributes = node->attributes;
      return 0;
    case Kind::kSetAttributes:
      return SetAttributes(op, now_ns, result);
    case Kind::kOpen:
    case Kind::kOpenTruncate:
      if (const int error = GetNode(op.ino, &node); error != 0) return error;
      if (op.kind == Kind::kOpenTruncate && S_ISREG(node->attributes.mode)) {
        Resize(*node, 0);
        ClearSetIdBits(*node);
        TouchContent(*node, now_ns);
      }
      ++node->openers;
      result->attributes = node->attributes;
      return 0;
    case Kind::kRelease:
      if (GetNode(op.ino, &node) != 0 || node->openers == 0) return 0;
      --node->openers;
      Forget(op.ino);
      return 0;
    case Kind::kRead:
      if (const int error = GetFile(op.ino, &node); error != 0) return error;
      if (op.offset < node->attributes.size_bytes) {
        result->value = std::min(op.length, node->attributes.size_bytes - op.offset);
      }
      return 0;
    case Kind::kWrite:
    case Kind::kAppend:
      result->needs_space = true;
      return Write(op, now_ns, result);
    case Kind::kAllocate:
      result->needs_space = (op.mode & FALLOC_FL_PUNCH_HOLE) == 0;
      return Allocate(op, now_ns);
    case Kind::kSeek:
      if (op.mode != SEEK_DATA && op.mode != SEEK_HOLE) return EINVAL;
      if (const int error = GetFile(op.ino, &node); error != 0) return error;
      return op.offset >= node->attributes.size_bytes ? ENXIO : 0;
    case Kind::kSetXattr:
      result->needs_space = true;
      return ChangeXattr(op, now_ns);
    case Kind::kRemoveXattr:
      return ChangeXattr(op, now_ns);
    case Kind::kGetXattr:
      return GetXattr(op, result);
    case Kind::kListXattrs:
      if (const int error = GetNode(op.ino, &node); error != 0) return error;
      for (const auto& [name, value] : node->xattrs) result->names.insert(name);
      return 0;
    case Kind::kStatFs:
    case Kind::kSync:
    case Kind::kCheckpoint:
      return 0;
  }
  return 0;
}

void FileTree::CloseAll() {
  for (auto it = nodes_.begin(); it != nodes_.end();) {
    it->second.openers = 0;
    it = it->second.attributes.nlink == 0 ? nodes_.erase(it) : std::next(it);
  }
}

}  // namespace stagefs::simulator

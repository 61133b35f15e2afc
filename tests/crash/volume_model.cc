#include "tests/crash/volume_model.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/checksum.h"

namespace stagefs::crash {
namespace {

using Kind = FileOp::Kind;

std::string ContentOf(const FileNode& node) { return node.content == nullptr ? "" : *node.content; }

void SetContent(FileNode& node, std::string content) {
  node.content = std::make_shared<const std::string>(std::move(content));
  node.mtime_ns = 0;
}

const FileNode* Find(const FileTree& tree, Ino ino) {
  const auto it = tree.find(ino);
  return it == tree.end() ? nullptr : &it->second;
}

bool IsDirectory(const FileTree& tree, Ino ino) {
  const FileNode* const node = Find(tree, ino);
  return node != nullptr && S_ISDIR(node->mode);
}

Ino Lookup(const FileTree& tree, Ino directory, const std::string& name) {
  if (!IsDirectory(tree, directory)) return 0;
  const auto& entries = tree.at(directory).entries;
  const auto found = entries.find(name);
  return found == entries.end() ? 0 : found->second;
}

bool IsFree(const FileTree& tree, Ino directory, const std::string& name) {
  return IsDirectory(tree, directory) && Lookup(tree, directory, name) == 0;
}

// Whether `ino` is `directory` or lies below it.
bool IsWithin(const FileTree& tree, Ino ino, Ino directory) {
  if (ino == directory) return true;
  for (const auto& [name, child] : tree.at(directory).entries) {
    if (IsDirectory(tree, child) && IsWithin(tree, ino, child)) return true;
  }
  return false;
}

bool AcceptsRename(const FileTree& tree, const Target& target) {
  const Ino source = Lookup(tree, target.directory, target.name);
  if (source == 0 || !IsDirectory(tree, target.other_directory)) return false;
  const Ino replaced = Lookup(tree, target.other_directory, target.other_name);
  if (replaced == source) return true;
  if (IsDirectory(tree, source) && IsWithin(tree, target.other_directory, source)) return false;
  if (replaced == 0) return true;
  if (IsDirectory(tree, source) != IsDirectory(tree, replaced)) return false;
  return tree.at(replaced).entries.empty();
}

bool AcceptsExchange(const FileTree& tree, const Target& target) {
  const Ino source = Lookup(tree, target.directory, target.name);
  const Ino other = Lookup(tree, target.other_directory, target.other_name);
  if (source == 0 || other == 0) return false;
  if (source == other) return true;
  return !(IsDirectory(tree, source) && IsWithin(tree, target.other_directory, source)) &&
         !(IsDirectory(tree, other) && IsWithin(tree, target.directory, other));
}

// A name of `ino` goes, and with the last one the inode.
void Drop(Ino directory, Ino ino, FileTree* tree) {
  FileNode& node = tree->at(ino);
  if (S_ISDIR(node.mode)) {
    tree->at(directory).nlink -= 1;
    tree->erase(ino);
  } else if (--node.nlink == 0) {
    tree->erase(ino);
  }
}

void CountMove(Ino ino, Ino from, Ino to, FileTree* tree) {
  if (!IsDirectory(*tree, ino)) return;
  tree->at(from).nlink -= 1;
  tree->at(to).nlink += 1;
}

void ApplyRename(const Target& target, FileTree* tree) {
  const Ino source = Lookup(*tree, target.directory, target.name);
  const Ino replaced = Lookup(*tree, target.other_directory, target.other_name);
  if (source == replaced) return;
  if (replaced != 0) Drop(target.other_directory, replaced, tree);
  tree->at(target.directory).entries.erase(target.name);
  tree->at(target.other_directory).entries[target.other_name] = source;
  CountMove(source, target.directory, target.other_directory, tree);
}

void ApplyExchange(const Target& target, FileTree* tree) {
  const Ino source = Lookup(*tree, target.directory, target.name);
  const Ino other = Lookup(*tree, target.other_directory, target.other_name);
  tree->at(target.directory).entries[target.name] = other;
  tree->at(target.other_directory).entries[target.other_name] = source;
  CountMove(source, target.directory, target.other_directory, tree);
  CountMove(other, target.other_directory, target.directory, tree);
}

void AddName(const Target& target, Ino ino, uint32_t mode, FileTree* tree) {
  FileNode& node = (*tree)[ino];
  node.mode = mode;
  FileNode& parent = tree->at(target.directory);
  parent.entries[target.name] = ino;
  if (!S_ISDIR(mode)) return;
  node.nlink = 2;
  parent.nlink += 1;
}

void ApplyToContent(const FileOp& op, absl::string_view bytes, FileNode& node) {
  std::string content = ContentOf(node);
  const uint64_t end = op.offset + op.length;
  switch (op.kind) {
    case Kind::kWrite:
    case Kind::kAppend: {
      const uint64_t offset = op.kind == Kind::kAppend ? content.size() : op.offset;
      if (content.size() < offset + bytes.size()) content.resize(offset + bytes.size());
      content.replace(offset, bytes.size(), bytes.data(), bytes.size());
      break;
    }
    case Kind::kTruncate:
      content.resize(op.offset);
      break;
    case Kind::kGrow:
      if (content.size() < end) content.resize(end);
      break;
    case Kind::kPunch:
    case Kind::kZeroRange:
      if (op.kind == Kind::kZeroRange && content.size() < end) content.resize(end);
      for (uint64_t i = op.offset; i < std::min<uint64_t>(end, content.size()); ++i) content[i] = '\0';
      break;
    default:  // kAllocate: to be seen in the space alone
      break;
  }
  SetContent(node, std::move(content));
}

void ApplyGroup(const std::vector<volume::ContentChange>& parts, FileTree* tree) {
  std::map<Ino, std::string> contents;
  for (const volume::ContentChange& part : parts) {
    if (!tree->contains(part.ino)) continue;  // open, and without a name
    const auto [found, is_new] = contents.try_emplace(part.ino);
    std::string& content = found->second;
    if (is_new) content = ContentOf(tree->at(part.ino));
    uint64_t number = 0;
    absl::string_view stored(reinterpret_cast<const char*>(part.bytes.data()), part.bytes.size());
    if (part.kind != volume::ContentChange::Kind::kWrite) {
      const size_t there = part.offset < content.size() ? std::min<size_t>(8, content.size() - part.offset) : 0;
      if (there > 0) std::memcpy(&number, content.data() + part.offset, there);
      const bool swaps = part.kind == volume::ContentChange::Kind::kCompareAndSwap;
      if (swaps && number != part.expected) continue;
      number = swaps ? part.operand : number + part.operand;
      stored = {reinterpret_cast<const char*>(&number), sizeof(number)};
    }
    if (content.size() < part.offset + stored.size()) content.resize(part.offset + stored.size());
    std::memcpy(content.data() + part.offset, stored.data(), stored.size());
  }
  for (auto& [ino, content] : contents) SetContent(tree->at(ino), std::move(content));
}

std::string XattrName(const FileOp& op) { return op.other.empty() ? "user.x" : op.other; }

void ApplyToInode(const FileOp& op, absl::string_view bytes, FileNode& node) {
  switch (op.kind) {
    case Kind::kChangeMode:
      node.mode = (node.mode & S_IFMT) | static_cast<uint32_t>(op.offset & 0777);
      break;
    case Kind::kSetTime:
      node.mtime_ns = op.offset;
      break;
    case Kind::kSetXattr:
      node.xattrs[XattrName(op)] = std::string(bytes);
      break;
    case Kind::kRemoveXattr:
      node.xattrs.erase(XattrName(op));
      break;
    default:
      ApplyToContent(op, bytes, node);
      break;
  }
}

}  // namespace

std::string Difference(const FileTree& expected, const FileTree& found) {
  for (const auto& [ino, node] : expected) {
    const auto it = found.find(ino);
    if (it == found.end()) return absl::StrCat("inode ", ino, " is missing");
    const FileNode& other = it->second;
    if (node.mode != other.mode) return absl::StrCat("inode ", ino, ": mode ", other.mode, ", expected ", node.mode);
    if (node.nlink != other.nlink) {
      return absl::StrCat("inode ", ino, ": ", other.nlink, " links, expected ", node.nlink);
    }
    if (node.mtime_ns != other.mtime_ns) {
      return absl::StrCat("inode ", ino, ": mtime ", other.mtime_ns, ", expected ", node.mtime_ns);
    }
    if (node.entries != other.entries) return absl::StrCat("directory ", ino, " has other names");
    if (node.xattrs != other.xattrs) return absl::StrCat("inode ", ino, " has other attributes");
    if (node.size() != other.size()) {
      return absl::StrCat("inode ", ino, ": ", other.size(), " bytes, expected ", node.size());
    }
    if (node.size() == 0 || node.content == other.content || *node.content == *other.content) continue;
    const size_t at = std::mismatch(node.content->begin(), node.content->end(), other.content->begin()).first -
                      node.content->begin();
    return absl::StrCat("inode ", ino, " differs at byte ", at, " of ", node.size());
  }
  for (const auto& [ino, node] : found) {
    if (!expected.contains(ino)) return absl::StrCat("inode ", ino, " should not be there");
  }
  return "";
}

uint64_t Fingerprint(const FileTree& tree) {
  uint64_t result = 0;
  const auto add = [&](absl::string_view bytes) { result = core::Hash(bytes.data(), bytes.size(), result); };
  const auto add_number = [&](uint64_t number) { result = core::Hash(&number, sizeof(number), result); };
  for (const auto& [ino, node] : tree) {
    for (const uint64_t number : {ino, uint64_t{node.mode}, uint64_t{node.nlink}, uint64_t(node.mtime_ns)}) {
      add_number(number);
    }
    add(node.content == nullptr ? "" : *node.content);
    add_number(node.entries.size());
    for (const auto& [name, child] : node.entries) {
      add(name);
      add_number(child);
    }
    add_number(node.xattrs.size());
    for (const auto& [name, value] : node.xattrs) {
      add(name);
      add(value);
    }
  }
  return result;
}

std::string ToString(const FileOp& op) {
  static constexpr const char* kNames[] = {
      "create", "mkdir", "symlink", "write", "append", "store mapped", "truncate", "rename", "exchange", "link",
      "unlink", "open and unlink", "close", "rmdir", "punch", "zero range", "allocate", "grow", "chmod", "set time",
      "setxattr", "removexattr", "sync", "checkpoint", "let run", "group", "large group"};
  std::string text = kNames[static_cast<int>(op.kind)];
  if (!op.name.empty()) absl::StrAppend(&text, " ", op.name);
  if (!op.other.empty()) absl::StrAppend(&text, " to ", op.other);
  if (op.offset != 0 || op.length != 0) absl::StrAppend(&text, " ", op.offset, "+", op.length);
  if (!op.wait) absl::StrAppend(&text, " &");
  return text;
}

bool IsGroup(Kind kind) { return kind == Kind::kGroup || kind == Kind::kLargeGroup; }

std::vector<volume::ContentChange> PartsOf(const FileOp& op, const Target& target, absl::string_view bytes) {
  constexpr uint64_t kNumbers = 9000;  // in each file
  std::vector<volume::ContentChange> parts;
  const auto add = [&](volume::ContentChange::Kind kind, Ino ino, uint64_t offset) -> volume::ContentChange& {
    parts.emplace_back();
    parts.back().kind = kind;
    parts.back().ino = ino;
    parts.back().offset = kind == volume::ContentChange::Kind::kWrite ? offset : offset / 8 * 8;
    parts.back().operand = 0x0101010101010101;
    return parts.back();
  };
  using PartKind = volume::ContentChange::Kind;
  for (const Ino ino : {target.ino, target.other_ino}) {
    if (op.kind == Kind::kLargeGroup) {
      for (uint64_t i = 0; i < kNumbers; ++i) add(PartKind::kFetchAdd, ino, op.offset + i * op.length);
      continue;
    }
    add(PartKind::kFetchAdd, ino, op.offset);  // the next one overwrites a part of it
    add(PartKind::kWrite, ino, op.offset).bytes = {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
    add(PartKind::kFetchAdd, ino, op.offset + op.length / 2);
    add(PartKind::kCompareAndSwap, ino, op.offset + op.length + 8);  // behind it: if that is zero
  }
  return parts;
}

bool IsAboutInode(Kind kind) {
  switch (kind) {
    case Kind::kWrite:
    case Kind::kAppend:
    case Kind::kStoreMapped:
    case Kind::kTruncate:
    case Kind::kPunch:
    case Kind::kZeroRange:
    case Kind::kAllocate:
    case Kind::kGrow:
    case Kind::kChangeMode:
    case Kind::kSetTime:
    case Kind::kSetXattr:
    case Kind::kRemoveXattr:
    case Kind::kGroup:
    case Kind::kLargeGroup:
      return true;
    default:
      return false;
  }
}

std::optional<Target> Resolve(const FileTree& tree, absl::string_view path) {
  Target target;
  target.directory = volume::kRootIno;
  if (const size_t slash = path.find('/'); slash != absl::string_view::npos) {
    target.directory = Lookup(tree, volume::kRootIno, std::string(path.substr(0, slash)));
    if (!IsDirectory(tree, target.directory)) return std::nullopt;
    path.remove_prefix(slash + 1);
  }
  target.name = std::string(path);
  target.ino = Lookup(tree, target.directory, target.name);
  return target;
}

std::optional<Target> Bind(const FileTree& tree, const FileOp& op) {
  if (op.name.empty()) return Target();
  std::optional<Target> target = Resolve(tree, op.name);
  if (!target.has_value()) return std::nullopt;
  if (op.kind == Kind::kRename || op.kind == Kind::kExchange || op.kind == Kind::kLink || IsGroup(op.kind)) {
    const std::optional<Target> other = Resolve(tree, op.other);
    if (!other.has_value()) return std::nullopt;
    target->other_directory = other->directory;
    target->other_name = other->name;
    target->other_ino = other->ino;
  }
  if (!Accepts(tree, op, *target)) return std::nullopt;
  return target;
}

bool Accepts(const FileTree& tree, const FileOp& op, const Target& target) {
  if (op.name.empty()) return true;
  const FileNode* const node = Find(tree, target.ino);
  switch (op.kind) {
    case Kind::kCreate:
    case Kind::kMakeDirectory:
    case Kind::kSymlink:
      return IsFree(tree, target.directory, target.name);
    case Kind::kRename:
      return AcceptsRename(tree, target);
    case Kind::kExchange:
      return AcceptsExchange(tree, target);
    case Kind::kLink:
      return node != nullptr && !S_ISDIR(node->mode) && IsFree(tree, target.other_directory, target.other_name);
    case Kind::kRemoveDirectory: {
      const Ino ino = Lookup(tree, target.directory, target.name);
      return IsDirectory(tree, ino) && tree.at(ino).entries.empty();
    }
    case Kind::kUnlink:
    case Kind::kOpenUnlink: {
      const Ino ino = Lookup(tree, target.directory, target.name);
      return ino != 0 && !IsDirectory(tree, ino);
    }
    case Kind::kChangeMode:
    case Kind::kSetTime:
    case Kind::kSetXattr:
      return node != nullptr && (S_ISREG(node->mode) || S_ISDIR(node->mode));
    case Kind::kRemoveXattr:
      return node != nullptr && node->xattrs.contains(XattrName(op));
    case Kind::kGroup:
    case Kind::kLargeGroup: {
      const FileNode* const other = Find(tree, target.other_ino);
      return node != nullptr && S_ISREG(node->mode) && other != nullptr && S_ISREG(other->mode);
    }
    default:
      return node != nullptr && S_ISREG(node->mode);
  }
}

void Apply(const FileOp& op, const Target& target, absl::string_view bytes, Ino created, FileTree* tree) {
  if (op.name.empty()) return;
  switch (op.kind) {
    case Kind::kGroup:
    case Kind::kLargeGroup:
      return ApplyGroup(PartsOf(op, target, bytes), tree);
    case Kind::kCreate:
      return AddName(target, created, S_IFREG | 0644, tree);
    case Kind::kMakeDirectory:
      return AddName(target, created, S_IFDIR | 0755, tree);
    case Kind::kSymlink:
      AddName(target, created, S_IFLNK | 0777, tree);
      return SetContent(tree->at(created), op.other);
    case Kind::kRename:
      return ApplyRename(target, tree);
    case Kind::kExchange:
      return ApplyExchange(target, tree);
    case Kind::kLink:
      tree->at(target.other_directory).entries[target.other_name] = target.ino;
      tree->at(target.ino).nlink += 1;
      return;
    case Kind::kUnlink:
    case Kind::kOpenUnlink:
    case Kind::kRemoveDirectory: {
      const Ino ino = Lookup(*tree, target.directory, target.name);
      tree->at(target.directory).entries.erase(target.name);
      return Drop(target.directory, ino, tree);
    }
    default:
      return ApplyToInode(op, bytes, tree->at(target.ino));
  }
}

}  // namespace stagefs::crash

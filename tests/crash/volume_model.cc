#include "tests/crash/volume_model.h"

#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "sal/random.h"

namespace stagefs::crash {
namespace {

using Kind = FileOp::Kind;

void Drop(Ino ino, FileTree* tree) {
  FileNode& node = tree->at(ino);
  if (--node.nlink == 0) tree->erase(ino);
}

std::string ContentOf(const FileNode& node) { return node.content == nullptr ? "" : *node.content; }

void SetContent(FileNode& node, std::string content) {
  node.content = std::make_shared<const std::string>(std::move(content));
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

std::string ToString(const FileOp& op) {
  static constexpr const char* kNames[] = {"create", "mkdir", "symlink", "write", "append", "truncate", "rename",
                                           "exchange", "link", "unlink", "open and unlink", "rmdir", "punch",
                                           "zero range", "allocate", "chmod", "setxattr", "sync", "ask for sync",
                                           "checkpoint", "let run"};
  return absl::StrCat(kNames[static_cast<int>(op.kind)], " ", op.name, op.other.empty() ? "" : " to ", op.other, " ",
                      op.offset, "+", op.length);
}

std::optional<Place> Resolve(const FileTree& tree, absl::string_view path) {
  Place place;
  place.directory = volume::kRootIno;
  if (const size_t slash = path.find('/'); slash != absl::string_view::npos) {
    const auto& entries = tree.at(volume::kRootIno).entries;
    const auto directory = entries.find(std::string(path.substr(0, slash)));
    if (directory == entries.end() || !S_ISDIR(tree.at(directory->second).mode)) return std::nullopt;
    place.directory = directory->second;
    path.remove_prefix(slash + 1);
  }
  place.name = std::string(path);
  const auto& entries = tree.at(place.directory).entries;
  const auto found = entries.find(place.name);
  if (found != entries.end()) place.ino = found->second;
  return place;
}

bool Applies(const FileTree& tree, const FileOp& op) {
  if (op.name.empty()) return true;
  const std::optional<Place> place = Resolve(tree, op.name);
  if (!place.has_value()) return false;
  const uint32_t mode = place->ino == 0 ? 0 : tree.at(place->ino).mode;
  switch (op.kind) {
    case Kind::kCreate:
    case Kind::kMakeDirectory:
    case Kind::kSymlink:
      return place->ino == 0;
    case Kind::kRename:
    case Kind::kExchange:
    case Kind::kLink: {
      const std::optional<Place> other = Resolve(tree, op.other);
      if (!other.has_value() || place->ino == 0) return false;
      const bool other_is_directory = other->ino != 0 && S_ISDIR(tree.at(other->ino).mode);
      if (op.kind == Kind::kLink) return other->ino == 0 && !S_ISDIR(mode);
      if (op.kind == Kind::kExchange && other->ino == 0) return false;
      if (S_ISDIR(mode)) return op.kind == Kind::kRename && other->ino == 0 && other->directory == volume::kRootIno;
      return !other_is_directory;
    }
    case Kind::kRemoveDirectory:
      return S_ISDIR(mode) && tree.at(place->ino).entries.empty();
    case Kind::kUnlink:
      return place->ino != 0 && !S_ISDIR(mode);
    case Kind::kChangeMode:
    case Kind::kSetXattr:
      return S_ISREG(mode) || S_ISDIR(mode);
    default:
      return S_ISREG(mode);
  }
}

void Apply(const FileOp& op, absl::string_view bytes, Ino created, FileTree* tree) {
  if (op.name.empty()) return;
  const Place place = *Resolve(*tree, op.name);
  FileNode* const node = place.ino == 0 ? nullptr : &tree->at(place.ino);
  switch (op.kind) {
    case Kind::kCreate:
      (*tree)[created].mode = S_IFREG | 0644;
      tree->at(place.directory).entries[place.name] = created;
      break;
    case Kind::kMakeDirectory:
      (*tree)[created].mode = S_IFDIR | 0755;
      (*tree)[created].nlink = 2;
      tree->at(place.directory).nlink += 1;
      tree->at(place.directory).entries[place.name] = created;
      break;
    case Kind::kSymlink:
      (*tree)[created].mode = S_IFLNK | 0777;
      SetContent((*tree)[created], op.other);
      tree->at(place.directory).entries[place.name] = created;
      break;
    case Kind::kWrite:
    case Kind::kAppend: {
      std::string content = ContentOf(*node);
      const uint64_t offset = op.kind == Kind::kAppend ? content.size() : op.offset;
      if (content.size() < offset + bytes.size()) content.resize(offset + bytes.size());
      content.replace(offset, bytes.size(), bytes.data(), bytes.size());
      SetContent(*node, std::move(content));
      break;
    }
    case Kind::kTruncate: {
      std::string content = ContentOf(*node);
      content.resize(op.offset);
      SetContent(*node, std::move(content));
      break;
    }
    case Kind::kPunch:
    case Kind::kZeroRange: {
      std::string content = ContentOf(*node);
      const uint64_t end = op.offset + op.length;
      if (op.kind == Kind::kZeroRange && content.size() < end) content.resize(end);
      for (uint64_t i = op.offset; i < std::min<uint64_t>(end, content.size()); ++i) content[i] = '\0';
      SetContent(*node, std::move(content));
      break;
    }
    case Kind::kRename: {
      const Place other = *Resolve(*tree, op.other);
      if (other.ino == place.ino) break;
      tree->at(place.directory).entries.erase(place.name);
      tree->at(other.directory).entries[other.name] = place.ino;
      if (other.ino != 0) Drop(other.ino, tree);
      break;
    }
    case Kind::kExchange: {
      const Place other = *Resolve(*tree, op.other);
      tree->at(place.directory).entries[place.name] = other.ino;
      tree->at(other.directory).entries[other.name] = place.ino;
      break;
    }
    case Kind::kLink: {
      const Place other = *Resolve(*tree, op.other);
      tree->at(other.directory).entries[other.name] = place.ino;
      node->nlink += 1;
      break;
    }
    case Kind::kUnlink:
    case Kind::kOpenUnlink:
      tree->at(place.directory).entries.erase(place.name);
      Drop(place.ino, tree);
      break;
    case Kind::kRemoveDirectory:
      tree->at(place.directory).entries.erase(place.name);
      tree->at(place.directory).nlink -= 1;
      tree->erase(place.ino);
      break;
    case Kind::kChangeMode:
      node->mode = (node->mode & S_IFMT) | static_cast<uint32_t>(op.offset & 0777);
      break;
    case Kind::kSetXattr:
      node->xattrs["user.x"] = std::string(bytes);
      break;
    default:
      break;
  }
}

std::vector<FileWorkload> SingleOperations() {
  const std::vector<FileOp> ops = {
      {Kind::kCreate, "e"},
      {Kind::kCreate, "d/y"},
      {Kind::kMakeDirectory, "g"},
      {Kind::kSymlink, "e", "target"},
      {Kind::kWrite, "s", "", 50, 100},
      {Kind::kWrite, "s", "", 50, 2000},
      {Kind::kWrite, "a", "", 1000, 500},
      {Kind::kWrite, "a", "", 6000, 3000},
      {Kind::kWrite, "a", "", 20000, 10},
      {Kind::kWrite, "b", "", 65536, 131072},
      {Kind::kWrite, "b", "", 1000, 100000},
      {Kind::kAppend, "b", "", 0, 150000},
      {Kind::kAppend, "a", "", 0, 700},
      {Kind::kTruncate, "b", "", 10000},
      {Kind::kTruncate, "b", "", 0},
      {Kind::kTruncate, "a", "", 3000},
      {Kind::kTruncate, "a", "", 30000},
      {Kind::kRename, "a", "b"},
      {Kind::kRename, "b", "e"},
      {Kind::kRename, "d", "g"},
      {Kind::kRename, "d/x", "a"},
      {Kind::kExchange, "a", "b"},
      {Kind::kLink, "a", "e"},
      {Kind::kUnlink, "b"},
      {Kind::kUnlink, "s"},
      {Kind::kOpenUnlink, "b"},
      {Kind::kPunch, "b", "", 10000, 50000},
      {Kind::kZeroRange, "b", "", 10000, 50000},
      {Kind::kAllocate, "a", "", 0, 50000},
      {Kind::kChangeMode, "a", "", 0600},
      {Kind::kSetXattr, "a", "", 0, 300},
      {Kind::kSetXattr, "a", "", 0, 3000},
  };
  std::vector<FileWorkload> all;
  for (const FileOp& op : ops) all.push_back({ToString(op), {op, {Kind::kSync}}});
  return all;
}

std::vector<FileWorkload> DirectedFileWorkloads() {
  const FileOp sync = {Kind::kSync};
  const FileOp ask = {Kind::kAskSync};
  const FileOp checkpoint = {Kind::kCheckpoint};
  const FileOp soon = {Kind::kLetRun, "", "", 300'000};
  return {
      {"delete, and use the space for an extent",
       {{Kind::kUnlink, "b"}, {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 300000}, sync}},
      {"write, delete, and use the space for an extent",
       {{Kind::kWrite, "b", "", 10, 60000}, {Kind::kWrite, "b", "", 60020, 60000},
        {Kind::kWrite, "b", "", 120030, 60000}, {Kind::kWrite, "b", "", 180040, 60000},
        {Kind::kWrite, "b", "", 240050, 59000}, ask, {Kind::kUnlink, "b"},
        {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 250000}, {Kind::kCreate, "f"},
        {Kind::kWrite, "f", "", 0, 250000}, sync}},
      {"write, delete, and let files come and go until the space is used again",
       {{Kind::kWrite, "b", "", 10, 60000}, {Kind::kWrite, "b", "", 60020, 60000},
        {Kind::kWrite, "b", "", 120030, 60000}, {Kind::kWrite, "b", "", 180040, 60000}, ask, {Kind::kUnlink, "b"},
        {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 250000}, {Kind::kTruncate, "e", "", 0},
        {Kind::kWrite, "e", "", 0, 250000}, {Kind::kTruncate, "e", "", 0}, {Kind::kWrite, "e", "", 0, 250000},
        {Kind::kTruncate, "e", "", 0}, {Kind::kWrite, "e", "", 0, 250000}, {Kind::kTruncate, "e", "", 0},
        {Kind::kWrite, "e", "", 0, 250000}, {Kind::kCreate, "f"}, {Kind::kWrite, "f", "", 0, 200000}, sync}},
      {"delete, and use the space for small files",
       {{Kind::kUnlink, "b"}, {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 100, 5000},
        {Kind::kAppend, "a", "", 0, 20000}, sync}},
      {"delete while it is being destaged, and use the space",
       {{Kind::kWrite, "a", "", 100, 4000}, {Kind::kWrite, "b", "", 5000, 30000}, checkpoint, soon,
        {Kind::kUnlink, "b"}, {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 250000}, sync,
        {Kind::kWrite, "e", "", 3, 100}, sync}},
      {"rename over, and use the space",
       {{Kind::kRename, "a", "b"}, {Kind::kAppend, "b", "", 0, 300000}, sync, {Kind::kTruncate, "b", "", 0}, sync}},
      {"truncate and write again",
       {{Kind::kTruncate, "b", "", 5000}, {Kind::kWrite, "b", "", 100000, 200000}, sync}},
      {"truncate, grow, read zeros", {{Kind::kTruncate, "b", "", 5001}, {Kind::kTruncate, "b", "", 40000}, sync}},
      {"punch and fill partly",
       {{Kind::kPunch, "b", "", 8192, 65536}, ask, {Kind::kWrite, "b", "", 20000, 300}, sync}},
      {"a new file, renamed over an old one",
       {{Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 70000}, sync, {Kind::kRename, "e", "b"}, sync}},
      {"a new file, not synced, renamed over an old one",
       {{Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 7000}, {Kind::kRename, "e", "a"}, ask,
        {Kind::kWrite, "s", "", 0, 20}, sync}},
      {"links to one file",
       {{Kind::kLink, "b", "d/y"}, {Kind::kUnlink, "b"}, ask, {Kind::kWrite, "d/y", "", 0, 100}, {Kind::kUnlink, "d/y"},
        sync}},
      {"order across files",
       {{Kind::kWrite, "a", "", 0, 100}, {Kind::kWrite, "b", "", 0, 100}, {Kind::kWrite, "s", "", 0, 100}, ask,
        {Kind::kWrite, "b", "", 200, 100}, {Kind::kWrite, "a", "", 200, 100}, sync}},
      {"a directory comes and goes",
       {{Kind::kMakeDirectory, "g"}, {Kind::kRename, "d/x", "g/z"}, ask, {Kind::kRename, "g/z", "e"},
        {Kind::kRemoveDirectory, "g"}, sync}},
      {"the flush interval alone",
       {{Kind::kWrite, "a", "", 0, 5000}, {Kind::kLetRun, "", "", 2'100'000'000}, {Kind::kWrite, "s", "", 0, 5}}},
  };
}

FileWorkload RandomFileWorkload(uint64_t seed, uint64_t op_count) {
  sal::Random64 random(seed);
  static constexpr const char* kFiles[] = {"a", "b", "s", "e", "f", "d/x", "d/y"};
  const auto file = [&] { return std::string(kFiles[random.Below(std::size(kFiles))]); };
  FileWorkload w{absl::StrCat("random, seed ", seed, ", ", op_count, " operations"), {}};
  for (uint64_t i = 0; i < op_count; ++i) {
    FileOp op = {static_cast<Kind>(random.Below(static_cast<uint64_t>(Kind::kLetRun) + 1)), file()};
    if (random.OneIn(3)) op.kind = Kind::kWrite;
    const uint64_t scale = random.OneIn(3) ? 250'000 : random.OneIn(2) ? 30'000 : 600;
    op.offset = random.Below(scale);
    op.length = random.Between(1, scale);
    switch (op.kind) {
      case Kind::kMakeDirectory:
      case Kind::kRemoveDirectory: op.name = random.OneIn(2) ? "g" : "h"; break;
      case Kind::kSymlink: op.other = "somewhere"; break;
      case Kind::kRename: op.name = random.OneIn(6) ? "d" : op.name; op.other = random.OneIn(6) ? "g" : file(); break;
      case Kind::kExchange:
      case Kind::kLink: op.other = file(); break;
      case Kind::kSetXattr: op.length = random.Between(1, 2500); break;
      // On a full volume it zeroes what it can, in several changes, before it fails.
      case Kind::kZeroRange: op.kind = Kind::kPunch; break;
      case Kind::kAllocate: op.length = random.Between(1, 60'000); break;
      case Kind::kLetRun: op.offset = random.Below(1'500'000); [[fallthrough]];
      case Kind::kSync:
      case Kind::kAskSync:
      case Kind::kCheckpoint: op.name = ""; break;
      default: break;
    }
    w.ops.push_back(std::move(op));
  }
  if (random.OneIn(2)) w.ops.push_back({Kind::kSync});
  return w;
}

}  // namespace stagefs::crash

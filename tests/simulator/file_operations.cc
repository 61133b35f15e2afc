#include "tests/simulator/file_operations.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace stagefs::simulator {
namespace {

using Kind = FileOp::Kind;

// How often each kind is chosen, by mood: a mixture, growing, shrinking, names.
struct Weight {
  Kind kind;
  uint32_t weights[4];
};
constexpr Weight kWeights[] = {
    {Kind::kLookup, {4, 1, 1, 8}},
    {Kind::kCreate, {4, 4, 1, 8}},
    {Kind::kCreateOpen, {1, 1, 0, 2}},
    {Kind::kMakeDirectory, {2, 1, 0, 6}},
    {Kind::kMakeSymlink, {2, 1, 0, 4}},
    {Kind::kCreateUnnamed, {1, 1, 0, 2}},
    {Kind::kLink, {2, 0, 0, 6}},
    {Kind::kUnlink, {4, 1, 16, 8}},
    {Kind::kRemoveDirectory, {1, 0, 4, 4}},
    {Kind::kRename, {4, 0, 2, 12}},
    {Kind::kReadSymlink, {1, 0, 0, 2}},
    {Kind::kReadDirectory, {2, 0, 1, 4}},
    {Kind::kGetAttributes, {3, 1, 1, 3}},
    {Kind::kSetAttributes, {6, 2, 8, 2}},
    {Kind::kOpen, {2, 1, 1, 2}},
    {Kind::kOpenTruncate, {1, 0, 4, 0}},
    {Kind::kRelease, {4, 2, 4, 4}},
    {Kind::kRead, {12, 12, 6, 2}},
    {Kind::kWrite, {20, 40, 6, 4}},
    {Kind::kAppend, {6, 20, 2, 1}},
    {Kind::kAllocate, {6, 4, 10, 0}},
    {Kind::kSeek, {2, 1, 1, 0}},
    {Kind::kSetXattr, {4, 2, 1, 4}},
    {Kind::kGetXattr, {2, 0, 1, 2}},
    {Kind::kListXattrs, {1, 0, 1, 1}},
    {Kind::kRemoveXattr, {2, 0, 3, 2}},
    {Kind::kStatFs, {1, 1, 1, 1}},
    {Kind::kSync, {4, 1, 1, 2}},
    {Kind::kCheckpoint, {1, 1, 1, 1}},
};
static_assert(std::size(kWeights) == FileOp::kKinds);

Kind ChooseKind(sal::Random64& random, uint64_t mood) {
  uint64_t sum = 0;
  for (const Weight& weight : kWeights) sum += weight.weights[mood];
  uint64_t at = random.Below(sum);
  for (const Weight& weight : kWeights) {
    if (at < weight.weights[mood]) return weight.kind;
    at -= weight.weights[mood];
  }
  return Kind::kStatFs;
}

}  // namespace

Ino FileOperations::AnyInode(const FileTree& tree) {
  if (random_.OneIn(200)) return 1 + random_.Below(tree.next_ino() + 2);  // perhaps one that is gone
  auto it = tree.nodes().lower_bound(1 + random_.Below(tree.next_ino()));
  if (it == tree.nodes().end()) it = tree.nodes().begin();
  return it->first;
}

Ino FileOperations::AnyFile(const FileTree& tree) {
  for (int tries = 0; tries < 8; ++tries) {
    const Ino ino = AnyInode(tree);
    const FileNode* const node = tree.Find(ino);
    if (node != nullptr && S_ISREG(node->attributes.mode)) return ino;
  }
  return AnyInode(tree);
}

Ino FileOperations::AnyDirectory(const FileTree& tree) {
  for (int tries = 0; tries < 6; ++tries) {
    const Ino ino = AnyInode(tree);
    const FileNode* const node = tree.Find(ino);
    if (node != nullptr && S_ISDIR(node->attributes.mode)) return ino;
  }
  return random_.OneIn(50) ? AnyInode(tree) : volume::kRootIno;
}

std::string FileOperations::AnyName() {
  if (random_.OneIn(150)) {
    static const std::string kOdd[] = {".", "..", "", "a/b", std::string("a\0b", 3), std::string(256, 'x')};
    return kOdd[random_.Below(std::size(kOdd))];
  }
  const uint64_t number = random_.Below(options_.names);
  // Names of the same number are the same; some are long.
  return number % 5 == 4 ? absl::StrCat("n", number, std::string(number * 37 % 240, 'y')) : absl::StrCat("n", number);
}

void FileOperations::ChooseRange(const FileTree& tree, uint64_t largest, FileOp* op) {
  const FileNode* const node = tree.Find(op->ino);
  const uint64_t size = node == nullptr ? 0 : node->attributes.size_bytes;
  const uint64_t scale = random_.OneIn(2) ? 600 : random_.OneIn(2) ? 9000 : random_.OneIn(2) ? 70'000 : largest;
  op->length = random_.Between(random_.OneIn(60) ? 0 : 1, std::min(scale, largest));
  op->offset = random_.OneIn(3) ? random_.Below(options_.largest_file)
                                : random_.Below(std::min(size, options_.largest_file) + 1);
  if (random_.OneIn(3)) {  // whole blocks
    op->offset = op->offset / core::kBlockBytes * core::kBlockBytes;
    if (op->length > core::kBlockBytes) op->length = op->length / core::kBlockBytes * core::kBlockBytes;
  }
  if (options_.sparse && random_.OneIn(100)) op->offset += uint64_t{1} << random_.Between(20, 62);
}

void FileOperations::ChooseChange(const FileTree& tree, FileOp* op) {
  switch (random_.Below(8)) {
    case 0: op->change.mode = random_.Below(010000); break;
    case 1: op->change.uid = random_.Below(5); break;
    case 2: op->change.gid = random_.Below(5); break;
    case 3: op->change.atime_ns = static_cast<int64_t>(random_.Below(uint64_t{1} << 60)); break;
    case 4: op->change.mtime_ns = static_cast<int64_t>(random_.Below(uint64_t{1} << 60)); break;
    default:
      op->ino = AnyFile(tree);
      ChooseRange(tree, 1, op);
      op->change.size_bytes = random_.OneIn(4) ? 0 : op->offset;
      break;
  }
}

FileOp FileOperations::Next(const FileTree& tree) {
  if (mood_left_ == 0) {
    mood_ = random_.Below(4);
    mood_left_ = random_.Between(10, 200);
  }
  --mood_left_;
  FileOp op;
  op.kind = ChooseKind(random_, mood_);
  op.serial = ++serial_;
  op.ino = AnyInode(tree);
  switch (op.kind) {
    case Kind::kMakeDirectory: {
      uint64_t directories = 0;
      for (const auto& [ino, node] : tree.nodes()) directories += S_ISDIR(node.attributes.mode);
      if (directories >= options_.directories) op.kind = Kind::kRemoveDirectory;
      op.ino = AnyDirectory(tree);
      op.name = AnyName();
      op.mode = random_.OneIn(8) ? 02755 : 0755;
      break;
    }
    case Kind::kMakeSymlink:
      op.new_name = std::string(random_.OneIn(4) ? random_.Below(4200) : random_.Between(1, 60), 't');
      [[fallthrough]];
    case Kind::kLookup:
    case Kind::kCreate:
    case Kind::kCreateOpen:
    case Kind::kUnlink:
    case Kind::kRemoveDirectory:
      op.ino = AnyDirectory(tree);
      op.name = AnyName();
      op.mode = random_.OneIn(8) ? 06755 : 0644;
      break;
    case Kind::kCreateUnnamed:
      op.mode = 0600;
      break;
    case Kind::kRename: {
      op.ino = AnyDirectory(tree);
      op.name = AnyName();
      static constexpr int kFlags[] = {0, 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, 0};
      op.mode = random_.OneIn(200) ? 77 : kFlags[random_.Below(std::size(kFlags))];
      op.directory = random_.OneIn(2) ? op.ino : AnyDirectory(tree);
      op.new_name = AnyName();
      break;
    }
    case Kind::kLink:
      op.ino = random_.OneIn(6) ? op.ino : AnyFile(tree);
      op.directory = AnyDirectory(tree);
      op.new_name = AnyName();
      break;
    case Kind::kReadDirectory:
      op.ino = AnyDirectory(tree);
      op.mode = random_.OneIn(2);  // with attributes
      op.length = random_.OneIn(2) ? 1024 : random_.Between(1, 20);
      break;
    case Kind::kSetAttributes:
      ChooseChange(tree, &op);
      break;
    case Kind::kOpenTruncate:
      op.ino = AnyFile(tree);
      break;
    case Kind::kRead:
    case Kind::kWrite:
    case Kind::kAppend:
      op.ino = random_.OneIn(100) ? op.ino : AnyFile(tree);
      ChooseRange(tree, options_.largest_write, &op);
      break;
    case Kind::kAllocate: {
      op.ino = AnyFile(tree);
      ChooseRange(tree, std::min<uint64_t>(options_.largest_write, 200'000), &op);
      static constexpr int kModes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                       FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
      op.mode = random_.OneIn(200) ? FALLOC_FL_COLLAPSE_RANGE : kModes[random_.Below(std::size(kModes))];
      break;
    }
    case Kind::kSeek:
      op.ino = AnyFile(tree);
      ChooseRange(tree, 1, &op);
      op.mode = random_.OneIn(2) ? SEEK_DATA : SEEK_HOLE;
      break;
    case Kind::kSetXattr: {
      static constexpr int kFlags[] = {0, 0, 0, XATTR_CREATE, XATTR_REPLACE};
      op.mode = kFlags[random_.Below(std::size(kFlags))];
      op.length = random_.Below(random_.OneIn(3) ? 6000 : 200);
      if (random_.OneIn(40)) op.length = random_.Below(70'000);
      [[fallthrough]];
    }
    case Kind::kGetXattr:
    case Kind::kRemoveXattr:
      op.name = random_.OneIn(200) ? std::string(random_.Below(2) * 300, 'z') : absl::StrCat("user.", random_.Below(4));
      break;
    default:
      break;
  }
  return op;
}

}  // namespace stagefs::simulator

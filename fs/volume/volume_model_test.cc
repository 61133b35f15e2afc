// Random operations on a small tree, each compared with a model of POSIX in a few maps; with crashes in between.

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"
#include "sal/random.h"

namespace stagefs::volume::testing {
namespace {

struct Node {
  uint32_t type = S_IFREG;
  uint32_t nlink = 1;
  Ino parent = 0;  // directories
  std::map<std::string, Ino> children = {};
  std::string content = {};  // files, and targets of symlinks
  std::map<std::string, std::string> xattrs = {};
  int openers = 0;

  bool directory() const { return type == S_IFDIR; }
};

// What a file system is, without blocks, hashes or changes.
class Model {
 public:
  Model() { nodes_[kRootIno] = {.type = S_IFDIR, .nlink = 2, .parent = kRootIno}; }

  Node& operator[](Ino ino) { return nodes_.at(ino); }
  bool Exists(Ino ino) const { return nodes_.contains(ino); }
  const std::map<Ino, Node>& nodes() const { return nodes_; }

  // 0 if `directory` takes names, else the errno.
  int Names(Ino directory) const {
    const auto it = nodes_.find(directory);
    if (it == nodes_.end()) return ENOENT;
    if (!it->second.directory()) return ENOTDIR;
    return it->second.nlink == 0 ? ENOENT : 0;
  }
  Ino Find(Ino directory, const std::string& name) const {
    const Node& node = nodes_.at(directory);
    const auto it = node.children.find(name);
    return it == node.children.end() ? 0 : it->second;
  }
  int MayCreate(Ino directory, const std::string& name) const {
    const int error = Names(directory);
    if (error != 0) return error;
    return Find(directory, name) != 0 ? EEXIST : 0;
  }
  void Add(Ino directory, const std::string& name, Ino ino, const Node& node) {
    nodes_[ino] = node;
    nodes_[directory].children[name] = ino;
    if (node.directory()) {
      nodes_[ino].nlink = 2;
      nodes_[ino].parent = directory;
      ++nodes_[directory].nlink;
    }
  }
  int Link(Ino ino, Ino directory, const std::string& name) {
    const int error = Names(directory);
    if (error != 0) return error;
    if (!Exists(ino)) return ESTALE;
    Node& node = nodes_[ino];
    if (node.directory()) return EPERM;
    if (Find(directory, name) != 0) return EEXIST;
    ++node.nlink;
    nodes_[directory].children[name] = ino;
    return 0;
  }
  int Remove(Ino directory, const std::string& name, bool as_directory) {
    const int error = Names(directory);
    if (error != 0) return error;
    const Ino ino = Find(directory, name);
    if (ino == 0) return ENOENT;
    Node& node = nodes_[ino];
    if (node.directory() != as_directory) return as_directory ? ENOTDIR : EISDIR;
    if (!node.children.empty()) return ENOTEMPTY;
    nodes_[directory].children.erase(name);
    DropLink(directory, ino);
    return 0;
  }
  int Rename(Ino from, const std::string& name, Ino to, const std::string& new_name, uint32_t flags) {
    int error = Names(from);
    if (error == 0) error = Names(to);
    if (error != 0) return error;
    const Ino source = Find(from, name), target = Find(to, new_name);
    if (source == 0) return ENOENT;
    if (flags == RENAME_NOREPLACE && target != 0) return EEXIST;
    if (flags == RENAME_EXCHANGE && target == 0) return ENOENT;
    if (source == target) return 0;
    if (nodes_[source].directory() && from != to && Within(to, source)) return EINVAL;
    if (flags == RENAME_EXCHANGE) {
      if (nodes_[target].directory() && from != to && Within(from, target)) return EINVAL;
      nodes_[from].children[name] = target;
      nodes_[to].children[new_name] = source;
      Reparent(source, from, to);
      Reparent(target, to, from);
      return 0;
    }
    if (target != 0) {
      if (nodes_[source].directory() && !nodes_[target].directory()) return ENOTDIR;
      if (!nodes_[source].directory() && nodes_[target].directory()) return EISDIR;
      if (!nodes_[target].children.empty()) return ENOTEMPTY;
      DropLink(to, target);
    }
    nodes_[from].children.erase(name);
    nodes_[to].children[new_name] = source;
    Reparent(source, from, to);
    return 0;
  }
  void Release(Ino ino) {
    --nodes_[ino].openers;
    Forget(ino);
  }
  // A crash closes all files.
  void Crash() {
    std::vector<Ino> inos;
    for (auto& [ino, node] : nodes_) {
      node.openers = 0;
      inos.push_back(ino);
    }
    for (const Ino ino : inos) Forget(ino);
  }

 private:
  bool Within(Ino directory, Ino ancestor) {
    for (Ino at = directory;; at = nodes_[at].parent) {
      if (at == ancestor) return true;
      if (at == kRootIno) return false;
    }
  }
  void Reparent(Ino ino, Ino from, Ino to) {
    if (!nodes_[ino].directory() || from == to) return;
    --nodes_[from].nlink;
    ++nodes_[to].nlink;
    nodes_[ino].parent = to;
  }
  void DropLink(Ino directory, Ino ino) {
    Node& node = nodes_[ino];
    if (node.directory()) {
      --nodes_[directory].nlink;
      node.nlink = 0;
    } else {
      --node.nlink;
    }
    Forget(ino);
  }
  void Forget(Ino ino) {
    if (nodes_[ino].nlink == 0 && nodes_[ino].openers == 0) nodes_.erase(ino);
  }

  std::map<Ino, Node> nodes_;
};

class VolumeModelTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  VolumeModelTest() : tester_(MakeOptions(GetParam())), random_(GetParam()) {}

  static VolumeTester::Options MakeOptions(uint64_t seed) {
    VolumeTester::Options options;
    options.engine = VolumeTester::Misses(seed, 20'000);
    options.engine.miss_probability = options.engine.rerun_probability = 0.03;
    options.engine.asynchronous = seed % 2 == 0;
    if (seed % 3 == 0) options.hash_mask = 0x1f;  // names collide
    return options;
  }

  std::string SomeName() { return "n" + std::to_string(random_.Below(12)); }
  // Any inode, mostly one that exists.
  Ino SomeIno() {
    if (random_.OneIn(20)) return random_.Between(1, 500);
    auto it = model_.nodes().begin();
    std::advance(it, static_cast<int64_t>(random_.Below(model_.nodes().size())));
    return it->first;
  }
  Ino SomeDirectory() {
    for (int i = 0; i < 20; ++i) {
      const Ino ino = SomeIno();
      if (random_.OneIn(30) || (model_.Exists(ino) && model_[ino].directory())) return ino;
    }
    return kRootIno;
  }

  void Step();
  void ContentStep(Ino ino);
  void Compare();

  VolumeTester tester_;
  sal::Random64 random_;
  Model model_;
};

void VolumeModelTest::Step() {
  const Ino directory = SomeDirectory();
  const std::string name = SomeName();
  switch (random_.Below(14)) {
    case 0:
    case 1: {
      Ino ino = 0;
      const int error = model_.MayCreate(directory, name);
      const bool open = random_.OneIn(4);
      ASSERT_EQ(tester_.Create(directory, name, {.mode = S_IFREG | 0644}, &ino, open), error);
      if (error == 0) model_.Add(directory, name, ino, {.openers = open ? 1 : 0});
      break;
    }
    case 2:
    case 3: {
      Ino ino = 0;
      const int error = model_.MayCreate(directory, name);
      ASSERT_EQ(tester_.MakeDirectory(directory, name, &ino), error);
      if (error == 0) model_.Add(directory, name, ino, {.type = S_IFDIR});
      break;
    }
    case 4: {
      const int error = model_.MayCreate(directory, name);
      if (error != 0) break;
      const std::string target(random_.Between(1, 2000), 't');
      model_.Add(directory, name, tester_.Symlink(directory, name, target), {.type = S_IFLNK, .content = target});
      break;
    }
    case 5: {
      const Ino ino = SomeIno();
      const int error = model_.Link(ino, directory, name);
      ASSERT_EQ(tester_.Link(ino, directory, name), error);
      break;
    }
    case 6:
      ASSERT_EQ(tester_.Unlink(directory, name), model_.Remove(directory, name, false));
      break;
    case 7:
      ASSERT_EQ(tester_.RemoveDirectory(directory, name), model_.Remove(directory, name, true));
      break;
    case 8:
    case 9: {
      const Ino to = SomeDirectory();
      const std::string new_name = SomeName();
      const uint32_t flags = random_.OneIn(3) ? uint32_t{RENAME_EXCHANGE}
                             : random_.OneIn(4) ? uint32_t{RENAME_NOREPLACE}
                                                : 0;
      ASSERT_EQ(tester_.Rename(directory, name, to, new_name, flags),
                model_.Rename(directory, name, to, new_name, flags));
      break;
    }
    case 10: {
      const Ino ino = SomeIno();
      if (model_.Exists(ino) && model_[ino].openers > 0) {
        tester_.volume().Release(ino);
        model_.Release(ino);
      } else {
        ASSERT_EQ(tester_.Open(ino), model_.Exists(ino) ? 0 : ESTALE);
        if (model_.Exists(ino)) ++model_[ino].openers;
      }
      break;
    }
    case 11: {
      const Ino ino = SomeIno();
      if (!model_.Exists(ino)) break;
      std::map<std::string, std::string>& xattrs = model_[ino].xattrs;
      const std::string attribute = "user." + std::to_string(random_.Below(4));
      if (random_.OneIn(3)) {
        ASSERT_EQ(tester_.RemoveXattr(ino, attribute), xattrs.erase(attribute) == 1 ? 0 : ENODATA);
      } else {
        xattrs[attribute] = Pattern(random_.Next(), random_.OneIn(4) ? 5000 : 50);
        ASSERT_EQ(tester_.SetXattr(ino, attribute, xattrs[attribute]), 0);
      }
      break;
    }
    default:
      ContentStep(SomeIno());
      break;
  }
}

void VolumeModelTest::ContentStep(Ino ino) {
  if (!model_.Exists(ino)) {
    ASSERT_EQ(tester_.Write(ino, 0, "x"), ESTALE);
    return;
  }
  Node& node = model_[ino];
  if (node.type != S_IFREG) {
    ASSERT_EQ(tester_.Write(ino, 0, "x"), node.directory() ? EISDIR : EINVAL);
    return;
  }
  const uint64_t offset = random_.Below(random_.OneIn(2) ? 300 : 300'000);
  const uint64_t length = random_.Between(1, random_.OneIn(2) ? 200 : 100'000);
  switch (random_.Below(4)) {
    case 0:
      ASSERT_EQ(tester_.Truncate(ino, offset), 0);
      node.content.resize(offset, '\0');
      break;
    case 1: {
      ASSERT_EQ(tester_.Allocate(ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length), 0);
      const uint64_t end = std::min<uint64_t>(node.content.size(), offset + length);
      for (uint64_t i = offset; i < end; ++i) node.content[i] = '\0';
      break;
    }
    default: {
      const std::string bytes = Pattern(random_.Next(), length);
      ASSERT_EQ(tester_.Write(ino, offset, bytes), 0);
      if (node.content.size() < offset + length) node.content.resize(offset + length, '\0');
      node.content.replace(offset, length, bytes);
      break;
    }
  }
}

void VolumeModelTest::Compare() {
  tester_.Settle();
  ASSERT_EQ(tester_.Fs().inodes, model_.nodes().size());
  for (const auto& [ino, node] : model_.nodes()) {
    SCOPED_TRACE(ino);
    const Attributes attributes = tester_.Stat(ino);
    ASSERT_EQ(attributes.mode & S_IFMT, node.type);
    ASSERT_EQ(attributes.nlink, node.nlink);
    for (const auto& [name, value] : node.xattrs) {
      std::string found;
      ASSERT_EQ(tester_.GetXattr(ino, name, &found), 0);
      ASSERT_EQ(found, value);
    }
    if (node.directory()) {
      std::map<std::string, Ino> listed;
      for (const DirectoryEntry& entry : tester_.List(ino, 5)) {
        if (entry.name[0] == '.') continue;
        ASSERT_TRUE(listed.emplace(entry.name, entry.ino).second);
        ASSERT_EQ(entry.type, model_[entry.ino].type);
      }
      ASSERT_TRUE(listed == node.children);
      Ino parent = 0;
      if (node.nlink > 0) {
        ASSERT_EQ(tester_.Lookup(ino, "..", &parent), 0);
        ASSERT_EQ(parent, node.parent);
      }
    } else {
      ASSERT_EQ(attributes.size_bytes, node.content.size());
    }
    if (node.type == S_IFREG) {
      ASSERT_TRUE(tester_.Read(ino, 0, node.content.size() + 1) == node.content);
    }
    if (node.type == S_IFLNK) {
      const auto target =
          tester_.Wait<std::string>([&, ino = ino](auto done) { tester_.volume().ReadSymlink(ino, std::move(done)); });
      ASSERT_EQ(*target, node.content);
    }
  }
}

TEST_P(VolumeModelTest, AVolumeBehavesLikeTheModel) {
  SCOPED_TRACE("seed " + std::to_string(GetParam()));
  const uint64_t free = tester_.Fs().free_blocks;
  for (int step = 0; step < 1200; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    ASSERT_NO_FATAL_FAILURE(Step());
    if (step % 100 == 99) {
      ASSERT_NO_FATAL_FAILURE(Compare());
    }
    if (random_.OneIn(30)) tester_.ExpectClean();
    if (random_.OneIn(150)) {
      tester_.Crash();
      model_.Crash();
    }
  }
  tester_.Crash();
  model_.Crash();
  ASSERT_NO_FATAL_FAILURE(Compare());
  // Empty it from the leaves up: all of the space comes back.
  while (!model_[kRootIno].children.empty()) {
    const std::map<Ino, Node> nodes = model_.nodes();
    for (const auto& [ino, node] : nodes) {
      if (!node.directory()) continue;
      for (const auto& [name, child] : node.children) {
        const bool as_directory = nodes.at(child).directory();
        if (as_directory && !nodes.at(child).children.empty()) continue;
        ASSERT_EQ(as_directory ? tester_.RemoveDirectory(ino, name) : tester_.Unlink(ino, name), 0);
        ASSERT_EQ(model_.Remove(ino, name, as_directory), 0);
      }
    }
  }
  for (const auto& [name, value] : model_[kRootIno].xattrs) ASSERT_EQ(tester_.RemoveXattr(kRootIno, name), 0);
  tester_.Settle();
  tester_.ExpectClean();
  EXPECT_EQ(tester_.Fs().inodes, 1u);
  EXPECT_EQ(tester_.Fs().free_blocks, free);
}

INSTANTIATE_TEST_SUITE_P(Seeds, VolumeModelTest, ::testing::Range<uint64_t>(1, 31));

}  // namespace
}  // namespace stagefs::volume::testing

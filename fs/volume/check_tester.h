// What the tests of the check share: a small volume with everything in it, and a vandal who changes what lies on the
// device as a bug would, behind the volume's back but with checksums that match.

#ifndef STAGEFS_FS_VOLUME_CHECK_TESTER_H_
#define STAGEFS_FS_VOLUME_CHECK_TESTER_H_

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/allocator.h"
#include "fs/volume/btree_node.h"
#include "fs/volume/check.h"
#include "fs/volume/format.h"
#include "fs/volume/header.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"
#include "sal/simulated_environment.h"
#include "sal/status_macros.h"

namespace stagefs::volume::testing {

using core::Block;
using core::kBlockBytes;
using core::Transaction;

// Changes what lies on the device, as a bug would.
class Vandal : public BTreeStorage {
 public:
  explicit Vandal(MemoryEngine& engine) : engine_(engine), allocator_(engine.capacity_blocks()) {
    volume_ = Header().hash_seed;
  }

  void Do(core::Engine::Body body) {
    const absl::Status status = engine_.RunAndWait(std::move(body)).status();
    ASSERT_TRUE(status.ok()) << status;
  }
  // The header alone: its copy says what it said.
  void EditHeader(const std::function<void(VolumeHeader&)>& edit) {
    Do([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(kHeaderBlock));
      ASSIGN_OR_RETURN(VolumeHeader header, DecodeHeader(bytes));
      edit(header);
      EncodeHeader(header, bytes);
      return absl::OkStatus();
    });
  }
  VolumeHeader Header() {
    VolumeHeader header;
    EditHeader([&](VolumeHeader& found) { header = found; });
    return header;
  }
  void Put(const Key& key, const std::string& value) {
    Do([&](Transaction& tx) { return tree_.Put(tx, key, value); });
  }
  void Erase(const Key& key) {
    Do([&](Transaction& tx) { return tree_.Erase(tx, key); });
  }
  std::string Get(const Key& key) {
    std::string result;
    Do([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(const auto value, tree_.Find(tx, key));
      if (!value.has_value()) return absl::NotFoundError("no such item");
      result = std::string(*value);
      return absl::OkStatus();
    });
    return result;
  }
  void EditInode(Ino ino, const std::function<void(Inode&)>& edit) {
    Inode inode = *DecodeInode(Get(InodeKey(ino)));
    edit(inode);
    std::string bytes(kInodeBytes, '\0');
    EncodeInode(inode, bytes.data());
    Put(InodeKey(ino), bytes);
  }
  void PutEntry(Ino directory, uint64_t hash, Ino ino, uint32_t mode, const std::string& name) {
    std::string value;
    AppendEntry({.ino = ino, .type = static_cast<uint8_t>((mode & S_IFMT) >> 12), .slot = 0, .name = name}, &value);
    Put(EntryKey(directory, hash), value);
  }
  uint64_t Hash(const std::string& name) { return HashName(Header().hash_seed, name); }
  void PutExtent(Ino ino, uint64_t file_block, const Extent& extent) {
    std::string bytes(kExtentBytes, '\0');
    EncodeExtent(extent, bytes.data());
    Put(ExtentKey(ino, file_block), bytes);
  }
  Extent FirstExtent(Ino ino) { return *DecodeExtent(Get(ExtentKey(ino, 0))); }
  void EditBlock(Block block, const std::function<void(std::byte*)>& edit) {
    Do([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(std::byte* bytes, tx.Modify(block));
      edit(bytes);
      return absl::OkStatus();
    });
  }
  template <typename T>
  void Poke(uint64_t address, T value) {
    engine_.Poke(address, {reinterpret_cast<const std::byte*>(&value), sizeof(value)});
  }
  std::vector<std::pair<Key, std::string>> Items() {
    std::vector<std::pair<Key, std::string>> items;
    Do([&](Transaction& tx) {
      items.clear();
      return tree_.Scan(tx, Key{}, Key{~uint64_t{0}, 0xff, ~uint64_t{0}}, [&](const BTree::Item& item) {
        items.emplace_back(item.key, std::string(item.value));
        return true;
      });
    });
    return items;
  }
  // The leaf that holds `key`.
  Block LeafOf(const Key& key) {
    Block block = 0;
    Do([&](Transaction& tx) -> absl::Status {
      ASSIGN_OR_RETURN(const Root root, GetRoot(tx));
      block = root.block;
      for (uint32_t level = root.height - 1; level > 0; --level) {
        ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(block));
        ASSIGN_OR_RETURN(const NodeView node, NodeView::Open(bytes, block, level));
        ASSIGN_OR_RETURN(const uint32_t index, node.ChildFor(key));
        ASSIGN_OR_RETURN(block, node.ChildAt(index));
      }
      return absl::OkStatus();
    });
    return block;
  }

  absl::StatusOr<Root> GetRoot(Transaction& tx) override {
    ASSIGN_OR_RETURN(const std::byte* bytes, tx.Read(kHeaderBlock));
    ASSIGN_OR_RETURN(const VolumeHeader header, DecodeHeader(bytes));
    return Root{header.root_block, header.root_height};
  }
  absl::Status SetRoot(Transaction& tx, Root root) override {
    return UpdateHeader(tx, [&](VolumeHeader& header) {
      header.root_block = root.block;
      header.root_height = root.height;
    });
  }
  absl::StatusOr<Block> AllocateNode(Transaction& tx, Block near) override {
    ASSIGN_OR_RETURN(const core::BlockRange range, allocator_.Allocate(tx, 1, 1, near, SpaceUse::kFreeing));
    return range.first;
  }
  absl::Status FreeNode(Transaction& tx, Block block) override {
    RETURN_IF_ERROR(tx.Zero(block * kBlockBytes, kBlockBytes));
    return allocator_.Free(tx, {block, 1});
  }
  uint64_t NodeVolume() const override { return volume_; }

 private:
  MemoryEngine& engine_;
  Allocator allocator_;
  uint64_t volume_ = 0;
  BTree tree_{this};
};

// The blocks in use that hold nodes of `level`, ascending; of any level if it is negative.
inline std::vector<Block> NodesOf(MemoryEngine& engine, int level) {
  std::vector<Block> nodes;
  for (const auto& [block, slot] : engine.Snapshot()) {
    if (slot.image == nullptr || slot.use != MemoryEngine::Slot::Use::kInUse) continue;
    uint32_t magic = 0;
    uint16_t found = 0;
    std::memcpy(&magic, slot.image->data() + kNodeMagicOffset, sizeof(magic));
    std::memcpy(&found, slot.image->data() + kNodeLevelOffset, sizeof(found));
    if (magic == kNodeMagic && (level < 0 || found == level)) nodes.push_back(block);
  }
  std::sort(nodes.begin(), nodes.end());
  return nodes;
}

class CheckTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kCapacity = 3 * AllocationLayout::kGroupBlocks / 2;

  CheckTest() : tester_(VolumeTester::NoMisses(kCapacity)) {
    directory_ = tester_.Directory(kRootIno, "directory");
    inner_ = tester_.Directory(directory_, "inner");
    other_ = tester_.Directory(kRootIno, "other");
    small_ = tester_.File(directory_, "small");
    EXPECT_EQ(tester_.Write(small_, 0, "a small content"), 0);
    large_ = tester_.File(directory_, "large");
    EXPECT_EQ(tester_.Write(large_, 0, Pattern(1, 300 << 10)), 0);
    sparse_ = tester_.File(inner_, "sparse");
    EXPECT_EQ(tester_.Write(sparse_, 0, Pattern(2, 8192)), 0);
    EXPECT_EQ(tester_.Write(sparse_, 1 << 20, Pattern(3, 100 << 10)), 0);
    tester_.Symlink(kRootIno, "short", "directory/small");
    tester_.Symlink(kRootIno, "long", std::string(3000, 'x'));
    EXPECT_EQ(tester_.Link(large_, other_, "large too"), 0);
    EXPECT_EQ(tester_.SetXattr(small_, "user.short", "value"), 0);
    EXPECT_EQ(tester_.SetXattr(small_, "user.long", Pattern(4, 10000)), 0);
    for (int i = 0; i < 400; ++i) {
      const Ino ino = tester_.File(other_, absl::StrCat("file ", i));
      EXPECT_EQ(tester_.Write(ino, 0, Pattern(static_cast<uint64_t>(i), 200)), 0);
    }
    tester_.volume().Close();
    tester_.Settle();
    tester_.engine().MakeDurable();
    made_ = tester_.engine().Snapshot();
    Restart();
  }

  // Back to the volume as it was made.
  void Restart(MemoryEngine::Options options = {}) {
    options.capacity_blocks = kCapacity;
    engine_ = std::make_unique<MemoryEngine>(environment_, options, made_);
    vandal_ = std::make_unique<Vandal>(*engine_);
  }
  Vandal& vandal() { return *vandal_; }

  CheckReport Look(const CheckOptions& options = {}) {
    const absl::StatusOr<CheckReport> report = Check(*engine_, options);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : CheckReport();
  }
  static std::string Describe(const CheckReport& report) {
    std::string text;
    for (const Problem& problem : report.problems) {
      absl::StrAppend(&text, ProblemKindName(problem.kind), ": ", ToString(problem), "\n");
    }
    return text;
  }
  static bool Has(const CheckReport& report, ProblemKind kind) {
    return std::any_of(report.problems.begin(), report.problems.end(),
                       [&](const Problem& problem) { return problem.kind == kind; });
  }
  // Whether some problem's text has all of `words` in it.
  static bool Names(const CheckReport& report, const std::vector<std::string>& words) {
    return std::any_of(report.problems.begin(), report.problems.end(), [&](const Problem& problem) {
      const std::string text = ToString(problem);
      return std::all_of(words.begin(), words.end(),
                         [&](const std::string& word) { return text.find(word) != text.npos; });
    });
  }
  // A repair mends everything, and a second run is clean, whatever it looks at.
  CheckReport Mend(const CheckOptions& options = {.repair = true}) {
    const CheckReport mended = Look(options);
    EXPECT_EQ(mended.unrepaired_count(), 0u) << Describe(mended);
    const CheckReport again = Look({.verify_data = true});
    EXPECT_TRUE(again.clean()) << Describe(mended) << "then\n" << Describe(again);
    return mended;
  }
  // A look finds a problem of `kind`, whose text has `words` in it, and changes nothing; a repair mends everything.
  CheckReport ExpectMended(ProblemKind kind, const std::vector<std::string>& words = {}) {
    const core::Lsn before = engine_->accepted_lsn();
    const CheckReport found = Look();
    EXPECT_TRUE(Has(found, kind)) << Describe(found);
    EXPECT_EQ(found.repaired_count, 0u);
    EXPECT_EQ(engine_->accepted_lsn(), before);
    EXPECT_TRUE(Names(found, words)) << Describe(found);
    const CheckReport mended = Mend();
    EXPECT_TRUE(Has(mended, kind)) << Describe(mended);
    return mended;
  }
  // The volume as repaired, in use.
  VolumeTester& Mounted() {
    tester_.Crash(engine_->Snapshot());
    return tester_;
  }
  // Everything that files can do works on it, and leaves it clean.
  void ExpectUsable() {
    VolumeTester& tester = Mounted();
    tester.Settle();
    const Ino directory = tester.Directory(kRootIno, "made after the repair");
    const Ino file = tester.File(directory, "file");
    EXPECT_EQ(tester.Write(file, 0, Pattern(77, 200 << 10)), 0);
    EXPECT_EQ(tester.Read(file, 0, 1 << 20), Pattern(77, 200 << 10));
    for (int i = 0; i < 100; ++i) EXPECT_NE(tester.File(directory, absl::StrCat("new ", i)), 0u);
    EXPECT_EQ(tester.Rename(directory, "file", kRootIno, "moved"), 0);
    EXPECT_EQ(tester.Unlink(kRootIno, "moved"), 0);
    tester.Settle();
    tester.ExpectClean();
  }
  void ExpectLargeIsIntact() {
    EXPECT_EQ(Mounted().Read(large_, 0, 1 << 20), Pattern(1, 300 << 10));
    EXPECT_EQ(tester_.Names(other_).size(), 401u);
  }

  VolumeTester tester_;
  MemoryEngine::State made_;
  sal::SimulatedEnvironment environment_{9};
  std::unique_ptr<MemoryEngine> engine_;
  std::unique_ptr<Vandal> vandal_;
  Ino directory_ = 0, inner_ = 0, other_ = 0, small_ = 0, large_ = 0, sparse_ = 0;
};

}  // namespace stagefs::volume::testing

#endif  // STAGEFS_FS_VOLUME_CHECK_TESTER_H_

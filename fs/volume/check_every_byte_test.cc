// Damage all over: every metadata block of a small volume with everything in it, at a stride of its bytes, with a
// checksum that matches (as a bug would) and without (as decay would). Whatever is hit, the check ends, finds it
// unless the field may hold anything, mends it, and is clean the second time; and what has nothing to do with the item
// that was hit is as it was: all files below an inner node, all items of a leaf whose header is wrong, all but one of a leaf with a
// wrong item.

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/bytes.h"
#include "fs/volume/check_tester.h"
#include "gtest/gtest.h"
#include "sal/random.h"

namespace stagefs::volume::testing {
namespace {

using core::Load;

constexpr uint64_t kBlocks = AllocationLayout::kGroupBlocks + 2000;

// What users see of a file.
struct Seen {
  uint32_t mode = 0;
  uint64_t size_bytes = 0;
  std::string content;
  std::string attribute;
  friend bool operator==(const Seen&, const Seen&) = default;
};
using Survey = std::map<Ino, Seen>;

// What a byte of a node belongs to.
struct Hit {
  std::optional<Key> key;  // nothing: to the node itself, or to nothing
  uint64_t in_cell = 0;    // where in the cell
};

class EveryByteTest : public ::testing::Test {
 protected:
  EveryByteTest() : tester_(VolumeTester::NoMisses(kBlocks)) {
    const Ino a = tester_.Directory(kRootIno, "a");
    const Ino b = tester_.Directory(a, "b");
    tester_.Directory(kRootIno, "empty");
    tester_.Symlink(kRootIno, "short", "a/b");
    tester_.Symlink(a, "long", std::string(2000, 'l'));
    const Ino large = tester_.File(b, "large");
    EXPECT_EQ(tester_.Write(large, 0, Pattern(1, 300 << 10)), 0);
    EXPECT_EQ(tester_.Write(large, 1 << 20, Pattern(2, 9000)), 0);
    EXPECT_EQ(tester_.Link(large, a, "large too"), 0);
    for (int i = 0; i < 24; ++i) {
      const Ino ino = tester_.File(i % 2 == 0 ? a : b, absl::StrCat("file ", i));
      EXPECT_EQ(tester_.Write(ino, 0, Pattern(static_cast<uint64_t>(i), i % 3 == 0 ? 5000 : 300)), 0);
      if (i % 4 != 0) continue;
      EXPECT_EQ(tester_.SetXattr(ino, "user.a", absl::StrCat("value ", i)), 0);
      EXPECT_EQ(tester_.SetXattr(ino, "user.long", Pattern(static_cast<uint64_t>(i), 2500)), 0);
    }
    EXPECT_EQ(tester_.Create(kRootIno, "fifo", {.mode = S_IFIFO | 0600}), 0);
    tester_.engine().MakeDurable();
    // One that waits for its removal.
    const Ino orphan = tester_.File(kRootIno, "orphan");
    EXPECT_EQ(tester_.Open(orphan), 0);
    EXPECT_EQ(tester_.Write(orphan, 0, Pattern(9, 5000)), 0);
    EXPECT_EQ(tester_.Unlink(kRootIno, "orphan"), 0);
    tester_.engine().MakeDurable();
    made_ = tester_.engine().Snapshot();
    tester_.volume().Release(orphan);
    tester_.Settle();
    Restart();
    Mount();
    before_ = Look();
    EXPECT_GE(before_.size(), 31u);
    EXPECT_TRUE(CheckOnce(false).clean());
  }

  void Restart() {
    engine_ = std::make_unique<MemoryEngine>(environment_, MemoryEngine::Options{.capacity_blocks = kBlocks}, made_);
  }
  void Mount() {
    tester_.Crash(engine_->Snapshot());
    tester_.Settle();
  }
  CheckReport CheckOnce(bool repair) {
    const absl::StatusOr<CheckReport> report = Check(*engine_, {.repair = repair});
    EXPECT_TRUE(report.ok()) << report.status();
    return report.value_or(CheckReport());
  }
  Survey Look() {
    Survey survey;
    std::vector<Ino> directories = {kRootIno};
    while (!directories.empty()) {
      const Ino directory = directories.back();
      directories.pop_back();
      for (const DirectoryEntry& entry : tester_.List(directory, 1000)) {
        if (entry.name == "." || entry.name == "..") continue;
        Seen& seen = survey[entry.ino];
        const Attributes attributes = tester_.Stat(entry.ino);
        seen.mode = attributes.mode;
        if (S_ISDIR(seen.mode)) {
          directories.push_back(entry.ino);
          continue;
        }
        seen.size_bytes = attributes.size_bytes;
        if (S_ISREG(seen.mode)) seen.content = tester_.Read(entry.ino, 0, std::min<uint64_t>(seen.size_bytes, 2 << 20));
        tester_.GetXattr(entry.ino, "user.a", &seen.attribute);
        std::string value;
        if (tester_.GetXattr(entry.ino, "user.long", &value) == 0) seen.attribute += value;
      }
    }
    return survey;
  }
  const std::byte* Bytes(Block block) {
    const auto found = made_.find(block);
    return found != made_.end() && found->second.image != nullptr ? found->second.image->data() : nullptr;
  }
  std::vector<Block> MetadataBlocks() {
    std::vector<Block> blocks = NodesOf(*engine_, -1);
    for (const Block block : {kHeaderBlock, HeaderCopyBlock(kBlocks), AllocationLayout::BitmapBlock(0),
                              AllocationLayout::BitmapBlock(1), AllocationLayout::SummaryBlock(0)}) {
      blocks.push_back(block);
    }
    return blocks;
  }
  bool IsLeaf(Block block) {
    return Load<uint32_t>(Bytes(block)) == kNodeMagic && Load<uint16_t>(Bytes(block) + kNodeLevelOffset) == 0;
  }

  // What byte `offset` of a node belongs to. A slot belongs to its item, as the length in its cell does.
  Hit HitIn(Block node, uint64_t offset) {
    const std::byte* bytes = Bytes(node);
    for (uint64_t i = 0; i < Load<uint16_t>(bytes + kNodeCountOffset); ++i) {
      const uint64_t slot = kNodeHeaderBytes + kSlotBytes * i;
      const uint64_t cell = Load<uint16_t>(bytes + slot);
      const uint64_t end = cell + kCellHeaderBytes + Load<uint16_t>(bytes + cell + 17);
      const Key key = {Load<uint64_t>(bytes + cell), Load<uint8_t>(bytes + cell + 8), Load<uint64_t>(bytes + cell + 9)};
      if (offset == slot || offset == slot + 1) return {key, kCellHeaderBytes - 2};
      if (offset >= cell && offset < end) return {key, offset - cell};
    }
    return {};
  }
  // Who may suffer when that byte changes: the owner of the item, the owner it has then, and whom a name in it names.
  std::set<Ino> Victims(const Hit& hit, uint64_t changed_by) {
    if (!hit.key.has_value()) return {};
    std::set<Ino> victims = {hit.key->ino};
    if (hit.in_cell < 8) victims.insert(hit.key->ino ^ (changed_by << (8 * hit.in_cell)));
    if (hit.key->ino == 0) victims.insert(hit.key->offset);
    return victims;
  }
  // Whether a change there may go unseen, since the field may hold anything.
  bool MayHoldAnything(Block block, uint64_t offset) {
    const std::byte* bytes = Bytes(block);
    if (block == kHeaderBlock) return offset >= 40 && offset < 48;  // the next inode, as long as it fits the copy
    if (block == HeaderCopyBlock(kBlocks)) return offset >= 56 && offset < 64;  // the number of inodes at some time
    if (block == AllocationLayout::SummaryBlock(0)) return offset >= 4;  // of groups that do not exist
    if (block % AllocationLayout::kGroupBlocks == 0) return false;
    const Hit hit = HitIn(block, offset);
    if (!hit.key.has_value()) {  // between slots and cells, or what removed cells left
      const uint64_t slots_end = kNodeHeaderBytes + kSlotBytes * Load<uint16_t>(bytes + kNodeCountOffset);
      if (offset >= slots_end && offset < Load<uint16_t>(bytes + kNodeHeapOffset)) return true;
      return offset >= kNodeHeaderBytes && offset >= slots_end;
    }
    // A separator may be anything between the keys that it separates.
    if (!IsLeaf(block)) return hit.in_cell < kCellHeaderBytes - 2;
    const uint64_t in_value = hit.in_cell - kCellHeaderBytes;
    switch (hit.key->kind) {
      case kKindInode:
        // Permissions, owners, device numbers, sizes that leave holes, times, unused attribute numbers.
        return hit.in_cell >= kCellHeaderBytes &&
               (in_value < 2 || (in_value >= 8 && in_value < 32) || (in_value >= 40 && in_value < 72) ||
                (in_value >= 84 && in_value < 88));
      case kKindInline:
      case kKindXattrChunk:
        return hit.in_cell >= kCellHeaderBytes;  // content
      case kKindEntry:
        return hit.in_cell == kCellHeaderBytes + 9;  // the slot
      case kKindExtent:
        return hit.in_cell >= 9 && hit.in_cell < 17;  // where in the file
      case kKindXattr:
        return hit.in_cell >= kCellHeaderBytes + kXattrOverheadBytes;  // values, where they are not names
      default:
        return false;
    }
  }

  void ExpectOthersAreIntact(const std::set<Ino>& victims) {
    Mount();
    const Survey after = Look();
    for (const auto& [ino, seen] : before_) {
      if (victims.contains(ino)) continue;
      const auto found = after.find(ino);
      if (found == after.end()) {
        ADD_FAILURE() << "inode " << ino << " is gone";
      } else if (!(found->second == seen)) {
        ADD_FAILURE() << "inode " << ino << " has changed: mode " << found->second.mode << " from " << seen.mode
                      << ", size " << found->second.size_bytes << " from " << seen.size_bytes;
      }
    }
  }
  // Repairs what was done, and looks.
  void ExpectMended(bool must_be_found, const std::set<Ino>& victims) {
    const CheckReport report = CheckOnce(true);
    EXPECT_TRUE(!must_be_found || !report.clean());
    EXPECT_EQ(report.unrepaired_count(), 0u) << Describe(report);
    const CheckReport again = CheckOnce(false);
    EXPECT_TRUE(again.clean()) << Describe(report) << "then\n" << Describe(again);
    ExpectOthersAreIntact(victims);
  }
  static std::string Describe(const CheckReport& report) {
    std::string text;
    for (const Problem& problem : report.problems) absl::StrAppend(&text, ToString(problem), "\n");
    return text;
  }

  VolumeTester tester_;
  MemoryEngine::State made_;
  sal::SimulatedEnvironment environment_{9};
  std::unique_ptr<MemoryEngine> engine_;
  Survey before_;
};

TEST_F(EveryByteTest, AWrongByteAnywhereIsMended) {
  // With another step, other bytes; all in a quarter of an hour with 1.
  constexpr uint64_t kStep = 23;
  sal::Random64 random(2026);
  uint64_t tried = 0, start = 0;
  for (const Block block : MetadataBlocks()) {
    const bool node = Load<uint32_t>(Bytes(block)) == kNodeMagic;
    for (uint64_t offset = 0; offset < kBlockBytes; ++offset) {
      // All of the headers, and the rest at a step that begins elsewhere in each block.
      const bool header = offset < (node ? kNodeHeaderBytes : 80);
      if (!header && (offset + start) % kStep != 0) continue;
      const uint8_t old = Load<uint8_t>(Bytes(block) + offset);
      const std::vector<uint8_t> values = {static_cast<uint8_t>(old ^ (1 << random.Below(8))),
                                           static_cast<uint8_t>(~old)};
      const uint8_t value = values[random.Below(2)];
      SCOPED_TRACE(absl::StrCat("block ", block, " offset ", offset, ": ", value, " instead of ", old));
      Restart();
      engine_->Poke(block * kBlockBytes + offset, {reinterpret_cast<const std::byte*>(&value), 1});
      const std::set<Ino> victims = IsLeaf(block) ? Victims(HitIn(block, offset), old ^ value) : std::set<Ino>();
      ExpectMended(!MayHoldAnything(block, offset), victims);
      ++tried;
      if (HasFailure()) return;
    }
    start += 7;
  }
  EXPECT_GT(tried, 1500u);
}

TEST_F(EveryByteTest, ADecayedBlockAnywhereIsMended) {
  for (const Block block : MetadataBlocks()) {
    SCOPED_TRACE(absl::StrCat("block ", block));
    Restart();
    engine_->SpoilBlock(block);
    std::set<Ino> victims;
    if (IsLeaf(block)) {
      for (uint64_t offset = 0; offset < kBlockBytes; ++offset) {
        const Hit hit = HitIn(block, offset);
        if (hit.key.has_value()) victims.insert(hit.key->ino);
      }
    }
    // Whoever lost its inode, and had no content, is gone with the names that lead there.
    ExpectMended(true, victims);
  }
}

TEST_F(EveryByteTest, BlocksOfGarbageAreMended) {
  sal::Random64 random(7);
  const std::vector<Block> blocks = MetadataBlocks();
  for (int i = 0; i < 60; ++i) {
    SCOPED_TRACE(absl::StrCat("round ", i));
    Restart();
    const Block block = blocks[random.Below(blocks.size())];
    const uint64_t from = random.Below(kBlockBytes), length = random.Between(1, kBlockBytes - from);
    std::string garbage(length, '\0');
    for (char& byte : garbage) byte = random.OneIn(3) ? 0 : static_cast<char>(random.Next());
    engine_->Poke(block * kBlockBytes + from, {reinterpret_cast<const std::byte*>(garbage.data()), garbage.size()});
    const CheckReport report = CheckOnce(true);
    EXPECT_EQ(report.unrepaired_count(), 0u) << Describe(report);
    EXPECT_TRUE(CheckOnce(false).clean()) << "block " << block << " from " << from << " on, " << length << " bytes\n"
                                          << Describe(report);
    if (!IsLeaf(block)) ExpectOthersAreIntact({});
  }
}

}  // namespace
}  // namespace stagefs::volume::testing

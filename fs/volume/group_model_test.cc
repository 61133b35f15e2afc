// Random groups, each compared with what they make of plain bytes; with truncations and crashes in between.

#include <map>
#include <string>
#include <vector>

#include "fs/volume/group_tester.h"
#include "fs/volume/volume_tester.h"
#include "gtest/gtest.h"
#include "sal/random.h"

namespace stagefs::volume::testing {
namespace {

using Kind = ContentChange::Kind;

using Contents = std::map<Ino, std::string>;

// What `parts` make of `contents`, in plain bytes.
std::vector<uint64_t> Apply(const std::vector<ContentChange>& parts, Contents* contents) {
  std::vector<uint64_t> previous;
  for (const ContentChange& part : parts) {
    std::string& content = (*contents)[part.ino];
    std::string bytes;
    uint64_t before = 0;
    if (part.kind == Kind::kWrite || part.kind == Kind::kWriteStaged) {
      const auto span = part.kind == Kind::kWrite
                            ? part.bytes
                            : absl::Span<const std::byte>(const_cast<core::StagedData&>(*part.staged).bytes());
      bytes.assign(reinterpret_cast<const char*>(span.data()), span.size());
    } else {
      std::string old = part.offset < content.size() ? content.substr(part.offset, 8) : "";
      old.resize(8);
      before = NumberAt(old, 0);
      if (part.kind == Kind::kFetchAdd && part.operand != 0) bytes = Number(before + part.operand);
      if (part.kind == Kind::kCompareAndSwap && before == part.expected) bytes = Number(part.operand);
    }
    previous.push_back(before);
    if (bytes.empty()) continue;
    if (content.size() < part.offset + bytes.size()) content.resize(part.offset + bytes.size());
    content.replace(part.offset, bytes.size(), bytes);
  }
  return previous;
}

Group RandomGroup(sal::Random64& random, VolumeTester& tester, const std::vector<Ino>& files) {
  Group group;
  // Now and then too much to be logged.
  const uint64_t parts = random.OneIn(4) ? random.Between(200, 500) : random.Between(1, 12);
  const uint64_t most = parts > 100 ? 9000 : random.OneIn(4) ? 200'000 : random.OneIn(2) ? 9000 : 100;
  const uint64_t span = random.OneIn(3) ? 700 : random.OneIn(2) ? 30'000 : 600'000;
  for (uint64_t i = 0; i < parts; ++i) {
    const Ino ino = files[random.Below(files.size())];
    const uint64_t offset = random.Below(span);
    switch (random.Below(8)) {
      case 0: group.FetchAdd(ino, offset / 8 * 8, random.Below(3)); break;
      case 1: group.CompareAndSwap(ino, offset / 8 * 8, random.Below(2), random.Below(3)); break;
      case 2:
        if (parts < 100) {
          group.WriteStaged(tester, ino, offset / 4096 * 4096, Pattern(random.Next(), random.Between(1, 20) * 4096));
          break;
        }
        [[fallthrough]];
      case 3: group.Write(ino, offset / 4096 * 4096, std::string(random.Between(0, 3) * 4096, '\0')); break;
      default: group.Write(ino, offset, Pattern(random.Next(), random.Below(most))); break;
    }
  }
  return group;
}

class GroupModelTest : public ::testing::TestWithParam<int> {};

TEST_P(GroupModelTest, RandomGroupsDoWhatTheModelSays) {
  sal::Random64 random(GetParam());
  VolumeTester::Options options;
  options.engine = VolumeTester::Misses(GetParam());
  options.engine.miss_probability = options.engine.rerun_probability = random.OneIn(2) ? 0.1 : 0.01;
  VolumeTester tester(options);
  std::vector<Ino> files;
  for (int i = 0; i < 4; ++i) files.push_back(tester.File(kRootIno, "f" + std::to_string(i)));
  Contents contents;
  for (int step = 0; step < 40; ++step) {
    SCOPED_TRACE(::testing::Message() << "seed " << GetParam() << ", step " << step);
    if (random.OneIn(8)) {
      const Ino ino = files[random.Below(files.size())];
      const uint64_t size = random.OneIn(2) ? random.Below(500) : random.Below(300'000);
      ASSERT_EQ(tester.Truncate(ino, size), 0);
      contents[ino].resize(size);
      continue;
    }
    Group group = RandomGroup(random, tester, files);
    const core::Lsn lsn = tester.engine().accepted_lsn();
    const absl::StatusOr<GroupResult> result = group.Run(tester);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_LE(result->lsn, tester.engine().accepted_lsn());
    ASSERT_GE(result->lsn, lsn);
    ASSERT_EQ(result->previous, Apply(group.parts(), &contents));
    if (random.OneIn(5)) tester.Crash();
    for (const Ino ino : files) {
      ASSERT_EQ(tester.Stat(ino).size_bytes, contents[ino].size());
      ASSERT_TRUE(tester.Read(ino, 0, 2 << 20) == contents[ino]) << "inode " << ino;
    }
  }
  tester.Settle();
  tester.ExpectClean();
}

INSTANTIATE_TEST_SUITE_P(Seeds, GroupModelTest, ::testing::Range(1, 13));

}  // namespace
}  // namespace stagefs::volume::testing

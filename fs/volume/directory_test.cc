// Names in directories: many of them, names of one hash, and listings while names come and go.

#include "fs/volume/directory.h"

#include <sys/stat.h>

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

std::vector<DirectoryEntry> Part(VolumeTester& tester, Ino directory, uint64_t cookie, uint32_t max_entries) {
  const auto part = tester.Wait<std::vector<DirectoryEntry>>([&](auto done) {
    tester.volume().ReadDirectory(directory, cookie, max_entries, false, std::move(done));
  });
  EXPECT_TRUE(part.ok()) << part.status();
  return part.ok() ? *part : std::vector<DirectoryEntry>();
}

TEST(DirectoryTest, ListingsBeginWithDotAndDotDot) {
  VolumeTester tester;
  const Ino directory = tester.Directory(kRootIno, "d");
  const Ino file = tester.File(directory, "f");
  const std::vector<DirectoryEntry> entries = tester.List(directory, 1);
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].name, ".");
  EXPECT_EQ(entries[0].ino, directory);
  EXPECT_EQ(entries[0].cookie, 1u);
  EXPECT_EQ(entries[1].name, "..");
  EXPECT_EQ(entries[1].ino, kRootIno);
  EXPECT_EQ(entries[1].cookie, 2u);
  EXPECT_EQ(entries[2].name, "f");
  EXPECT_EQ(entries[2].ino, file);
  EXPECT_EQ(entries[2].type, uint32_t{S_IFREG});
  EXPECT_TRUE(Part(tester, directory, entries[2].cookie, 10).empty());
}

TEST(DirectoryTest, AttributesComeAlongWhenAskedFor) {
  VolumeTester tester;
  const Ino directory = tester.Directory(kRootIno, "d");
  for (int i = 0; i < 300; ++i) {
    const Ino file = tester.File(directory, std::to_string(i));
    ASSERT_EQ(tester.Write(file, 0, std::string(i, 'x')), 0);
  }
  int files = 0;
  for (const DirectoryEntry& entry : tester.List(directory, 50, /*with_attributes=*/true)) {
    EXPECT_EQ(entry.attributes.ino, entry.ino);
    EXPECT_EQ(entry.attributes.mode & S_IFMT, entry.type);
    if (entry.type != S_IFREG) continue;
    EXPECT_EQ(entry.attributes.size_bytes, std::stoull(entry.name));
    ++files;
  }
  EXPECT_EQ(files, 300);
}

TEST(DirectoryTest, TwentyThousandNamesAreFoundListedAndRemoved) {
  VolumeTester::Options options;
  options.engine.miss_probability = options.engine.rerun_probability = 0.01;
  VolumeTester tester(options);
  const uint64_t free = tester.Fs().free_blocks;
  const Ino directory = tester.Directory(kRootIno, "d");
  std::map<std::string, Ino> expected;
  for (int i = 0; i < 20'000; ++i) {
    const std::string name = "name-" + std::to_string(i);
    expected[name] = tester.File(directory, name);
  }
  tester.Reopen();
  tester.ExpectClean();
  std::map<std::string, Ino> listed;
  uint64_t last = 0;
  for (const DirectoryEntry& entry : tester.List(directory, 777)) {
    EXPECT_GT(entry.cookie, last);
    last = entry.cookie;
    if (entry.name[0] == '.') continue;
    EXPECT_TRUE(listed.emplace(entry.name, entry.ino).second) << entry.name << " twice";
  }
  EXPECT_TRUE(listed == expected);
  for (const auto& [name, ino] : expected) {
    Ino found = 0;
    ASSERT_EQ(tester.Lookup(directory, name, &found), 0);
    ASSERT_EQ(found, ino);
  }
  for (const auto& [name, ino] : expected) ASSERT_EQ(tester.Unlink(directory, name), 0);
  EXPECT_EQ(tester.Stat(directory).size_bytes, 0u);
  EXPECT_EQ(tester.RemoveDirectory(kRootIno, "d"), 0);
  tester.Settle();
  EXPECT_EQ(tester.Fs().free_blocks, free);
  EXPECT_EQ(tester.Fs().inodes, 1u);
}

// Lists while others create and remove: what is there all along is seen exactly once.
void ListWhileNamesComeAndGo(VolumeTester& tester, uint64_t seed, int staying) {
  SCOPED_TRACE(seed);
  sal::Random64 random(seed);
  const Ino directory = tester.Directory(kRootIno, "d" + std::to_string(seed));
  std::set<std::string> stay;
  std::vector<std::string> others;
  for (int i = 0; i < staying; ++i) {
    stay.insert("stay-" + std::to_string(i));
    tester.File(directory, "stay-" + std::to_string(i));
  }
  std::map<std::string, int> seen;
  uint64_t cookie = 0;
  int created = 0;
  while (true) {
    const std::vector<DirectoryEntry> part =
        Part(tester, directory, cookie, static_cast<uint32_t>(random.Between(1, 40)));
    if (part.empty()) break;
    // A front end may use only some of what it was given.
    const size_t used = random.Between(1, part.size());
    for (size_t i = 0; i < used; ++i) ++seen[part[i].name];
    cookie = part[used - 1].cookie;
    for (int i = 0; i < 3; ++i) {
      if (random.OneIn(2) || others.empty()) {
        others.push_back("other-" + std::to_string(created++));
        tester.File(directory, others.back());
      } else {
        const size_t victim = random.Below(others.size());
        ASSERT_EQ(tester.Unlink(directory, others[victim]), 0);
        others.erase(others.begin() + static_cast<int64_t>(victim));
      }
    }
  }
  for (const std::string& name : stay) EXPECT_EQ(seen[name], 1) << name;
  EXPECT_EQ(seen["."], 1);
  EXPECT_EQ(seen[".."], 1);
  for (const auto& [name, count] : seen) EXPECT_EQ(count, 1) << name;
}

TEST(DirectoryTest, WhatStaysIsSeenOnceWhileOthersComeAndGo) {
  VolumeTester tester;
  for (uint64_t seed = 1; seed <= 5; ++seed) ListWhileNamesComeAndGo(tester, seed, 500);
}

TEST(DirectoryTest, NamesOfOneHashLiveTogether) {
  VolumeTester::Options options;
  options.hash_mask = 1;  // all names share one hash
  VolumeTester tester(options);
  std::vector<Ino> inos;
  for (int i = 0; i < static_cast<int>(kMaxEntrySlots); ++i) inos.push_back(tester.File(kRootIno, std::to_string(i)));
  EXPECT_EQ(tester.Create(kRootIno, "one too many", {.mode = S_IFREG | 0644}), ENOSPC);
  EXPECT_EQ(tester.Create(kRootIno, "3", {.mode = S_IFREG | 0644}), EEXIST);
  EXPECT_EQ(tester.List(kRootIno, 1).size(), kMaxEntrySlots + 2);
  for (int i = 0; i < static_cast<int>(kMaxEntrySlots); ++i) {
    Ino found = 0;
    EXPECT_EQ(tester.Lookup(kRootIno, std::to_string(i), &found), 0);
    EXPECT_EQ(found, inos[i]);
  }
  EXPECT_EQ(tester.Unlink(kRootIno, "3"), 0);
  EXPECT_EQ(tester.Lookup(kRootIno, "3"), ENOENT);
  EXPECT_EQ(tester.Rename(kRootIno, "5", kRootIno, "renamed"), 0);
  Ino found = 0;
  EXPECT_EQ(tester.Lookup(kRootIno, "renamed", &found), 0);
  EXPECT_EQ(found, inos[5]);
  EXPECT_EQ(tester.Rename(kRootIno, "0", kRootIno, "1", 2 /* RENAME_EXCHANGE */), 0);
  EXPECT_EQ(tester.Lookup(kRootIno, "0", &found), 0);
  EXPECT_EQ(found, inos[1]);
}

TEST(DirectoryTest, CookiesStayGoodAmongNamesOfOneHash) {
  VolumeTester::Options options;
  options.hash_mask = 0x7f;
  VolumeTester tester(options);
  for (uint64_t seed = 1; seed <= 5; ++seed) ListWhileNamesComeAndGo(tester, seed, 60);
}

TEST(DirectoryTest, FourLongestNamesOfOneHashFit) {
  VolumeTester::Options options;
  options.hash_mask = 1;
  VolumeTester tester(options);
  for (char c = 'a'; c < 'e'; ++c) tester.File(kRootIno, std::string(255, c));
  EXPECT_EQ(tester.Create(kRootIno, std::string(255, 'e'), {.mode = S_IFREG | 0644}), ENOSPC);
  EXPECT_EQ(tester.Names(kRootIno).size(), 4u);
}

TEST(DirectoryTest, ARemovedDirectoryTakesNoNames) {
  VolumeTester tester;
  const Ino directory = tester.Directory(kRootIno, "d");
  ASSERT_EQ(tester.Open(directory), 0);
  ASSERT_EQ(tester.RemoveDirectory(kRootIno, "d"), 0);
  EXPECT_EQ(tester.Create(directory, "f", {.mode = S_IFREG | 0644}), ENOENT);
  EXPECT_EQ(tester.Lookup(directory, "f"), ENOENT);
  EXPECT_TRUE(tester.List(directory).empty());
  EXPECT_EQ(tester.Stat(directory).nlink, 0u);
  tester.volume().Release(directory);
  tester.Settle();
  EXPECT_EQ(tester.StatError(directory), ESTALE);
  EXPECT_EQ(tester.Create(directory, "f", {.mode = S_IFREG | 0644}), ENOENT);
}

}  // namespace
}  // namespace stagefs::volume::testing

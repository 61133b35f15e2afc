// Many programs at once on one mount, each of which knows what it must find.

#include <dirent.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>
#include <random>
#include <thread>

#include "fs/fuse/testing/mounted_test.h"

namespace stagefs::fuse::testing {
namespace {

class MountStressTest : public MountedTest {};

// Works in a directory of its own on files whose content it remembers.
class Program {
 public:
  Program(std::string directory, unsigned seed) : directory_(std::move(directory)), random_(seed) {
    EXPECT_EQ(Errno(mkdir(directory_.c_str(), 0755)), 0);
  }

  void DoSomething() {
    const std::string name = absl::StrCat("f", random_() % 6);
    switch (random_() % 10) {
      case 0: return Remove(name);
      case 1: return Rename(name, absl::StrCat("f", random_() % 6));
      case 2: return CheckNames();
      case 3: return Truncate(name);
      case 4: return StoreByMapping(name);
      case 5:
      case 6: return Write(name);
      case 7: return ForgetAndRead(name);
      default: return Check(name);
    }
  }

  void CheckEverything() {
    CheckNames();
    for (const auto& [name, content] : files_) ForgetAndRead(name);
  }

 private:
  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  size_t Below(size_t limit) { return random_() % limit; }

  void Write(const std::string& name) {
    const File file(Path(name), O_RDWR | O_CREAT);
    std::string& content = files_[name];
    // Small and large, aligned and not: each goes another way through the transport.
    const size_t size = random_() % 3 == 0 ? Below(400000) + 1 : Below(9000) + 1, offset = Below(200000);
    const std::string piece = Pattern(size, random_());
    ASSERT_EQ(pwrite(file.fd(), piece.data(), size, static_cast<off_t>(offset)), static_cast<ssize_t>(size)) << errno;
    if (content.size() < offset + size) content.resize(offset + size);
    content.replace(offset, size, piece);
    if (random_() % 4 == 0) {
      EXPECT_EQ(Errno(fsync(file.fd())), 0);
    }
  }

  void Remove(const std::string& name) {
    EXPECT_EQ(Errno(unlink(Path(name).c_str())), files_.erase(name) == 1 ? 0 : ENOENT);
  }

  void Rename(const std::string& from, const std::string& to) {
    const auto found = files_.find(from);
    EXPECT_EQ(Errno(rename(Path(from).c_str(), Path(to).c_str())), found == files_.end() ? ENOENT : 0);
    if (found == files_.end() || from == to) return;
    files_[to] = found->second;
    files_.erase(from);
  }

  void Truncate(const std::string& name) {
    const size_t size = Below(300000);
    const auto found = files_.find(name);
    EXPECT_EQ(Errno(truncate(Path(name).c_str(), static_cast<off_t>(size))), found == files_.end() ? ENOENT : 0);
    if (found != files_.end()) found->second.resize(size);
  }

  void StoreByMapping(const std::string& name) {
    const auto found = files_.find(name);
    if (found == files_.end() || found->second.empty()) return;
    std::string& content = found->second;
    const File file(Path(name), O_RDWR);
    void* area = mmap(nullptr, content.size(), PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
    ASSERT_NE(area, MAP_FAILED) << errno;
    for (int i = 0; i < 5; ++i) {
      const size_t at = Below(content.size());
      static_cast<char*>(area)[at] = content[at] = static_cast<char>(random_());
    }
    if (random_() % 2 == 0) {
      EXPECT_EQ(Errno(msync(area, content.size(), MS_SYNC)), 0);
    }
    EXPECT_EQ(munmap(area, content.size()), 0);
  }

  void Check(const std::string& name) {
    const auto found = files_.find(name);
    if (found == files_.end()) {
      EXPECT_EQ(Errno(access(Path(name).c_str(), F_OK)), ENOENT);
    } else {
      EXPECT_TRUE(ReadFile(Path(name)) == found->second) << name;
    }
  }

  void ForgetAndRead(const std::string& name) {
    if (files_.count(name) == 0) return;
    {
      const File file(Path(name), O_RDONLY);
      EXPECT_EQ(posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
    }
    Check(name);
  }

  void CheckNames() {
    std::map<std::string, size_t> found;
    DIR* directory = opendir(directory_.c_str());
    ASSERT_NE(directory, nullptr) << errno;
    while (const dirent* entry = readdir(directory)) {
      if (entry->d_name[0] != '.') found[entry->d_name] = static_cast<size_t>(Stat(Path(entry->d_name)).st_size);
    }
    closedir(directory);
    std::map<std::string, size_t> expected;
    for (const auto& [name, content] : files_) expected[name] = content.size();
    EXPECT_EQ(found, expected);
  }

  const std::string directory_;
  std::mt19937 random_;
  std::map<std::string, std::string> files_;
};

TEST_F(MountStressTest, ManyProgramsAtOnceFindWhatTheyLeft) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 24; ++i) {
    threads.emplace_back([this, i, seed] {
      Program program(Path(absl::StrCat("d", i)), seed + i);
      for (int step = 0; step < 120 && !HasFailure(); ++step) program.DoSomething();
      program.CheckEverything();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(MountStressTest, ManySmallRequestsAtOnceAreAllAnswered) {
  WriteFile(Path("f"), Pattern(1 << 20));
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 64; ++i) {
    threads.emplace_back([this, i] {
      const std::string expected = Pattern(1 << 20);
      const File file(Path("f"), O_RDONLY | O_DIRECT);
      void* memory = nullptr;
      ASSERT_EQ(posix_memalign(&memory, 4096, 4096), 0);
      for (unsigned k = 0; k < 100; ++k) {
        const size_t at = ((i * 37 + k * 11) % 256) * 4096;
        ASSERT_EQ(pread(file.fd(), memory, 4096, static_cast<off_t>(at)), 4096) << errno;
        ASSERT_EQ(memcmp(memory, expected.data() + at, 4096), 0);
      }
      free(memory);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace stagefs::fuse::testing

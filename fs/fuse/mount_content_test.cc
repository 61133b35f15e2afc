// What a program sees of file content on a mount.

#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <thread>

#include "fs/fuse/testing/mounted_test.h"

namespace stagefs::fuse::testing {
namespace {

class MountContentTest : public MountedTest {};

TEST_F(MountContentTest, WhatIsWrittenIsRead) {
  for (const size_t size : {size_t{1}, size_t{4095}, size_t{4096}, size_t{16385}, size_t{1 << 20}, size_t{5000001}}) {
    const std::string content = Pattern(size, static_cast<unsigned>(size));
    WriteFile(Path("f"), content);
    EXPECT_EQ(Stat(Path("f")).st_size, static_cast<off_t>(size));
    EXPECT_TRUE(ReadFile(Path("f")) == content) << size;
  }
}

TEST_F(MountContentTest, WhatIsReadComesFromTheServerAfterTheKernelForgotIt) {
  const std::string content = Pattern(3 << 20);
  WriteFile(Path("f"), content);
  const File file(Path("f"), O_RDONLY);
  ASSERT_EQ(posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  const uint64_t before = RequestCount("read");
  EXPECT_TRUE(ReadFile(Path("f")) == content);
  EXPECT_GT(RequestCount("read"), before);
}

TEST_F(MountContentTest, UnalignedWritesChangeOnlyTheirBytes) {
  std::string content = Pattern(300000);
  WriteFile(Path("f"), content);
  const File file(Path("f"), O_RDWR);
  for (const auto& [offset, size] : {std::pair<off_t, size_t>{100, 4096}, {4095, 2}, {131071, 65537}, {299999, 5000}}) {
    const std::string piece = Pattern(size, static_cast<unsigned>(offset));
    ASSERT_EQ(pwrite(file.fd(), piece.data(), size, offset), static_cast<ssize_t>(size));
    content.resize(std::max(content.size(), offset + size));
    content.replace(offset, size, piece);
  }
  ASSERT_EQ(posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  EXPECT_TRUE(ReadFile(Path("f")) == content);
}

TEST_F(MountContentTest, AppendersNeverOverlap) {
  constexpr int kWriters = 4, kLines = 200;
  std::vector<std::thread> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([this, writer] {
      const File file(Path("log"), O_WRONLY | O_CREAT | O_APPEND);
      const std::string line(31, static_cast<char>('a' + writer));
      for (int i = 0; i < kLines; ++i) EXPECT_EQ(write(file.fd(), (line + "\n").data(), 32), 32);
    });
  }
  for (std::thread& writer : writers) writer.join();
  const std::string content = ReadFile(Path("log"));
  ASSERT_EQ(content.size(), size_t{kWriters * kLines * 32});
  for (size_t at = 0; at < content.size(); at += 32) {
    EXPECT_EQ(content.substr(at, 32), std::string(31, content[at]) + "\n");
  }
}

TEST_F(MountContentTest, TruncatingAndExtendingGivesZeros) {
  WriteFile(Path("f"), Pattern(10000));
  ASSERT_EQ(truncate(Path("f").c_str(), 5000), 0);
  ASSERT_EQ(truncate(Path("f").c_str(), 20000), 0);
  EXPECT_TRUE(ReadFile(Path("f")) == Pattern(10000).substr(0, 5000) + std::string(15000, '\0'));
  const File file(Path("f"), O_RDWR);
  ASSERT_EQ(ftruncate(file.fd(), 3), 0);
  EXPECT_EQ(Stat(Path("f")).st_size, 3);
  WriteFile(Path("f"), "x");
  EXPECT_EQ(ReadFile(Path("f")), "x");
  File(Path("f"), O_WRONLY | O_TRUNC);
  EXPECT_EQ(Stat(Path("f")).st_size, 0);
}

TEST_F(MountContentTest, StoresToASharedMappingAreInTheFileAfterMsync) {
  std::string content = Pattern(1 << 20);
  WriteFile(Path("f"), content);
  const File file(Path("f"), O_RDWR);
  void* area = mmap(nullptr, content.size(), PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
  ASSERT_NE(area, MAP_FAILED) << errno;
  char* bytes = static_cast<char*>(area);
  EXPECT_TRUE(std::string(bytes, content.size()) == content);
  for (size_t at = 7; at < content.size(); at += 50000) bytes[at] = content[at] = '!';
  const uint64_t fsyncs = RequestCount("fsync"), writes = RequestCount("write");
  ASSERT_EQ(msync(area, content.size(), MS_SYNC), 0) << errno;
  EXPECT_EQ(RequestCount("fsync"), fsyncs + 1);
  EXPECT_GT(RequestCount("write"), writes);
  ASSERT_EQ(munmap(area, content.size()), 0);
  ASSERT_EQ(posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  EXPECT_TRUE(ReadFile(Path("f")) == content);
}

TEST_F(MountContentTest, StoresWithoutMsyncAreThereAfterUnmapping) {
  WriteFile(Path("f"), std::string(8192, 'a'));
  {
    const File file(Path("f"), O_RDWR);
    void* area = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
    ASSERT_NE(area, MAP_FAILED) << errno;
    static_cast<char*>(area)[5000] = 'b';
    ASSERT_EQ(munmap(area, 8192), 0);
  }
  const File file(Path("f"), O_RDONLY);
  ASSERT_EQ(posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  EXPECT_EQ(ReadFile(Path("f")).substr(4999, 3), "aba");
}

TEST_F(MountContentTest, APrivateMappingChangesNothing) {
  WriteFile(Path("f"), std::string(4096, 'a'));
  const File file(Path("f"), O_RDWR);
  void* area = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.fd(), 0);
  ASSERT_NE(area, MAP_FAILED) << errno;
  static_cast<char*>(area)[0] = 'b';
  munmap(area, 4096);
  EXPECT_EQ(ReadFile(Path("f")), std::string(4096, 'a'));
}

TEST_F(MountContentTest, DirectIoReadsAndWritesWholePages) {
  const File file(Path("f"), O_RDWR | O_CREAT | O_DIRECT);
  constexpr size_t kSize = 1 << 20;
  void* memory = nullptr;
  ASSERT_EQ(posix_memalign(&memory, 4096, kSize), 0);
  char* const bytes = static_cast<char*>(memory);
  const std::string content = Pattern(kSize);
  content.copy(bytes, kSize);
  const uint64_t writes = RequestCount("write");
  ASSERT_EQ(pwrite(file.fd(), bytes, kSize, 4096), static_cast<ssize_t>(kSize)) << errno;
  EXPECT_EQ(RequestCount("write"), writes + 1) << "one write of whole pages up to 1 MiB is one change";
  memset(bytes, 0, kSize);
  ASSERT_EQ(pread(file.fd(), bytes, kSize, 4096), static_cast<ssize_t>(kSize)) << errno;
  EXPECT_TRUE(std::string(bytes, kSize) == content);
  EXPECT_EQ(pread(file.fd(), bytes, kSize, 0), static_cast<ssize_t>(kSize));
  EXPECT_TRUE(std::string(bytes, 4096) == std::string(4096, '\0'));
  free(memory);
}

TEST_F(MountContentTest, OneBufferedWriteOfWholePagesIsOneRequest) {
  const std::string content = Pattern(1 << 20);
  const File file(Path("f"), O_WRONLY | O_CREAT);
  const uint64_t writes = RequestCount("write");
  ASSERT_EQ(write(file.fd(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
  EXPECT_EQ(RequestCount("write"), writes + 1);
}

TEST_F(MountContentTest, HolesAreFoundAndPunched) {
  const File file(Path("f"), O_RDWR | O_CREAT);
  const std::string data(64 << 10, 'd');
  ASSERT_EQ(pwrite(file.fd(), data.data(), data.size(), 1 << 20), static_cast<ssize_t>(data.size()));
  ASSERT_EQ(ftruncate(file.fd(), 4 << 20), 0);
  EXPECT_EQ(lseek(file.fd(), 0, SEEK_DATA), 1 << 20);
  EXPECT_EQ(lseek(file.fd(), 1 << 20, SEEK_HOLE), (1 << 20) + (64 << 10));
  EXPECT_EQ(Errno(lseek(file.fd(), 2 << 20, SEEK_DATA)), ENXIO);
  EXPECT_EQ(Errno(lseek(file.fd(), 4 << 20, SEEK_HOLE)), ENXIO);
  ASSERT_EQ(fallocate(file.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 8192), 0) << errno;
  EXPECT_EQ(lseek(file.fd(), 0, SEEK_DATA), (1 << 20) + 8192);
  char byte = 'x';
  ASSERT_EQ(pread(file.fd(), &byte, 1, (1 << 20) + 8191), 1);
  EXPECT_EQ(byte, '\0');
  ASSERT_EQ(pread(file.fd(), &byte, 1, (1 << 20) + 8192), 1);
  EXPECT_EQ(byte, 'd');
}

TEST_F(MountContentTest, FallocateAllocatesKeepsSizeAndZeroes) {
  const File file(Path("f"), O_RDWR | O_CREAT);
  ASSERT_EQ(fallocate(file.fd(), FALLOC_FL_KEEP_SIZE, 0, 1 << 20), 0) << errno;
  EXPECT_EQ(Stat(Path("f")).st_size, 0);
  EXPECT_GE(Stat(Path("f")).st_blocks, (1 << 20) / 512);
  ASSERT_EQ(fallocate(file.fd(), 0, 0, 1 << 20), 0) << errno;
  EXPECT_EQ(Stat(Path("f")).st_size, 1 << 20);
  const std::string data(8192, 'd');
  ASSERT_EQ(pwrite(file.fd(), data.data(), data.size(), 0), 8192);
  ASSERT_EQ(fallocate(file.fd(), FALLOC_FL_ZERO_RANGE, 100, 5000), 0) << errno;
  EXPECT_TRUE(ReadFile(Path("f")).substr(0, 8192) ==
              std::string(100, 'd') + std::string(5000, '\0') + std::string(3092, 'd'));
  EXPECT_EQ(Errno(fallocate(file.fd(), FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), EOPNOTSUPP);
}

TEST_F(MountContentTest, CopyFileRangeCopiesInTheServer) {
  const std::string content = Pattern(3 << 20);
  WriteFile(Path("from"), content);
  const File from(Path("from"), O_RDONLY), to(Path("to"), O_RDWR | O_CREAT);
  const uint64_t writes = RequestCount("write");
  loff_t from_offset = 5, to_offset = 4097;
  size_t copied = 0;
  while (copied < content.size() - 5) {
    const ssize_t size = copy_file_range(from.fd(), &from_offset, to.fd(), &to_offset, content.size(), 0);
    ASSERT_GT(size, 0) << errno;
    copied += size;
  }
  EXPECT_EQ(RequestCount("write"), writes);
  EXPECT_TRUE(ReadFile(Path("to")) == std::string(4097, '\0') + content.substr(5));
}

TEST_F(MountContentTest, EachSynchronousWriteIsFollowedByAnFsync) {
  const File file(Path("f"), O_WRONLY | O_CREAT | O_DSYNC);
  const uint64_t fsyncs = RequestCount("fsync");
  for (int i = 0; i < 3; ++i) ASSERT_EQ(write(file.fd(), "abc", 3), 3);
  EXPECT_EQ(RequestCount("fsync"), fsyncs + 3);
  ASSERT_EQ(fsync(file.fd()), 0);
  ASSERT_EQ(fdatasync(file.fd()), 0);
  const File directory(directory_, O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(fsync(directory.fd()), 0);
}

TEST_F(MountContentTest, ManyThreadsReadAndWriteTheirOwnFiles) {
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < 8; ++thread) {
    threads.emplace_back([this, thread] {
      const std::string path = Path(absl::StrCat("f", thread));
      for (unsigned round = 0; round < 5; ++round) {
        const std::string content = Pattern(200000 + round, thread * 100 + round);
        WriteFile(path, content);
        EXPECT_TRUE(ReadFile(path) == content);
      }
      EXPECT_EQ(unlink(path.c_str()), 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace stagefs::fuse::testing

// MountedTest: the fixture of tests that work on a mount of OpenTestVolume().
//
// One mount for all tests of a suite, a fresh directory for each test. Whoever cannot mount fails;
// nobody hangs (see MountWatchdog).

#ifndef STAGEFS_FS_FUSE_TESTING_MOUNTED_TEST_H_
#define STAGEFS_FS_FUSE_TESTING_MOUNTED_TEST_H_

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "fs/fuse/options.h"
#include "fs/fuse/testing/served_mount.h"
#include "fs/fuse/testing/test_volume.h"
#include "gtest/gtest.h"

namespace stagefs::fuse::testing {

// An open file; closed when destroyed.
class File {
 public:
  File(const std::string& path, int flags, mode_t mode = 0644) : fd_(open(path.c_str(), flags | O_CLOEXEC, mode)) {
    EXPECT_GE(fd_, 0) << path << ": " << errno;
  }
  ~File() { Close(); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

inline void WriteFile(const std::string& path, const std::string& content, int flags = O_CREAT | O_TRUNC) {
  const File file(path, O_WRONLY | flags);
  EXPECT_EQ(write(file.fd(), content.data(), content.size()), static_cast<ssize_t>(content.size())) << errno;
}

inline std::string ReadFile(const std::string& path) {
  const File file(path, O_RDONLY);
  std::string content;
  char buffer[65536];
  for (ssize_t size; (size = read(file.fd(), buffer, sizeof(buffer))) > 0;) content.append(buffer, size);
  return content;
}

inline struct stat Stat(const std::string& path) {
  struct stat status = {};
  EXPECT_EQ(lstat(path.c_str(), &status), 0) << path << ": " << errno;
  return status;
}

// Bytes that differ from page to page and within a page.
inline std::string Pattern(size_t size, unsigned seed = 1) {
  std::string bytes(size, '\0');
  uint32_t state = seed * 2654435761u + 1;
  for (char& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<char>(state >> 24);
  }
  return bytes;
}

// 0, or the errno of a call that returned -1.
inline int Errno(int result) { return result == -1 ? errno : 0; }

// What a command run by /bin/sh ends with.
inline int Shell(const std::string& command) { return system(command.c_str()); }

class MountedTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { mount_ = std::make_unique<ServedMount>(OpenTestVolume, ""); }
  static void TearDownTestSuite() {
    EXPECT_EQ(mount_->Unmount(), 0);
    mount_.reset();
  }

  void SetUp() override {
    ASSERT_TRUE(mount_->ok());
    directory_ = mount_->Path(::testing::UnitTest::GetInstance()->current_test_info()->name());
    ASSERT_EQ(Errno(mkdir(directory_.c_str(), 0777)), 0);
    ASSERT_EQ(Errno(chmod(directory_.c_str(), 0777)), 0);
    ASSERT_EQ(Errno(chmod(mount_->directory().c_str(), 0755)), 0);
  }

  std::string Path(absl::string_view name) const { return absl::StrCat(directory_, "/", name); }

  // How many requests of one kind ("getattr") the server has got since the mount.
  static uint64_t RequestCount(const std::string& kind) {
    char text[65536];
    const ssize_t size = getxattr(mount_->directory().c_str(), kStatisticsXattr, text, sizeof(text));
    EXPECT_GT(size, 0) << errno;
    const std::string json(text, size < 0 ? 0 : size);
    const std::string key = absl::StrCat("\"", kind, "\": ");
    const size_t at = json.find(key);
    return at == std::string::npos ? 0 : strtoull(json.c_str() + at + key.size(), nullptr, 10);
  }

  static std::unique_ptr<ServedMount> mount_;
  std::string directory_;
};

inline std::unique_ptr<ServedMount> MountedTest::mount_;

}  // namespace stagefs::fuse::testing

#endif  // STAGEFS_FS_FUSE_TESTING_MOUNTED_TEST_H_

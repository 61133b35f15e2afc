#include "sal/open_store.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace stagefs::sal {
namespace {

class OpenStoreTest : public testing::Test {
 protected:
  void SetUp() override { std::remove(path_.c_str()); }
  void TearDown() override { std::remove(path_.c_str()); }

  std::unique_ptr<BlockStore> Open(const OpenStoreOptions& options) {
    auto store = OpenStore(path_, options);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  absl::StatusCode Code(absl::string_view url, const OpenStoreOptions& options = {.lock_wait_ms = 0}) {
    const absl::Status status = OpenStore(url, options).status();
    EXPECT_TRUE(status.ok() || absl::StrContains(status.message(), url)) << "must name " << url << ": " << status;
    return status.code();
  }
  uint64_t FileBytes() {
    struct stat status = {};
    EXPECT_EQ(stat(path_.c_str(), &status), 0);
    return status.st_size;
  }

  const std::string path_ = absl::StrCat(std::getenv("TEST_TMPDIR"), "/open_store.img");
};

TEST_F(OpenStoreTest, AMissingFileIsNotFoundUnlessItIsToBeCreated) {
  EXPECT_EQ(Code(path_), absl::StatusCode::kNotFound);
  const auto store = Open({.create_bytes = 1 << 20});
  EXPECT_EQ(store->geometry().size_bytes, 1u << 20);
  EXPECT_EQ(store->name(), path_);
  EXPECT_EQ(FileBytes(), 1u << 20);
}

TEST_F(OpenStoreTest, ASmallerFileIsExtendedAndALargerOneIsLeft) {
  Open({.create_bytes = 1 << 20});
  Open({.create_bytes = 2 << 20});
  EXPECT_EQ(FileBytes(), 2u << 20);
  EXPECT_EQ(Open({.create_bytes = 1 << 20})->geometry().size_bytes, 2u << 20);
}

TEST_F(OpenStoreTest, SizesAreRoundedDownToWholeBlocks) {
  std::ofstream(path_) << std::string(10000, 'x');
  EXPECT_EQ(Open({})->geometry().size_bytes, 8192u);
  std::ofstream(path_, std::ios::trunc) << "tiny";
  EXPECT_EQ(Code(path_), absl::StatusCode::kInvalidArgument);
}

TEST_F(OpenStoreTest, OneWriterExcludesEverybodyElse) {
  const auto holder = Open({.create_bytes = 1 << 20});
  EXPECT_EQ(Code(path_), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Code(path_, {.read_only = true, .lock_wait_ms = 0}), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Code(path_, {.read_only = true, .no_lock = true}), absl::StatusCode::kOk);
}

TEST_F(OpenStoreTest, ReadersShareAndExcludeWriters) {
  Open({.create_bytes = 1 << 20});
  const auto first = Open({.read_only = true, .lock_wait_ms = 0});
  const auto second = Open({.read_only = true, .lock_wait_ms = 0});
  EXPECT_EQ(Code(path_), absl::StatusCode::kFailedPrecondition);
}

TEST_F(OpenStoreTest, OpeningWaitsForTheLockOfAKilledProcess) {
  Open({.create_bytes = 64 << 20});
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Keeps 64 writes in flight until it is killed.
    auto store = OpenStore(path_, {.lock_wait_ms = 0});
    if (!store.ok()) _exit(1);
    static constexpr uint64_t kBytes = 256 << 10;
    alignas(4096) static std::byte memory[kBytes];
    static Request requests[64];
    std::function<void(uint64_t)> submit = [&](uint64_t i) {
      requests[i].op = Request::Op::kWrite;
      requests[i].fua = i % 8 == 0;
      requests[i].offset_bytes = i * kBytes;
      requests[i].length_bytes = kBytes;
      requests[i].buffers = {iovec{memory, kBytes}};
      requests[i].done = [&submit, i](absl::Status status) {
        if (!status.ok()) _exit(1);
        submit(i);
      };
      (*store)->Submit(&requests[i]);
    };
    for (uint64_t i = 0; i < 64; ++i) submit(i);
    if (write(ready[1], "r", 1) != 1) _exit(1);
    while (true) pause();
  }
  close(ready[1]);
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(Code(path_), absl::StatusCode::kFailedPrecondition);
  close(ready[0]);
  // Its lock ends with the last of its requests, which may be after its death.
  std::thread killer([child] {
    EXPECT_EQ(kill(child, SIGKILL), 0);
    EXPECT_EQ(waitpid(child, nullptr, 0), child);
  });
  EXPECT_EQ(Code(path_, {.lock_wait_ms = 60'000}), absl::StatusCode::kOk);
  killer.join();
}

TEST_F(OpenStoreTest, ReadOnlyStoresRefuseWrites) {
  Open({.create_bytes = 1 << 20});
  const auto store = Open({.read_only = true});
  alignas(4096) static std::byte memory[4096];
  absl::Status result;
  std::atomic<bool> done{false};
  Request request;
  request.op = Request::Op::kWrite;
  request.length_bytes = 4096;
  request.buffers = {iovec{memory, 4096}};
  request.done = [&](absl::Status status) {
    result = std::move(status);
    done = true;
    done.notify_one();
  };
  store->Submit(&request);
  done.wait(false);
  EXPECT_EQ(result.code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(OpenStoreTest, BadNamesAreRefusedByName) {
  EXPECT_EQ(Code(""), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code("file:"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code("ftp:somewhere"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code("mem:"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code("/"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code("/dev/null"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code("/nowhere/at/all", {.create_bytes = 1 << 20}), absl::StatusCode::kNotFound);
}

TEST_F(OpenStoreTest, APathMayHoldColons) {
  const std::string path = absl::StrCat(std::getenv("TEST_TMPDIR"), "/a:b,c");
  const std::string url = absl::StrCat("fault:any-eio-count=0,file:", path);
  EXPECT_EQ(Code(url, {.create_bytes = 1 << 20}), absl::StatusCode::kOk);
  EXPECT_EQ(std::remove(path.c_str()), 0);
}

TEST(ParseSizeTest, UnitsArePowersOf1024) {
  const auto size = [](absl::string_view text) { return ParseSize(text).value(); };
  EXPECT_EQ(size("4096"), 4096u);
  EXPECT_EQ(size("64M"), 64u << 20);
  EXPECT_EQ(size("64m"), 64u << 20);
  EXPECT_EQ(size("512b"), 512u);
  EXPECT_EQ(size("1.5GiB"), 3u << 29);
  EXPECT_EQ(size("2KB"), 2048u);
  EXPECT_EQ(size("8T"), uint64_t{8} << 40);
  EXPECT_EQ(size("15E"), uint64_t{15} << 60);
}

TEST(ParseSizeTest, EverythingElseIsInvalid) {
  for (const char* text : {"", "M", "-1", "1X", "1MBB", "1 M", "16E", "1.2.3", ".", "99999999999999999999", "0x10"}) {
    EXPECT_EQ(ParseSize(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace stagefs::sal

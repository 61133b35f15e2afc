#include "sal/record_store.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "sal/blocking_io.h"
#include "sal/fault_store.h"
#include "sal/memory_store.h"
#include "sal/open_store.h"
#include "sal/real_environment.h"

namespace stagefs::sal {
namespace {

constexpr uint64_t kBlock = 4096;

class RecordStoreTest : public testing::Test {
 protected:
  void TearDown() override {
    store_.reset();
    std::remove(file_.c_str());
  }

  void Open(absl::string_view inner = "mem:16M") {
    auto store = RecordStore::Open(file_, OpenStore(inner, {}).value());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  absl::Status Write(uint64_t block, int value, bool fua = false) {
    std::memset(memory_, value, kBlock);
    return BlockingWrite(*store_, environment_, block * kBlock, memory_, kBlock, fua);
  }
  absl::Status Flush() { return BlockingFlush(*store_, environment_); }

  // Ends the store, and returns its record as one line an event.
  std::string Record() {
    store_.reset();
    std::ifstream stream(file_, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    RecordFileHeader file;
    EXPECT_GE(bytes.size(), sizeof(file));
    std::memcpy(&file, bytes.data(), sizeof(file));
    EXPECT_EQ(file.magic, kRecordMagic);
    EXPECT_EQ(file.size_bytes, 16u << 20);
    std::string lines;
    for (size_t position = sizeof(file); position < bytes.size();) {
      RecordEventHeader event;
      std::memcpy(&event, bytes.data() + position, sizeof(event));
      position += sizeof(event);
      const auto kind = static_cast<RecordEventKind>(event.kind);
      absl::StrAppend(&lines, kNames[event.kind], " ", event.request_number);
      if (kind <= RecordEventKind::kDiscard) absl::StrAppend(&lines, " ", event.offset_bytes, "+", event.length_bytes);
      if (event.flags & kRecordFua) absl::StrAppend(&lines, " fua");
      if (event.flags & kRecordZeros) absl::StrAppend(&lines, " zeros");
      const bool data = kind == RecordEventKind::kMark ||
                        (kind == RecordEventKind::kWrite && (event.flags & kRecordZeros) == 0);
      if (data) {
        absl::StrAppend(&lines, " ", kind == RecordEventKind::kMark
                                         ? bytes.substr(position, event.length_bytes)
                                         : absl::StrCat("of ", static_cast<int>(bytes[position])));
        position += event.length_bytes;
      }
      lines += "\n";
    }
    return lines;
  }

  static constexpr const char* kNames[] = {"?", "write", "zero", "discard", "flush", "completed", "failed", "mark"};
  const std::string file_ = absl::StrCat("/tmp/stagefs-record-test-", getpid());  // short, for its socket
  RealEnvironment environment_{1};
  std::unique_ptr<RecordStore> store_;
  alignas(kBlock) std::byte memory_[kBlock];
};

TEST_F(RecordStoreTest, EverythingThatChangesTheStoreIsRecordedInItsOrder) {
  Open();
  EXPECT_EQ(Write(1, 7), absl::OkStatus());
  EXPECT_EQ(Flush(), absl::OkStatus());
  EXPECT_EQ(store_->Mark("durable now"), 5u);
  EXPECT_EQ(BlockingZero(*store_, environment_, 0, 2 * kBlock), absl::OkStatus());
  EXPECT_EQ(Write(2, 0), absl::OkStatus());
  EXPECT_EQ(BlockingRead(*store_, environment_, 0, memory_, kBlock), absl::OkStatus());
  EXPECT_EQ(Record(),
            "write 1 4096+4096 of 7\ncompleted 1\nflush 2\ncompleted 2\nmark 0 durable now\n"
            "zero 3 0+8192\ncompleted 3\nwrite 4 8192+4096 zeros\ncompleted 4\n");
}

TEST_F(RecordStoreTest, WhatFailsIsRecordedAsFailed) {
  Open("fault:write-eio,mem:16M");
  EXPECT_EQ(Write(1, 7).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Record(), "write 1 4096+4096 of 7\nfailed 1\n");
}

TEST_F(RecordStoreTest, WhatTheStoreRefusesIsNotRecorded) {
  Open();
  EXPECT_EQ(BlockingWrite(*store_, environment_, 16 << 20, memory_, kBlock).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Record(), "");
}

TEST_F(RecordStoreTest, MoreThanTheBufferHoldsIsRecordedWhole) {
  Open();
  constexpr uint64_t kWrites = 2 * RecordLog::kBufferBytes / kBlock;
  for (uint64_t i = 0; i < kWrites; ++i) ASSERT_EQ(Write(i % 4096, 1 + i % 100), absl::OkStatus());
  std::string expected;
  for (uint64_t i = 0; i < kWrites; ++i) {
    absl::StrAppend(&expected, "write ", i + 1, " ", i % 4096 * kBlock, "+4096 of ", 1 + i % 100, "\ncompleted ", i + 1,
                    "\n");
  }
  EXPECT_TRUE(Record() == expected);
}

TEST_F(RecordStoreTest, OtherProcessesPutMarksThroughTheSocket) {
  Open();
  const int client = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  ASSERT_EQ(bind(client, reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)), 0);  // the kernel chooses a name
  const std::string path = file_ + ".sock";
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_EQ(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const auto ask = [&](const std::string& text) {
    EXPECT_EQ(send(client, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    char answer[32];
    const ssize_t length = recv(client, answer, sizeof(answer), 0);
    return std::string(answer, length > 0 ? length : 0);
  };
  EXPECT_EQ(ask("one"), "1");
  EXPECT_EQ(Write(1, 7), absl::OkStatus());
  EXPECT_EQ(ask("two"), "4");
  EXPECT_EQ(ask(""), "0");
  close(client);
  EXPECT_EQ(Record(), "mark 0 one\nwrite 1 4096+4096 of 7\ncompleted 1\nmark 0 two\n");
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST_F(RecordStoreTest, ARecordIsNeverOverwritten) {
  std::ofstream(file_) << "an earlier one";
  EXPECT_EQ(RecordStore::Open(file_, OpenStore("mem:16M", {}).value()).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_F(RecordStoreTest, WithoutAWholeRecordNothingIsAcknowledged) {
  Open();
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit small = {.rlim_cur = 64 << 10, .rlim_max = limit.rlim_max};
  std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  absl::Status status;
  for (int i = 0; i < 100'000 && status.ok(); ++i) status = Write(1, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Flush().code(), absl::StatusCode::kUnavailable);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

TEST_F(RecordStoreTest, AUrlNamesItsFileFirst) {
  EXPECT_EQ(OpenStore("record:" + file_, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenStore("record:,mem:16M", {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenStore("record:" + file_ + ",mem:16M", {}).status(), absl::OkStatus());
}

}  // namespace
}  // namespace stagefs::sal

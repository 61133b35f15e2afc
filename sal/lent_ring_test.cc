#include "sal/lent_ring.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "sal/blocking_io.h"
#include "sal/file_store.h"
#include "sal/open_store.h"
#include "sal/real_environment.h"

namespace stagefs::sal {
namespace {

constexpr uint64_t kBlock = 4096;

class LentRingTest : public ::testing::Test {
 protected:
  LentRingTest() {
    const std::string path = absl::StrCat(std::getenv("TEST_TMPDIR"), "/lent.img");
    OpenStoreOptions options;
    options.create_bytes = 1 << 20;
    store_ = *FileStore::Open(path, path, options);
    memory_ = static_cast<std::byte*>(std::aligned_alloc(kBlock, kBlocks * kBlock));
    // Few entries, so that they run out.
    EXPECT_EQ(io_uring_queue_init(4, &ring_, IORING_SETUP_SQE128), 0);
  }
  ~LentRingTest() override {
    io_uring_queue_exit(&ring_);
    std::free(memory_);
  }

  void Start(Request& request, Request::Op op, uint64_t block) {
    request = Request();
    request.op = op;
    if (op != Request::Op::kFlush) {
      request.offset_bytes = block * kBlock;
      request.length_bytes = kBlock;
      request.buffers.push_back({memory_ + block * kBlock, kBlock});
    }
    request.done = [this](absl::Status status) {
      EXPECT_EQ(std::this_thread::get_id(), owner_);
      EXPECT_TRUE(status.ok()) << status;
      ++completed_;
    };
    store_->Submit(&request);
  }
  void CompleteAll(LentRing& lent) {
    while (lent.in_flight() > 0) {
      EXPECT_GE(io_uring_submit_and_wait(&ring_, 1), 0);
      io_uring_cqe* cqe = nullptr;
      while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
        EXPECT_TRUE(LentRing::Owns(*cqe));
        const uint64_t data = cqe->user_data;
        const int result = cqe->res;
        io_uring_cqe_seen(&ring_, cqe);
        lent.Complete(data, result);
      }
    }
  }

  static constexpr uint64_t kBlocks = 64;
  RealEnvironment environment_;
  std::unique_ptr<FileStore> store_;
  std::byte* memory_ = nullptr;
  io_uring ring_ = {};
  const std::thread::id owner_ = std::this_thread::get_id();
  int completed_ = 0;
};

TEST_F(LentRingTest, ItsOwnerCompletesWhatItSubmitted) {
  LentRing lent(&ring_);
  std::vector<Request> requests(kBlocks);
  for (uint64_t i = 0; i < kBlocks; ++i) {
    std::memset(memory_ + i * kBlock, static_cast<int>(i + 1), kBlock);
    Start(requests[i], Request::Op::kWrite, i);
  }
  EXPECT_EQ(completed_, 0);
  CompleteAll(lent);
  EXPECT_EQ(completed_, static_cast<int>(kBlocks));
  Request flush;
  Start(flush, Request::Op::kFlush, 0);
  CompleteAll(lent);

  std::memset(memory_, 0, kBlocks * kBlock);
  for (uint64_t i = 0; i < kBlocks; ++i) Start(requests[i], Request::Op::kRead, i);
  CompleteAll(lent);
  EXPECT_EQ(completed_, static_cast<int>(2 * kBlocks + 1));
  for (uint64_t i = 0; i < kBlocks; ++i) {
    EXPECT_EQ(static_cast<uint64_t>(memory_[i * kBlock]), i + 1);
    EXPECT_EQ(static_cast<uint64_t>(memory_[i * kBlock + kBlock - 1]), i + 1);
  }
}

TEST_F(LentRingTest, OtherThreadsAreServedByTheStoreItself) {
  const LentRing lent(&ring_);
  std::thread other([&] {
    EXPECT_EQ(LentRing::OfThisThread(), nullptr);
    EXPECT_TRUE(BlockingFlush(*store_, environment_).ok());
  });
  other.join();
  EXPECT_EQ(lent.in_flight(), 0u);
}

TEST_F(LentRingTest, WhatTheStoreRefusesIsToldByItsOwnThread) {
  const LentRing lent(&ring_);
  const std::unique_ptr<Event> over = environment_.NewEvent();
  std::thread::id told;
  absl::Status result;
  Request request;
  request.op = Request::Op::kRead;
  request.offset_bytes = uint64_t{1} << 40;
  request.length_bytes = kBlock;
  request.buffers.push_back({memory_, kBlock});
  request.done = [&](absl::Status status) {
    told = std::this_thread::get_id();
    result = std::move(status);
    over->Set();
  };
  store_->Submit(&request);
  EXPECT_EQ(lent.in_flight(), 0u);
  std::thread([&] { over->Wait(); }).join();
  EXPECT_TRUE(absl::IsOutOfRange(result)) << result;
  EXPECT_NE(told, owner_);
}

TEST(LentRingDeathTest, ItsThreadMustNotWaitForAnEvent) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  RealEnvironment environment(1);
  io_uring ring = {};
  ASSERT_EQ(io_uring_queue_init(4, &ring, 0), 0);
  {
    const LentRing lent(&ring);
    EXPECT_DEATH(environment.NewEvent()->Wait(), "LentRing");
  }
  io_uring_queue_exit(&ring);
}

}  // namespace
}  // namespace stagefs::sal

// What every BlockStore promises, run over each kind of store.

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "sal/blocking_io.h"
#include "sal/fault_store.h"
#include "sal/open_store.h"
#include "sal/random.h"
#include "sal/real_environment.h"
#include "sal/simulated_environment.h"
#include "sal/simulated_store.h"

namespace stagefs::sal {
namespace {

constexpr uint64_t kStoreBytes = 16 << 20;

struct Bench {
  std::unique_ptr<Environment> environment;
  std::unique_ptr<BlockStore> store;
  std::string path;  // to remove at the end

  ~Bench() {
    store.reset();
    if (!path.empty()) std::remove(path.c_str());
  }
};

std::unique_ptr<Bench> ByUrl(const std::string& url, const std::string& path, uint64_t create_bytes) {
  auto bench = std::make_unique<Bench>();
  bench->environment = std::make_unique<RealEnvironment>(1);
  bench->path = path;
  auto store = OpenStore(url, {.create_bytes = create_bytes, .lock_wait_ms = 0});
  EXPECT_TRUE(store.ok()) << store.status();
  if (store.ok()) bench->store = *std::move(store);
  return bench;
}

struct Kind {
  std::string name;
  std::function<std::unique_ptr<Bench>()> make;
};

std::vector<Kind> Kinds() {
  const std::string image = absl::StrCat(std::getenv("TEST_TMPDIR"), "/contract.img");
  return {
      {"Memory", [] { return ByUrl("mem:16M", "", 0); }},
      {"File", [=] { return ByUrl(image, image, kStoreBytes); }},
      {"FileOnTmpfs",
       [] {
         const std::string path = absl::StrCat("/dev/shm/stagefs-contract-", getpid());
         return ByUrl("file:" + path, path, kStoreBytes);
       }},
      {"FaultThatNeverHits", [] { return ByUrl("fault:any-eio-count=0,mem:16M", "", 0); }},
      {"Recorded",
       [] {
         const std::string record = absl::StrCat("/tmp/stagefs-contract-", getpid());  // short, for its socket
         std::remove(record.c_str());
         return ByUrl(absl::StrCat("record:", record, ",mem:16M"), record, 0);
       }},
      {"Simulated",
       [] {
         auto bench = std::make_unique<Bench>();
         auto environment = std::make_unique<SimulatedEnvironment>(7);
         const SimulatedStoreOptions options{.size_bytes = kStoreBytes};
         bench->store = std::make_unique<SimulatedStore>(*environment, options);
         bench->environment = std::move(environment);
         return bench;
       }},
  };
}

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<std::byte[], FreeMemory>;

Memory Aligned(uint64_t bytes) { return Memory(static_cast<std::byte*>(std::aligned_alloc(4096, bytes))); }

Memory Pattern(uint64_t bytes, uint64_t seed) {
  Memory memory = Aligned(bytes);
  Random64 random(seed);
  for (uint64_t i = 0; i < bytes; i += 8) {
    const uint64_t word = random.Next();
    std::memcpy(memory.get() + i, &word, 8);
  }
  return memory;
}

class StoreContractTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    bench_ = GetParam().make();
    ASSERT_NE(bench_->store, nullptr);
  }

  BlockStore& store() { return *bench_->store; }
  Environment& environment() { return *bench_->environment; }

  // Submits one request and waits for it.
  absl::Status Run(Request::Op op, uint64_t offset, uint64_t length, std::vector<iovec> buffers = {},
                   bool fua = false) {
    const auto event = environment().NewEvent();
    absl::Status result = absl::UnknownError("not done");
    Request request;
    request.op = op;
    request.fua = fua;
    request.offset_bytes = offset;
    request.length_bytes = length;
    request.buffers.assign(buffers.begin(), buffers.end());
    request.done = [&](absl::Status status) {
      result = std::move(status);
      event->Set();
    };
    store().Submit(&request);
    event->Wait();
    return result;
  }

  void ExpectBytes(uint64_t offset, const std::byte* expected, uint64_t length) {
    Memory found = Aligned(length);
    ASSERT_EQ(BlockingRead(store(), environment(), offset, found.get(), length), absl::OkStatus());
    EXPECT_EQ(std::memcmp(found.get(), expected, length), 0) << "at " << offset;
  }

  std::unique_ptr<Bench> bench_;
};

TEST_P(StoreContractTest, GeometryIsWithinItsLimits) {
  const Geometry& geometry = store().geometry();
  EXPECT_EQ(geometry.size_bytes, kStoreBytes);
  EXPECT_LE(geometry.block_size_bytes, 4096u);
  EXPECT_GE(geometry.max_request_bytes, 64u << 10);
  EXPECT_GE(geometry.atomic_write_bytes, 512u);
  EXPECT_GE(geometry.max_buffers, 16u);
}

TEST_P(StoreContractTest, BlocksNeverWrittenReadAsZeros) {
  Memory zeros = Aligned(1 << 20);
  std::memset(zeros.get(), 0, 1 << 20);
  ExpectBytes(kStoreBytes - (1 << 20), zeros.get(), 1 << 20);
}

TEST_P(StoreContractTest, ReadsReturnWhatWasWritten) {
  // Larger than a request, so it is cut into pieces that are in flight together.
  constexpr uint64_t kBytes = 5 << 20;
  Memory data = Pattern(kBytes, 1);
  ASSERT_EQ(BlockingWrite(store(), environment(), 4096, data.get(), kBytes), absl::OkStatus());
  ASSERT_EQ(BlockingFlush(store(), environment()), absl::OkStatus());
  ExpectBytes(4096, data.get(), kBytes);
}

TEST_P(StoreContractTest, DurableWritesWorkAtEverySize) {
  for (uint64_t bytes : {uint64_t{4096}, uint64_t{1 << 20}, uint64_t{3 << 20}}) {
    Memory data = Pattern(bytes, bytes);
    ASSERT_EQ(BlockingWrite(store(), environment(), 8192, data.get(), bytes, /*fua=*/true), absl::OkStatus());
    ExpectBytes(8192, data.get(), bytes);
  }
}

TEST_P(StoreContractTest, BuffersAreGatheredAndScattered) {
  Memory data = Pattern(64 << 10, 2), found = Aligned(64 << 10);
  std::vector<iovec> out, in;
  for (int i = 0; i < 16; ++i) {
    out.push_back({data.get() + (15 - i) * 4096, 4096});
    in.push_back({found.get() + (15 - i) * 4096, 4096});
  }
  ASSERT_EQ(Run(Request::Op::kWrite, 12288, 64 << 10, out, /*fua=*/true), absl::OkStatus());
  ASSERT_EQ(Run(Request::Op::kRead, 12288, 64 << 10, in), absl::OkStatus());
  EXPECT_EQ(std::memcmp(data.get(), found.get(), 64 << 10), 0);
  ExpectBytes(12288, data.get() + 15 * 4096, 4096);
}

TEST_P(StoreContractTest, MoreRequestsThanAnyQueueHoldsAllComplete) {
  constexpr uint64_t kCount = 1500;
  Memory data = Pattern(kCount * 4096, 3);
  std::vector<Request> requests(kCount);
  std::vector<Request*> pointers;
  std::atomic<uint64_t> left{kCount}, failed{0};
  const auto event = environment().NewEvent();
  for (uint64_t i = 0; i < kCount; ++i) {
    Request& request = requests[i];
    request.op = Request::Op::kWrite;
    request.offset_bytes = i * 4096;
    request.length_bytes = 4096;
    request.buffers = {iovec{data.get() + i * 4096, 4096}};
    request.done = [&](absl::Status status) {
      if (!status.ok()) ++failed;
      if (--left == 0) event->Set();
    };
    pointers.push_back(&request);
  }
  store().Submit(pointers);
  event->Wait();
  EXPECT_EQ(failed, 0u);
  ExpectBytes(0, data.get(), kCount * 4096);
}

TEST_P(StoreContractTest, RegisteredMemoryWorksLikeAnyOther) {
  Memory data = Pattern(2 << 20, 4);
  const iovec areas[] = {{data.get() + (1 << 20), 1 << 20}, {data.get(), 1 << 20}};
  store().RegisterMemory(areas);
  ASSERT_EQ(BlockingWrite(store(), environment(), 0, data.get(), 2 << 20), absl::OkStatus());
  // Across the border of two areas, which no registered buffer covers.
  const uint64_t half = 1 << 19;
  ASSERT_EQ(BlockingWrite(store(), environment(), 4 << 20, data.get() + half, 1 << 20), absl::OkStatus());
  ExpectBytes(0, data.get(), 2 << 20);
  ExpectBytes(4 << 20, data.get() + half, 1 << 20);
  Memory copy = Pattern(2 << 20, 4);
  std::memset(data.get(), 0, 2 << 20);
  ASSERT_EQ(BlockingRead(store(), environment(), 0, data.get(), 2 << 20), absl::OkStatus());
  EXPECT_EQ(std::memcmp(data.get(), copy.get(), 2 << 20), 0);
}

TEST_P(StoreContractTest, ADoneMaySubmitItsRequestAgain) {
  Memory data = Pattern(4096, 5);
  const auto event = environment().NewEvent();
  Request request;
  int rounds = 0;
  std::function<void()> submit = [&] {
    request.op = Request::Op::kWrite;
    request.offset_bytes = rounds * 4096;
    request.length_bytes = 4096;
    request.buffers = {iovec{data.get(), 4096}};
    request.done = [&](absl::Status status) {
      EXPECT_EQ(status, absl::OkStatus());
      if (++rounds == 20) {
        event->Set();
      } else {
        submit();
      }
    };
    store().Submit(&request);
  };
  submit();
  event->Wait();
  ExpectBytes(19 * 4096, data.get(), 4096);
}

TEST_P(StoreContractTest, ZeroedRangesReadAsZeros) {
  constexpr uint64_t kBytes = 8 << 20;
  Memory data = Pattern(kBytes, 6);
  ASSERT_EQ(BlockingWrite(store(), environment(), 0, data.get(), kBytes), absl::OkStatus());
  ASSERT_EQ(BlockingZero(store(), environment(), 4096, kBytes - 3 * 4096), absl::OkStatus());
  std::memset(data.get() + 4096, 0, kBytes - 3 * 4096);
  ExpectBytes(0, data.get(), kBytes);
}

TEST_P(StoreContractTest, DiscardedBlocksCanBeWrittenAgain) {
  Memory data = Pattern(1 << 20, 8);
  ASSERT_TRUE(store().geometry().discard);
  ASSERT_EQ(Run(Request::Op::kDiscard, 0, kStoreBytes), absl::OkStatus());
  ASSERT_EQ(BlockingWrite(store(), environment(), 0, data.get(), 1 << 20), absl::OkStatus());
  ExpectBytes(0, data.get(), 1 << 20);
}

TEST_P(StoreContractTest, RequestsBeyondTheEndAreOutOfRange) {
  Memory data = Pattern(8192, 9);
  for (Request::Op op : {Request::Op::kRead, Request::Op::kWrite}) {
    EXPECT_EQ(Run(op, kStoreBytes - 4096, 8192, {{data.get(), 8192}}).code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(Run(op, kStoreBytes, 4096, {{data.get(), 4096}}).code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(Run(op, UINT64_MAX - 4095, 8192, {{data.get(), 8192}}).code(), absl::StatusCode::kOutOfRange);
  }
  EXPECT_EQ(Run(Request::Op::kZero, 4096, kStoreBytes).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Run(Request::Op::kDiscard, 4096, kStoreBytes).code(), absl::StatusCode::kOutOfRange);
}

TEST_P(StoreContractTest, MisalignedAndMisfittingRequestsAreInvalid) {
  Memory data = Pattern(8192, 10);
  EXPECT_EQ(Run(Request::Op::kRead, 100, 4096, {{data.get(), 4096}}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Run(Request::Op::kRead, 0, 4096, {{data.get() + 1, 4096}}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Run(Request::Op::kWrite, 0, 8192, {{data.get(), 4096}}).code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreContractTest, testing::ValuesIn(Kinds()),
                         [](const testing::TestParamInfo<Kind>& info) { return info.param.name; });

}  // namespace
}  // namespace stagefs::sal

// The library and the server together: a volume in memory, the real control plane, data path and mappings.

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fs/dsa/client/stagefs/dsa.h"
#include "fs/dsa/mapped_files_service.h"
#include "fs/dsa/server.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "gtest/gtest.h"
#include "sal/check.h"
#include "sal/real_environment.h"

namespace stagefs::dsa {
namespace {

constexpr size_t kMiB = 1 << 20;

class RealServerTest : public testing::TestWithParam<std::string> {
 protected:
  RealServerTest() : engine_(environment_, EngineOptions()), bytes_(20 * kMiB) {
    STAGEFS_CHECK(volume::Volume::Format(engine_, {}).ok());
    volume_ = *volume::Volume::Open(engine_);
    mappings_ = std::make_unique<MappedFilesService>(*volume_, sharing_);
    DsaServerOptions options;
    options.addresses = {path_};
    server_ = *DsaServer::Start(*volume_, sharing_, mappings_.get(), options, [](absl::string_view) {});
    Connect(&connection_);
    STAGEFS_CHECK(dsa_open(connection_, "/file", O_RDWR | O_CREAT, 0644, &file_) == 0);
    STAGEFS_CHECK(dsa_register(connection_, bytes_.data(), bytes_.size(), DSA_LOCAL_READ | DSA_LOCAL_WRITE, &memory_) ==
                  0);
    STAGEFS_CHECK(dsa_create_queue(connection_, 64, &queue_) == 0);
  }
  ~RealServerTest() override {
    dsa_disconnect(connection_);
    server_.reset();
    mappings_.reset();
    volume_->Close();
  }
  static volume::testing::MemoryEngine::Options EngineOptions() {
    volume::testing::MemoryEngine::Options options;
    options.capacity_blocks = 64 << 10;
    options.asynchronous = true;
    return options;
  }
  void Connect(dsa_connection** connection) {
    const dsa_options options = {GetParam().c_str(), nullptr, 0, 0};
    const int status = dsa_connect(path_.c_str(), &options, connection);
    if (status != 0) fprintf(stderr, "%s\n", dsa_error());
    STAGEFS_CHECK(status == 0);
  }

  dsa_work Work(dsa_opcode opcode, uint64_t offset, size_t at, uint64_t length) {
    dsa_work work = {};
    work.opcode = opcode;
    work.flags = DSA_SIGNALED;
    work.file = file_;
    work.offset = offset;
    work.buffer = bytes_.data() + at;
    work.length = length;
    work.memory = memory_;
    return work;
  }
  dsa_completion Do(const dsa_work& work) {
    dsa_completion completion = {};
    completion.status = 1;
    EXPECT_EQ(dsa_post(queue_, &work, 1), 1) << dsa_error();
    EXPECT_EQ(dsa_wait(queue_, 20'000), 1) << dsa_error();
    EXPECT_EQ(dsa_poll(queue_, &completion, 1), 1);
    return completion;
  }
  // What another program would read.
  std::string Content(uint64_t offset, size_t length) {
    const dsa_completion read = Do(Work(DSA_READ, offset, 16 * kMiB, length));
    EXPECT_EQ(read.status, 0);
    return std::string(bytes_.data() + 16 * kMiB, read.length);
  }

  const std::string path_ = testing::TempDir() + "/real.dsa";
  sal::RealEnvironment environment_;
  volume::testing::MemoryEngine engine_;
  std::unique_ptr<volume::Volume> volume_;
  volume::Sharing sharing_;
  std::unique_ptr<MappedFilesService> mappings_;
  std::unique_ptr<DsaServer> server_;
  std::vector<char> bytes_;
  dsa_connection* connection_ = nullptr;
  dsa_file* file_ = nullptr;
  dsa_memory* memory_ = nullptr;
  dsa_queue* queue_ = nullptr;
};

TEST_P(RealServerTest, BytesComeBackAsTheyWentOut) {
  std::mt19937 random(1);
  uint64_t offset = 5;
  for (const size_t size : {size_t{1}, size_t{1024}, size_t{1025}, size_t{100'001}, kMiB, 5 * kMiB + 3}) {
    std::generate_n(bytes_.begin(), size, [&] { return static_cast<char>(random()); });
    const dsa_completion write = Do(Work(DSA_WRITE, offset, 0, size));
    ASSERT_EQ(write.status, 0);
    EXPECT_EQ(write.length, size);
    EXPECT_GT(write.lsn, 0u);
    const dsa_completion read = Do(Work(DSA_READ, offset, 8 * kMiB, size + 10));
    ASSERT_EQ(read.status, 0);
    EXPECT_EQ(read.length, size);
    EXPECT_EQ(memcmp(bytes_.data(), bytes_.data() + 8 * kMiB, size), 0);
    offset += size;
  }
  struct dsa_stat stat;
  ASSERT_EQ(dsa_stat(file_, &stat), 0);
  EXPECT_EQ(stat.size, offset);
}

TEST_P(RealServerTest, AtomicsAndGroups) {
  dsa_work add = Work(DSA_FETCH_ADD, 8, 0, 0);
  add.operand = 5;
  EXPECT_EQ(Do(add).value, 0u);
  EXPECT_EQ(Do(add).value, 5u);
  dsa_work swap = Work(DSA_COMPARE_SWAP, 8, 0, 0);
  swap.expected = 10;
  swap.operand = 77;
  const dsa_completion swapped = Do(swap);
  EXPECT_EQ(swapped.status, 0);
  EXPECT_EQ(swapped.value, 10u);
  EXPECT_EQ(Do(Work(DSA_BEGIN, 0, 0, 0)).status, 0);
  EXPECT_EQ(Do(Work(DSA_WRITE, 100, 0, 2000)).status, 0);
  EXPECT_EQ(Do(Work(DSA_ABORT, 0, 0, 0)).status, 0);
  EXPECT_EQ(Content(0, 4096).size(), 16u);
}

TEST_P(RealServerTest, ServersRefusalsAreTold) {
  dsa_file* none = nullptr;
  EXPECT_EQ(dsa_open(connection_, "/none", O_RDONLY, 0, &none), -ENOENT);
  EXPECT_STRNE(dsa_error(), "");
  dsa_file* reader = nullptr;
  ASSERT_EQ(dsa_open(connection_, "/file", O_RDONLY, 0, &reader), 0);
  dsa_work write = Work(DSA_WRITE, 0, 0, 10);
  write.file = reader;
  EXPECT_EQ(Do(write).status, -EBADF);
  EXPECT_EQ(dsa_close(reader), 0);
}

TEST_P(RealServerTest, DeregisteringAmidWork) {
  for (int round = 0; round < 20; ++round) {
    std::vector<char> other(2 * kMiB);
    dsa_memory* memory = nullptr;
    ASSERT_EQ(dsa_register(connection_, other.data(), other.size(), DSA_LOCAL_READ | DSA_LOCAL_WRITE, &memory), 0);
    std::vector<dsa_work> works;
    for (int i = 0; i < 8; ++i) {
      dsa_work work = Work(i % 2 == 0 ? DSA_WRITE : DSA_READ, 0, 0, kMiB);
      work.buffer = other.data();
      work.memory = memory;
      works.push_back(work);
    }
    ASSERT_EQ(dsa_post(queue_, works.data(), 8), 8);
    ASSERT_EQ(dsa_deregister(memory), 0) << dsa_error();
    std::fill(other.begin(), other.end(), 'x');
    for (int i = 0; i < 8; ++i) {
      dsa_completion completion;
      ASSERT_EQ(dsa_wait(queue_, 20'000), 1);
      ASSERT_EQ(dsa_poll(queue_, &completion, 1), 1);
      EXPECT_TRUE(completion.status == 0 || completion.status == -ECANCELED) << completion.status;
    }
    EXPECT_EQ(std::count(other.begin(), other.end(), 'x'), static_cast<ptrdiff_t>(other.size()));
  }
}

TEST_P(RealServerTest, StoppingTheServerGivesWorkBack) {
  // Within one process shm's endpoints use each other's memory by its address, also when it is gone.
  if (GetParam() == "shm") GTEST_SKIP() << "within one process, shm cannot send to an endpoint that was closed";
  std::vector<dsa_work> works(16, Work(DSA_READ, 0, 0, kMiB));
  ASSERT_EQ(dsa_post(queue_, works.data(), 16), 16);
  server_->Stop();
  int completed = 0;
  for (;;) {
    const int ready = dsa_wait(queue_, 20'000);
    if (ready == -ECONNRESET) break;
    ASSERT_EQ(ready, 1);
    dsa_completion completions[16];
    completed += dsa_poll(queue_, completions, 16);
  }
  EXPECT_EQ(completed, 16);
  EXPECT_EQ(dsa_close(file_), -ECONNRESET);
}

TEST_P(RealServerTest, TwoClientsTakeTurns) {
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      dsa_connection* connection = nullptr;
      Connect(&connection);
      dsa_file* file = nullptr;
      dsa_queue* queue = nullptr;
      if (dsa_open(connection, "/counter", O_RDWR | O_CREAT | DSA_SHARED, 0644, &file) != 0 ||
          dsa_create_queue(connection, 4, &queue) != 0) {
        ++failures;
      } else {
        for (int j = 0; j < 300; ++j) {
          dsa_work add = {};
          add.opcode = DSA_FETCH_ADD;
          add.flags = DSA_SIGNALED;
          add.file = file;
          add.operand = 1;
          dsa_completion completion;
          if (dsa_post(queue, &add, 1) != 1 || dsa_wait(queue, 20'000) != 1 || dsa_poll(queue, &completion, 1) != 1 ||
              completion.status != 0) {
            ++failures;
          }
        }
      }
      dsa_disconnect(connection);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  ASSERT_EQ(dsa_open(connection_, "/counter", O_RDONLY | DSA_SHARED, 0, &file_), 0);
  uint64_t count = 0;
  const std::string bytes = Content(0, sizeof(count));
  ASSERT_EQ(bytes.size(), sizeof(count));
  memcpy(&count, bytes.data(), sizeof(count));
  EXPECT_EQ(count, 600u);
}

// --- Mappings ---

class MappedTest : public RealServerTest {
 protected:
  static constexpr size_t kMapped = 18 * kMiB;

  // Not everybody may handle page faults: see fs/dsa/client/faulted_memory.h.
  void SetUp() override {
    void* address = nullptr;
    const int status = dsa_map(file_, 0, kMapped, &mapping_, &address);
    if ((status == -EPERM || status == -ENOSYS) && getenv("CI") == nullptr) GTEST_SKIP() << dsa_error();
    ASSERT_EQ(status, 0) << dsa_error();
    mapped_ = static_cast<char*>(address);
  }

  dsa_mapping* mapping_ = nullptr;
  char* mapped_ = nullptr;
};

TEST_P(MappedTest, StoresAreOneChangeOncePersisted) {
  EXPECT_EQ(mapped_[0], 0);
  memcpy(mapped_ + 10, "hello", 5);
  memset(mapped_ + 100'000, 'x', 10'000);
  EXPECT_EQ(Content(0, 100).size(), 0u);
  uint64_t lsn = 0;
  ASSERT_EQ(dsa_persist(mapping_, 0, kMapped, DSA_PERSIST_DURABLE, &lsn), 0) << dsa_error();
  EXPECT_GT(lsn, 0u);
  EXPECT_EQ(Content(10, 5), "hello");
  EXPECT_EQ(Content(100'000, 20'000), std::string(10'000, 'x'));
  EXPECT_EQ(dsa_persist(mapping_, 0, 4096, 2, nullptr), -EINVAL);
  EXPECT_EQ(dsa_persist(mapping_, 0, kMapped + 1, 0, nullptr), -EINVAL);
}

TEST_P(MappedTest, ThousandsOfPiecesAreOneChange) {
  for (size_t i = 0; i < 4000; ++i) mapped_[i * 1000 + 3] = static_cast<char>('a' + i % 26);
  ASSERT_EQ(dsa_persist(mapping_, 0, kMapped, 0, nullptr), 0) << dsa_error();
  const std::string content = Content(0, 4000 * 1000);
  for (size_t i = 0; i < 4000; ++i) ASSERT_EQ(content.at(i * 1000 + 3), static_cast<char>('a' + i % 26));
}

TEST_P(MappedTest, SixteenMebibytesAreTheMost) {
  memset(mapped_, 'y', 16 * kMiB + 1);
  EXPECT_EQ(dsa_persist(mapping_, 0, kMapped, 0, nullptr), -E2BIG);
  ASSERT_EQ(dsa_persist(mapping_, 0, 16 * kMiB, 0, nullptr), 0) << dsa_error();
  EXPECT_EQ(Content(16 * kMiB - 10, 100), std::string(10, 'y'));
}

TEST_P(MappedTest, MemoryOfAMappingIsNotRegistered) {
  dsa_memory* memory = nullptr;
  EXPECT_EQ(dsa_register(connection_, mapped_, 10, DSA_LOCAL_READ, &memory), -EINVAL);
  EXPECT_EQ(dsa_register(connection_, mapped_ + kMapped - 1, 1, DSA_LOCAL_READ, &memory), -EINVAL);
  EXPECT_EQ(dsa_register(connection_, mapped_ - 1, 2, DSA_LOCAL_READ, &memory), -EINVAL);
  EXPECT_EQ(memory, nullptr);
}

TEST_P(MappedTest, SmallWritesMayComeFromAMapping) {
  ASSERT_EQ(Do(Work(DSA_WRITE, 0, 0, 4096)).status, 0);
  dsa_work work = Work(DSA_WRITE, 200'000, 0, 100);
  work.buffer = mapped_;
  work.memory = nullptr;
  EXPECT_EQ(Do(work).status, 0);
}

TEST_P(MappedTest, FileIsNotClosedBeforeItsMappings) {
  EXPECT_EQ(dsa_close(file_), -EBUSY);
  EXPECT_EQ(dsa_unmap(mapping_), 0);
  EXPECT_EQ(dsa_close(file_), 0);
}

INSTANTIATE_TEST_SUITE_P(Providers, RealServerTest, testing::Values("shm", "tcp"));
INSTANTIATE_TEST_SUITE_P(Providers, MappedTest, testing::Values("shm", "tcp"));

}  // namespace
}  // namespace stagefs::dsa

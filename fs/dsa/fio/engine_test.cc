// Debian's fio with the engine, on a volume that this test serves.

#include <fcntl.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "fs/dsa/client/stagefs/dsa.h"
#include "fs/dsa/testing/served_volume.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stagefs::fio {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "Debian's fio cannot load an engine built with a sanitizer";
  }

  struct Outcome {
    int code;
    std::string output;
  };

  // A job on /file. What fio writes beside it goes to the test's directory.
  Outcome Fio(std::vector<std::string> options) {
    const std::string output = ::testing::TempDir() + "/output";
    std::string command = "cd '" + ::testing::TempDir() + "' && exec timeout -k 5 100 fio --name=job --filename=/file";
    command += " --ioengine=external:" + engine_ + " --dsa_server=" + volume_.address();
    for (const std::string& option : options) command += " '--" + option + "'";
    const int status = std::system((command + " >'" + output + "' 2>&1").c_str());
    std::ostringstream text;
    text << std::ifstream(output).rdbuf();
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text.str()};
  }
  void ExpectSuccess(const std::vector<std::string>& options) {
    const Outcome outcome = Fio(options);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, Not(HasSubstr("verify failed"))) << outcome.output;
  }
  // Changes a byte of /file behind fio's back.
  void Corrupt(uint64_t offset) {
    dsa_connection* connection = nullptr;
    dsa_file* file = nullptr;
    dsa_queue* queue = nullptr;
    char byte = 0x55;
    ASSERT_EQ(dsa_connect(volume_.address().c_str(), nullptr, &connection), 0) << dsa_error();
    ASSERT_EQ(dsa_open(connection, "/file", O_WRONLY, 0, &file), 0) << dsa_error();
    ASSERT_EQ(dsa_create_queue(connection, 1, &queue), 0) << dsa_error();
    dsa_work work = {};
    work.opcode = DSA_WRITE;
    work.flags = DSA_SIGNALED;
    work.file = file;
    work.offset = offset;
    work.buffer = &byte;
    work.length = 1;
    dsa_completion completion = {};
    EXPECT_EQ(dsa_post(queue, &work, 1), 1) << dsa_error();
    EXPECT_EQ(dsa_wait(queue, 10'000), 1) << dsa_error();
    EXPECT_EQ(dsa_poll(queue, &completion, 1), 1);
    EXPECT_EQ(completion.status, 0);
    dsa_disconnect(connection);
  }

  const std::string engine_ = std::filesystem::absolute("fs/dsa/fio/libstagefs-fio.so");
  dsa::testing::ServedVolume volume_;
};

TEST_F(EngineTest, WhatIsWrittenAtRandomVerifies) {
  ExpectSuccess({"rw=randwrite", "bs=4k", "size=16m", "iodepth=32", "verify=crc32c"});
  ExpectSuccess({"rw=randread", "bs=4k", "size=16m", "iodepth=32", "verify=crc32c"});
}

TEST_F(EngineTest, CorruptionIsSeen) {
  ExpectSuccess({"rw=write", "bs=4k", "size=1m", "iodepth=8", "verify=crc32c"});
  Corrupt(123'456);
  const Outcome outcome = Fio({"rw=read", "bs=4k", "size=1m", "iodepth=8", "verify=crc32c"});
  EXPECT_NE(outcome.code, 0);
  EXPECT_THAT(outcome.output, HasSubstr("verify failed"));
}

TEST_F(EngineTest, TcpAndThreadsAndMixedSizes) {
  ExpectSuccess({"dsa_provider=tcp", "rw=randwrite", "bsrange=512-256k", "size=8m", "iodepth=16", "verify=md5"});
  ExpectSuccess({"rw=randrw", "bs=8k", "size=4m", "iodepth=8", "numjobs=2", "thread", "dsa_busy=1"});
}

TEST_F(EngineTest, DurableWritesAndFlushes) {
  ExpectSuccess({"rw=randwrite", "bs=4k", "size=2m", "iodepth=32", "dsa_durable=1"});
  ExpectSuccess({"rw=randwrite", "bs=4k", "size=2m", "iodepth=4", "fsync=8", "iodepth_batch=4"});
}

TEST_F(EngineTest, WhatCannotBeDoneFails) {
  EXPECT_NE(Fio({"rw=randtrim", "size=1m"}).code, 0);
  const Outcome elsewhere = Fio({"rw=read", "size=1m", "dsa_server=/no/such/server"});
  EXPECT_NE(elsewhere.code, 0);
  EXPECT_THAT(elsewhere.output, HasSubstr("/no/such/server"));
  const Outcome unnamed = Fio({"rw=write", "size=1m", "filename=/no/such/directory/file"});
  EXPECT_NE(unnamed.code, 0);
  EXPECT_THAT(unnamed.output, HasSubstr("/no/such/directory"));
}

}  // namespace
}  // namespace stagefs::fio

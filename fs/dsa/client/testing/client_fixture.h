// ClientTest: a fake server and a connection to it by the C interface, for each provider.

#ifndef STAGEFS_FS_DSA_CLIENT_TESTING_CLIENT_FIXTURE_H_
#define STAGEFS_FS_DSA_CLIENT_TESTING_CLIENT_FIXTURE_H_

#include <errno.h>
#include <fcntl.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fs/dsa/client/stagefs/dsa.h"
#include "fs/dsa/client/testing/fake_server.h"
#include "gtest/gtest.h"

namespace stagefs::dsa {

class ClientTest : public testing::TestWithParam<std::string> {
 protected:
  static constexpr uint32_t kTimeoutMs = 2000;

  ClientTest() : path_(testing::TempDir() + "/fake.dsa"), server_(std::make_unique<FakeServer>(GetParam(), path_)) {}
  ~ClientTest() override {
    dsa_disconnect(connection_);
    server_->Run([] {});  // its hooks, which use server_, have returned
    server_.reset();
  }

  int Connect(uint32_t timeout_ms = kTimeoutMs) {
    const dsa_options options = {GetParam().c_str(), nullptr, timeout_ms, 0};
    return dsa_connect(path_.c_str(), &options, &connection_);
  }
  // A connection, a file, registered memory, a queue.
  void Open(uint32_t depth = 16) {
    ASSERT_EQ(Connect(), 0) << dsa_error();
    ASSERT_EQ(dsa_open(connection_, "/file", O_RDWR | O_CREAT, 0644, &file_), 0) << dsa_error();
    ASSERT_EQ(dsa_register(connection_, bytes_.data(), bytes_.size(), DSA_LOCAL_READ | DSA_LOCAL_WRITE, &memory_), 0)
        << dsa_error();
    ASSERT_EQ(dsa_create_queue(connection_, depth, &queue_), 0) << dsa_error();
  }

  dsa_work Work(dsa_opcode opcode, uint64_t offset, void* buffer, uint64_t length, uint64_t user_data = 0) const {
    dsa_work work = {};
    work.user_data = user_data;
    work.opcode = opcode;
    work.flags = DSA_SIGNALED;
    work.file = file_;
    work.offset = offset;
    work.buffer = buffer;
    work.length = length;
    work.memory = memory_;
    return work;
  }
  dsa_completion Next() {
    dsa_completion completion = {};
    completion.status = 1;
    const int ready = dsa_wait(queue_, 10'000);
    EXPECT_EQ(ready, 1) << dsa_error();
    if (ready == 1) {
      EXPECT_EQ(dsa_poll(queue_, &completion, 1), 1);
    }
    return completion;
  }
  dsa_completion Do(const dsa_work& work) {
    EXPECT_EQ(dsa_post(queue_, &work, 1), 1) << dsa_error();
    return Next();
  }
  char* text(size_t offset = 0) { return reinterpret_cast<char*>(bytes_.data()) + offset; }

  const std::string path_;
  std::unique_ptr<FakeServer> server_;
  std::vector<std::byte> bytes_ = std::vector<std::byte>(4 << 20);
  dsa_connection* connection_ = nullptr;
  dsa_file* file_ = nullptr;
  dsa_memory* memory_ = nullptr;
  dsa_queue* queue_ = nullptr;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_TESTING_CLIENT_FIXTURE_H_

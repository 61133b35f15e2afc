// Connecting and the calls that ask the server something, with a server that behaves and one that does not.

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "fs/dsa/client/testing/client_fixture.h"
#include "stagefs/dsa.hpp"

namespace stagefs::dsa {
namespace {

using Request = FakeServer::Request;

class ConnectionTest : public ClientTest {
 protected:
  // The server does this instead of answering requests of `type`.
  void Instead(ControlType type, std::function<void(const Request&)> action) {
    server_->on_request = [type, action](const Request& request) {
      if (request.header.type != static_cast<uint16_t>(type)) return false;
      action(request);
      return true;
    };
  }
  // Connects, and sees that this answer to a kStat ends the connection.
  void ExpectStatBreaks(std::function<void(const Request&)> action) {
    Instead(ControlType::kStat, action);
    Open();
    struct dsa_stat stat;
    EXPECT_EQ(dsa_stat(file_, &stat), -ECONNRESET);
    EXPECT_STRNE(dsa_error(), "");
    dsa_file* other = nullptr;
    EXPECT_EQ(dsa_open(connection_, "/other", O_RDONLY, 0, &other), -ECONNRESET);
    EXPECT_EQ(other, nullptr);
    EXPECT_EQ(dsa_wait(queue_, 5000), -ECONNRESET);
    const dsa_work flush = Work(DSA_FLUSH, 0, nullptr, 0);
    EXPECT_EQ(dsa_post(queue_, &flush, 1), -ECONNRESET);
    dsa_completion completion;
    EXPECT_EQ(dsa_poll(queue_, &completion, 1), -ECONNRESET);
  }
};

TEST_P(ConnectionTest, ProviderIsTheOneAgreedOn) {
  ASSERT_EQ(Connect(), 0) << dsa_error();
  EXPECT_EQ(dsa_provider(connection_), GetParam());
}

TEST_P(ConnectionTest, StoreLeadsToItsServer) {
  const std::string store = path_.substr(0, path_.size() - 4);
  ASSERT_EQ(dsa_connect(store.c_str(), nullptr, &connection_), 0) << dsa_error();
}

TEST_P(ConnectionTest, NobodyThere) {
  EXPECT_EQ(dsa_connect("/nowhere/store", nullptr, &connection_), -ENOENT);
  EXPECT_EQ(connection_, nullptr);
}

TEST_P(ConnectionTest, OtherVersionIsRefused) {
  server_->hello.version = kVersion + 1;
  EXPECT_EQ(Connect(), -EPROTONOSUPPORT);
}

TEST_P(ConnectionTest, OtherProviderThanWishedForIsRefused) {
  memcpy(server_->hello.provider, "verbs", 6);
  EXPECT_EQ(Connect(), -ECONNRESET);
}

TEST_P(ConnectionTest, GreetingWithoutAnEndIsRefused) {
  memset(server_->hello.provider, 'x', sizeof(server_->hello.provider));
  EXPECT_EQ(dsa_connect(path_.c_str(), nullptr, &connection_), -ECONNRESET);
}

TEST_P(ConnectionTest, ServersWordsAreTheError) {
  Instead(ControlType::kOpen, [this](const Request& request) {
    const std::string text = "no file\x1b here";
    server_->Reply(request, -ENOENT, std::as_bytes(std::span(text)));
  });
  ASSERT_EQ(Connect(), 0);
  EXPECT_EQ(dsa_open(connection_, "/x", O_RDONLY, 0, &file_), -ENOENT);
  EXPECT_STREQ(dsa_error(), "no file? here");
}

TEST_P(ConnectionTest, AttributesOfAFile) {
  Open();
  struct dsa_stat stat;
  ASSERT_EQ(dsa_stat(file_, &stat), 0);
  EXPECT_EQ(stat.ino, 7u);
  EXPECT_EQ(stat.atime.tv_sec, -1);
  EXPECT_EQ(stat.atime.tv_nsec, 999'999'999);
  EXPECT_EQ(stat.mtime.tv_sec, 1);
  EXPECT_EQ(stat.mtime.tv_nsec, 500'000'000);
}

TEST_P(ConnectionTest, WrongFlagsOfOpenAreRefused) {
  ASSERT_EQ(Connect(), 0);
  EXPECT_EQ(dsa_open(connection_, "/x", O_RDWR | O_APPEND, 0, &file_), -EINVAL);
  EXPECT_EQ(dsa_open(connection_, "/x", O_ACCMODE, 0, &file_), -EINVAL);
  EXPECT_EQ(dsa_open(connection_, std::string(5000, 'x').c_str(), O_RDONLY, 0, &file_), -ENAMETOOLONG);
}

TEST_P(ConnectionTest, WrongMemoryIsRefused) {
  ASSERT_EQ(Connect(), 0);
  dsa_memory* memory = nullptr;
  EXPECT_EQ(dsa_register(connection_, bytes_.data(), 0, DSA_LOCAL_READ, &memory), -EINVAL);
  EXPECT_EQ(dsa_register(connection_, nullptr, 10, DSA_LOCAL_READ, &memory), -EINVAL);
  EXPECT_EQ(dsa_register(connection_, bytes_.data(), 10, 0, &memory), -EINVAL);
  EXPECT_EQ(dsa_register(connection_, bytes_.data(), 10, 4, &memory), -EINVAL);
  EXPECT_EQ(dsa_register(connection_, bytes_.data(), SIZE_MAX, DSA_LOCAL_READ, &memory), -EINVAL);
  EXPECT_EQ(memory, nullptr);
}

TEST_P(ConnectionTest, WrongDepthIsRefused) {
  server_->hello.max_depth = 8;
  ASSERT_EQ(Connect(), 0);
  EXPECT_EQ(dsa_create_queue(connection_, 0, &queue_), -EINVAL);
  EXPECT_EQ(dsa_create_queue(connection_, 9, &queue_), -EINVAL);
  EXPECT_EQ(dsa_create_queue(connection_, 8, &queue_), 0);
}

TEST_P(ConnectionTest, EndingIsInOrder) {
  Open();
  EXPECT_EQ(dsa_deregister(memory_), 0);
  dsa_destroy_queue(queue_);
  EXPECT_EQ(dsa_close(file_), 0);
  EXPECT_EQ(server_->count(ControlType::kDestroyQueue), 1);
  EXPECT_EQ(server_->count(ControlType::kDeregister), 1);
  EXPECT_EQ(server_->count(ControlType::kClose), 1);
  EXPECT_EQ(dsa_close(nullptr), 0);
  EXPECT_EQ(dsa_deregister(nullptr), 0);
  dsa_destroy_queue(nullptr);
}

TEST_P(ConnectionTest, DisconnectingDropsQueuesAtTheServerFirst) {
  Open();
  dsa_disconnect(connection_);
  connection_ = nullptr;
  EXPECT_EQ(server_->count(ControlType::kDestroyQueue), 1);
}

// --- A server that does not behave ---

TEST_P(ConnectionTest, SilenceEndsTheConnectionWhenTheTimeIsOver) {
  Instead(ControlType::kStat, [](const Request&) {});
  ASSERT_EQ(Connect(100), 0);
  ASSERT_EQ(dsa_open(connection_, "/file", O_RDONLY, 0, &file_), 0);
  struct dsa_stat stat;
  EXPECT_EQ(dsa_stat(file_, &stat), -ETIMEDOUT);
  EXPECT_EQ(dsa_stat(file_, &stat), -ECONNRESET);
  EXPECT_EQ(dsa_close(file_), -ECONNRESET);
}

TEST_P(ConnectionTest, HalfAReplyEndsItToo) {
  Instead(ControlType::kStat, [this](const Request& request) {
    ControlHeader header = request.header;
    header.size_bytes = sizeof(header) + 64;
    server_->SendRaw(std::as_bytes(std::span(&header, 1)));
  });
  ASSERT_EQ(Connect(100), 0);
  ASSERT_EQ(dsa_open(connection_, "/file", O_RDONLY, 0, &file_), 0);
  struct dsa_stat stat;
  EXPECT_EQ(dsa_stat(file_, &stat), -ETIMEDOUT);
}

TEST_P(ConnectionTest, ClosingInsteadOfAReply) {
  ExpectStatBreaks([this](const Request&) { server_->CloseControl(); });
}

TEST_P(ConnectionTest, ClosingWithinAReply) {
  ExpectStatBreaks([this](const Request& request) {
    server_->SendRaw(std::as_bytes(std::span(&request.header, 1)).first(7));
    server_->CloseControl();
  });
}

TEST_P(ConnectionTest, ReplyToAnotherRequest) {
  ExpectStatBreaks([this](const Request& request) {
    Request other = request;
    ++other.header.request;
    server_->Reply(other, FileAttributes{});
  });
}

TEST_P(ConnectionTest, ReplyOfAnotherType) {
  ExpectStatBreaks([this](const Request& request) {
    Request other = request;
    ++other.header.type;
    server_->Reply(other, FileAttributes{});
  });
}

TEST_P(ConnectionTest, ReplyThatIsTooShort) {
  ExpectStatBreaks([this](const Request& request) { server_->Reply(request, uint32_t{1}); });
}

TEST_P(ConnectionTest, ReplyThatIsTooLong) {
  ExpectStatBreaks([this](const Request& request) { server_->Reply(request, std::array<FileAttributes, 2>{}); });
}

TEST_P(ConnectionTest, HeaderThatPromisesTooMuch) {
  ExpectStatBreaks([this](const Request& request) {
    ControlHeader header = request.header;
    header.size_bytes = kMaxControlBytes + 1;
    server_->SendRaw(std::as_bytes(std::span(&header, 1)));
  });
}

TEST_P(ConnectionTest, StatusThatIsNone) {
  ExpectStatBreaks([this](const Request& request) { server_->Reply(request, 5, {}); });
}

TEST_P(ConnectionTest, QueueWithoutADoorbellOrWithTooMuch) {
  Instead(ControlType::kCreateQueue, [this](const Request& request) {
    std::vector<std::byte> reply;
    Append(&reply, CreateQueueReply{1, 0, 2});
    server_->Reply(request, 0, reply, GetParam() == "shm" ? std::vector<int>() : std::vector<int>{0});
  });
  ASSERT_EQ(Connect(), 0);
  EXPECT_EQ(dsa_create_queue(connection_, 4, &queue_), -ECONNRESET);
  EXPECT_EQ(queue_, nullptr);
}

TEST_P(ConnectionTest, DescriptorsNobodyAskedForAreClosed) {
  Instead(ControlType::kStat, [this](const Request& request) {
    const FileAttributes attributes = {};
    server_->Reply(request, 0, std::as_bytes(std::span(&attributes, 1)), {0, 1, 2});
  });
  Open();
  struct dsa_stat stat;
  const int before = dup(0);
  close(before);
  ASSERT_EQ(dsa_stat(file_, &stat), 0);
  const int after = dup(0);
  close(after);
  EXPECT_EQ(after, before);
}

TEST_P(ConnectionTest, ManyThreadsAskAtOnce) {
  Open();
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 50; ++j) {
        struct dsa_stat stat;
        dsa_file* file = nullptr;
        if (dsa_open(connection_, "/f", O_RDONLY, 0, &file) != 0 || dsa_stat(file, &stat) != 0 || stat.ino != 7 ||
            dsa_close(file) != 0) {
          ++failures;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
}

// --- C++ ---

TEST_P(ConnectionTest, HandlesOfCppEndThemselves) {
  {
    Result<Connection> connection = Connection::Open(path_);
    ASSERT_TRUE(connection) << LastError();
    Result<File> file = connection->OpenFile("/file", O_RDWR);
    ASSERT_TRUE(file);
    Result<Memory> memory = connection->Register(bytes_, DSA_LOCAL_READ);
    ASSERT_TRUE(memory);
    Result<Queue> queue = connection->CreateQueue(4);
    ASSERT_TRUE(queue);
    const File moved = *std::move(file);
    EXPECT_EQ(moved.Stat()->ino, 7u);
    dsa_work flush = {};
    flush.opcode = DSA_FLUSH;
    flush.flags = DSA_SIGNALED;
    EXPECT_EQ(*queue->Post({&flush, 1}), 1u);
    EXPECT_TRUE(*queue->Wait(5000));
    dsa_completion room[4];
    EXPECT_EQ(queue->Poll(room)->size(), 1u);
    EXPECT_EQ(connection->CreateQueue(0).error(), std::errc::invalid_argument);
  }
  EXPECT_EQ(server_->count(ControlType::kClose), 1);
  EXPECT_EQ(server_->count(ControlType::kDestroyQueue), 1);
}

INSTANTIATE_TEST_SUITE_P(Providers, ConnectionTest, testing::Values("shm", "tcp"));

// --- A server on another machine ---

class RemoteTest : public testing::Test {
 protected:
  RemoteTest() : server_("tcp", "") {
    for (size_t i = 0; i < server_.key.size(); ++i) server_.key[i] = static_cast<uint8_t>(i);
  }
  int Connect(const char* hex) {
    std::ofstream(key_file_) << "me " << hex << "\n";
    const dsa_options options = {nullptr, key_file_.c_str(), 2000, 0};
    const std::string address = "127.0.0.1:" + std::to_string(server_.port());
    const int status = dsa_connect(address.c_str(), &options, &connection_);
    dsa_disconnect(connection_);
    return status;
  }
  static constexpr const char* kKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

  const std::string key_file_ = testing::TempDir() + "/key";
  FakeServer server_;
  dsa_connection* connection_ = nullptr;
};

TEST_F(RemoteTest, BothSidesHaveTheKey) { EXPECT_EQ(Connect(kKey), 0) << dsa_error(); }

TEST_F(RemoteTest, WrongKeyIsRefused) {
  EXPECT_EQ(Connect("ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"), -EACCES);
}

TEST_F(RemoteTest, ServerWithoutTheKeyIsRefused) {
  server_.on_request = [this](const Request& request) {
    if (request.header.type != static_cast<uint16_t>(ControlType::kAuthenticate)) return false;
    server_.Reply(request, Proof{});
    return true;
  };
  EXPECT_EQ(Connect(kKey), -EACCES);
}

TEST_F(RemoteTest, ServerThatAsksForNoKeyIsRefused) {
  server_.hello.authenticate = 0;
  EXPECT_EQ(Connect(kKey), -EACCES);
}

TEST_F(RemoteTest, WithoutAKeyNobodyIsAsked) {
  const std::string address = "127.0.0.1:" + std::to_string(server_.port());
  EXPECT_EQ(dsa_connect(address.c_str(), nullptr, &connection_), -EACCES);
  EXPECT_EQ(server_.count(ControlType::kHello), 0);
}

}  // namespace
}  // namespace stagefs::dsa

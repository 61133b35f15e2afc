// The control plane from outside: a raw client at the real sockets of a server with a real volume.

#include "fs/dsa/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/engine.h"
#include "fs/dsa/proof.h"
#include "fs/dsa/protocol.h"
#include "fs/dsa/unix_path.h"
#include "fs/volume/errno.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sal/check.h"
#include "sal/memory_store.h"
#include "sal/mutex.h"
#include "sal/real_environment.h"

namespace stagefs::dsa {
namespace {

using volume::Ino;
using volume::Sharing;

constexpr int kPatienceMs = 30'000;  // of the tests; never waited for unless one fails

template <typename T>
std::string Text(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T As(const std::string& text) {
  T value = {};
  EXPECT_GE(text.size(), sizeof(value));
  if (text.size() >= sizeof(value)) memcpy(&value, text.data(), sizeof(value));
  return value;
}

struct Answer {
  ControlHeader header = {};
  std::string body;
  int descriptors = 0;
};

// A client that knows the protocol's bytes alone. -1 as an error: the server has ended the connection.
class RawClient {
 public:
  explicit RawClient(OwnedFd socket) : socket_(std::move(socket)) {}

  bool Send(const std::string& bytes) {
    return send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  bool Ask(ControlType type, const std::string& body) {
    const ControlHeader header = {static_cast<uint32_t>(sizeof(header) + body.size()), static_cast<uint16_t>(type), 0,
                                  ++request_, 0};
    return Send(Text(header) + body);
  }
  // The next reply; nothing: the connection is over.
  std::optional<Answer> Receive() {
    Answer answer;
    std::string bytes;
    if (!Take(sizeof(ControlHeader), &bytes, &answer.descriptors)) return std::nullopt;
    answer.header = As<ControlHeader>(bytes);
    EXPECT_EQ(answer.header.reserved, 0);
    if (!Take(answer.header.size_bytes - sizeof(ControlHeader), &answer.body, &answer.descriptors)) return std::nullopt;
    return answer;
  }
  // One request and its reply: 0, the error, or -1.
  int Call(ControlType type, const std::string& body, Answer* answer = nullptr) {
    if (!Ask(type, body)) return -1;
    const std::optional<Answer> got = Receive();
    if (!got.has_value()) return -1;
    EXPECT_EQ(got->header.type, static_cast<uint16_t>(type));
    EXPECT_EQ(got->header.request, request_);
    if (answer != nullptr) *answer = *got;
    return -got->header.status;
  }
  bool Ended() { return !Receive().has_value(); }

  int Hello(const std::string& provider = "tcp", HelloReply* reply = nullptr, const std::string& key_name = "",
            uint16_t version = kVersion) {
    HelloRequest hello = {};
    hello.magic = kMagic;
    hello.version = version;
    provider.copy(hello.provider, sizeof(hello.provider));
    key_name.copy(hello.key_name, sizeof(hello.key_name));
    std::fill_n(hello.nonce, kNonceBytes, uint8_t{1});
    Answer answer;
    const int error = Call(ControlType::kHello, Text(hello), &answer);
    if (error == 0 && reply != nullptr) *reply = As<HelloReply>(answer.body);
    return error;
  }
  int Open(const std::string& path, uint32_t flags, uint32_t* file = nullptr) {
    Answer answer;
    const int error = Call(ControlType::kOpen, Text(OpenRequest{flags, 0644}) + path, &answer);
    if (error == 0 && file != nullptr) *file = As<OpenReply>(answer.body).file;
    return error;
  }
  int Register(const RegisterRequest& request, uint32_t* memory = nullptr) {
    Answer answer;
    const int error = Call(ControlType::kRegister, Text(request), &answer);
    if (error == 0 && memory != nullptr) *memory = As<HandleReply>(answer.body).handle;
    return error;
  }
  int Handle(ControlType type, uint32_t handle) { return Call(type, Text(HandleRequest{handle, 0})); }

 private:
  bool Take(size_t size, std::string* bytes, int* descriptors) {
    while (bytes->size() < size) {
      pollfd readable = {socket_.get(), POLLIN, 0};
      if (poll(&readable, 1, kPatienceMs) != 1) {
        ADD_FAILURE() << "the server does not answer";
        return false;
      }
      char buffer[4096];
      alignas(cmsghdr) char control[256];
      iovec part = {buffer, std::min(sizeof(buffer), size - bytes->size())};
      msghdr message = {};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
      const ssize_t count = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
      if (count <= 0) return false;
      bytes->append(buffer, static_cast<size_t>(count));
      for (const cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
           header = CMSG_NXTHDR(&message, const_cast<cmsghdr*>(header))) {
        const size_t numbers = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < numbers; ++i) close(reinterpret_cast<const int*>(CMSG_DATA(header))[i]);
        *descriptors += static_cast<int>(numbers);
      }
    }
    return true;
  }

  OwnedFd socket_;
  uint32_t request_ = 0;
};

// Maps nothing, but counts.
class FakeMappings : public MappingService {
 public:
  absl::StatusOr<int> Map(Ino ino, uint32_t, uint64_t, uint64_t) override {
    MutexLock lock(&mutex_);
    ++users_[ino];
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  void Unmap(Ino ino, uint32_t) override {
    MutexLock lock(&mutex_);
    --users_[ino];
  }
  void Populate(Ino, uint32_t, uint64_t, uint64_t, volume::StatusCallback done) override {
    std::move(done)(absl::OkStatus());
  }
  int users(Ino ino) {
    MutexLock lock(&mutex_);
    return users_[ino];
  }

 private:
  Mutex mutex_;
  std::map<Ino, int> users_ ABSL_GUARDED_BY(mutex_);
};

class DsaServerTest : public testing::Test {
 protected:
  DsaServerTest() : environment_(2), store_(*sal::MemoryStore::Create(uint64_t{256} << 20)) {
    STAGEFS_CHECK(core::Engine::Format(*store_, environment_, {}).ok());
    core::RecoveryReport report;
    engine_ = *core::Engine::Open(*store_, environment_, {}, &report);
    STAGEFS_CHECK(volume::Volume::Format(*engine_, {}).ok());
    volume_ = *volume::Volume::Open(*engine_);
    // Other users get to it, unlike to the test's own directory.
    char directory[] = "/tmp/stagefs_dsa_XXXXXX";
    STAGEFS_CHECK(mkdtemp(directory) != nullptr && chmod(directory, 0755) == 0);
    directory_ = directory;
    socket_path_ = absl::StrCat(directory_, "/store.dsa");
    options_.addresses = {socket_path_};
  }
  ~DsaServerTest() override {
    server_.reset();
    volume_->Close();
    STAGEFS_CHECK(engine_->Close().ok());
    EXPECT_EQ(rmdir(directory_.c_str()), 0) << "something was left in it";
  }

  void Start() {
    auto server = DsaServer::Start(*volume_, sharing_, &mappings_, options_, [](absl::string_view) {});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void StartForRemoteClients() {
    const std::string keys = absl::StrCat(directory_, "/keys");
    std::ofstream(keys) << "writer " << std::string(64, '1') << " 0\nreader " << std::string(64, '2') << " 0:0 ro\n";
    chmod(keys.c_str(), 0600);
    options_.key_file = keys;
    options_.addresses = {"127.0.0.1:0"};
    Start();
    unlink(keys.c_str());
  }

  RawClient Connect() {
    const UnixPath path(socket_path_);
    OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), path.address(), path.size()), 0);
    return RawClient(std::move(fd));
  }
  RawClient ConnectRemotely() {
    const std::string where = server_->addresses().front();
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(where.substr(where.rfind(':') + 1), &port));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    OwnedFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return RawClient(std::move(fd));
  }
  // As somebody else: of this thread alone, which ends with it.
  void AsUser(uint32_t uid, const std::function<void()>& body) {
    std::thread([&] {
      ASSERT_EQ(syscall(SYS_setgroups, 0, nullptr), 0);
      ASSERT_EQ(syscall(SYS_setresgid, uid, uid, uid), 0);
      ASSERT_EQ(syscall(SYS_setresuid, uid, uid, uid), 0);
      body();
    }).join();
  }
  std::string ProofOf(char digit, std::string_view label, const HelloReply& reply, const std::string& name) {
    std::array<uint8_t, kKeyBytes> key;
    key.fill(static_cast<uint8_t>((digit - '0') * 17));
    std::array<uint8_t, kNonceBytes> nonce;
    nonce.fill(1);
    return Text(ComputeProof(key, label, nonce.data(), reply.nonce, name));
  }
  // Waits until it is so.
  void Eventually(const std::function<bool()>& condition) {
    const auto deadline = EventLoop::Clock::now() + std::chrono::milliseconds(kPatienceMs);
    while (!condition()) {
      ASSERT_LT(EventLoop::Clock::now(), deadline);
      std::this_thread::yield();
    }
  }
  Ino InoOf(const std::string& name) {
    std::promise<Ino> ino;
    volume_->Lookup(volume::kRootIno, name, [&](absl::StatusOr<volume::Attributes> found) {
      ino.set_value(found.ok() ? found->ino : 0);
    });
    return ino.get_future().get();
  }
  bool MayBeWrittenAtTheMount(Ino ino) {
    const Sharing::Opener opener = {.door = Sharing::Door::kMount, .writes = true, .shared = false};
    if (!sharing_.Open(ino, opener).ok()) return false;
    sharing_.Close(ino, opener);
    return true;
  }

  sal::RealEnvironment environment_;
  std::unique_ptr<sal::MemoryStore> store_;
  std::unique_ptr<core::Engine> engine_;
  std::unique_ptr<volume::Volume> volume_;
  Sharing sharing_;
  FakeMappings mappings_;
  std::string directory_, socket_path_;
  DsaServerOptions options_;
  std::unique_ptr<DsaServer> server_;
};

TEST_F(DsaServerTest, AClientIsGreetedAndServed) {
  Start();
  RawClient client = Connect();
  HelloReply reply;
  ASSERT_EQ(client.Hello("tcp", &reply), 0);
  EXPECT_EQ(reply.version, kVersion);
  EXPECT_EQ(reply.authenticate, 0);
  EXPECT_EQ(reply.can_map, 1);
  EXPECT_EQ(reply.max_depth, kMaxDepth);
  EXPECT_STREQ(reply.provider, "tcp");
  uint32_t file = 0;
  ASSERT_EQ(client.Open("f", O_RDWR | O_CREAT, &file), 0);
  Answer answer;
  ASSERT_EQ(client.Call(ControlType::kStat, Text(HandleRequest{file, 0}), &answer), 0);
  EXPECT_EQ(As<FileAttributes>(answer.body).mode, S_IFREG | 0644u);
  EXPECT_EQ(As<FileAttributes>(answer.body).ino, InoOf("f"));
  EXPECT_EQ(server_->stats().clients, 1u);
  EXPECT_EQ(server_->stats().files, 1u);
  EXPECT_EQ(client.Handle(ControlType::kClose, file), 0);
  EXPECT_EQ(client.Handle(ControlType::kClose, file), EBADF);
  EXPECT_EQ(client.Handle(ControlType::kStat, file), EBADF);
  EXPECT_EQ(server_->stats().files, 0u);
}

TEST_F(DsaServerTest, AnotherVersionIsToldSo) {
  Start();
  RawClient client = Connect();
  EXPECT_EQ(client.Hello("tcp", nullptr, "", kVersion + 1), EPROTONOSUPPORT);
  EXPECT_TRUE(client.Ended());
}

TEST_F(DsaServerTest, GarbageEndsTheConnectionAndNoOther) {
  Start();
  RawClient bystander = Connect();
  ASSERT_EQ(bystander.Hello(), 0);
  for (const std::string& garbage :
       {std::string("GET / HTTP/1.1\r\nHost: example\r\n\r\n"), std::string(4096, '\0'), std::string(4096, '\xff'),
        Text(ControlHeader{16, 3, 0, 1, 0}), Text(ControlHeader{kMaxControlBytes, 1, 0, 1, 0})}) {
    RawClient client = Connect();
    client.Send(garbage);
    EXPECT_TRUE(client.Ended());
  }
  RawClient known = Connect();
  ASSERT_EQ(known.Hello(), 0);
  known.Send(Text(ControlHeader{kMaxControlBytes + 1, 3, 0, 1, 0}));
  EXPECT_TRUE(known.Ended());
  EXPECT_EQ(bystander.Open("f", O_RDWR | O_CREAT), 0);
}

TEST_F(DsaServerTest, AWrongRequestIsRefusedAndTheNextIsServed) {
  Start();
  RawClient client = Connect();
  ASSERT_EQ(client.Hello(), 0);
  EXPECT_EQ(client.Hello(), EINVAL);
  EXPECT_EQ(client.Call(ControlType::kAuthenticate, Text(Proof{})), EINVAL);
  EXPECT_EQ(client.Call(static_cast<ControlType>(99), ""), EOPNOTSUPP);
  EXPECT_EQ(client.Call(ControlType::kOpen, "12"), EINVAL);
  EXPECT_EQ(client.Call(ControlType::kCreateQueue, Text(CreateQueueRequest{0, 0}) + "name"), EINVAL);
  EXPECT_EQ(client.Call(ControlType::kCreateQueue, Text(CreateQueueRequest{kMaxDepth + 1, 0}) + "name"), EINVAL);
  EXPECT_EQ(client.Handle(ControlType::kDestroyQueue, 77), ENOENT);
  EXPECT_EQ(client.Handle(ControlType::kDeregister, 77), EBADF);
  EXPECT_EQ(client.Open(std::string(60000, 'x'), O_RDONLY), ENAMETOOLONG);
  EXPECT_EQ(client.Open("f", O_RDWR | O_CREAT), 0);
}

TEST_F(DsaServerTest, ManyRequestsAtOnceAreAllAnswered) {
  Start();
  RawClient client = Connect();
  ASSERT_EQ(client.Hello(), 0);
  constexpr int kRequests = 500;
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(client.Ask(ControlType::kOpen, Text(OpenRequest{O_RDONLY, 0}) + "none"));
  }
  for (int i = 0; i < kRequests; ++i) {
    const auto answer = client.Receive();
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->header.status, -ENOENT);
  }
}

TEST_F(DsaServerTest, WhoStopsInTheMiddleOfAMessageIsDropped) {
  options_.patience = std::chrono::milliseconds(50);
  Start();
  RawClient silent = Connect(), half_known = Connect(), idle = Connect();
  ASSERT_EQ(idle.Hello(), 0);
  ASSERT_EQ(half_known.Hello(), 0);
  half_known.Send(Text(ControlHeader{100, 3, 0, 1, 0}));
  EXPECT_TRUE(silent.Ended());
  EXPECT_TRUE(half_known.Ended());
  EXPECT_EQ(idle.Open("f", O_RDWR | O_CREAT), 0);  // between messages one may be silent for ever
}

TEST_F(DsaServerTest, TheDeathOfAClientFreesWhatItHeld) {
  Start();
  RawClient bystander = Connect();
  ASSERT_EQ(bystander.Hello(), 0);
  Ino ino = 0;
  {
    RawClient client = Connect();
    ASSERT_EQ(client.Hello(), 0);
    uint32_t file = 0;
    ASSERT_EQ(client.Open("f", O_RDWR | O_CREAT, &file), 0);
    ino = InoOf("f");
    ASSERT_EQ(client.Register({1, 0, 4096, kMayRead, 0}), 0);
    ASSERT_EQ(client.Call(ControlType::kMap, Text(RangeRequest{file, 0, 0, 4096})), 0);
    EXPECT_FALSE(MayBeWrittenAtTheMount(ino));
    EXPECT_EQ(mappings_.users(ino), 1);
    // Another one is being opened when it dies.
    ASSERT_TRUE(client.Ask(ControlType::kOpen, Text(OpenRequest{O_RDWR | O_CREAT, 0644}) + "g"));
  }
  Eventually([&] { return MayBeWrittenAtTheMount(ino) && mappings_.users(ino) == 0; });
  Eventually([&] { return server_->stats().clients == 1; });
  EXPECT_EQ(server_->stats().files, 0u);
  EXPECT_EQ(server_->stats().memory_bytes, 0u);
  EXPECT_EQ(server_->stats().mappings, 0u);
  if (const Ino other = InoOf("g"); other != 0) Eventually([&] { return MayBeWrittenAtTheMount(other); });
  EXPECT_EQ(bystander.Open("f", O_RDWR), 0);
}

TEST_F(DsaServerTest, QuotasBoundWhatAClientHolds) {
  options_.quotas = {.clients = 2, .files = 3, .memories = 2, .queues = 1, .mappings = 1};
  Start();
  RawClient client = Connect();
  ASSERT_EQ(client.Hello(), 0);
  uint32_t file = 0;
  for (int i = 0; i < 3; ++i) ASSERT_EQ(client.Open("f", O_RDWR | O_CREAT, &file), 0);
  EXPECT_EQ(client.Open("f", O_RDWR), EMFILE);
  EXPECT_EQ(client.Handle(ControlType::kClose, file), 0);
  EXPECT_EQ(client.Open("f", O_RDWR, &file), 0);
  uint32_t memory = 0;
  for (int i = 0; i < 2; ++i) ASSERT_EQ(client.Register({1, 0, 4096, kMayRead | kMayWrite, 0}, &memory), 0);
  EXPECT_EQ(client.Register({1, 0, 4096, kMayRead, 0}), ENOMEM);
  EXPECT_EQ(server_->stats().memory_bytes, 8192u);
  EXPECT_EQ(client.Handle(ControlType::kDeregister, memory), 0);
  EXPECT_EQ(client.Register({1, 0, 4096, kMayRead, 0}), 0);
  ASSERT_EQ(client.Call(ControlType::kMap, Text(RangeRequest{file, 0, 0, 4096})), 0);
  EXPECT_EQ(client.Call(ControlType::kMap, Text(RangeRequest{file, 0, 0, 4096})), ENOMEM);
  RawClient second = Connect();
  ASSERT_EQ(second.Hello(), 0);
  EXPECT_EQ(second.Open("f", O_RDWR), 0);
  {
    RawClient third = Connect();
    EXPECT_EQ(third.Hello(), EUSERS);
    EXPECT_TRUE(third.Ended());
  }
  second = Connect();  // the one before has gone
  Eventually([&] { return server_->stats().clients == 1; });
}

TEST_F(DsaServerTest, MemoryHasARangeAndAnAccess) {
  Start();
  RawClient client = Connect();
  ASSERT_EQ(client.Hello(), 0);
  EXPECT_EQ(client.Register({1, 0, 0, kMayRead, 0}), EINVAL);
  EXPECT_EQ(client.Register({1, ~uint64_t{0}, 2, kMayRead, 0}), EINVAL);
  EXPECT_EQ(client.Register({1, ~uint64_t{0}, 1, kMayRead, 0}), 0);
  EXPECT_EQ(client.Register({1, 0, ~uint64_t{0}, kMayRead, 0}), 0);
  EXPECT_EQ(client.Register({1, 0, 1, 0, 0}), EINVAL);
  EXPECT_EQ(client.Register({1, 0, 1, 4, 0}), EINVAL);
  EXPECT_EQ(client.Register({1, 0, 1, kMayRead, 1}), EINVAL);
}

TEST_F(DsaServerTest, MappingsAreCheckedAndCounted) {
  Start();
  RawClient client = Connect();
  ASSERT_EQ(client.Hello(), 0);
  uint32_t file = 0, blind = 0;
  ASSERT_EQ(client.Open("f", O_RDWR | O_CREAT, &file), 0);
  ASSERT_EQ(client.Open("f", O_WRONLY, &blind), 0);
  const auto map = [&](ControlType type, uint32_t handle, uint64_t offset, uint64_t length) {
    return client.Call(type, Text(RangeRequest{handle, 0, offset, length}));
  };
  EXPECT_EQ(map(ControlType::kMap, 99, 0, 4096), EBADF);
  EXPECT_EQ(map(ControlType::kMap, blind, 0, 4096), EACCES);
  EXPECT_EQ(map(ControlType::kMap, file, 1, 4096), EINVAL);
  EXPECT_EQ(map(ControlType::kMap, file, 0, 0), EINVAL);
  EXPECT_EQ(map(ControlType::kMap, file, uint64_t{1} << 63, 4096), EINVAL);
  EXPECT_EQ(map(ControlType::kMap, file, 4096, ~uint64_t{0} - 4095), EINVAL);
  Answer answer;
  ASSERT_EQ(client.Call(ControlType::kMap, Text(RangeRequest{file, 0, 4096, 8192}), &answer), 0);
  EXPECT_EQ(answer.descriptors, 1);
  const uint32_t mapping = As<HandleReply>(answer.body).handle;
  EXPECT_EQ(map(ControlType::kPopulate, mapping, 4096, 8192), 0);
  EXPECT_EQ(map(ControlType::kPopulate, mapping, 8192, 4096), 0);
  EXPECT_EQ(map(ControlType::kPopulate, mapping, 0, 4096), EINVAL);
  EXPECT_EQ(map(ControlType::kPopulate, mapping, 8192, 8192), EINVAL);
  EXPECT_EQ(map(ControlType::kPopulate, mapping, 16384, 4096), EINVAL);
  EXPECT_EQ(map(ControlType::kPopulate, mapping + 1, 4096, 4096), EBADF);
  EXPECT_EQ(mappings_.users(InoOf("f")), 1);
  EXPECT_EQ(client.Handle(ControlType::kUnmap, mapping), 0);
  EXPECT_EQ(client.Handle(ControlType::kUnmap, mapping), EBADF);
  EXPECT_EQ(mappings_.users(InoOf("f")), 0);
}

TEST_F(DsaServerTest, AClientIsWhoTheKernelSays) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  Start();
  RawClient root = Connect();
  ASSERT_EQ(root.Hello("shm"), 0);
  ASSERT_EQ(root.Open("f", O_RDWR | O_CREAT), 0);  // 0644
  AsUser(12345, [&] {
    RawClient client = Connect();
    EXPECT_EQ(client.Hello("shm"), EACCES);
    RawClient again = Connect();
    HelloReply reply;
    ASSERT_EQ(again.Hello("", &reply), 0);
    EXPECT_STREQ(reply.provider, "tcp");
    EXPECT_EQ(again.Open("f", O_RDONLY), 0);
    EXPECT_EQ(again.Open("f", O_RDWR | kShared), EACCES);
    EXPECT_EQ(again.Open("g", O_RDWR | O_CREAT), EACCES);
  });
}

TEST_F(DsaServerTest, OthersStayOutUnlessTheyAreLetIn) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  options_.allow_other = false;
  Start();
  AsUser(12345, [&] {
    RawClient client = Connect();
    EXPECT_EQ(client.Hello(), EACCES);
    EXPECT_TRUE(client.Ended());
  });
  EXPECT_EQ(Connect().Hello(), 0);
}

TEST_F(DsaServerTest, NoUserTakesAllPlaces) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  options_.quotas.clients = 4;
  Start();
  std::vector<RawClient> clients;
  AsUser(12345, [&] {
    for (int i = 0; i < 2; ++i) EXPECT_EQ(clients.emplace_back(Connect()).Hello(), 0);
    EXPECT_EQ(Connect().Hello(), EUSERS);
  });
  EXPECT_EQ(clients.emplace_back(Connect()).Hello(), 0);
}

TEST_F(DsaServerTest, AReadOnlyServerLetsNobodyWrite) {
  options_.read_only = true;
  Start();
  RawClient client = Connect();
  ASSERT_EQ(client.Hello(), 0);
  EXPECT_EQ(client.Open("f", O_RDWR | O_CREAT), EROFS);
}

TEST_F(DsaServerTest, OfManyWhoMakeAFileOneGetsIt) {
  Start();
  std::vector<RawClient> clients;
  for (int i = 0; i < 4; ++i) ASSERT_EQ(clients.emplace_back(Connect()).Hello(), 0);
  for (int round = 0; round < 20; ++round) {
    const std::string name = absl::StrCat("f", round);
    for (RawClient& client : clients) {
      client.Ask(ControlType::kOpen, Text(OpenRequest{O_RDWR | O_CREAT | O_EXCL | kShared, 0600}) + name);
    }
    int made = 0;
    for (RawClient& client : clients) {
      const auto answer = client.Receive();
      ASSERT_TRUE(answer.has_value());
      EXPECT_TRUE(answer->header.status == 0 || answer->header.status == -EEXIST);
      if (answer->header.status == 0) ++made;
    }
    EXPECT_EQ(made, 1);
  }
}

// --- Remote clients ---

TEST_F(DsaServerTest, WithoutAKeyFileNobodyListens) {
  options_.addresses = {"127.0.0.1:0"};
  const auto server = DsaServer::Start(*volume_, sharing_, nullptr, options_, [](absl::string_view) {});
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DsaServerTest, BothSidesShowThatTheyHaveTheKey) {
  StartForRemoteClients();
  RawClient client = ConnectRemotely();
  HelloReply reply;
  ASSERT_EQ(client.Hello("", &reply, "writer"), 0);
  EXPECT_EQ(reply.authenticate, 1);
  EXPECT_EQ(reply.can_map, 0);
  EXPECT_STREQ(reply.provider, "tcp");
  Answer answer;
  ASSERT_EQ(client.Call(ControlType::kAuthenticate, ProofOf('1', kClientProofLabel, reply, "writer"), &answer), 0);
  EXPECT_EQ(answer.body, ProofOf('1', kServerProofLabel, reply, "writer"));
  uint32_t file = 0;
  EXPECT_EQ(client.Open("f", O_RDWR | O_CREAT, &file), 0);
  EXPECT_EQ(client.Call(ControlType::kMap, Text(RangeRequest{file, 0, 0, 4096})), EOPNOTSUPP);
  RawClient reader = ConnectRemotely();
  ASSERT_EQ(reader.Hello("", &reply, "reader"), 0);
  ASSERT_EQ(reader.Call(ControlType::kAuthenticate, ProofOf('2', kClientProofLabel, reply, "reader")), 0);
  EXPECT_EQ(reader.Open("f", O_RDONLY), 0);
  EXPECT_EQ(reader.Open("f", O_RDWR | kShared), EROFS);
}

TEST_F(DsaServerTest, AWrongKeyIsRefusedWhateverItsName) {
  StartForRemoteClients();
  for (const char* name : {"writer", "nobody", ""}) {
    RawClient client = ConnectRemotely();
    HelloReply reply;
    ASSERT_EQ(client.Hello("", &reply, name), 0);
    EXPECT_EQ(client.Call(ControlType::kAuthenticate, ProofOf('3', kClientProofLabel, reply, name)), EACCES) << name;
    EXPECT_TRUE(client.Ended());
  }
  EXPECT_EQ(server_->stats().refused_clients, 3u);
  EXPECT_EQ(server_->stats().clients, 0u);
}

TEST_F(DsaServerTest, AProofIsOfNoUseASecondTime) {
  StartForRemoteClients();
  RawClient first = ConnectRemotely();
  HelloReply reply;
  ASSERT_EQ(first.Hello("", &reply, "writer"), 0);
  const std::string proof = ProofOf('1', kClientProofLabel, reply, "writer");
  Answer answer;
  ASSERT_EQ(first.Call(ControlType::kAuthenticate, proof, &answer), 0);
  for (const std::string& replayed : {proof, answer.body}) {
    RawClient second = ConnectRemotely();
    ASSERT_EQ(second.Hello("", nullptr, "writer"), 0);
    EXPECT_EQ(second.Call(ControlType::kAuthenticate, replayed), EACCES);
  }
}

TEST_F(DsaServerTest, BeforeTheProofNothingElseIsAnswered) {
  StartForRemoteClients();
  RawClient client = ConnectRemotely();
  ASSERT_EQ(client.Hello("", nullptr, "writer"), 0);
  EXPECT_EQ(client.Open("f", O_RDWR | O_CREAT), -1);
  EXPECT_EQ(InoOf("f"), 0u);
  RawClient sharer = ConnectRemotely();
  EXPECT_EQ(sharer.Hello("shm", nullptr, "writer"), EACCES);
}

TEST_F(DsaServerTest, StrangersWhoSayNothingKeepNobodyOut) {
  options_.patience = std::chrono::hours(1);
  StartForRemoteClients();
  std::vector<RawClient> strangers;
  for (int i = 0; i < 200; ++i) strangers.push_back(ConnectRemotely());
  RawClient client = ConnectRemotely();
  HelloReply reply;
  ASSERT_EQ(client.Hello("", &reply, "writer"), 0);
  EXPECT_EQ(client.Call(ControlType::kAuthenticate, ProofOf('1', kClientProofLabel, reply, "writer")), 0);
  EXPECT_TRUE(strangers.front().Ended());
}

// --- The socket ---

TEST_F(DsaServerTest, ASocketsPathMayBeLong) {
  const std::string parent = absl::StrCat(directory_, "/", std::string(120, 'd'));
  ASSERT_EQ(mkdir(parent.c_str(), 0755), 0);
  socket_path_ = absl::StrCat(parent, "/store.dsa");
  options_.addresses = {socket_path_};
  Start();
  EXPECT_EQ(server_->addresses().front(), socket_path_);
  EXPECT_EQ(Connect().Hello(), 0);
  server_.reset();
  EXPECT_EQ(rmdir(parent.c_str()), 0) << "the socket's file is left";

  options_.addresses = {absl::StrCat(directory_, "/", std::string(120, 'n'))};
  const auto refused = DsaServer::Start(*volume_, sharing_, nullptr, options_, [](absl::string_view) {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), ::testing::HasSubstr("File name too long"));
}

TEST_F(DsaServerTest, AStaleSocketIsReplacedAndALiveOneIsNot) {
  {
    OwnedFd dead(socket(AF_UNIX, SOCK_STREAM, 0));
    const UnixPath path(socket_path_);
    ASSERT_EQ(bind(dead.get(), path.address(), path.size()), 0);
  }
  Start();
  struct stat status;
  ASSERT_EQ(stat(socket_path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0666u);
  const auto second = DsaServer::Start(*volume_, sharing_, nullptr, options_, [](absl::string_view) {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Connect().Hello(), 0);
  server_.reset();
  EXPECT_NE(stat(socket_path_.c_str(), &status), 0);
}

TEST_F(DsaServerTest, WhatIsNoSocketIsLeftAlone) {
  std::ofstream(socket_path_) << "precious";
  const auto server = DsaServer::Start(*volume_, sharing_, nullptr, options_, [](absl::string_view) {});
  EXPECT_EQ(server.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(unlink(socket_path_.c_str()), 0);
}

TEST_F(DsaServerTest, StoppingDropsEverybodyAndWaitsForWhatHasBegun) {
  Start();
  std::vector<RawClient> clients;
  for (int i = 0; i < 4; ++i) {
    RawClient& client = clients.emplace_back(Connect());
    ASSERT_EQ(client.Hello(), 0);
    for (int j = 0; j < 20; ++j) {
      client.Ask(ControlType::kOpen, Text(OpenRequest{O_RDWR | O_CREAT | kShared, 0600}) + absl::StrCat("f", j));
    }
  }
  clients.push_back(Connect());  // a stranger
  server_->Stop();
  for (int j = 0; j < 20; ++j) {
    const Ino ino = InoOf(absl::StrCat("f", j));
    EXPECT_FALSE(sharing_.DirectlyWritten(ino)) << j;
  }
  EXPECT_EQ(server_->stats().clients, 0u);
  EXPECT_EQ(server_->stats().files, 0u);
}

TEST(AllowedProvidersTest, SharedMemoryIsForThoseWhoAreTrusted) {
  const auto allowed = [](bool local, bool trusted, const std::string& wish) -> std::string {
    Peer peer;
    peer.local = local;
    peer.trusted = trusted;
    const auto providers = AllowedProviders(peer, wish);
    if (!providers.ok()) return absl::StrCat(volume::ToErrno(providers.status()));
    std::string all;
    for (const std::string& provider : *providers) absl::StrAppend(&all, provider, " ");
    return all;
  };
  EXPECT_EQ(allowed(true, true, ""), "shm tcp ");
  EXPECT_EQ(allowed(true, true, "shm"), "shm ");
  EXPECT_EQ(allowed(true, true, "tcp"), "tcp ");
  EXPECT_EQ(allowed(true, false, ""), "tcp ");
  EXPECT_EQ(allowed(true, false, "shm"), absl::StrCat(EACCES));
  EXPECT_EQ(allowed(false, false, ""), "tcp ");
  EXPECT_EQ(allowed(false, false, "verbs"), "verbs ");
  EXPECT_EQ(allowed(false, false, "shm"), absl::StrCat(EACCES));
  EXPECT_EQ(allowed(true, true, "verbs"), absl::StrCat(EACCES));
  EXPECT_EQ(allowed(true, true, "bogus"), absl::StrCat(EOPNOTSUPP));
}

}  // namespace
}  // namespace stagefs::dsa

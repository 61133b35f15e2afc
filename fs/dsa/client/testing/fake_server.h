// FakeServer: a server of direct access in the test's own process, which does what the protocol says with one file in
// memory, unless a test tells it to do something else. One client, one thread.

#ifndef STAGEFS_FS_DSA_CLIENT_TESTING_FAKE_SERVER_H_
#define STAGEFS_FS_DSA_CLIENT_TESTING_FAKE_SERVER_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "fs/dsa/doorbell.h"
#include "fs/dsa/fabric.h"
#include "fs/dsa/proof.h"
#include "fs/dsa/protocol.h"
#include "sal/owned_fd.h"

namespace stagefs::dsa {

class FakeServer {
 public:
  struct Work {
    WorkEntry entry;
    std::vector<std::byte> data;
  };
  struct Queue : Endpoint::Owner {
    void Received(std::span<const std::byte> message) override;
    void Broken(int) override {}

    std::unique_ptr<Doorbell> doorbell;
    std::unique_ptr<Endpoint> endpoint;
    uint64_t token = 0;
    size_t received_batches = 0;
    std::deque<Work> works;  // not carried out yet
  };
  struct Request {
    ControlHeader header;
    std::vector<std::byte> body;
  };

  // Listens at `path`, or at a TCP port of 127.0.0.1 if it is empty.
  FakeServer(const std::string& provider, const std::string& path);
  ~FakeServer();

  // All hooks run on the server's thread, and are set before a client comes. True: the hook has done what is to be done.
  std::function<bool(const Request&)> on_request;
  std::function<bool(Queue&, const Work&)> on_work;
  HelloReply hello = {};
  std::array<uint8_t, kKeyBytes> key = {};  // remote: wanted of the client

  // Runs `function` on the server's thread, and waits for that.
  void Run(std::function<void()> function);
  // As if the server was killed.
  void Die();
  int port() const { return port_; }
  const std::vector<std::byte>& file() const { return file_; }
  // How often the client asked for `type`.
  int count(ControlType type) const { return counts_[static_cast<size_t>(type)]; }

  // --- On the server's thread ---
  void Reply(const Request& request, int status, std::span<const std::byte> body,
             const std::vector<int>& descriptors = {});
  template <typename Body>
  void Reply(const Request& request, const Body& body) {
    Reply(request, 0, std::as_bytes(std::span<const Body, 1>(&body, 1)));
  }
  void SendRaw(std::span<const std::byte> bytes);
  void CloseControl() { control_ = OwnedFd(); }
  void Complete(Queue& queue, const CompletionEntry& entry, std::span<const std::byte> data = {}, uint64_t token = 0);
  void SendMessage(Queue& queue, std::span<const std::byte> message);
  // Does a work as it should be done, and completes it.
  void CarryOut(Queue& queue, const Work& work);
  Queue& queue(uint32_t handle) { return *queues_.at(handle); }

 private:
  void Serve();
  void ServeControl();
  void ServeQueue(Queue& queue);
  void Handle(const Request& request);
  void Greet(const Request& request);
  void Authenticate(const Request& request);
  void GrantQueue(const Request& request);
  void Write(Queue& queue, const Work& work);
  void Read(Queue& queue, const Work& work);
  void Finish(Queue& queue, const Work& work, int status, uint64_t length);
  int Transfer(Queue& queue, const WorkEntry& work, std::byte* bytes);

  const std::string provider_, path_;
  OwnedFd listening_, control_;
  int port_ = 0;
  std::unique_ptr<Fabric> fabric_;
  HelloRequest greeting_ = {};
  std::map<uint32_t, std::unique_ptr<Queue>> queues_;
  std::map<uint32_t, RegisterRequest> memories_;
  uint32_t next_handle_ = 1;
  uint64_t next_lsn_ = 1;
  bool in_group_ = false;
  std::vector<std::byte> file_, group_;
  std::array<std::atomic<int>, 16> counts_ = {};

  std::mutex mutex_;
  std::vector<std::function<void()>> functions_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_TESTING_FAKE_SERVER_H_

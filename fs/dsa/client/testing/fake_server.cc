#include "fs/dsa/client/testing/fake_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <condition_variable>

#include "fs/dsa/proof.h"
#include "fs/dsa/unix_path.h"

namespace stagefs::dsa {
namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  perror(what);
  abort();
}

template <typename T>
T Decode(const std::vector<std::byte>& body) {
  std::span<const std::byte> bytes = body;
  const auto taken = Take<T>(&bytes);
  Require(taken.has_value(), "a request of the client's is too short");
  return *taken;
}

}  // namespace

FakeServer::FakeServer(const std::string& provider, const std::string& path) : provider_(provider), path_(path) {
  hello.version = kVersion;
  hello.max_depth = kMaxDepth;
  hello.can_map = 1;
  memcpy(hello.provider, provider.data(), provider.size());
  std::string error;
  Require(Fabric::Open(provider, "127.0.0.1", &fabric_, &error) == 0, error.c_str());
  if (path.empty()) {
    hello.authenticate = 1;
    MakeNonce(hello.nonce);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listening_ = OwnedFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    socklen_t size = sizeof(address);
    Require(bind(listening_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0, "bind");
    Require(getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0, "getsockname");
    port_ = ntohs(address.sin_port);
  } else {
    const UnixPath address(path);
    Require(address.error() == 0, "the path of the socket");
    listening_ = OwnedFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    Require(bind(listening_.get(), address.address(), address.size()) == 0, "bind");
  }
  Require(listen(listening_.get(), 4) == 0, "listen");
  thread_ = std::thread([this] { Serve(); });
}

FakeServer::~FakeServer() {
  stop_ = true;
  thread_.join();
  if (!path_.empty()) (void)unlink(path_.c_str());
}

void FakeServer::Run(std::function<void()> function) {
  std::atomic<bool> done = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    functions_.push_back([&] {
      function();
      done = true;
      done.notify_all();
    });
  }
  done.wait(false);
}

void FakeServer::Die() {
  Run([this] {
    CloseControl();
    listening_ = OwnedFd();
    queues_.clear();
  });
}

void FakeServer::Serve() {
  while (!stop_) {
    std::vector<std::function<void()>> functions;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      functions.swap(functions_);
    }
    for (const auto& function : functions) function();
    if (listening_.get() >= 0 && control_.get() < 0) {
      pollfd ready = {listening_.get(), POLLIN, 0};
      if (poll(&ready, 1, 0) == 1) control_ = OwnedFd(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }
    pollfd ready = {control_.get(), POLLIN, 0};
    if (poll(&ready, 1, queues_.empty() ? 1 : 0) == 1) ServeControl();
    for (const auto& [handle, queue] : queues_) ServeQueue(*queue);
    sched_yield();
  }
}

void FakeServer::ServeControl() {
  Request request;
  if (recv(control_.get(), &request.header, sizeof(request.header), MSG_WAITALL) != sizeof(request.header)) {
    CloseControl();
    return;
  }
  request.body.resize(request.header.size_bytes - sizeof(request.header));
  if (!request.body.empty() &&
      recv(control_.get(), request.body.data(), request.body.size(), MSG_WAITALL) <= 0) {
    CloseControl();
    return;
  }
  ++counts_[request.header.type];
  if (on_request && on_request(request)) return;
  Handle(request);
}

void FakeServer::Handle(const Request& request) {
  switch (static_cast<ControlType>(request.header.type)) {
    case ControlType::kHello:
      return Greet(request);
    case ControlType::kAuthenticate:
      return Authenticate(request);
    case ControlType::kOpen: {
      OpenReply reply = {};
      reply.file = next_handle_++;
      return Reply(request, reply);
    }
    case ControlType::kStat: {
      FileAttributes attributes = {};
      attributes.ino = 7;
      attributes.size_bytes = file_.size();
      attributes.atime_ns = -1;
      attributes.mtime_ns = 1'500'000'000;
      attributes.mode = 0100644;
      return Reply(request, attributes);
    }
    case ControlType::kRegister:
      memories_[next_handle_] = Decode<RegisterRequest>(request.body);
      return Reply(request, HandleReply{next_handle_++, 0});
    case ControlType::kCreateQueue:
      return GrantQueue(request);
    case ControlType::kDestroyQueue:
      queues_.erase(Decode<HandleRequest>(request.body).handle);
      return Reply(request, 0, {});
    default:
      return Reply(request, 0, {});
  }
}

void FakeServer::Greet(const Request& request) {
  greeting_ = Decode<HelloRequest>(request.body);
  Reply(request, hello);
}

void FakeServer::Authenticate(const Request& request) {
  const std::string name = greeting_.key_name;
  const auto expected = ComputeProof(key, kClientProofLabel, greeting_.nonce, hello.nonce, name);
  if (!SameProof(expected, Decode<Proof>(request.body).bytes)) return Reply(request, -EACCES, {});
  const auto own = ComputeProof(key, kServerProofLabel, greeting_.nonce, hello.nonce, name);
  Proof reply;
  memcpy(reply.bytes, own.data(), own.size());
  Reply(request, reply);
}

void FakeServer::GrantQueue(const Request& request) {
  auto queue = std::make_unique<Queue>();
  queue->token = 0x1234567890 + next_handle_;
  std::string error;
  const auto depth = Decode<CreateQueueRequest>(request.body).depth;
  Require(Endpoint::Create(*fabric_, depth, *queue, &queue->endpoint, &error) == 0, error.c_str());
  const auto name = std::span(request.body).subspan(sizeof(CreateQueueRequest));
  Require(queue->endpoint->SetPeer(name, &error) == 0, error.c_str());
  std::vector<int> descriptors;
  if (!fabric_->has_wait_descriptors()) {
    Require(Doorbell::Create(&queue->doorbell) == 0, "doorbell");
    descriptors.assign(queue->doorbell->descriptors().begin(), queue->doorbell->descriptors().end());
  }
  std::vector<std::byte> reply;
  Append(&reply, CreateQueueReply{next_handle_, 0, queue->token});
  reply.insert(reply.end(), queue->endpoint->name().begin(), queue->endpoint->name().end());
  queues_[next_handle_++] = std::move(queue);
  Reply(request, 0, reply, descriptors);
}

void FakeServer::Reply(const Request& request, int status, std::span<const std::byte> body,
                       const std::vector<int>& descriptors) {
  ControlHeader header = request.header;
  header.size_bytes = static_cast<uint32_t>(sizeof(header) + body.size());
  header.status = status;
  std::vector<std::byte> bytes;
  Append(&bytes, header);
  bytes.insert(bytes.end(), body.begin(), body.end());
  if (descriptors.empty()) return SendRaw(bytes);
  iovec part = {bytes.data(), bytes.size()};
  std::vector<char> control(CMSG_SPACE(descriptors.size() * sizeof(int)));
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
  memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size() * sizeof(int));
  (void)!sendmsg(control_.get(), &message, MSG_NOSIGNAL);
}

void FakeServer::SendRaw(std::span<const std::byte> bytes) {
  (void)!send(control_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

// --- Data ---

void FakeServer::Queue::Received(std::span<const std::byte> message) {
  ++received_batches;
  BatchReader<WorkEntry> batch(message);
  Require(batch.valid() && batch.token() == token, "the token of a batch");
  while (const auto received = batch.Next()) {
    works.push_back({received->entry, {received->data.begin(), received->data.end()}});
  }
  Require(batch.valid() && (received_batches == 1) == works.empty(), "a batch: the first one is a greeting, without works");
}

// Not from Received(): a transfer polls.
void FakeServer::ServeQueue(Queue& queue) {
  (void)queue.endpoint->Poll();
  while (!queue.works.empty()) {
    const Work work = std::move(queue.works.front());
    queue.works.pop_front();
    if (!on_work || !on_work(queue, work)) CarryOut(queue, work);
  }
}

void FakeServer::Complete(Queue& queue, const CompletionEntry& entry, std::span<const std::byte> data,
                          uint64_t token) {
  std::vector<std::byte> message(kMaxMessageBytes);
  BatchWriter<CompletionEntry> batch(message.data(), token);
  Require(batch.Add(entry, data), "a completion");
  SendMessage(queue, batch.Finish());
}

void FakeServer::SendMessage(Queue& queue, std::span<const std::byte> message) {
  for (;;) {
    std::byte* const memory = queue.endpoint->SendBuffer();
    if (memory != nullptr) {
      memcpy(memory, message.data(), message.size());
      const int code = queue.endpoint->Send(message.size());
      if (code == 0) break;
      if (code != -EAGAIN) return;
    }
    if (stop_ || queue.endpoint->Poll() < 0) return;
  }
  if (queue.doorbell != nullptr) queue.doorbell->Ring();
}

void FakeServer::CarryOut(Queue& queue, const Work& work) {
  switch (static_cast<Opcode>(work.entry.opcode)) {
    case Opcode::kRead:
      return Read(queue, work);
    case Opcode::kWrite:
      return Write(queue, work);
    case Opcode::kBegin:
      in_group_ = true;
      group_ = file_;
      break;
    case Opcode::kCommit:
      if (in_group_) file_ = group_;
      in_group_ = false;
      break;
    case Opcode::kAbort:
      in_group_ = false;
      break;
    default:
      break;
  }
  Finish(queue, work, 0, 0);
}

void FakeServer::Finish(Queue& queue, const Work& work, int status, uint64_t length) {
  CompletionEntry entry = {};
  entry.cookie = work.entry.cookie;
  entry.status = status;
  entry.length = length;
  entry.lsn = next_lsn_++;
  Complete(queue, entry);
}

void FakeServer::Write(Queue& queue, const Work& work) {
  std::vector<std::byte> bytes = work.data;
  if (bytes.empty()) {
    bytes.resize(work.entry.length);
    const int code = Transfer(queue, work.entry, bytes.data());
    if (code != 0) return Finish(queue, work, code, 0);
  }
  std::vector<std::byte>& target = in_group_ ? group_ : file_;
  target.resize(std::max<size_t>(target.size(), work.entry.offset + bytes.size()));
  std::copy(bytes.begin(), bytes.end(), target.begin() + static_cast<ptrdiff_t>(work.entry.offset));
  Finish(queue, work, 0, bytes.size());
}

void FakeServer::Read(Queue& queue, const Work& work) {
  const size_t first = std::min<size_t>(work.entry.offset, file_.size());
  const size_t length = std::min<size_t>(work.entry.length, file_.size() - first);
  if (length == 0) return Finish(queue, work, 0, 0);
  WorkEntry part = work.entry;
  part.length = length;
  const int code = Transfer(queue, part, file_.data() + first);
  Finish(queue, work, code, code == 0 ? length : 0);
}

int FakeServer::Transfer(Queue& queue, const WorkEntry& work, std::byte* bytes) {
  struct Waited : stagefs::dsa::Transfer {
    bool over = false;
    int status = 0;
  };
  const auto memory = memories_.find(work.memory);
  if (memory == memories_.end()) return -ENOENT;
  Waited transfer;
  transfer.done = [](stagefs::dsa::Transfer* ended, int status) {
    static_cast<Waited*>(ended)->status = status;
    static_cast<Waited*>(ended)->over = true;
  };
  const uint64_t address = memory->second.address + work.address;
  for (;;) {
    const int code = work.opcode == static_cast<uint8_t>(Opcode::kWrite)
                         ? queue.endpoint->Read(bytes, work.length, address, memory->second.key, &transfer)
                         : queue.endpoint->Write(bytes, work.length, address, memory->second.key, &transfer);
    if (code == 0) break;
    if (code != -EAGAIN || stop_) return code;
    (void)queue.endpoint->Poll();
  }
  while (!transfer.over && !stop_) {
    if (queue.endpoint->Poll() < 0) return -EIO;
  }
  return transfer.status;
}

}  // namespace stagefs::dsa

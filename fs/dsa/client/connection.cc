#include "fs/dsa/client/connection.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "fs/dsa/client/remote_mapping.h"
#include "fs/dsa/client/server_address.h"
#include "fs/dsa/proof.h"

namespace stagefs::dsa {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kLocalAddress = "127.0.0.1";

int Fail(std::string* error, int status, const std::string& text) {
  *error = text;
  return status;
}

}  // namespace

Connection::Connection(OwnedFd socket, bool is_remote, const ConnectOptions& options)
    : is_remote_(is_remote),
      spin_us_(options.spin_us),
      timeout_ms_(options.timeout_ms),
      control_(std::move(socket), options.timeout_ms),
      group_writer_(*this, options.timeout_ms) {}

int Connection::Connect(const std::string& address, const ConnectOptions& options,
                        std::unique_ptr<Connection>* connection, std::string* error) {
  const ServerAddress server = ParseServerAddress(address);
  NamedKey key;
  if (server.is_remote) {
    if (options.key_file.empty()) return Fail(error, -EACCES, address + ": a server there wants a key");
    if (const int code = ReadKeyFile(options.key_file, &key, error); code != 0) return code;
  }
  OwnedFd socket;
  if (const int code = ConnectSocket(server, options.timeout_ms, &socket, error); code != 0) return code;
  std::unique_ptr<Connection> made(new Connection(std::move(socket), server.is_remote, options));
  if (const int code = made->Hello(options.provider, key, error); code != 0) return code;
  *connection = std::move(made);
  return 0;
}

int Connection::Hello(const std::string& wish, const NamedKey& key, std::string* error) {
  HelloRequest request = {};
  request.magic = kMagic;
  request.version = kVersion;
  if (wish.size() >= sizeof(request.provider)) return Fail(error, -EINVAL, wish + ": no such provider");
  memcpy(request.provider, wish.data(), wish.size());
  memcpy(request.key_name, key.name.data(), key.name.size());
  MakeNonce(request.nonce);
  ControlReply answer;
  if (const int code = control_.Ask(ControlType::kHello, request, &answer, error); code != 0) return code;
  uint16_t version = 0;
  if (answer.body.size() >= sizeof(version)) memcpy(&version, answer.body.data(), sizeof(version));
  if (version != kVersion) {
    return Fail(error, -EPROTONOSUPPORT, "the server speaks version " + std::to_string(version) + ", this library " +
                                             std::to_string(kVersion));
  }
  HelloReply reply;
  if (!DecodeReply(answer, &reply) || memchr(reply.provider, 0, sizeof(reply.provider)) == nullptr) {
    return control_.Nonsense("its greeting", error);
  }
  if (!wish.empty() && wish != reply.provider) return control_.Nonsense("its provider", error);
  if (is_remote_ || reply.authenticate != 0) {
    if (const int code = Authenticate(request, reply, key, error); code != 0) return code;
  }
  max_depth_ = std::min(reply.max_depth, kMaxDepth);
  can_map_ = !is_remote_ && reply.can_map != 0;
  const std::string address = is_remote_ ? LocalAddress(control_.descriptor()) : kLocalAddress;
  return Fabric::Open(reply.provider, address, &fabric_, error);
}

int Connection::Authenticate(const HelloRequest& request, const HelloReply& reply, const NamedKey& key,
                             std::string* error) {
  if (!is_remote_) return Fail(error, -EACCES, "the server wants a key on its own machine");
  if (reply.authenticate == 0) return Fail(error, -EACCES, "the server does not show that it has the key");
  const auto mine = ComputeProof(key.key, kClientProofLabel, request.nonce, reply.nonce, key.name);
  Proof proof;
  static_assert(sizeof(proof.bytes) == sizeof(mine));
  memcpy(proof.bytes, mine.data(), mine.size());
  ControlReply answer;
  if (const int code = control_.Ask(ControlType::kAuthenticate, proof, &answer, error); code != 0) return code;
  if (!DecodeReply(answer, &proof)) return control_.Nonsense("its proof", error);
  const auto expected = ComputeProof(key.key, kServerProofLabel, request.nonce, reply.nonce, key.name);
  return SameProof(expected, proof.bytes) ? 0 : Fail(error, -EACCES, "the server does not have the key");
}

// Mappings first, since they use a queue; then queues: once the server has dropped them it does not touch our memory.
Connection::~Connection() {
  Owned<dsa_mapping> mappings;
  Owned<Queue> queues;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    mappings.swap(mappings_);
    queues.swap(queues_);
  }
  mappings.clear();
  queues.clear();
  memories_.clear();
  control_.Abandon();
}

template <typename Object>
Object* Connection::Keep(Owned<Object>* owned, std::unique_ptr<Object> object) {
  Object* const kept = object.get();
  const std::lock_guard<std::mutex> lock(mutex_);
  owned->emplace(kept, std::move(object));
  return kept;
}

template <typename Object>
std::unique_ptr<Object> Connection::Take(Owned<Object>* owned, Object* object) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = owned->find(object);
  std::unique_ptr<Object> taken = std::move(found->second);
  owned->erase(found);
  return taken;
}

// --- Files ---

int Connection::Open(const std::string& path, uint32_t flags, uint32_t mode, dsa_file** file, std::string* error) {
  if (path.size() >= PATH_MAX) return Fail(error, -ENAMETOOLONG, "the path is too long");
  std::vector<std::byte> request;
  Append(&request, OpenRequest{flags, mode});
  const auto bytes = std::as_bytes(std::span(path));
  request.insert(request.end(), bytes.begin(), bytes.end());
  ControlReply reply;
  if (const int code = control_.Call(ControlType::kOpen, request, &reply, error); code != 0) return code;
  OpenReply opened;
  if (!DecodeReply(reply, &opened)) return control_.Nonsense("an opened file", error);
  auto made = std::make_unique<dsa_file>();
  made->connection = this;
  made->handle = opened.file;
  *file = Keep(&files_, std::move(made));
  return 0;
}

int Connection::Stat(const dsa_file* file, FileAttributes* attributes, std::string* error) {
  ControlReply reply;
  const int code = control_.Ask(ControlType::kStat, HandleRequest{file->handle, 0}, &reply, error);
  if (code != 0) return code;
  return DecodeReply(reply, attributes) ? 0 : control_.Nonsense("a file's attributes", error);
}

int Connection::Close(dsa_file* file, std::string* error) {
  if (file->mappings.load() != 0) return Fail(error, -EBUSY, "the file is mapped");
  const std::unique_ptr<dsa_file> closed = Take(&files_, file);
  ControlReply reply;
  return control_.Ask(ControlType::kClose, HandleRequest{closed->handle, 0}, &reply, error);
}

// --- Memory ---

int Connection::Register(void* address, size_t length, uint32_t access, dsa_memory** memory, std::string* error) {
  const auto first = reinterpret_cast<uintptr_t>(address);
  if (address == nullptr || length == 0 || length > UINTPTR_MAX - first) return Fail(error, -EINVAL, "no memory");
  if (access == 0 || (access & ~(kMayRead | kMayWrite)) != 0) return Fail(error, -EINVAL, "no such access");
  if (MappedRanges::OfProcess().Overlap(address, length)) {
    return Fail(error, -EINVAL, "the memory overlaps a mapping of dsa_map()");
  }
  auto made = std::make_unique<dsa_memory>();
  made->connection = this;
  made->address = static_cast<std::byte*>(address);
  made->length = length;
  made->access = access;
  if (const int code = fabric_->Register(address, length, access, &made->region, error); code != 0) return code;
  const RegisterRequest request = {made->region->key(), made->region->remote_address(), length, access, 0};
  ControlReply reply;
  if (const int code = control_.Ask(ControlType::kRegister, request, &reply, error); code != 0) return code;
  HandleReply handle;
  if (!DecodeReply(reply, &handle)) return control_.Nonsense("a memory's handle", error);
  made->handle = handle.handle;
  *memory = Keep(&memories_, std::move(made));
  return 0;
}

int Connection::Deregister(dsa_memory* memory, std::string* error) {
  const std::unique_ptr<dsa_memory> ended = Take(&memories_, memory);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [queue, owned] : queues_) owned->Cancel(memory);
  }
  ControlReply reply;
  // The server waits for what is under way in it, and that may wait for our side's progress.
  int code = control_.Ask(ControlType::kDeregister, HandleRequest{ended->handle, 0}, &reply, error,
                          [this] { MoveQueues(); });
  // What the server has finished may still be on its way to us. When its completion is here, so are its bytes.
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(timeout_ms_);
  while (AnyQueueUses(memory)) {
    sched_yield();
    if (Clock::now() < deadline) continue;
    code = Fail(error, -ETIMEDOUT, "the server does not complete the work in the memory");
    // The queues let go of all their work when they see it.
    control_.Abandon();
  }
  return code;
}

bool Connection::AnyQueueUses(const dsa_memory* memory) {
  const std::lock_guard<std::mutex> lock(mutex_);
  bool uses = false;
  for (const auto& [queue, owned] : queues_) uses = owned->Uses(memory) || uses;
  return uses;
}

void Connection::MoveQueues() {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  for (const auto& [queue, owned] : queues_) owned->Progress();
}

// --- Queues ---

int Connection::CreateQueue(uint32_t depth, uint32_t spin_us, Queue** queue, std::string* error) {
  if (depth == 0 || depth > max_depth_) {
    return Fail(error, -EINVAL, "the depth is not 1 to " + std::to_string(max_depth_));
  }
  std::unique_ptr<Queue> made;
  if (const int code = Queue::Create(this, control_, *fabric_, depth, spin_us, &made, error); code != 0) return code;
  *queue = Keep(&queues_, std::move(made));
  return 0;
}

void Connection::DestroyQueue(Queue* queue) { (void)Take(&queues_, queue); }

// --- Mappings ---

int Connection::Map(dsa_file* file, uint64_t offset, uint64_t length, dsa_mapping** mapping, std::string* error) {
  std::unique_ptr<dsa_mapping> made;
  if (const int code = dsa_mapping::Create(*this, file, offset, length, &made, error); code != 0) return code;
  *mapping = Keep(&mappings_, std::move(made));
  return 0;
}

void Connection::Unmap(dsa_mapping* mapping) { (void)Take(&mappings_, mapping); }

}  // namespace stagefs::dsa

#include "fs/dsa/testing/raw_queue.h"

#include <errno.h>
#include <poll.h>

#include <chrono>
#include <cstring>
#include <future>

#include "gtest/gtest.h"
#include "sal/check.h"

namespace stagefs::dsa::testing {
namespace {

constexpr std::chrono::seconds kPatience(20);

}  // namespace

RawQueue::RawQueue(DataPath& path, const std::string& provider, uint32_t depth) : path_(path) {
  std::string error;
  STAGEFS_CHECK(Fabric::Open(provider, "127.0.0.1", &fabric_, &error) == 0);
  STAGEFS_CHECK(Endpoint::Create(*fabric_, depth, *this, &endpoint_, &error) == 0);
  std::promise<absl::StatusOr<QueueGrant>> granted;
  path.AddQueue(depth, endpoint_->name(),
                [&](absl::StatusOr<QueueGrant> grant) { granted.set_value(std::move(grant)); });
  absl::StatusOr<QueueGrant> grant = granted.get_future().get();
  STAGEFS_CHECK(grant.ok());
  grant_ = *std::move(grant);
  if (grant_.descriptors[0] >= 0) STAGEFS_CHECK(Doorbell::Attach(grant_.descriptors, &doorbell_) == 0);
  STAGEFS_CHECK(endpoint_->SetPeer(grant_.name, &error) == 0);
}

// The server's end first: within one process libfabric's shm does not survive messages to an endpoint that is closed.
RawQueue::~RawQueue() {
  std::promise<void> removed;
  path_.RemoveQueue(grant_.queue, [&](absl::Status) { removed.set_value(); });
  removed.get_future().wait();
  endpoint_.reset();
}

uint32_t RawQueue::Register(ClientHandles& handles, void* memory, size_t size_bytes, uint32_t access) {
  std::string error;
  std::unique_ptr<Region> region;
  STAGEFS_CHECK(fabric_->Register(memory, size_bytes, access, &region, &error) == 0);
  const uint32_t handle = handles.memories.Add(
      std::make_shared<Memory>(region->key(), region->remote_address(), size_bytes, access), 100);
  regions_.push_back(std::move(region));
  return handle;
}

uint64_t RawQueue::Post(std::vector<WorkEntry> works, const std::vector<std::string>& data) {
  const uint64_t first = next_cookie_;
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (endpoint_->SendBuffer() == nullptr && std::chrono::steady_clock::now() < end) Poll();
  BatchWriter<WorkEntry> batch(endpoint_->SendBuffer(), grant_.token);
  for (size_t i = 0; i < works.size(); ++i) {
    works[i].cookie = next_cookie_++;
    const std::string bytes = i < data.size() ? data[i] : "";
    EXPECT_TRUE(batch.Add(works[i], {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}));
  }
  const size_t size = batch.Finish().size();
  int code;
  while ((code = TrySend(size)) == -EAGAIN && std::chrono::steady_clock::now() < end) Poll();
  EXPECT_EQ(code, 0);
  return first;
}

void RawQueue::SendRaw(const std::string& message) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (endpoint_->SendBuffer() == nullptr && std::chrono::steady_clock::now() < end) Poll();
  std::memcpy(endpoint_->SendBuffer(), message.data(), message.size());
  int code;
  while ((code = TrySend(message.size())) == -EAGAIN && std::chrono::steady_clock::now() < end) Poll();
  EXPECT_EQ(code, 0);
}

int RawQueue::TrySend(size_t size_bytes) {
  const int code = endpoint_->Send(size_bytes);
  if (doorbell_ != nullptr) doorbell_->Ring();
  return code;
}

RawCompletion RawQueue::Wait(uint64_t cookie) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!completions_.contains(cookie)) {
    Poll();
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "no completion of work " << cookie;
      return {};
    }
  }
  const RawCompletion completion = completions_[cookie];
  completions_.erase(cookie);
  return completion;
}

RawCompletion RawQueue::Do(const WorkEntry& work, const std::string& data) { return Wait(Post({work}, {data})); }

bool RawQueue::SleepUntilSomethingComes(int timeout_ms) {
  const size_t before = arrived_.size();
  if (doorbell_ != nullptr) doorbell_->Announce();
  Poll();
  if (arrived_.size() == before) {
    if (doorbell_ != nullptr || endpoint_->MaySleep()) {
      pollfd wait = {doorbell_ != nullptr ? doorbell_->descriptor() : endpoint_->wait_descriptor(), POLLIN, 0};
      (void)poll(&wait, 1, timeout_ms);
    }
    Poll();
  }
  if (doorbell_ != nullptr) doorbell_->Awake();
  return arrived_.size() > before;
}

void RawQueue::Received(std::span<const std::byte> message) {
  BatchReader<CompletionEntry> batch(message);
  while (const auto received = batch.Next()) {
    completions_[received->entry.cookie] = {
        received->entry, std::string(reinterpret_cast<const char*>(received->data.data()), received->data.size())};
    arrived_.push_back(received->entry.cookie);
  }
  EXPECT_TRUE(batch.valid());
}

WorkEntry InlineWrite(uint32_t file, uint64_t offset, size_t length, uint8_t flags) {
  WorkEntry entry = Plain(Opcode::kWrite, flags);
  entry.file = file;
  entry.offset = offset;
  entry.length = length;
  entry.inline_bytes = static_cast<uint16_t>(length);
  return entry;
}

WorkEntry WriteFrom(uint32_t file, uint64_t offset, uint32_t memory, uint64_t address, uint64_t length,
                    uint8_t flags) {
  WorkEntry entry = ReadTo(file, offset, memory, address, length, flags);
  entry.opcode = static_cast<uint8_t>(Opcode::kWrite);
  return entry;
}

WorkEntry ReadTo(uint32_t file, uint64_t offset, uint32_t memory, uint64_t address, uint64_t length, uint8_t flags) {
  WorkEntry entry = Plain(Opcode::kRead, flags);
  entry.file = file;
  entry.offset = offset;
  entry.memory = memory;
  entry.address = address;
  entry.length = length;
  return entry;
}

WorkEntry Atomic(Opcode opcode, uint32_t file, uint64_t offset, uint64_t operand, uint64_t expected) {
  WorkEntry entry = Plain(opcode);
  entry.file = file;
  entry.offset = offset;
  entry.operand = operand;
  entry.expected = expected;
  return entry;
}

WorkEntry Plain(Opcode opcode, uint8_t flags) {
  WorkEntry entry = {};
  entry.opcode = static_cast<uint8_t>(opcode);
  entry.flags = flags;
  return entry;
}

}  // namespace stagefs::dsa::testing

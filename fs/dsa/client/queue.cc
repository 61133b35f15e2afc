#include "fs/dsa/client/queue.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <mutex>

namespace stagefs::dsa {
namespace {

using Clock = std::chrono::steady_clock;
using Guard = std::lock_guard<SpinLock>;

constexpr int64_t kLookAtServerNs = 1'000'000;
constexpr uint64_t kMaxFileBytes = uint64_t{1} << 63;
constexpr int kMaxErrno = 4095;
constexpr uint32_t kEmptyPollsAtOnce = 64;  // some microseconds

static_assert(DSA_MAX_INLINE == kMaxInlineBytes);
static_assert(DSA_SIGNALED == kSignaled && DSA_DURABLE == kDurable && DSA_UNORDERED == kUnordered &&
              DSA_FENCE == kFence);
static_assert(DSA_READ == static_cast<int>(Opcode::kRead) && DSA_ABORT == static_cast<int>(Opcode::kAbort));
static_assert(DSA_LOCAL_READ == kMayRead && DSA_LOCAL_WRITE == kMayWrite);

bool IsAtomic(uint32_t opcode) { return opcode == DSA_COMPARE_SWAP || opcode == DSA_FETCH_ADD; }
bool MovesBytes(uint32_t opcode) { return opcode == DSA_READ || opcode == DSA_WRITE; }

// What a completion may report at most.
uint64_t MostBytes(const dsa_work& work) {
  if (MovesBytes(work.opcode)) return work.length;
  return IsAtomic(work.opcode) ? sizeof(uint64_t) : 0;
}

// Also with memory: a copy costs less than the server's fetching it. But not behind a fence: a read that was posted before
// may still be filling the buffer.
bool GoesInline(const dsa_work& work) {
  if (work.opcode != DSA_WRITE || work.length > DSA_MAX_INLINE) return false;
  return work.memory == nullptr || (work.flags & DSA_FENCE) == 0;
}

// What is copied under the queue's lock may lie in a mapping: brings its pages before.
void TouchInlineData(std::span<const dsa_work> works) {
  for (const dsa_work& work : works) {
    if (!GoesInline(work) || work.buffer == nullptr || work.length == 0) continue;
    const volatile char* const bytes = static_cast<const char*>(work.buffer);
    (void)bytes[0];
    (void)bytes[work.length - 1];
  }
}

// In steps of some milliseconds, and cheap.
int64_t CoarseNow() {
  timespec now;
  (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

Queue::Queue(Connection* owner, ControlClient& control, Fabric& fabric, uint32_t depth, uint32_t spin_us)
    : owner_(owner),
      control_(control),
      depth_(depth),
      spin_us_(spin_us),
      has_doorbell_(!fabric.has_wait_descriptors()),
      slots_(depth),
      ring_(depth) {
  free_slots_.reserve(depth);
  for (uint32_t i = depth; i > 0; --i) free_slots_.push_back(i - 1);
}

int Queue::Create(Connection* owner, ControlClient& control, Fabric& fabric, uint32_t depth, uint32_t spin_us,
                  std::unique_ptr<Queue>* queue, std::string* error) {
  std::unique_ptr<Queue> made(new Queue(owner, control, fabric, depth, spin_us));
  const int code = made->Open(fabric, error);
  if (code == 0) *queue = std::move(made);
  return code;
}

int Queue::Open(Fabric& fabric, std::string* error) {
  int code = Endpoint::Create(fabric, depth_, *this, &endpoint_, error);
  if (code != 0) return code;
  std::vector<std::byte> request;
  Append(&request, CreateQueueRequest{depth_, 0});
  request.insert(request.end(), endpoint_->name().begin(), endpoint_->name().end());
  ControlReply reply;
  code = control_.Call(ControlType::kCreateQueue, request, &reply, error);
  if (code != 0) return code;
  CreateQueueReply granted;
  std::span<const std::byte> name;
  if (!DecodeReply(reply, &granted, &name) || granted.reserved != 0) return control_.Nonsense("a queue", error);
  is_granted_ = true;
  handle_ = granted.queue;
  token_ = granted.token;
  code = AttachDoorbell(&reply, error);
  if (code == 0) code = endpoint_->SetPeer(name, error);
  if (code == 0) code = MeetServer(error);
  return code == 0 ? WatchDescriptors(error) : code;
}

// The endpoints get to know each other by the first message: an empty batch, so that the first work need not wait.
int Queue::MeetServer(std::string* error) {
  const auto deadline = Clock::now() + control_.timeout();
  (void)HaveBatch();
  while (!must_break_ && !control_.HasEnded() && Clock::now() < deadline) {
    if (batch_.has_value() && SendBatch()) return 0;
    if (endpoint_->Poll() < 0) break;
    (void)sched_yield();
  }
  *error = "the server's endpoint cannot be reached";
  return -ECONNRESET;
}

int Queue::AttachDoorbell(ControlReply* reply, std::string* error) {
  if (reply->descriptors.size() != (has_doorbell_ ? 3u : 0u)) return control_.Nonsense("a queue's descriptors", error);
  if (!has_doorbell_) return 0;
  const std::array<int, 3> descriptors = {reply->descriptors[0].Release(), reply->descriptors[1].Release(),
                                          reply->descriptors[2].Release()};
  const int code = Doorbell::Attach(descriptors, &doorbell_);
  return code == 0 ? 0 : control_.Nonsense("a doorbell", error);
}

int Queue::WatchDescriptors(std::string* error) {
  kick_ = OwnedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_ = OwnedFd(epoll_create1(EPOLL_CLOEXEC));
  epoll_event readable = {};
  readable.events = EPOLLIN;
  epoll_event gone = {};
  gone.events = EPOLLRDHUP;  // not EPOLLIN: replies to other threads come there
  const int bell = has_doorbell_ ? doorbell_->descriptor() : endpoint_->wait_descriptor();
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, kick_.get(), &readable) == 0 &&
      epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, bell, &readable) == 0 &&
      epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, control_.descriptor(), &gone) == 0) {
    return 0;
  }
  *error = std::string("a queue's descriptor: ") + strerror(errno);
  return -errno;
}

Queue::~Queue() {
  if (!is_granted_) return;
  ControlReply reply;
  std::string ignored;
  (void)control_.Ask(ControlType::kDestroyQueue, HandleRequest{handle_, 0}, &reply, &ignored);
}

// --- Posting ---

int Queue::Fail(int status, const char* error) {
  error_ = error;
  return status;
}

int Queue::Post(std::span<const dsa_work> works) {
  TouchInlineData(works);
  const Guard guard(lock_);
  WakeUp();
  int taken = 0, status = 0;
  for (const dsa_work& work : works) {
    if (is_broken_) status = Fail(-ECONNRESET, "the connection has ended");
    if (status == 0) status = Check(work);
    if (status == 0) status = Add(work);
    if (status != 0) break;
    ++taken;
  }
  if (batch_.has_value()) (void)SendBatch();
  if (must_break_) Break();
  return taken > 0 ? taken : status;
}

int Queue::Check(const dsa_work& work) {
  if (work.opcode < DSA_READ || work.opcode > DSA_ABORT) return Fail(-EINVAL, "no such opcode");
  if ((work.flags & ~uint32_t{kKnownFlags}) != 0) return Fail(-EINVAL, "no such flag");
  if (IsAtomic(work.opcode)) {
    if (work.offset % sizeof(uint64_t) != 0) return Fail(-EINVAL, "an atomic's offset is no multiple of 8");
    return CheckFileRange(work, sizeof(uint64_t));
  }
  if (!MovesBytes(work.opcode)) return 0;
  if (work.length == 0 || work.length > kMaxTransferBytes) return Fail(-EINVAL, "the length is not 1 byte to 1 GiB");
  const int code = CheckFileRange(work, work.length);
  return code == 0 ? CheckMemory(work) : code;
}

int Queue::CheckFileRange(const dsa_work& work, uint64_t length) {
  if (work.file == nullptr || work.file->connection != owner_) return Fail(-EINVAL, "no file of this connection");
  if (work.offset >= kMaxFileBytes || length > kMaxFileBytes - 1 - work.offset) {
    return Fail(-EINVAL, "no offset of a file");
  }
  return 0;
}

int Queue::CheckMemory(const dsa_work& work) {
  if (work.buffer == nullptr) return Fail(-EINVAL, "no buffer");
  if (work.memory == nullptr) {
    return GoesInline(work) ? 0 : Fail(-EINVAL, "without memory there are only writes of at most DSA_MAX_INLINE bytes");
  }
  const dsa_memory& memory = *work.memory;
  if (memory.connection != owner_) return Fail(-EINVAL, "no memory of this connection");
  const uintptr_t buffer = reinterpret_cast<uintptr_t>(work.buffer);
  const uintptr_t first = reinterpret_cast<uintptr_t>(memory.address);
  if (buffer < first || buffer - first > memory.length || work.length > memory.length - (buffer - first)) {
    return Fail(-EINVAL, "the buffer is not within its memory");
  }
  const uint32_t needed = work.opcode == DSA_READ ? kMayWrite : kMayRead;
  return (memory.access & needed) != 0 ? 0 : Fail(-EINVAL, "the memory was not registered for that");
}

WorkEntry Queue::Encode(const dsa_work& work, bool is_inline, uint64_t cookie) const {
  WorkEntry entry = {};
  entry.opcode = static_cast<uint8_t>(work.opcode);
  entry.flags = static_cast<uint8_t>(work.flags);
  entry.cookie = cookie;
  if (!MovesBytes(work.opcode) && !IsAtomic(work.opcode)) return entry;
  entry.file = work.file->handle;
  entry.offset = work.offset;
  if (IsAtomic(work.opcode)) {
    entry.operand = work.operand;
    entry.expected = work.opcode == DSA_COMPARE_SWAP ? work.expected : 0;
    return entry;
  }
  entry.length = work.length;
  if (is_inline) {
    entry.inline_bytes = static_cast<uint16_t>(work.length);
    return entry;
  }
  entry.memory = work.memory->handle;
  entry.address = reinterpret_cast<uintptr_t>(work.buffer) - reinterpret_cast<uintptr_t>(work.memory->address);
  return entry;
}

int Queue::Add(const dsa_work& work) {
  const uint32_t in_use = depth_ - static_cast<uint32_t>(free_slots_.size());
  if (in_use + ring_count_ >= depth_) return Fail(-EAGAIN, "the queue is full");
  // Taken at once: completions that come while there is no room to send give back others.
  const uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  const int code = AddToBatch(work, index);
  if (code != 0) free_slots_.push_back(index);
  return code;
}

int Queue::AddToBatch(const dsa_work& work, uint32_t index) {
  Slot& slot = slots_[index];
  const bool is_inline = GoesInline(work);
  const WorkEntry entry = Encode(work, is_inline, uint64_t{slot.turn} << 32 | index);
  const std::span<const std::byte> data(static_cast<const std::byte*>(work.buffer), entry.inline_bytes);
  do {
    if (!HaveBatch()) {
      return is_broken_ ? Fail(-ECONNRESET, "the connection has ended") : Fail(-EAGAIN, "too much is on its way");
    }
    if (batch_->Add(entry, data)) break;
    if (!SendBatch()) return Fail(-EAGAIN, "too much is on its way");
  } while (true);
  slot.in_use = true;
  slot.is_canceled = false;
  slot.opcode = entry.opcode;
  slot.is_signaled = (entry.flags & kSignaled) != 0;
  slot.user_data = work.user_data;
  slot.length = MostBytes(work);
  slot.buffer = work.opcode == DSA_READ ? static_cast<std::byte*>(work.buffer) : nullptr;
  slot.memory = MovesBytes(work.opcode) && !is_inline ? work.memory : nullptr;
  return 0;
}

// False: there is no memory for a batch at the moment, or the queue is broken.
bool Queue::HaveBatch() {
  if (batch_.has_value()) return true;
  if (endpoint_->SendBuffer() == nullptr) Move();
  if (is_broken_) return false;
  std::byte* const memory = endpoint_->SendBuffer();
  if (memory == nullptr) return false;
  batch_.emplace(memory, token_);
  return true;
}

// False: it cannot be sent yet, or not at all.
bool Queue::SendBatch() {
  const int code = endpoint_->Send(batch_->Finish().size());
  if (has_doorbell_) doorbell_->Ring();  // also if it could not be sent: the server may have to do something for that
  if (code == -EAGAIN) return false;
  if (code != 0) {
    must_break_ = true;
    return false;
  }
  batch_.reset();
  return true;
}

// --- Completions ---

void Queue::Received(std::span<const std::byte> message) {
  if (must_break_) return;
  BatchReader<CompletionEntry> batch(message);
  bool is_empty = true;
  while (const auto received = batch.Next()) {
    is_empty = false;
    if (batch.token() != 0 || !Complete(received->entry, received->data)) {
      must_break_ = true;
      return;
    }
  }
  // Each message gives back some work, so that there can be no end of them.
  if (!batch.valid() || is_empty) must_break_ = true;
}

void Queue::Broken(int) { must_break_ = true; }

// False: it is nonsense, and nothing was changed.
bool Queue::Complete(const CompletionEntry& entry, std::span<const std::byte> data) {
  const uint64_t index = entry.cookie & UINT32_MAX;
  if (index >= depth_) return false;
  Slot& slot = slots_[index];
  if (!slot.in_use || slot.turn != entry.cookie >> 32) return false;
  if (entry.status > 0 || entry.status < -kMaxErrno || entry.length > slot.length) return false;
  dsa_completion completion = {};
  completion.status = entry.status;
  completion.length = entry.length;
  completion.lsn = entry.lsn;
  completion.value = entry.value;
  if (!data.empty()) {
    if (slot.opcode != DSA_READ || entry.status != 0 || data.size() != entry.length) return false;
    memcpy(slot.buffer, data.data(), data.size());
  }
  if (slot.is_canceled && entry.status != 0) completion.status = -ECANCELED;
  GiveBack(slot, completion);
  return true;
}

void Queue::GiveBack(Slot& slot, const dsa_completion& completion) {
  slot.in_use = false;
  ++slot.turn;
  free_slots_.push_back(static_cast<uint32_t>(&slot - slots_.data()));
  if (completion.status == 0 && !slot.is_signaled) return;
  dsa_completion& place = ring_[(ring_first_ + ring_count_) % depth_];
  place = completion;
  place.user_data = slot.user_data;
  place.opcode = slot.opcode;
  ++ring_count_;
}

// Not within Endpoint::Poll(): the endpoint goes, so that the server can no longer reach our memory through it.
void Queue::Break() {
  must_break_ = false;
  if (is_broken_) return;
  is_broken_ = true;
  control_.Abandon();
  batch_.reset();
  endpoint_.reset();
  dsa_completion lost = {};
  lost.status = -ECONNRESET;
  for (Slot& slot : slots_) {
    if (slot.in_use) GiveBack(slot, lost);
  }
}

int Queue::Poll(std::span<dsa_completion> completions) {
  // A program that polls without end must not keep the CPU from whoever completes its work.
  if (empty_polls_ == kEmptyPollsAtOnce) {
    empty_polls_ = 0;
    (void)sched_yield();
  }
  const Guard guard(lock_);
  WakeUp();
  if (ring_count_ == 0 || ring_count_ < completions.size()) Move();
  if (ring_count_ == 0) {
    ++empty_polls_;
    LookAtServerNowAndThen();
  }
  if (ring_count_ == 0 && is_broken_) return Fail(-ECONNRESET, "the connection has ended");
  const auto count = static_cast<uint32_t>(std::min<size_t>(ring_count_, completions.size()));
  for (uint32_t i = 0; i < count; ++i) {
    completions[i] = ring_[ring_first_];
    ring_first_ = ring_first_ + 1 == depth_ ? 0 : ring_first_ + 1;
  }
  ring_count_ -= count;
  return static_cast<int>(count);
}

// --- Moving on ---

void Queue::Move() {
  if (is_broken_) return;
  if (endpoint_->Poll() < 0) must_break_ = true;
  if (!must_break_ && batch_.has_value()) (void)SendBatch();
  if (must_break_) Break();
}

// If the server has gone, what it said before still counts.
void Queue::LookAtServer() {
  if (is_broken_ || !control_.HasEnded()) return;
  while (!must_break_ && free_slots_.size() < depth_ && endpoint_->Poll() > 0) continue;
  Break();
}

void Queue::LookAtServerNowAndThen() {
  const int64_t now = CoarseNow();
  if (now - looked_at_server_ < kLookAtServerNs) return;
  looked_at_server_ = now;
  LookAtServer();
}

void Queue::Progress() {
  const std::unique_lock<SpinLock> guard(lock_, std::try_to_lock);
  if (!guard.owns_lock()) return;
  Move();
  Kick();
}

void Queue::Cancel(const dsa_memory* memory) {
  const Guard guard(lock_);
  for (Slot& slot : slots_) {
    if (slot.in_use && slot.memory == memory) slot.is_canceled = true;
  }
}

bool Queue::Uses(const dsa_memory* memory) {
  const Guard guard(lock_);
  Move();
  LookAtServer();
  Kick();
  return std::any_of(slots_.begin(), slots_.end(),
                     [memory](const Slot& slot) { return slot.in_use && slot.memory == memory; });
}

// --- Waiting ---

// 1: Poll() has a completion; -ECONNRESET: it has none, nor will it; 0: neither.
int Queue::Ready() {
  if (ring_count_ > 0) return 1;
  return is_broken_ ? Fail(-ECONNRESET, "the connection has ended") : 0;
}

// Whether the descriptor will tell of whatever comes from now on. If not, there may be something already.
bool Queue::ReadyToSleep() {
  is_armed_ = true;
  if (has_doorbell_) doorbell_->Announce();
  Move();
  while (Ready() == 0 && !has_doorbell_ && !endpoint_->MaySleep()) Move();
  return Ready() == 0;
}

void Queue::WakeUp() {
  if (!is_armed_) return;
  is_armed_ = false;
  if (has_doorbell_) doorbell_->Awake();
  if (!was_kicked_) return;
  was_kicked_ = false;
  uint64_t kicks;
  (void)!read(kick_.get(), &kicks, sizeof(kicks));
}

// Another thread has taken what the sleeping one waits for.
void Queue::Kick() {
  if (!is_armed_ || was_kicked_ || (ring_count_ == 0 && !is_broken_)) return;
  was_kicked_ = true;
  const uint64_t one = 1;
  (void)!write(kick_.get(), &one, sizeof(one));
}

int Queue::Arm() {
  const Guard guard(lock_);
  WakeUp();
  LookAtServer();
  // Nothing tells when a batch that could not be sent can be.
  if (ReadyToSleep() && !batch_.has_value()) return 0;
  WakeUp();
  return ring_count_ > 0 || batch_.has_value() ? 1 : Ready();
}

void Queue::Sleep(int timeout_ms) {
  bool is_held_back = false;
  {
    const Guard guard(lock_);
    WakeUp();
    LookAtServer();
    if (!ReadyToSleep()) return WakeUp();
    is_held_back = batch_.has_value();
  }
  epoll_event event;
  (void)epoll_wait(epoll_.get(), &event, 1, is_held_back ? 1 : timeout_ms);
  const Guard guard(lock_);
  WakeUp();
  Move();
  LookAtServer();
}

int Queue::Wait(int timeout_ms) {
  const Clock::time_point start = Clock::now();
  const Clock::time_point spin_end = start + std::chrono::microseconds(spin_us_);
  const Clock::time_point deadline = start + std::chrono::milliseconds(std::max(timeout_ms, 0));
  for (;;) {
    {
      const Guard guard(lock_);
      WakeUp();
      Move();
      if (const int ready = Ready(); ready != 0) return ready;
    }
    const Clock::time_point now = Clock::now();
    if (timeout_ms >= 0 && now >= deadline) return 0;
    if (now < spin_end) continue;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
    Sleep(timeout_ms < 0 ? -1 : static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX)));
  }
}

}  // namespace stagefs::dsa

#include "fs/dsa/client/group_writer.h"

#include <errno.h>
#include <string.h>

#include <algorithm>
#include <chrono>

#include "fs/dsa/client/connection.h"

namespace stagefs::dsa {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kDepth = 256, kSpinUs = 20;
constexpr size_t kMemoryBytes = 2 << 20;

}  // namespace

int GroupWriter::Write(dsa_file* file, std::span<const Part> parts, bool durable, uint64_t* lsn, std::string* error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (parts.empty() && !durable) return 0;
  if (is_dead_) {
    *error = "the connection has ended";
    return -ECONNRESET;
  }
  if (const int code = Prepare(error); code != 0) return code;
  status_ = 0;
  lsn_ = 0;
  used_bytes_ = 0;
  dsa_work last = {};
  last.opcode = DSA_FLUSH;
  if (!parts.empty()) {
    (void)PostParts(file, parts);
    // All parts, before it is decided: a group is dropped as a whole.
    (void)Await(0);
    last.opcode = status_ == 0 ? DSA_COMMIT : DSA_ABORT;
    last.flags = durable && status_ == 0 ? DSA_DURABLE : 0;
  }
  (void)Post(last);
  (void)Await(0);
  if (status_ != 0) {
    *error = std::string("writing a group: ") + strerror(-status_);
    return status_;
  }
  if (lsn != nullptr && !parts.empty()) *lsn = lsn_;
  return 0;
}

int GroupWriter::Prepare(std::string* error) {
  if (queue_ == nullptr) {
    if (const int code = connection_.CreateQueue(kDepth, kSpinUs, &queue_, error); code != 0) return code;
  }
  if (memory_ != nullptr) return 0;
  bytes_ = std::make_unique<std::byte[]>(kMemoryBytes);
  return connection_.Register(bytes_.get(), kMemoryBytes, kMayRead, &memory_, error);
}

int GroupWriter::PostParts(dsa_file* file, std::span<const Part> parts) {
  dsa_work begin = {};
  begin.opcode = DSA_BEGIN;
  if (const int code = Post(begin); code != 0) return code;
  // Without a group the writes would be changes of their own.
  if (const int code = Await(0); code != 0) return code;
  for (const Part& part : parts) {
    if (const int code = PostBytes(file, part.offset, part.bytes); code != 0) return code;
  }
  return 0;
}

int GroupWriter::PostBytes(dsa_file* file, uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (used_bytes_ == kMemoryBytes) {
      // What lies in the memory has been fetched when its works are over.
      if (const int code = Await(0); code != 0) return code;
      used_bytes_ = 0;
    }
    dsa_work write = {};
    write.opcode = DSA_WRITE;
    write.file = file;
    write.offset = offset;
    if (bytes.size() <= DSA_MAX_INLINE) {
      write.length = bytes.size();
      write.buffer = const_cast<std::byte*>(bytes.data());
    } else {
      write.length = std::min(bytes.size(), kMemoryBytes - used_bytes_);
      write.buffer = bytes_.get() + used_bytes_;
      write.memory = memory_;
      memcpy(write.buffer, bytes.data(), write.length);
      used_bytes_ += write.length;
    }
    if (const int code = Post(write); code != 0) return code;
    offset += write.length;
    bytes = bytes.subspan(write.length);
  }
  return 0;
}

int GroupWriter::Die(int status) {
  connection_.control().Abandon();
  is_dead_ = true;
  return status_ = status;
}

int GroupWriter::Post(dsa_work work) {
  work.flags |= DSA_SIGNALED;
  const Clock::time_point deadline = Clock::now() + std::chrono::milliseconds(timeout_ms_);
  for (;;) {
    const int posted = is_dead_ ? -ECONNRESET : queue_->Post({&work, 1});
    if (posted == 1) {
      ++under_way_;
      return 0;
    }
    if (posted != -EAGAIN) return status_ = posted;
    if (Clock::now() > deadline) return Die(-ETIMEDOUT);
    if (under_way_ > 0) {
      (void)Await(under_way_ - 1);
    } else {
      TakeCompletions();
    }
    // An abort is what a failure ends with.
    if (status_ != 0 && work.opcode != DSA_ABORT) return status_;
  }
}

int GroupWriter::Await(uint32_t left) {
  while (under_way_ > left && !is_dead_) {
    const int ready = queue_->Wait(static_cast<int>(timeout_ms_));
    // Whether the group is carried out nobody can say any more, and the next one must not become a part of it.
    if (ready <= 0) return Die(ready == 0 ? -ETIMEDOUT : ready);
    TakeCompletions();
  }
  return status_;
}

void GroupWriter::TakeCompletions() {
  dsa_completion completions[16];
  const int count = queue_->Poll(completions);
  if (count < 0) {
    (void)Die(count);
    return;
  }
  for (const dsa_completion& completion : std::span(completions).first(static_cast<size_t>(count))) {
    --under_way_;
    if (completion.status != 0 && status_ == 0) status_ = completion.status;
    if (completion.opcode == DSA_COMMIT) lsn_ = completion.lsn;
  }
}

}  // namespace stagefs::dsa

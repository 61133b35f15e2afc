// The protocol of direct access: what client and server send each other. docs/direct-access.md#protocol.
//
// Two ways. *Control*: a stream socket (Unix or TCP), a request and its reply at a time: connecting, files, memory,
// queues, mappings. *Data*: libfabric messages on a pair of endpoints per queue: batches of work to the server, batches
// of completions back.
//
// All numbers are little-endian and fixed in width, there is no padding, reserved bytes are zero and refused otherwise.
// Whoever receives trusts nothing: Decode functions check sizes; the meaning (handles, ranges) is checked where it is
// used. This header needs the standard library alone: it is part of libstagefs.

#ifndef STAGEFS_FS_DSA_PROTOCOL_H_
#define STAGEFS_FS_DSA_PROTOCOL_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace stagefs::dsa {

static_assert(std::endian::native == std::endian::little, "the structures below are copied as they are");

inline constexpr uint64_t kMagic = 0x3141534453465453;  // "STFSDSA1"
inline constexpr uint16_t kVersion = 1;                 // both sides must have the same

// --- Control ---

inline constexpr uint32_t kMaxControlBytes = 64 << 10;

enum class ControlType : uint16_t {
  kHello = 1,
  kAuthenticate = 2,
  kOpen = 3,
  kStat = 4,
  kClose = 5,
  kRegister = 6,
  kDeregister = 7,
  kCreateQueue = 8,
  kDestroyQueue = 9,
  kMap = 10,
  kPopulate = 11,
  kUnmap = 12,
};

// Before each message. A reply has the type and the number of its request. Replies may come in any order.
struct ControlHeader {
  uint32_t size_bytes;  // of header and body
  uint16_t type;
  uint16_t reserved;
  uint32_t request;
  int32_t status;  // replies: 0, or a negative errno; then the body is a text for people
};
static_assert(sizeof(ControlHeader) == 16);

inline constexpr size_t kNonceBytes = 32, kProofBytes = 32;

// The first message. Its layout up to `version` is the same in all versions.
struct HelloRequest {
  uint64_t magic;
  uint16_t version;
  uint16_t reserved;
  uint32_t reserved2;
  char provider[16];  // the wish, padded with NULs; empty: any
  char key_name[32];  // remote: which key; else empty
  uint8_t nonce[kNonceBytes];
};
static_assert(sizeof(HelloRequest) == 96);

struct HelloReply {
  uint16_t version;
  uint8_t authenticate;  // 1: kAuthenticate must follow, and nothing else is answered before
  uint8_t can_map;
  uint32_t max_depth;
  uint64_t session;
  char provider[16];
  uint8_t nonce[kNonceBytes];
};
static_assert(sizeof(HelloReply) == 64);

// Both sides show that they have the key: docs/direct-access.md#keys.
struct Proof {
  uint8_t bytes[kProofBytes];
};

// The path follows.
struct OpenRequest {
  uint32_t flags;  // O_* of Linux, and kShared
  uint32_t mode;
};
inline constexpr uint32_t kShared = 0x40000000;

struct FileAttributes {
  uint64_t ino, size_bytes, allocated_bytes;
  int64_t atime_ns, mtime_ns, ctime_ns;
  uint32_t mode, nlink, uid, gid;
};
static_assert(sizeof(FileAttributes) == 64);

struct OpenReply {
  uint32_t file;  // the handle
  uint32_t reserved;
  FileAttributes attributes;
};
static_assert(sizeof(OpenReply) == 72);

// kStat (reply: FileAttributes), kClose, kDeregister, kDestroyQueue, kUnmap (replies: empty).
struct HandleRequest {
  uint32_t handle;
  uint32_t reserved;
};

struct RegisterRequest {
  uint64_t key;         // libfabric's
  uint64_t address;     // what libfabric calls the region's first byte
  uint64_t size_bytes;
  uint32_t access;      // kMayRead, kMayWrite
  uint32_t reserved;
};
static_assert(sizeof(RegisterRequest) == 32);
inline constexpr uint32_t kMayRead = 1, kMayWrite = 2;  // the server may

// The reply to kRegister and to kMap.
struct HandleReply {
  uint32_t handle;
  uint32_t reserved;
};

// The name of the client's endpoint follows.
struct CreateQueueRequest {
  uint32_t depth;
  uint32_t reserved;
};

// The name of the server's endpoint follows. With the provider shm three descriptors come along: the doorbell's page,
// the server's event, the client's event (fs/dsa/doorbell.h).
struct CreateQueueReply {
  uint32_t queue;
  uint32_t reserved;
  uint64_t token;  // in every batch to the server
};
static_assert(sizeof(CreateQueueReply) == 16);

// kMap: the reply is a HandleReply, and a descriptor comes along. kPopulate (reply: empty): `handle` is the mapping's;
// the range is in bytes of the file, whole pages.
struct RangeRequest {
  uint32_t handle;
  uint32_t reserved;
  uint64_t offset, length;
};
static_assert(sizeof(RangeRequest) == 24);

// --- Data ---

inline constexpr uint32_t kMaxDepth = 1024;
inline constexpr uint32_t kMaxMessageBytes = 4096;
inline constexpr uint32_t kMaxInlineBytes = 1024;
inline constexpr uint64_t kMaxTransferBytes = uint64_t{1} << 30;

enum class Opcode : uint8_t {
  kRead = 1,
  kWrite = 2,
  kFlush = 3,
  kCompareSwap = 4,
  kFetchAdd = 5,
  kBegin = 6,
  kCommit = 7,
  kAbort = 8,
};
inline constexpr uint8_t kSignaled = 1, kDurable = 2, kUnordered = 4, kFence = 8, kKnownFlags = 15;

// Before the works of a batch, and before the completions of one.
struct BatchHeader {
  uint64_t token;  // of the queue; from the server: 0
  uint32_t count;
  uint32_t reserved;
};
static_assert(sizeof(BatchHeader) == 16);

// One piece of work. `inline_bytes` of data follow, padded with zeros to a multiple of 8.
struct WorkEntry {
  uint8_t opcode;
  uint8_t flags;
  uint16_t inline_bytes;  // kWrite only: its data, all of it; then `memory` and `address` are 0
  uint32_t file;          // handle
  uint64_t cookie;        // comes back
  uint64_t offset;
  uint64_t length;
  uint64_t address;  // from the start of the memory, in bytes
  uint32_t memory;   // handle
  uint32_t reserved;
  uint64_t operand;
  uint64_t expected;
};
static_assert(sizeof(WorkEntry) == 64);

// One completion; every piece of work gets one. `inline_bytes` of data follow, padded likewise: what a short read got,
// if it was not put into the memory.
struct CompletionEntry {
  uint64_t cookie;
  int32_t status;
  uint16_t inline_bytes;
  uint16_t reserved;
  uint64_t length;
  uint64_t lsn;
  uint64_t value;
};
static_assert(sizeof(CompletionEntry) == 40);

inline constexpr size_t Padded(size_t bytes) { return (bytes + 7) / 8 * 8; }

// --- Taking apart and putting together ---

// Copies a T out of the front of `bytes` and moves it on. Nothing: too short.
template <typename T>
std::optional<T> Take(std::span<const std::byte>* bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (bytes->size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes->data(), sizeof(T));
  *bytes = bytes->subspan(sizeof(T));
  return value;
}

template <typename T>
void Append(std::vector<std::byte>* bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto* const first = reinterpret_cast<const std::byte*>(&value);
  bytes->insert(bytes->end(), first, first + sizeof(T));
}

// An entry of a batch and the data behind it, which points into the batch.
template <typename Entry>
struct Received {
  Entry entry;
  std::span<const std::byte> data;
};

// Reads a batch entry by entry. A batch is valid if and only if it has at most kMaxMessageBytes, Next() gives as many
// entries as the header says, and nothing is left then.
template <typename Entry>
class BatchReader {
 public:
  explicit BatchReader(std::span<const std::byte> batch) : left_(batch) {
    const std::optional<BatchHeader> header = Take<BatchHeader>(&left_);
    valid_ = batch.size() <= kMaxMessageBytes && header.has_value() && header->reserved == 0;
    if (valid_) {
      token_ = header->token;
      count_ = header->count;
    }
  }

  // False: something was wrong, and Next() gives no more.
  bool valid() const { return valid_; }
  uint64_t token() const { return token_; }

  std::optional<Received<Entry>> Next() {
    if (!valid_ || count_ == 0) {
      valid_ = valid_ && left_.empty();
      return std::nullopt;
    }
    const std::optional<Entry> entry = Take<Entry>(&left_);
    if (!entry.has_value() || entry->reserved != 0 || entry->inline_bytes > kMaxInlineBytes ||
        Padded(entry->inline_bytes) > left_.size()) {
      valid_ = false;
      return std::nullopt;
    }
    const Received<Entry> received = {*entry, left_.first(entry->inline_bytes)};
    left_ = left_.subspan(Padded(entry->inline_bytes));
    --count_;
    return received;
  }

 private:
  std::span<const std::byte> left_;
  bool valid_ = false;
  uint64_t token_ = 0;
  uint32_t count_ = 0;
};

// Puts a batch together in memory that somebody else owns, of kMaxMessageBytes.
template <typename Entry>
class BatchWriter {
 public:
  BatchWriter(std::byte* memory, uint64_t token) : memory_(memory), token_(token) {}

  // False: no room; send this batch first. `data` has entry.inline_bytes.
  bool Add(const Entry& entry, std::span<const std::byte> data = {}) {
    const size_t size = sizeof(Entry) + Padded(data.size());
    if (used_ + size > kMaxMessageBytes) return false;
    std::memcpy(memory_ + used_, &entry, sizeof(Entry));
    if (!data.empty()) {
      std::memcpy(memory_ + used_ + sizeof(Entry), data.data(), data.size());
      std::memset(memory_ + used_ + sizeof(Entry) + data.size(), 0, Padded(data.size()) - data.size());
    }
    used_ += size;
    ++count_;
    return true;
  }
  // What to send.
  std::span<const std::byte> Finish() {
    const BatchHeader header = {token_, count_, 0};
    std::memcpy(memory_, &header, sizeof(header));
    return {memory_, used_};
  }
  uint32_t count() const { return count_; }

 private:
  std::byte* memory_;
  uint64_t token_;
  size_t used_ = sizeof(BatchHeader);
  uint32_t count_ = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_PROTOCOL_H_

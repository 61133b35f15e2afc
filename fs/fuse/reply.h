// Reply: the duty to answer one request, once, from any thread.
//
// Made by a handler for the request its thread is dispatching, moved into the volume's callback, used up there. All
// conversions from the volume's words to FUSE's are here.

#ifndef STAGEFS_FS_FUSE_REPLY_H_
#define STAGEFS_FS_FUSE_REPLY_H_

#include <fuse3/fuse_lowlevel.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "fs/fuse/kernel_cache.h"
#include "fs/fuse/transport.h"
#include "fs/volume/volume.h"

namespace stagefs::fuse {

// The kernel sees every change but those of direct access (fs/fuse/kernel_cache.h), so what it knows stays true: about
// 30 years, in seconds.
inline constexpr double kForeverSeconds = 1e9;

struct stat ToStat(const volume::Attributes& attributes);
// The name is good for ever, the attributes for so long.
fuse_entry_param ToEntry(const volume::Attributes& attributes, double attribute_seconds);

// Nanoseconds since 1970, now.
int64_t NowNs();
// The nearest that 64 bits hold, which is from the year 1677 to 2262.
int64_t ToNs(const timespec& time);

class Reply {
 public:
  // For a request that libfuse decoded.
  explicit Reply(fuse_req_t request)
      : transport_(static_cast<Transport*>(fuse_req_userdata(request))),
        request_(request),
        port_(Transport::current().port),
        generation_(Generation(*transport_)) {
    transport_->BeginRequest();
  }
  // For one that it did not.
  Reply(Transport* transport, const fuse_in_header& header)
      : transport_(transport), unique_(header.unique), port_(Transport::current().port),
        generation_(Generation(*transport)) {
    transport_->BeginRequest();
  }
  Reply(Reply&& other) noexcept
      : transport_(std::exchange(other.transport_, nullptr)),
        request_(other.request_),
        unique_(other.unique_),
        port_(other.port_),
        generation_(other.generation_) {}
  Reply& operator=(Reply&&) = delete;
  ~Reply();  // must have answered

  // How long the kernel may keep `attributes`, which were asked for since this was made; 0: not beyond this answer. To
  // be called when the answer is made.
  double AttributeSeconds(const volume::Attributes& attributes);
  // With direct access, the kernel is not to keep the attributes in this answer: those to SETATTR and LINK it would
  // believe even if it was told meanwhile to forget what it knows.
  void KeepNoAttributes() { generation_ = kKeepNone; }

  // Each of these answers.
  void Error(int error);                    // 0: success without more to say
  void Status(const absl::Status& status);  // the same, by volume::ToErrno()
  // For fsync and the like: after a failure of the engine, not "read-only" but EIO.
  void SyncStatus(const absl::Status& status);
  void Entry(const volume::Attributes& attributes);
  void NoEntry();  // ENOENT, which the kernel may remember
  void Attributes(const volume::Attributes& attributes);
  void Created(const volume::Attributes& attributes, const fuse_file_info& file);
  void Opened(const fuse_file_info& file);
  void Data(const void* bytes, size_t size);
  void Data(absl::string_view bytes) { Data(bytes.data(), bytes.size()); }
  void Written(size_t bytes);
  void Offset(uint64_t offset);
  void StatFs(const volume::StatFs& numbers);
  // The value of an attribute or the list of them, or how long it is, as the caller's `capacity` asks.
  void Xattr(absl::string_view value, size_t capacity);
  // Bytes as the protocol has them, for requests that libfuse does not know.
  void Raw(int error, const void* bytes, size_t size);

  Transport& transport() { return *transport_; }

 private:
  static constexpr uint64_t kKeepNone = UINT64_MAX;

  static uint64_t Generation(Transport& transport) {
    KernelCache* const cache = transport.kernel_cache();
    return cache == nullptr ? 0 : cache->generation();
  }
  template <typename SendIt>
  void Answer(SendIt send_it);

  Transport* transport_;  // null: answered or moved from
  fuse_req_t request_ = nullptr;  // null: by `unique_`
  uint64_t unique_ = 0;
  RequestPort* port_;
  uint64_t generation_;  // KernelCache's, when the request was received
};

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_REPLY_H_

#include "fs/fuse/reply.h"

#include <errno.h>
#include <sys/statvfs.h>
#include <time.h>

#include "core/types.h"
#include "fs/volume/errno.h"
#include "sal/check.h"

namespace stagefs::fuse {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

timespec ToTimespec(int64_t ns) {
  int64_t seconds = ns / kNsPerSecond, rest = ns % kNsPerSecond;
  if (rest < 0) {  // before 1970
    rest += kNsPerSecond;
    --seconds;
  }
  return {seconds, rest};
}

}  // namespace

struct stat ToStat(const volume::Attributes& attributes) {
  struct stat out = {};
  out.st_ino = attributes.ino;
  out.st_mode = attributes.mode;
  out.st_nlink = attributes.nlink;
  out.st_uid = attributes.uid;
  out.st_gid = attributes.gid;
  out.st_rdev = attributes.rdev;
  out.st_size = static_cast<off_t>(attributes.size_bytes);
  out.st_blksize = core::kBlockBytes;
  out.st_blocks = static_cast<blkcnt_t>(attributes.allocated_bytes / 512);
  out.st_atim = ToTimespec(attributes.atime_ns);
  out.st_mtim = ToTimespec(attributes.mtime_ns);
  out.st_ctim = ToTimespec(attributes.ctime_ns);
  return out;
}

fuse_entry_param ToEntry(const volume::Attributes& attributes, double attribute_seconds) {
  fuse_entry_param entry = {};
  entry.ino = attributes.ino;
  entry.generation = 1;
  entry.attr = ToStat(attributes);
  entry.attr_timeout = attribute_seconds;
  entry.entry_timeout = kForeverSeconds;
  return entry;
}

int64_t ToNs(const timespec& time) {
  int64_t ns = 0;
  if (__builtin_mul_overflow(time.tv_sec, kNsPerSecond, &ns) || __builtin_add_overflow(ns, time.tv_nsec, &ns)) {
    return time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
  }
  return ns;
}

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return ToNs(now);
}

Reply::~Reply() { STAGEFS_CHECK(transport_ == nullptr); }

template <typename SendIt>
void Reply::Answer(SendIt send_it) {
  STAGEFS_CHECK(transport_ != nullptr);
  Transport* const transport = std::exchange(transport_, nullptr);
  RequestPort* const before = std::exchange(Transport::current().port, port_);
  send_it();
  Transport::current().port = before;
  transport->EndRequest();
}

double Reply::AttributeSeconds(const volume::Attributes& attributes) {
  KernelCache* const cache = transport_->kernel_cache();
  if (cache == nullptr) return kForeverSeconds;
  return generation_ != kKeepNone && cache->MayKeepAttributes(attributes.ino, generation_) ? kForeverSeconds : 0;
}

void Reply::Raw(int error, const void* bytes, size_t size) {
  STAGEFS_CHECK(request_ == nullptr);
  fuse_out_header header = {};
  header.unique = unique_;
  header.error = -error;
  header.len = static_cast<uint32_t>(sizeof(header) + size);
  const iovec message[] = {{&header, sizeof(header)}, {const_cast<void*>(bytes), size}};
  Answer([&] { port_->Send(absl::MakeConstSpan(message, size == 0 ? 1 : 2)); });
}

void Reply::Error(int error) {
  if (request_ == nullptr) return Raw(error, nullptr, 0);
  Answer([&] { fuse_reply_err(request_, error); });
}

void Reply::Status(const absl::Status& status) { Error(volume::ToErrno(status)); }

void Reply::SyncStatus(const absl::Status& status) {
  const int error = volume::ToErrno(status);
  Error(error == EROFS ? EIO : error);
}

void Reply::Entry(const volume::Attributes& attributes) {
  const fuse_entry_param entry = ToEntry(attributes, AttributeSeconds(attributes));
  Answer([&] { fuse_reply_entry(request_, &entry); });
}

void Reply::NoEntry() {
  fuse_entry_param entry = {};  // node 0: "there is none"
  entry.entry_timeout = kForeverSeconds;
  Answer([&] { fuse_reply_entry(request_, &entry); });
}

void Reply::Attributes(const volume::Attributes& attributes) {
  const struct stat out = ToStat(attributes);
  const double seconds = AttributeSeconds(attributes);
  Answer([&] { fuse_reply_attr(request_, &out, seconds); });
}

void Reply::Created(const volume::Attributes& attributes, const fuse_file_info& file) {
  const fuse_entry_param entry = ToEntry(attributes, AttributeSeconds(attributes));
  Answer([&] { fuse_reply_create(request_, &entry, &file); });
}

void Reply::Opened(const fuse_file_info& file) {
  Answer([&] { fuse_reply_open(request_, &file); });
}

void Reply::Data(const void* bytes, size_t size) {
  Answer([&] { fuse_reply_buf(request_, static_cast<const char*>(bytes), size); });
}

void Reply::Written(size_t bytes) {
  Answer([&] { fuse_reply_write(request_, bytes); });
}

void Reply::Offset(uint64_t offset) {
  Answer([&] { fuse_reply_lseek(request_, static_cast<off_t>(offset)); });
}

void Reply::StatFs(const volume::StatFs& numbers) {
  struct statvfs out = {};
  out.f_bsize = core::kBlockBytes;
  out.f_frsize = core::kBlockBytes;
  out.f_blocks = numbers.total_blocks;
  out.f_bfree = numbers.free_blocks;
  out.f_bavail = numbers.available_blocks;
  // Inodes are made out of free space as needed.
  out.f_files = numbers.inodes + numbers.free_blocks;
  out.f_ffree = numbers.free_blocks;
  out.f_favail = numbers.available_blocks;
  out.f_namemax = volume::kMaxNameBytes;
  Answer([&] { fuse_reply_statfs(request_, &out); });
}

void Reply::Xattr(absl::string_view value, size_t capacity) {
  if (capacity == 0) {
    Answer([&] { fuse_reply_xattr(request_, value.size()); });
  } else if (value.size() > capacity) {
    Error(ERANGE);
  } else {
    Data(value);
  }
}

}  // namespace stagefs::fuse

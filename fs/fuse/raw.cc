// Requests that libfuse 3.14 does not know, or that must wait for the volume: DESTROY and SYNCFS, which come only on a
// fuseblk mount, O_TMPFILE, statx (for the time of birth) and copy_file_range.

#include <errno.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "fs/fuse/reply.h"
#include "fs/fuse/serving.h"
#include "fs/volume/errno.h"

namespace stagefs::fuse {
namespace {

using volume::Attributes;

// From linux/fuse.h of kernels newer than Debian 12's headers.
constexpr uint32_t kTmpfile = 51, kStatx = 52, kCopyFileRange64 = 53;

struct StatxTime {
  int64_t seconds;
  uint32_t nanoseconds;
  int32_t reserved;
};

struct StatxOut {
  uint64_t attr_valid;
  uint32_t attr_valid_nsec;
  uint32_t flags;
  uint64_t spare[2];
  uint32_t mask, blksize;
  uint64_t attributes;
  uint32_t nlink, uid, gid;
  uint16_t mode, spare0;
  uint64_t ino, size, blocks, attributes_mask;
  StatxTime atime, btime, ctime, mtime;
  uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
  uint64_t spare2[14];
};
static_assert(sizeof(StatxOut) == 32 + 256);

constexpr uint32_t kStatxBasicAndBirth = 0x7ff | 0x800;

fuse_attr ToFuseAttr(const Attributes& attributes) {
  const struct stat from = ToStat(attributes);
  fuse_attr to = {};
  to.ino = from.st_ino;
  to.size = static_cast<uint64_t>(from.st_size);
  to.blocks = static_cast<uint64_t>(from.st_blocks);
  to.atime = static_cast<uint64_t>(from.st_atim.tv_sec);
  to.mtime = static_cast<uint64_t>(from.st_mtim.tv_sec);
  to.ctime = static_cast<uint64_t>(from.st_ctim.tv_sec);
  to.atimensec = static_cast<uint32_t>(from.st_atim.tv_nsec);
  to.mtimensec = static_cast<uint32_t>(from.st_mtim.tv_nsec);
  to.ctimensec = static_cast<uint32_t>(from.st_ctim.tv_nsec);
  to.mode = from.st_mode;
  to.nlink = static_cast<uint32_t>(from.st_nlink);
  to.uid = from.st_uid;
  to.gid = from.st_gid;
  to.rdev = static_cast<uint32_t>(from.st_rdev);
  to.blksize = static_cast<uint32_t>(from.st_blksize);
  return to;
}

StatxTime ToStatxTime(const timespec& time) { return {time.tv_sec, static_cast<uint32_t>(time.tv_nsec), 0}; }

void Statx(Serving& serving, volume::Ino ino, Reply reply) {
  serving.volume.GetAttributes(ino, [reply = std::move(reply)](absl::StatusOr<Attributes> attributes) mutable {
    if (!attributes.ok()) return reply.Status(attributes.status());
    const struct stat from = ToStat(*attributes);
    Attributes birth = *attributes;
    birth.atime_ns = attributes->btime_ns;
    StatxOut out = {};
    out.attr_valid = static_cast<uint64_t>(reply.AttributeSeconds(*attributes));
    out.mask = kStatxBasicAndBirth;
    out.blksize = static_cast<uint32_t>(from.st_blksize);
    out.nlink = static_cast<uint32_t>(from.st_nlink);
    out.uid = from.st_uid;
    out.gid = from.st_gid;
    out.mode = static_cast<uint16_t>(from.st_mode);
    out.ino = from.st_ino;
    out.size = static_cast<uint64_t>(from.st_size);
    out.blocks = static_cast<uint64_t>(from.st_blocks);
    out.atime = ToStatxTime(from.st_atim);
    out.btime = ToStatxTime(ToStat(birth).st_atim);
    out.ctime = ToStatxTime(from.st_ctim);
    out.mtime = ToStatxTime(from.st_mtim);
    // As the kernel packs it: 12 bits of major over 8 bits of minor, the rest of minor above.
    const uint32_t rdev = static_cast<uint32_t>(from.st_rdev);
    out.rdev_major = (rdev >> 8) & 0xfff;
    out.rdev_minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00);
    reply.Raw(0, &out, sizeof(out));
  });
}

void CreateUnnamed(Serving& serving, const fuse_in_header& header, const fuse_create_in& in, Reply reply) {
  volume::NewFile file;
  file.mode = S_IFREG | (in.mode & 07777);
  file.uid = header.uid;
  file.gid = header.gid;
  fuse_file_info flags = {};
  flags.flags = static_cast<int>(in.flags);
  serving.volume.CreateUnnamed(file, [&serving, reply = std::move(reply),
                                      flags](absl::StatusOr<Attributes> made) mutable {
    if (!made.ok()) return reply.Status(made.status());
    const absl::Status counted = CountOpener(serving, made->ino, OpensForWriting(flags));
    if (!counted.ok()) {
      serving.volume.Release(made->ino);
      return reply.Status(counted);
    }
    SetOpenFlags(serving, made->ino, &flags);
    struct {
      fuse_entry_out entry;
      fuse_open_out open;
    } out = {};
    out.entry.nodeid = made->ino;
    out.entry.generation = 1;
    out.entry.entry_valid = static_cast<uint64_t>(kForeverSeconds);
    out.entry.attr_valid = static_cast<uint64_t>(reply.AttributeSeconds(*made));
    out.entry.attr = ToFuseAttr(*made);
    out.open.fh = flags.fh;
    out.open.open_flags = (flags.direct_io ? FOPEN_DIRECT_IO : 0) | (flags.keep_cache ? FOPEN_KEEP_CACHE : 0);
    reply.Raw(0, &out, sizeof(out));
  });
}

// One copy_file_range: a piece at a time through one buffer, each piece one change. Keeps itself alive through the
// callbacks that refer to it.
class CopyRange : public std::enable_shared_from_this<CopyRange> {
 public:
  // So that a killed caller does not wait for long; cp(1) and others ask for the rest.
  static constexpr uint64_t kMaxBytes = 64 << 20;

  CopyRange(Serving& serving, volume::Ino from, const fuse_copy_file_range_in& in, bool wide_reply, Buffer buffer,
            Reply reply)
      : serving_(serving),
        from_(from),
        to_(in.nodeid_out),
        from_offset_(in.off_in),
        to_offset_(in.off_out),
        left_(std::min(in.len, kMaxBytes)),
        wide_reply_(wide_reply),
        buffer_(std::move(buffer)),
        reply_(std::move(reply)) {}

  void Start() {
    serving_.privileges.Drop(reply_.transport(), to_, [self = shared_from_this()](absl::Status status) {
      status.ok() ? self->ReadPiece() : self->Finish(status);
    });
  }

 private:
  void ReadPiece() {
    const size_t size = std::min<uint64_t>(left_, BufferPool::kLargeBytes);
    if (size == 0) return Finish(absl::OkStatus());
    serving_.volume.Read(from_, from_offset_ + copied_, absl::MakeSpan(buffer_.data(), size),
                         [self = shared_from_this(), size](absl::StatusOr<size_t> read) {
                           if (!read.ok() || *read == 0) return self->Finish(read.status());
                           // A short read is the end of the file: what follows, if it is the file that is written to,
                           // this very copy would have made.
                           if (*read < size) self->left_ = *read;
                           self->WritePiece(*read);
                         });
  }

  void WritePiece(size_t size) {
    serving_.volume.Write(to_, to_offset_ + copied_, absl::MakeConstSpan(buffer_.data(), size), /*append=*/false,
                          [self = shared_from_this()](absl::StatusOr<size_t> written) {
                            if (!written.ok()) return self->Finish(written.status());
                            self->copied_ += *written;
                            self->left_ -= *written;
                            self->ReadPiece();
                          });
  }

  // What was copied before an error counts.
  void Finish(const absl::Status& status) {
    buffer_ = Buffer();
    if (copied_ == 0) return Answer(status);
    AfterChange(serving_, to_, to_offset_, copied_, [self = shared_from_this(), status] { self->Answer(status); });
  }

  void Answer(const absl::Status& status) {
    if (!status.ok() && copied_ == 0) return reply_.Status(status);
    if (wide_reply_) return reply_.Raw(0, &copied_, sizeof(copied_));
    fuse_write_out out = {};
    out.size = static_cast<uint32_t>(copied_);
    reply_.Raw(0, &out, sizeof(out));
  }

  Serving& serving_;
  const volume::Ino from_, to_;
  const uint64_t from_offset_, to_offset_;
  uint64_t left_;
  uint64_t copied_ = 0;
  const bool wide_reply_;
  Buffer buffer_;
  Reply reply_;
};

template <typename In>
const In* As(const void* argument, size_t size) {
  return size >= sizeof(In) ? static_cast<const In*>(argument) : nullptr;
}

}  // namespace

bool HandleRaw(Transport& transport, Serving& serving, const fuse_in_header& header, const void* argument,
               size_t size) {
  switch (header.opcode) {
    case FUSE_DESTROY:
    case FUSE_SYNCFS:
      serving.volume.Sync(
          [reply = Reply(&transport, header)](absl::Status status) mutable { reply.SyncStatus(status); });
      return true;
    case kTmpfile: {
      const auto* in = As<fuse_create_in>(argument, size);
      if (in == nullptr) return false;
      CreateUnnamed(serving, header, *in, Reply(&transport, header));
      return true;
    }
    case kStatx:
      Statx(serving, header.nodeid, Reply(&transport, header));
      return true;
    case FUSE_COPY_FILE_RANGE:
    case kCopyFileRange64: {
      const auto* in = As<fuse_copy_file_range_in>(argument, size);
      if (in == nullptr) return false;
      std::make_shared<CopyRange>(serving, header.nodeid, *in, header.opcode == kCopyFileRange64,
                                  transport.buffers().Take(BufferPool::kLargeBytes), Reply(&transport, header))
          ->Start();
      return true;
    }
    default:
      return false;
  }
}

}  // namespace stagefs::fuse

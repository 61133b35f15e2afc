// Handlers for content: open, read, write, fsync, fallocate, SEEK_DATA.

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "fs/fuse/reply.h"
#include "fs/fuse/serving.h"

namespace stagefs::fuse {
namespace {

using volume::Attributes;

void OpenNow(Serving& serving, fuse_ino_t ino, const fuse_file_info& file, Reply reply) {
  const bool truncate = (file.flags & O_TRUNC) != 0;
  serving.volume.Open(
      ino, truncate,
      [&serving, ino, truncate, reply = std::move(reply), file](absl::StatusOr<Attributes> opened) mutable {
        if (!opened.ok()) {
          CountClose(serving, ino, WasOpenedForWriting(file));
          return reply.Status(opened.status());
        }
        if (!truncate) return reply.Opened(file);
        AfterChange(serving, ino, 0, 0, [reply = std::move(reply), file]() mutable { reply.Opened(file); });
      });
}

void Open(fuse_req_t request, fuse_ino_t ino, fuse_file_info* file) {
  Serving& serving = ServingOf(request);
  const absl::Status counted = CountOpener(serving, ino, OpensForWriting(*file));
  if (!counted.ok()) return Reply(request).Status(counted);
  SetOpenFlags(serving, ino, file);
  if (!(file->flags & O_TRUNC)) return OpenNow(serving, ino, *file, Reply(request));
  serving.privileges.Drop(TransportOf(request), ino,
                          [&serving, ino, file = *file, reply = Reply(request)](absl::Status status) mutable {
                            if (status.ok()) return OpenNow(serving, ino, file, std::move(reply));
                            CountClose(serving, ino, WasOpenedForWriting(file));
                            reply.Status(status);
                          });
}

void Release(fuse_req_t request, fuse_ino_t ino, fuse_file_info* file) {
  Serving& serving = ServingOf(request);
  serving.volume.Release(ino);
  CountClose(serving, ino, WasOpenedForWriting(*file));
  Reply(request).Error(0);
}

void Read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info*) {
  Transport& transport = TransportOf(request);
  size = std::min<size_t>(size, BufferPool::kLargeBytes);
  // Into the request's own memory, if it has any: from there the reply need not be copied.
  Buffer buffer;
  std::byte* destination = Transport::current().port->memory().data();
  if (Transport::current().port->memory().size() < size) {
    buffer = transport.buffers().Take(size);
    destination = buffer.data();
  }
  ServingOf(request).volume.Read(
      ino, static_cast<uint64_t>(offset), absl::MakeSpan(destination, size),
      [reply = Reply(request), destination, buffer = std::move(buffer)](absl::StatusOr<size_t> read) mutable {
        if (!read.ok()) return reply.Status(read.status());
        reply.transport().CountRead(*read);
        reply.Data(destination, *read);
      });
}

// A write that nothing stands in the way of any more.
struct PendingWrite {
  volume::Ino ino;
  uint64_t offset;
  absl::Span<const std::byte> bytes;
  bool durable;  // answer when it is durable
  Buffer buffer;  // empty: they lie in the request's own memory
  Reply reply;
};

// It has been accepted, and everybody sees it.
void AnswerWrite(Serving& serving, PendingWrite write, size_t written) {
  if (!write.durable) return write.reply.Written(written);
  serving.volume.Sync([reply = std::move(write.reply), written](absl::Status status) mutable {
    status.ok() ? reply.Written(written) : reply.SyncStatus(status);
  });
}

void WriteNow(Serving& serving, PendingWrite write) {
  const volume::Ino ino = write.ino;
  const uint64_t offset = write.offset;
  const absl::Span<const std::byte> bytes = write.bytes;
  serving.volume.Write(
      ino, offset, bytes, /*append=*/false,
      [&serving, write = std::move(write)](absl::StatusOr<size_t> written) mutable {
        write.buffer = Buffer();  // before the answer, so that who gets it finds a buffer for the next request
        if (!written.ok()) return write.reply.Status(written.status());
        write.reply.transport().CountWritten(*written);
        if (*written == 0) return AnswerWrite(serving, std::move(write), 0);
        const volume::Ino ino = write.ino;
        const uint64_t offset = write.offset;
        AfterChange(serving, ino, offset, *written,
                    [&serving, write = std::move(write), written = *written]() mutable {
                      AnswerWrite(serving, std::move(write), written);
                    });
      });
}

void Write(fuse_req_t request, fuse_ino_t ino, const char* payload, size_t size, off_t offset, fuse_file_info* file) {
  Serving& serving = ServingOf(request);
  if (size > volume::kMaxWriteBytes) return Reply(request).Error(EIO);
  // Unless the payload stays where it is: small ones are copied, so that many of them can wait without using up the
  // large buffers; a large one keeps the buffer that it came in.
  Buffer buffer;
  const std::byte* bytes = reinterpret_cast<const std::byte*>(payload);
  if (Buffer* const arrived_in = Transport::current().buffer; arrived_in != nullptr) {
    if (size <= BufferPool::kSmallBytes) {
      buffer = TransportOf(request).buffers().Take(size);
      memcpy(buffer.data(), payload, size);
      bytes = buffer.data();
    } else {
      buffer = std::move(*arrived_in);
    }
  }
  // Cached files get an FSYNC from the kernel behind an O_SYNC write; uncached ones do not.
  const bool durable = serving.options.cache == CacheMode::kNone && (file->flags & (O_SYNC | O_DSYNC)) != 0 &&
                       !file->writepage;
  PendingWrite write = {ino,     static_cast<uint64_t>(offset), absl::MakeConstSpan(bytes, size),
                        durable, std::move(buffer),             Reply(request)};
  // Stores into mappings take nothing away, on no file system.
  if (file->writepage) return WriteNow(serving, std::move(write));
  serving.privileges.Drop(TransportOf(request), ino,
                          [&serving, write = std::move(write)](absl::Status status) mutable {
                            if (!status.ok()) return write.reply.Status(status);
                            WriteNow(serving, std::move(write));
                          });
}

void Fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
  ServingOf(request).volume.Sync([reply = Reply(request)](absl::Status status) mutable { reply.SyncStatus(status); });
}

void Fallocate(fuse_req_t request, fuse_ino_t ino, int mode, off_t offset, off_t length, fuse_file_info*) {
  Serving& serving = ServingOf(request);
  serving.privileges.Drop(
      TransportOf(request), ino,
      [&serving, ino, mode, offset, length, reply = Reply(request)](absl::Status status) mutable {
        if (!status.ok()) return reply.Status(status);
        serving.volume.Allocate(ino, mode, static_cast<uint64_t>(offset), static_cast<uint64_t>(length),
                                [&serving, ino, offset, length, reply = std::move(reply)](absl::Status done) mutable {
                                  // Even if it has failed: part of a large range may have been changed before.
                                  AfterChange(serving, ino, static_cast<uint64_t>(offset),
                                              static_cast<uint64_t>(length),
                                              [reply = std::move(reply), done]() mutable { reply.Status(done); });
                                });
      });
}

void Lseek(fuse_req_t request, fuse_ino_t ino, off_t offset, int whence, fuse_file_info*) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return Reply(request).Error(EINVAL);
  ServingOf(request).volume.Seek(ino, static_cast<uint64_t>(offset), whence,
                                 [reply = Reply(request)](absl::StatusOr<uint64_t> found) mutable {
                                   found.ok() ? reply.Offset(*found) : reply.Status(found.status());
                                 });
}

void Ioctl(fuse_req_t request, fuse_ino_t, unsigned int, void*, fuse_file_info*, unsigned, const void*, size_t,
           size_t) {
  Reply(request).Error(ENOTTY);
}

}  // namespace

absl::Status CountOpener(Serving& serving, volume::Ino ino, bool writes) {
  if (serving.sharing == nullptr) return absl::OkStatus();
  return serving.sharing->Open(ino, {volume::Sharing::Door::kMount, writes, /*shared=*/false});
}

void CountClose(Serving& serving, volume::Ino ino, bool writes) {
  if (serving.sharing != nullptr) serving.sharing->Close(ino, {volume::Sharing::Door::kMount, writes, false});
}

bool OpensForWriting(const fuse_file_info& file) {
  return (file.flags & O_ACCMODE) != O_RDONLY || (file.flags & O_TRUNC) != 0;
}

// The flags in a RELEASE are no help: the kernel has taken O_TRUNC out of them.
bool WasOpenedForWriting(const fuse_file_info& file) { return file.fh != 0; }

void SetOpenFlags(Serving& serving, volume::Ino ino, fuse_file_info* file) {
  file->fh = OpensForWriting(*file) ? 1 : 0;  // all else the inode says
  file->direct_io = serving.options.cache == CacheMode::kNone;
  file->keep_cache = serving.options.cache != CacheMode::kNone &&
                     (serving.sharing == nullptr || !serving.sharing->DirectlyWritten(ino));
}

// No flush: answering ENOSYS once ends the question at each close(2). No locks: the kernel's own suffice.
void AddContentHandlers(fuse_lowlevel_ops* operations) {
  operations->open = Open;
  operations->release = Release;
  operations->read = Read;
  operations->write = Write;
  operations->fsync = Fsync;
  operations->fsyncdir = Fsync;
  operations->fallocate = Fallocate;
  operations->lseek = Lseek;
  operations->ioctl = Ioctl;
}

}  // namespace stagefs::fuse

#include "fs/fuse/request_check.h"

#include <errno.h>
#include <linux/fuse.h>

#include <cstdint>
#include <cstring>

#include "core/bytes.h"

namespace stagefs::fuse {
namespace {

// From linux/fuse.h of kernels newer than Debian 12's headers.
constexpr uint32_t kTmpfile = 51, kStatx = 52, kCopyFileRange64 = 53;
constexpr size_t kStatxInBytes = 24;
// INIT of kernels before 7.36, which had no flags2.
constexpr size_t kShortInitBytes = 16;

// What follows the header: a structure of `fixed_bytes`, then `names` strings.
struct Shape {
  uint32_t opcode;
  size_t fixed_bytes;
  int names;
};

constexpr Shape kShapes[] = {
    {FUSE_LOOKUP, 0, 1},
    {FUSE_FORGET, sizeof(fuse_forget_in), 0},
    {FUSE_GETATTR, sizeof(fuse_getattr_in), 0},
    {FUSE_SETATTR, sizeof(fuse_setattr_in), 0},
    {FUSE_READLINK, 0, 0},
    {FUSE_SYMLINK, 0, 2},
    {FUSE_MKNOD, sizeof(fuse_mknod_in), 1},
    {FUSE_MKDIR, sizeof(fuse_mkdir_in), 1},
    {FUSE_UNLINK, 0, 1},
    {FUSE_RMDIR, 0, 1},
    {FUSE_RENAME, sizeof(fuse_rename_in), 2},
    {FUSE_LINK, sizeof(fuse_link_in), 1},
    {FUSE_OPEN, sizeof(fuse_open_in), 0},
    {FUSE_READ, sizeof(fuse_read_in), 0},
    {FUSE_WRITE, sizeof(fuse_write_in), 0},
    {FUSE_STATFS, 0, 0},
    {FUSE_RELEASE, sizeof(fuse_release_in), 0},
    {FUSE_FSYNC, sizeof(fuse_fsync_in), 0},
    {FUSE_SETXATTR, FUSE_COMPAT_SETXATTR_IN_SIZE, 1},
    {FUSE_GETXATTR, sizeof(fuse_getxattr_in), 1},
    {FUSE_LISTXATTR, sizeof(fuse_getxattr_in), 0},
    {FUSE_REMOVEXATTR, 0, 1},
    {FUSE_FLUSH, sizeof(fuse_flush_in), 0},
    {FUSE_INIT, kShortInitBytes, 0},
    {FUSE_OPENDIR, sizeof(fuse_open_in), 0},
    {FUSE_READDIR, sizeof(fuse_read_in), 0},
    {FUSE_RELEASEDIR, sizeof(fuse_release_in), 0},
    {FUSE_FSYNCDIR, sizeof(fuse_fsync_in), 0},
    {FUSE_GETLK, sizeof(fuse_lk_in), 0},
    {FUSE_SETLK, sizeof(fuse_lk_in), 0},
    {FUSE_SETLKW, sizeof(fuse_lk_in), 0},
    {FUSE_ACCESS, sizeof(fuse_access_in), 0},
    {FUSE_CREATE, sizeof(fuse_create_in), 1},
    {FUSE_INTERRUPT, sizeof(fuse_interrupt_in), 0},
    {FUSE_BMAP, sizeof(fuse_bmap_in), 0},
    {FUSE_DESTROY, 0, 0},
    {FUSE_IOCTL, sizeof(fuse_ioctl_in), 0},
    {FUSE_POLL, sizeof(fuse_poll_in), 0},
    {FUSE_BATCH_FORGET, sizeof(fuse_batch_forget_in), 0},
    {FUSE_FALLOCATE, sizeof(fuse_fallocate_in), 0},
    {FUSE_READDIRPLUS, sizeof(fuse_read_in), 0},
    {FUSE_RENAME2, sizeof(fuse_rename2_in), 2},
    {FUSE_LSEEK, sizeof(fuse_lseek_in), 0},
    {FUSE_COPY_FILE_RANGE, sizeof(fuse_copy_file_range_in), 0},
    {FUSE_SYNCFS, sizeof(fuse_syncfs_in), 0},
    {kTmpfile, sizeof(fuse_create_in), 0},
    {kStatx, kStatxInBytes, 0},
    {kCopyFileRange64, sizeof(fuse_copy_file_range_in), 0},
};

const Shape* ShapeOf(uint32_t opcode) {
  for (const Shape& shape : kShapes) {
    if (shape.opcode == opcode) return &shape;
  }
  return nullptr;
}

// How many bytes of data the request says follow its names.
size_t AnnouncedBytes(uint32_t opcode, const std::byte* fixed) {
  switch (opcode) {
    case FUSE_WRITE: return core::Load<fuse_write_in>(fixed).size;
    case FUSE_SETXATTR: return core::Load<uint32_t>(fixed);  // fuse_setxattr_in::size, short or not
    case FUSE_IOCTL: return core::Load<fuse_ioctl_in>(fixed).in_size;
    default: return 0;
  }
}

}  // namespace

int CheckRequest(absl::Span<const std::byte> request) {
  if (request.size() < sizeof(fuse_in_header)) return EIO;
  const auto header = core::Load<fuse_in_header>(request.data());
  const Shape* const shape = ShapeOf(header.opcode);
  if (shape == nullptr) return ENOSYS;
  absl::Span<const std::byte> rest = request.subspan(sizeof(fuse_in_header));
  if (rest.size() < shape->fixed_bytes) return EIO;
  const size_t announced = AnnouncedBytes(header.opcode, rest.data());
  rest.remove_prefix(shape->fixed_bytes);
  for (int i = 0; i < shape->names; ++i) {
    const void* const end = std::memchr(rest.data(), 0, rest.size());
    if (end == nullptr) return EIO;
    rest.remove_prefix(static_cast<const std::byte*>(end) - rest.data() + 1);
  }
  return rest.size() >= announced ? 0 : EIO;
}

}  // namespace stagefs::fuse

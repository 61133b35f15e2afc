// A store as one file, `disk`, in a directory: through a loop device on it any file system runs on the store, also on
// `record:FILE,URL`, and what it would hold after a power cut can be looked at as for stagefs itself.
//
//   recorded_disk_file STORE DIR     serves in the foreground until DIR is unmounted
//
// Reads and writes, of any alignment, go to the store uncached; fsync, which is a loop device's flush, flushes it.

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include <fuse3/fuse.h>

#include "sal/blocking_io.h"
#include "sal/mutex.h"
#include "sal/open_store.h"
#include "sal/real_environment.h"

namespace stagefs::replay {
namespace {

constexpr char kPath[] = "/disk";
constexpr size_t kAlignment = 4096;

struct Disk {
  sal::RealEnvironment environment{1};
  std::unique_ptr<sal::BlockStore> store;
  Mutex writing;  // one at a time: a part of a block is written together with the rest of it
};

Disk& ThisDisk() { return *static_cast<Disk*>(fuse_get_context()->private_data); }

struct FreeMemory {
  void operator()(char* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<char, FreeMemory>;

int Result(const absl::Status& status, int result) {
  if (status.ok()) return result;
  std::fprintf(stderr, "recorded_disk_file: %s\n", std::string(status.message()).c_str());
  return -EIO;
}

int GetAttributes(const char* path, struct stat* attributes, fuse_file_info*) {
  memset(attributes, 0, sizeof(*attributes));
  const bool root = strcmp(path, "/") == 0;
  if (!root && strcmp(path, kPath) != 0) return -ENOENT;
  attributes->st_mode = root ? S_IFDIR | 0700 : S_IFREG | 0600;
  attributes->st_nlink = root ? 2 : 1;
  attributes->st_size = root ? 0 : static_cast<off_t>(ThisDisk().store->geometry().size_bytes);
  return 0;
}

int Open(const char*, fuse_file_info* file) {
  file->direct_io = 1;
  return 0;
}

// The whole blocks around a range of any alignment.
struct Blocks {
  Blocks(off_t range_offset, size_t size)
      : offset(range_offset / kAlignment * kAlignment),
        before(range_offset % kAlignment),
        length((before + size + kAlignment - 1) / kAlignment * kAlignment),
        memory(static_cast<char*>(std::aligned_alloc(kAlignment, length))) {}

  absl::Status Load() const {
    return BlockingRead(*ThisDisk().store, ThisDisk().environment, offset, memory.get(), length);
  }
  absl::Status Save() const {
    return BlockingWrite(*ThisDisk().store, ThisDisk().environment, offset, memory.get(), length);
  }
  char* range() const { return memory.get() + before; }

  const uint64_t offset;
  const size_t before;
  const size_t length;
  const Memory memory;
};

int Read(const char*, char* buffer, size_t size, off_t offset, fuse_file_info*) {
  const Blocks blocks(offset, size);
  const absl::Status status = blocks.Load();
  memcpy(buffer, blocks.range(), size);
  return Result(status, static_cast<int>(size));
}

int Write(const char*, const char* buffer, size_t size, off_t offset, fuse_file_info*) {
  MutexLock lock(&ThisDisk().writing);
  const Blocks blocks(offset, size);
  absl::Status status;
  if (size < blocks.length) status = blocks.Load();
  memcpy(blocks.range(), buffer, size);
  if (status.ok()) status = blocks.Save();
  return Result(status, static_cast<int>(size));
}

int Flush(const char*, int, fuse_file_info*) {
  return Result(BlockingFlush(*ThisDisk().store, ThisDisk().environment), 0);
}

int Serve(const std::string& url, const std::string& directory) {
  Disk disk;
  auto store = sal::OpenStore(url, {});
  if (!store.ok()) return Result(store.status(), 0) == 0 ? 0 : 1;
  disk.store = *std::move(store);
  fuse_operations operations = {};
  operations.getattr = GetAttributes;
  operations.open = Open;
  operations.read = Read;
  operations.write = Write;
  operations.fsync = Flush;
  std::string program = "recorded_disk_file", foreground = "-f", target = directory;
  char* arguments[] = {program.data(), foreground.data(), target.data()};
  return fuse_main(3, arguments, &operations, &disk);
}

}  // namespace
}  // namespace stagefs::replay

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: recorded_disk_file STORE DIR\n");
    return 1;
  }
  return stagefs::replay::Serve(argv[1], argv[2]);
}

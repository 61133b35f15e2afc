#include "fs/dsa/client/faulted_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

namespace stagefs::dsa {
namespace {

// Newer than the kernel headers of some systems that we build on.
constexpr uint64_t kFeaturePoison = 1 << 14;
constexpr uint64_t kContinueWriteProtected = 1 << 1;
struct PoisonRequest {
  uffdio_range range;
  uint64_t mode;
  int64_t updated;
};
constexpr unsigned long kPoisonIoctl = _IOWR(UFFDIO, 0x08, PoisonRequest);
constexpr unsigned long kNewDescriptorIoctl = _IO(0xAA, 0x00);
constexpr int kUserModeOnly = 1;

constexpr uint64_t kFaultFeatures =
    UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
    UFFD_FEATURE_WP_HUGETLBFS_SHMEM | kFeaturePoison;
constexpr uint64_t kSourceFeatures = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_SHMEM;

int NewDescriptor(bool* kernel_faults) {
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;
  *kernel_faults = true;
  int descriptor = static_cast<int>(syscall(SYS_userfaultfd, kFlags));
  if (descriptor >= 0) return descriptor;
  if (errno != EPERM) return -errno;
  const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    descriptor = ioctl(device, kNewDescriptorIoctl, kFlags);
    close(device);
    if (descriptor >= 0) return descriptor;
  }
  *kernel_faults = false;
  descriptor = static_cast<int>(syscall(SYS_userfaultfd, kFlags | kUserModeOnly));
  return descriptor >= 0 ? descriptor : errno == EINVAL ? -EPERM : -errno;
}

int Watch(uint64_t features, std::byte* memory, uint64_t length, uint64_t modes, bool* kernel_faults) {
  const int descriptor = NewDescriptor(kernel_faults);
  if (descriptor < 0) return descriptor;
  uffdio_api api = {UFFD_API, features, 0};
  uffdio_register registration = {{reinterpret_cast<uint64_t>(memory), length}, modes, 0};
  if (ioctl(descriptor, UFFDIO_API, &api) == 0 && ioctl(descriptor, UFFDIO_REGISTER, &registration) == 0) {
    return descriptor;
  }
  const int error = errno;
  close(descriptor);
  return error == EINVAL ? -EOPNOTSUPP : -error;
}

// No access yet: in a process after mlockall(MCL_FUTURE) the kernel would fill the memfd with zeros at once, and every
// other program would see them.
std::byte* MapUntouched(int memfd, uint64_t offset, uint64_t length) {
  void* const memory = mmap(nullptr, length, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE, memfd, static_cast<off_t>(offset));
  if (memory == MAP_FAILED) return nullptr;
  munlock(memory, length);
  return static_cast<std::byte*>(memory);
}

}  // namespace

FaultedMemory::FaultedMemory(uint64_t page_count) : page_count_(page_count), creator_(getpid()) {}

FaultedMemory::~FaultedMemory() {
  if (faults_ >= 0) close(faults_);
  if (source_faults_ >= 0) close(source_faults_);
  if (!InCreator()) return;
  if (memory_ != nullptr) munmap(memory_, page_count_ * kPageBytes);
  if (source_ != nullptr) munmap(source_, page_count_ * kPageBytes);
}

bool FaultedMemory::InCreator() const { return getpid() == creator_; }

int FaultedMemory::Create(int memfd, uint64_t first_page, uint64_t page_count, std::unique_ptr<FaultedMemory>* memory) {
  constexpr uint64_t kMaxPages = (uint64_t{1} << 62) / kPageBytes;
  if (page_count == 0 || page_count > kMaxPages || first_page > kMaxPages) return -EINVAL;
  std::unique_ptr<FaultedMemory> made(new FaultedMemory(page_count));
  const int result = made->Map(memfd, first_page);
  if (result == 0) *memory = std::move(made);
  return result;
}

int FaultedMemory::Map(int memfd, uint64_t first_page) {
  const uint64_t length = page_count_ * kPageBytes, offset = first_page * kPageBytes;
  memory_ = MapUntouched(memfd, offset, length);
  if (memory_ == nullptr) return -errno;
  source_ = MapUntouched(memfd, offset, length);
  if (source_ == nullptr) return -errno;
  if (madvise(memory_, length, MADV_DONTFORK) != 0 || madvise(source_, length, MADV_DONTFORK) != 0) return -errno;
  // Whether a dump of a crash shall have it or not, it must not wait for the server.
  if (madvise(memory_, length, MADV_DONTDUMP) != 0 || madvise(source_, length, MADV_DONTDUMP) != 0) return -errno;
  constexpr uint64_t kModes =
      UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR;
  faults_ = Watch(kFaultFeatures, memory_, length, kModes, &kernel_faults_);
  if (faults_ < 0) return faults_;
  bool source_kernel_faults;
  source_faults_ = Watch(kSourceFeatures, source_, length, UFFDIO_REGISTER_MODE_MISSING, &source_kernel_faults);
  if (source_faults_ < 0) return source_faults_;
  if (mprotect(memory_, length, PROT_READ | PROT_WRITE) != 0) return -errno;
  if (mprotect(source_, length, PROT_READ) != 0) return -errno;
  return 0;
}

bool FaultedMemory::NextFault(Fault* fault) {
  uffd_msg message;
  while (read(faults_, &message, sizeof(message)) == sizeof(message)) {
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    fault->page = (message.arg.pagefault.address - reinterpret_cast<uint64_t>(memory_)) / kPageBytes;
    fault->store = message.arg.pagefault.flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP);
    return true;
  }
  return false;
}

int FaultedMemory::MapShared(uint64_t first, uint64_t count) {
  const uffdio_range range = {reinterpret_cast<uint64_t>(page(first)), count * kPageBytes};
  for (;;) {
    uffdio_continue request = {range, kContinueWriteProtected, 0};
    if (ioctl(faults_, UFFDIO_CONTINUE, &request) == 0 || request.mapped > 0) return 0;
    if (errno == EAGAIN) continue;
    if (errno == EFAULT) return -ENODATA;
    if (errno != EEXIST) return -errno;
    Wake(first);
    return 0;
  }
}

int FaultedMemory::Copy(uint64_t index) {
  uffdio_copy request = {reinterpret_cast<uint64_t>(page(index)),
                         reinterpret_cast<uint64_t>(source_ + index * kPageBytes), kPageBytes,
                         UFFDIO_COPY_MODE_WP | UFFDIO_COPY_MODE_DONTWAKE, 0};
  while (ioctl(faults_, UFFDIO_COPY, &request) != 0) {
    if (errno != EAGAIN) return errno == EFAULT ? -ENODATA : -errno;
    request.copy = 0;
  }
  return 0;
}

int FaultedMemory::MakePrivate(uint64_t page) {
  const int result = Copy(page);
  if (result != -EEXIST) return result;
  Drop(page, 1);  // it was shared
  return Copy(page);
}

int FaultedMemory::SetProtection(uint64_t first, uint64_t count, uint64_t mode) {
  uffdio_writeprotect request = {{reinterpret_cast<uint64_t>(page(first)), count * kPageBytes}, mode};
  while (ioctl(faults_, UFFDIO_WRITEPROTECT, &request) != 0) {
    if (errno != EAGAIN) return -errno;
  }
  return 0;
}

int FaultedMemory::Protect(uint64_t first, uint64_t count) {
  return SetProtection(first, count, UFFDIO_WRITEPROTECT_MODE_WP);
}

int FaultedMemory::Release(uint64_t first, uint64_t count) { return SetProtection(first, count, 0); }

void FaultedMemory::Drop(uint64_t first, uint64_t count) { madvise(page(first), count * kPageBytes, MADV_DONTNEED); }

void FaultedMemory::Poison(uint64_t index) {
  // The kernel poisons only where there is nothing at all, not even the mark that a store has to wait.
  Drop(index, 1);
  SetProtection(index, 1, UFFDIO_WRITEPROTECT_MODE_DONTWAKE);
  PoisonRequest request = {{reinterpret_cast<uint64_t>(page(index)), kPageBytes}, 0, 0};
  while (ioctl(faults_, kPoisonIoctl, &request) != 0 && errno == EAGAIN) {
  }
  Wake(index);
}

void FaultedMemory::Wake(uint64_t index) {
  uffdio_range range = {reinterpret_cast<uint64_t>(page(index)), kPageBytes};
  ioctl(faults_, UFFDIO_WAKE, &range);
}

}  // namespace stagefs::dsa

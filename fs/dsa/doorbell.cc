#include "fs/dsa/doorbell.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace stagefs::dsa {
namespace {

constexpr size_t kPageBytes = 4096;

}  // namespace

int Doorbell::Create(std::unique_ptr<Doorbell>* doorbell) {
  const std::array<int, 3> descriptors = {memfd_create("stagefs-doorbell", MFD_CLOEXEC | MFD_ALLOW_SEALING),
                                          eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                                          eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  doorbell->reset(new Doorbell(kServer, descriptors));
  for (const int descriptor : descriptors) {
    if (descriptor < 0) return -EMFILE;
  }
  // Sealed: if the client could make it shorter, our next look at it would be a bus error.
  if (ftruncate(descriptors[0], kPageBytes) != 0 ||
      fcntl(descriptors[0], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return -errno;
  }
  return (*doorbell)->MapPage();
}

int Doorbell::Attach(const std::array<int, 3>& descriptors, std::unique_ptr<Doorbell>* doorbell) {
  doorbell->reset(new Doorbell(kClient, descriptors));
  struct stat page;
  if (fstat(descriptors[0], &page) != 0) return -errno;
  if (page.st_size != kPageBytes) return -EPROTO;
  return (*doorbell)->MapPage();
}

Doorbell::~Doorbell() {
  if (page_ != nullptr) munmap(page_, kPageBytes);
  for (const int descriptor : descriptors_) {
    if (descriptor >= 0) close(descriptor);
  }
}

int Doorbell::MapPage() {
  void* const page = mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptors_[0], 0);
  if (page == MAP_FAILED) return -errno;
  page_ = static_cast<Page*>(page);
  return 0;
}

void Doorbell::Announce() {
  announced_ = true;
  Asleep(side_).store(1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void Doorbell::Awake() {
  if (!std::exchange(announced_, false)) return;
  if (Asleep(side_).exchange(0, std::memory_order_relaxed) == 0) ++rings_due_;
  if (rings_due_ == 0) return;
  uint64_t rings;
  if (read(descriptor(), &rings, sizeof(rings)) == sizeof(rings)) rings_due_ -= std::min(rings_due_, rings);
}

void Doorbell::Ring() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const int other = 1 - side_;
  if (Asleep(other).load(std::memory_order_relaxed) == 0) return;
  // Once for each announcement: who rings takes it back.
  if (Asleep(other).exchange(0, std::memory_order_relaxed) == 0) return;
  const uint64_t one = 1;
  (void)!write(descriptors_[1 + other], &one, sizeof(one));
}

}  // namespace stagefs::dsa

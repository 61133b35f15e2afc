// FaultedMemory: an area of this process over a memfd of the server, whose faults come to us (userfaultfd) instead of
// being served by the kernel.
//
// Each page is in one of these states, and only the calls below take it from one to another:
//   * absent: an access waits, and its fault is read with NextFault();
//   * shared: the memfd's page, nothing copied; loads go on, a store waits and is a fault;
//   * private: a copy of its own, protected (a store waits and is a fault) or released (loads and stores go on);
//   * poisoned: any access is SIGBUS, or EFAULT in a system call. For good.
// When the server takes a page out of the memfd, the shared ones become absent; private ones stay.
//
// Invariant: a store is either into a released page, or it waits. The kernel by itself maps nothing here, not even
// pages that the memfd has (faults on those are asked for, too: UFFDIO_REGISTER_MODE_MINOR), so none is ever mapped
// without being watched.
//
// Linux 6.6 or newer. Without the privilege for more, only faults of the program itself are served: a system call then
// fails with EFAULT where it would have had to wait (see kernel_faults()).
//
// Errors are negative errno values. Thread-safe as far as the kernel is; who changes a page's state sees to it that
// nobody else does at the same time.

#ifndef STAGEFS_FS_DSA_CLIENT_FAULTED_MEMORY_H_
#define STAGEFS_FS_DSA_CLIENT_FAULTED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>

namespace stagefs::dsa {

class FaultedMemory {
 public:
  static constexpr uint64_t kPageBytes = 4096;

  struct Fault {
    uint64_t page = 0;
    bool store = false;
  };

  // Pages [first_page, first_page + page_count) of `memfd`, which must be at least that large and may be read-only; it
  // can be closed afterwards. All pages are absent. A child of fork() has nothing in their place. EOPNOTSUPP: the
  // kernel is too old; EPERM or ENOSYS: userfaultfd is forbidden here; EINVAL; ENOMEM and the like.
  static int Create(int memfd, uint64_t first_page, uint64_t page_count, std::unique_ptr<FaultedMemory>* memory);
  // In a child of fork() only closes the descriptors.
  ~FaultedMemory();
  FaultedMemory(const FaultedMemory&) = delete;
  FaultedMemory& operator=(const FaultedMemory&) = delete;

  std::byte* address() const { return memory_; }
  std::byte* page(uint64_t index) const { return memory_ + index * kPageBytes; }
  uint64_t page_count() const { return page_count_; }
  // Readable when there may be faults.
  int fault_descriptor() const { return faults_; }
  // Whether a system call with a pointer to an absent page waits for it, too.
  bool kernel_faults() const { return kernel_faults_; }
  // Whether this is the process that created it.
  bool InCreator() const;

  // False: there is none now. Never blocks.
  bool NextFault(Fault* fault);

  // Absent pages become shared, from `first` on, until the first that the memfd has not, or that is not absent. Who
  // waits for a page of them goes on. ENODATA: the memfd does not have the first one.
  int MapShared(uint64_t first, uint64_t count);
  // An absent or shared page becomes private and protected, with the memfd's bytes. ENODATA: the memfd does not have
  // it, and it is absent now. Wakes nobody.
  int MakePrivate(uint64_t page);
  // Of private pages. After Protect() no store to them is under way. Release() wakes who waits.
  int Protect(uint64_t first, uint64_t count);
  int Release(uint64_t first, uint64_t count);
  // Private pages become absent, and what they hold is lost: they must be protected.
  void Drop(uint64_t first, uint64_t count);
  // An absent or shared page becomes poisoned; who waits gets the signal.
  void Poison(uint64_t page);
  // Who waits tries again.
  void Wake(uint64_t page);

 private:
  explicit FaultedMemory(uint64_t page_count);
  int Map(int memfd, uint64_t first_page);
  int Copy(uint64_t page);
  int SetProtection(uint64_t first, uint64_t count, uint64_t mode);

  // Constant after Create().
  const uint64_t page_count_;
  const int creator_;          // process id
  std::byte* memory_ = nullptr;
  // The memfd once more, only for MakePrivate() to copy from: there a page that the memfd has not is an error, where
  // any other way to read would give zeros, or wait for ourselves.
  std::byte* source_ = nullptr;
  int faults_ = -1;
  int source_faults_ = -1;
  bool kernel_faults_ = false;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_FAULTED_MEMORY_H_

// Mapping: a range of a file in a program's memory. Loads see the pages that the server holds, without a copy; stores
// go to private copies of pages until Persist() makes the bytes that were changed one change of the file.
//
// The first store to a page makes the private copy and a *twin*, the page as it was before. What differs from the twin
// is what this program has changed, and nothing else is ever sent: programs that store to different bytes of a page
// both keep theirs. While a page has a private copy the changes of others to it are not seen; Persist() of all its
// changed bytes drops the copy, and the page shows what the server has. Memory: two pages for each page stored to and
// not persisted, a third one while it is being persisted.
//
// Invariants:
//   * A page is stored to only while it is in `changed_` and released; any other store waits as a fault for the thread
//     below (see FaultedMemory), which takes `mutex_`.
//   * A released page's private copy is never dropped, so no store is lost:
//     - Twin: the copy is made protected, the twin is taken from the copy, then it is released. Whatever happens to the
//       server's page meanwhile, copy and twin agree, and no store falls between them.
//     - Persist(): protects all pages first, then takes a snapshot of each: one moment's content. A store that comes
//       while the snapshot is being sent releases its page and marks it `stored_again`; under the same lock a page
//       without that mark is still protected and holds what was sent, so it can be dropped. A marked one stays, with
//       the snapshot's sent bytes as its new twin's: what was stored meanwhile differs from them and is sent next time.
//     - If sending failed, twins stay as they were: everything is sent again by the next Persist().
//   * Nothing is held while the backend works; stores then wait for nobody.
//
// If the backend cannot bring a page, whoever accesses it gets SIGBUS (EFAULT in a system call), as after an I/O error
// of any mapped file, and the page stays like that until it is mapped anew.
//
// System calls may be given pointers into the mapping (not without privilege, see FaultedMemory), but none that stores
// there must be under way in a range being persisted: where the kernel or a device writes to a page by its physical
// address, protection stops nobody. The program must not change the area itself (mprotect, mremap, madvise, munmap),
// nor touch it from a signal handler that may interrupt calls of this class. A child of fork() has nothing mapped
// there.
//
// Thread-safe, but for creation and destruction. Uses the C++ standard library alone: it is part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_MAPPING_H_
#define STAGEFS_FS_DSA_CLIENT_MAPPING_H_

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "fs/dsa/client/faulted_memory.h"

namespace stagefs::dsa {

// Bytes to be written to the file, at `offset` in it.
struct ChangedBytes {
  uint64_t offset = 0;
  const void* bytes = nullptr;
  uint64_t length = 0;
};

// How a mapping reaches the server. Called from any thread, several at a time; may block, but must come back, with an
// error if the server is gone. Must not touch the mapping's memory. Results are 0 or negative errno values.
class MappingBackend {
 public:
  virtual ~MappingBackend() = default;
  // The memfd has the first page of the file's [offset, offset + length), multiples of the page size, and if possible
  // the others, too. It may have lost them again when this returns.
  virtual int Populate(uint64_t offset, uint64_t length) = 0;
  // Makes all pieces one change. They are in ascending order, do not overlap, and stay as they are meanwhile.
  // When it returns the change is accepted, or durable with all before it, and the memfd shows it. Without pieces it
  // only makes durable what was accepted before.
  virtual int Persist(const std::vector<ChangedBytes>& pieces, bool durable, uint64_t* lsn) = 0;
};

class Mapping {
 public:
  static constexpr uint64_t kPageBytes = FaultedMemory::kPageBytes;
  static constexpr uint64_t kMaxPersistBytes = 16 << 20;

  // Maps [offset, offset + length) of the file whose content `memfd` has at the same place; `offset` is a multiple of
  // kPageBytes. `memfd` can be closed afterwards; `backend` must outlive the mapping. Errors: EINVAL, and those of
  // FaultedMemory::Create().
  static int Create(int memfd, uint64_t offset, uint64_t length, MappingBackend& backend,
                    std::unique_ptr<Mapping>* mapping);
  // Unmaps; what was not persisted is lost. Nobody may be using the memory. In a child of fork() nothing is unmapped.
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  void* address() const { return memory_->address(); }
  uint64_t length() const { return length_; }
  // Whether system calls may be given pointers into pages that were not accessed before.
  bool kernel_faults() const { return memory_->kernel_faults(); }

  // Makes the changed bytes of the mapping's [offset, offset + length) one change, accepted or `durable`, whose LSN
  // goes to `lsn` unless that is null; other bytes of the same pages stay unpersisted. If nothing was changed the LSN
  // is that of the latest change of this mapping (0: none). -EINVAL: the range is not in the mapping; -E2BIG: more than
  // kMaxPersistBytes have changed, and nothing was sent; else the backend's error. After an error everything is as
  // before, to be persisted again.
  int Persist(uint64_t offset, uint64_t length, bool durable, uint64_t* lsn);

 private:
  using Page = std::array<std::byte, kPageBytes>;
  struct Changed {
    std::unique_ptr<Page> twin;
    std::unique_ptr<Page> snapshot;  // while it is persisting
    bool stored_again = false;       // since the snapshot
  };
  using ChangedPages = std::map<uint64_t, Changed>;
  struct Sending;

  Mapping(uint64_t offset, uint64_t length, MappingBackend& backend);
  int Start(std::unique_ptr<FaultedMemory> memory);

  // --- The thread ---
  void ServeFaults();
  void Serve(const FaultedMemory::Fault& fault);
  // 0: whoever waits goes on. -ENODATA: the memfd does not have the page.
  int Resolve(const FaultedMemory::Fault& fault);
  int MakeStorable(uint64_t page);
  // How many pages to ask for when `page` is absent: more and more while faults come in sequence.
  uint64_t AskFor(uint64_t page);

  // --- Persist(), all with mutex_ held ---
  ChangedPages::iterator FirstIn(const Sending& sending);
  bool AnyPersisting(const Sending& sending);
  int Protect(Sending& sending);
  int Gather(Sending& sending);
  void GatherPage(uint64_t page, const Changed& changed, Sending& sending);
  void Finish(Sending& sending, bool sent);
  // What was sent is part of the twin now. Returns whether that is all that the snapshot has, which goes.
  static bool TakeOver(const Sending& sending, bool sent, uint64_t page, Changed& changed);

  // Constant after Create().
  const uint64_t offset_, length_;
  MappingBackend& backend_;
  std::unique_ptr<FaultedMemory> memory_;
  int stop_ = -1;  // an eventfd
  std::thread thread_;

  // The thread's own.
  uint64_t next_page_ = 0;
  uint64_t window_pages_ = 2;

  // Guards the states of all pages, and what follows.
  std::mutex mutex_;
  std::condition_variable persisted_;
  ChangedPages changed_;
  uint64_t latest_lsn_ = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_MAPPING_H_

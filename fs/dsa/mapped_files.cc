#include "fs/dsa/mapped_files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "fs/volume/errno.h"
#include "sal/check.h"
#include "sal/mapped_memory.h"
#include "sal/status_macros.h"

namespace stagefs::dsa {

using volume::ErrnoStatus;
using volume::Ino;

namespace {

constexpr uint64_t kFillPages = 64;
constexpr uint64_t kBufferBytes = kFillPages * MappedFiles::kPageBytes;
constexpr size_t kMaxReads = 8;
// As many are taken away in one go at most.
constexpr uint64_t kEvictPages = 64;

// In <linux/memfd.h> of Linux 6.3.
constexpr unsigned kNoExecSeal = 0x0008;

uint64_t PagesUpTo(uint64_t bytes) {
  return bytes / MappedFiles::kPageBytes + (bytes % MappedFiles::kPageBytes != 0 ? 1 : 0);
}

bool SaysHuge(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return absl::StrContains(line, "[always]") || absl::StrContains(line, "[within_size]") ||
         absl::StrContains(line, "[force]");
}

// Whether the kernel makes shared memory of huge pages without being asked to.
bool SharedMemoryIsHuge() {
  const std::string root = "/sys/kernel/mm/transparent_hugepage";
  if (SaysHuge(root + "/shmem_enabled")) return true;
  std::error_code error;
  for (const auto& size : std::filesystem::directory_iterator(root, error)) {
    if (SaysHuge(size.path().string() + "/shmem_enabled")) return true;
  }
  return false;
}

void Punch(int memfd, uint64_t first, uint64_t count) {
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const off_t offset = static_cast<off_t>(first * MappedFiles::kPageBytes);
  // It fails for no reason but a signal. What could not be taken away would be shown for ever.
  while (fallocate(memfd, kPunch, offset, static_cast<off_t>(count * MappedFiles::kPageBytes)) != 0) {
    STAGEFS_CHECK(errno == EINTR);
  }
}

// Whole pages: as long as the buffer is resident, the kernel shows each of them when it is complete.
absl::Status WritePages(int memfd, uint64_t offset, const std::byte* bytes, uint64_t size) {
  while (size > 0) {
    const ssize_t written = pwrite(memfd, bytes, size, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return ErrnoStatus(written < 0 ? errno : EIO, "writing to a memory file");
    offset += static_cast<uint64_t>(written);
    bytes += written;
    size -= static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

}  // namespace

class MappedFiles::Waiter {
 public:
  explicit Waiter(volume::StatusCallback done) : done_(std::move(done)) {}
  ~Waiter() { std::move(done_)(status_); }
  // Under mutex_.
  void Update(const absl::Status& status) { status_.Update(status); }

 private:
  volume::StatusCallback done_;
  absl::Status status_;
};

struct MappedFiles::File {
  File(Ino its_ino, int its_memfd, int its_shown) : ino(its_ino), memfd(its_memfd), shown(its_shown) {}
  ~File() {
    close(memfd);
    close(shown);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const Ino ino;
  const int memfd;
  const int shown;  // the same, read-only: for programs

  // Guarded by mutex_.
  uint64_t page_count = 0;
  uint64_t users = 0;
  bool unmapped = false;  // nothing is shown any more
  Pages present;
  absl::btree_map<uint64_t, FillRef> fills;  // by their first pages; no page is in two
};

// Pages that are being read from the volume, to be shown. Guarded by mutex_, but for `buffer` and `size`: they belong
// to the read, then to the pump.
struct MappedFiles::Fill {
  FileRef file;
  uint64_t first = 0, count = 0;
  bool begun = false;           // reading may have begun: what changes from now on may be missed
  std::vector<WaiterRef> now;   // for this pass
  std::vector<WaiterRef> next;  // for another one, after it
  std::byte* buffer = nullptr;
  absl::StatusOr<size_t> size = 0;

  uint64_t end() const { return first + count; }
};

MappedFiles::MappedFiles(volume::Volume& volume, Registry& registry, const Options& options)
    : volume_(volume),
      registry_(registry),
      max_pages_(std::max(options.memory_bytes, kMinMemoryBytes) / kPageBytes) {}

MappedFiles::~MappedFiles() {
  std::vector<Ino> viewed;
  {
    MutexLock lock(&mutex_);
    while (pumping_ || reads_ > 0 || !waiting_.empty()) idle_.Wait(&mutex_);
    for (const auto& [key, file] : files_) viewed.push_back(key.first);
    for (std::byte* const buffer : buffers_) sal::UnmapMemory(buffer, kBufferBytes);
  }
  for (const Ino ino : viewed) registry_.RemoveViewer(ino, this);
}

absl::StatusOr<MappedFiles::FileRef> MappedFiles::MakeFile(Ino ino) {
  if (SharedMemoryIsHuge()) {
    return ErrnoStatus(EOPNOTSUPP, "shared memory is made of huge pages: set shmem_enabled to never or advise");
  }
  const std::string name = absl::StrCat("stagefs-", ino);
  int memfd = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoExecSeal);
  if (memfd < 0 && errno == EINVAL) memfd = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (memfd < 0) return ErrnoStatus(errno, "creating a memory file");
  const int shown = open(absl::StrCat("/proc/self/fd/", memfd).c_str(), O_RDONLY | O_CLOEXEC);
  if (shown < 0) {
    const int error = errno;
    close(memfd);
    return ErrnoStatus(error, "opening a memory file once more");
  }
  auto file = std::make_shared<File>(ino, memfd, shown);
  if (fchmod(memfd, 0) != 0 || fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    return ErrnoStatus(errno, "sealing a memory file");
  }
  return file;
}

absl::StatusOr<int> MappedFiles::UseLocked(File& file, uint64_t end_bytes) {
  const uint64_t page_count = PagesUpTo(end_bytes);
  if (page_count > file.page_count) {
    if (ftruncate(file.memfd, static_cast<off_t>(page_count * kPageBytes)) != 0) {
      return ErrnoStatus(errno, "growing a memory file");
    }
    file.page_count = page_count;
  }
  const int descriptor = fcntl(file.shown, F_DUPFD_CLOEXEC, 0);
  if (descriptor < 0) return ErrnoStatus(errno, "duplicating a memory file's descriptor");
  ++file.users;
  return descriptor;
}

absl::StatusOr<int> MappedFiles::Map(Ino ino, User user, uint64_t offset, uint64_t length) {
  constexpr uint64_t kMaxEnd = volume::kMaxFileBytes / kPageBytes * kPageBytes;
  if (length == 0 || offset > kMaxEnd || length > kMaxEnd - offset) return ErrnoStatus(EINVAL);
  {
    MutexLock lock(&mutex_);
    const auto found = files_.find({ino, user});
    if (found != files_.end()) return UseLocked(*found->second, offset + length);
  }
  ASSIGN_OR_RETURN(const FileRef file, MakeFile(ino));
  registry_.AddViewer(ino, this);  // before anybody can ask for content
  bool added = false;
  const absl::StatusOr<int> descriptor = [&]() -> absl::StatusOr<int> {
    MutexLock lock(&mutex_);
    const auto found = files_.find({ino, user});
    if (found != files_.end()) return UseLocked(*found->second, offset + length);
    ASSIGN_OR_RETURN(const int made, UseLocked(*file, offset + length));
    files_[{ino, user}] = file;
    added = true;
    return made;
  }();
  if (!added) registry_.RemoveViewer(ino, this);
  return descriptor;
}

void MappedFiles::Unmap(Ino ino, User user) {
  bool pump;
  {
    MutexLock lock(&mutex_);
    const auto found = files_.find({ino, user});
    STAGEFS_CHECK(found != files_.end());
    if (--found->second->users > 0) return;
    found->second->unmapped = true;
    unmapped_.push_back(std::move(found->second));
    files_.erase(found);
    pump = BeginPumpLocked();
  }
  registry_.RemoveViewer(ino, this);
  if (pump) Pump();
}

MappedFiles::FillRef MappedFiles::FillAt(const File& file, uint64_t page) {
  auto behind = file.fills.upper_bound(page);
  if (behind == file.fills.begin()) return nullptr;
  const FillRef& fill = std::prev(behind)->second;
  return page < fill->end() ? fill : nullptr;
}

void MappedFiles::FillPageLocked(const FileRef& file, uint64_t page, const WaiterRef& waiter) {
  const FillRef before = page == 0 ? nullptr : FillAt(*file, page - 1);
  if (before != nullptr && !before->begun && before->count < kFillPages) {
    ++before->count;
    if (before->now.empty() || before->now.back() != waiter) before->now.push_back(waiter);
    return;
  }
  auto fill = std::make_shared<Fill>();
  fill->file = file;
  fill->first = page;
  fill->count = 1;
  fill->now.push_back(waiter);
  file->fills[page] = fill;
  waiting_.push_back(std::move(fill));
}

void MappedFiles::Populate(Ino ino, User user, uint64_t offset, uint64_t length, volume::StatusCallback done) {
  auto waiter = std::make_shared<Waiter>(std::move(done));
  bool pump = false;
  {
    MutexLock lock(&mutex_);
    const auto found = files_.find({ino, user});
    const uint64_t page_count = found == files_.end() ? 0 : found->second->page_count;
    if (length == 0 || offset / kPageBytes >= page_count) {
      waiter->Update(ErrnoStatus(EINVAL));
    } else {
      const FileRef& file = found->second;
      const uint64_t bytes = std::min(length, kMaxPopulateBytes), first = offset / kPageBytes;
      const uint64_t end = std::min(PagesUpTo(offset + bytes), page_count);
      for (uint64_t page = first; page < end; ++page) {
        if (file->present.contains(page)) continue;
        const FillRef fill = FillAt(*file, page);
        if (fill == nullptr) {
          FillPageLocked(file, page, waiter);
        } else if (fill->now.empty() || fill->now.back() != waiter) {
          fill->now.push_back(waiter);
        }
      }
      pump = BeginPumpLocked();
    }
  }
  waiter.reset();
  if (pump) Pump();
}

void MappedFiles::RefreshLocked(const FileRef& file, uint64_t first, uint64_t end, const WaiterRef& waiter) {
  const FillRef at_first = FillAt(*file, first);
  auto under_way = at_first != nullptr ? file->fills.find(at_first->first) : file->fills.lower_bound(first);
  for (; under_way != file->fills.end() && under_way->first < end; ++under_way) {
    Fill& fill = *under_way->second;
    (fill.begun ? fill.next : fill.now).push_back(waiter);
  }
  for (auto page = file->present.lower_bound(first); page != file->present.end() && page->first < end; ++page) {
    if (FillAt(*file, page->first) == nullptr) FillPageLocked(file, page->first, waiter);
  }
}

void MappedFiles::ContentChanged(Ino ino, uint64_t offset, uint64_t length, volume::Sharing::Done done) {
  // If the content cannot be read the page is taken away, which is not the old content either.
  auto waiter = std::make_shared<Waiter>([done = std::move(done)](absl::Status) mutable { std::move(done)(); });
  bool pump;
  {
    MutexLock lock(&mutex_);
    const uint64_t end = length == 0 || length > UINT64_MAX - offset ? UINT64_MAX : PagesUpTo(offset + length);
    for (auto file = files_.lower_bound({ino, 0}); file != files_.end() && file->first.first == ino; ++file) {
      RefreshLocked(file->second, offset / kPageBytes, end, waiter);
    }
    pump = BeginPumpLocked();
  }
  waiter.reset();
  if (pump) Pump();
}

uint64_t MappedFiles::present_bytes() const {
  MutexLock lock(&mutex_);
  return oldest_.size() * kPageBytes;
}

bool MappedFiles::BeginPumpLocked() {
  if (pumping_) return false;
  pumping_ = true;
  return true;
}

void MappedFiles::Pump() {
  while (PumpOnce()) {
  }
}

bool MappedFiles::PumpOnce() {
  enum class Task { kShow, kDiscard, kEvict, kRead } task;
  FillRef fill;
  FileRef file;
  {
    MutexLock lock(&mutex_);
    if (!read_.empty()) {
      task = Task::kShow;
      fill = std::move(read_.front());
      read_.pop_front();
    } else if (!unmapped_.empty()) {
      task = Task::kDiscard;
      file = std::move(unmapped_.front());
      unmapped_.pop_front();
    } else if (oldest_.size() > max_pages_) {
      task = Task::kEvict;
    } else if (!waiting_.empty() && reads_ < kMaxReads) {
      task = Task::kRead;
      fill = std::move(waiting_.front());
      waiting_.pop_front();
      fill->begun = true;
      fill->buffer = TakeBufferLocked();
      ++reads_;
    } else {
      pumping_ = false;
      idle_.SignalAll();
      return false;
    }
  }
  switch (task) {
    case Task::kShow:
      Show(fill);
      break;
    case Task::kDiscard:
      Discard(file);
      break;
    case Task::kEvict:
      Evict();
      break;
    case Task::kRead:
      StartRead(fill);
      break;
  }
  return true;
}

std::byte* MappedFiles::TakeBufferLocked() {
  if (!buffers_.empty()) {
    std::byte* const buffer = buffers_.back();
    buffers_.pop_back();
    return buffer;
  }
  std::byte* const buffer = sal::MapMemory(kBufferBytes);
  if (buffer == nullptr) return nullptr;
  mlock(buffer, kBufferBytes);  // if that may not be, the kernel keeps what is being used
  return buffer;
}

void MappedFiles::StartRead(const FillRef& fill) {
  if (fill->buffer == nullptr) return ReadDone(fill, ErrnoStatus(ENOMEM));
  volume_.Read(fill->file->ino, fill->first * kPageBytes, absl::MakeSpan(fill->buffer, fill->count * kPageBytes),
               [this, fill](absl::StatusOr<size_t> size) { ReadDone(fill, std::move(size)); });
}

void MappedFiles::ReadDone(const FillRef& fill, absl::StatusOr<size_t> size) {
  bool pump;
  {
    MutexLock lock(&mutex_);
    fill->size = std::move(size);
    read_.push_back(fill);
    pump = BeginPumpLocked();
    // Without the pump nothing of `this` is touched from here on: it may be gone.
  }
  if (pump) Pump();
}

void MappedFiles::Show(const FillRef& fill) {
  const uint64_t bytes = fill->count * kPageBytes;
  absl::Status status = fill->size.status();
  {
    // It may be discarded already. If it is unmapped from now on, discarding follows.
    MutexLock lock(&mutex_);
    if (fill->file->unmapped) status.Update(ErrnoStatus(ESTALE));
  }
  if (status.ok()) {
    if (*fill->size < bytes) memset(fill->buffer + *fill->size, 0, bytes - *fill->size);
    status = WritePages(fill->file->memfd, fill->first * kPageBytes, fill->buffer, bytes);
  }
  if (!status.ok()) Punch(fill->file->memfd, fill->first, fill->count);
  std::vector<WaiterRef> over;
  MutexLock lock(&mutex_);
  over = EndPassLocked(fill, status);
}

std::vector<MappedFiles::WaiterRef> MappedFiles::EndPassLocked(const FillRef& fill, const absl::Status& status) {
  File& file = *fill->file;
  --reads_;
  if (fill->buffer != nullptr) buffers_.push_back(std::exchange(fill->buffer, nullptr));
  if (!status.ok()) ForgetLocked(file, fill->first, fill->end());
  for (uint64_t page = fill->first; status.ok() && page < fill->end(); ++page) {
    const auto [place, is_new] = file.present.try_emplace(page);
    if (is_new) place->second = oldest_.insert(oldest_.end(), {&file, page});
  }
  std::vector<WaiterRef> over = std::move(fill->now);
  for (const WaiterRef& waiter : over) waiter->Update(status);
  fill->now = std::exchange(fill->next, {});
  if (fill->now.empty()) {
    file.fills.erase(fill->first);
  } else {
    fill->begun = false;
    waiting_.push_back(fill);
  }
  return over;
}

void MappedFiles::Evict() {
  File* file;
  uint64_t first, count = 1;
  {
    MutexLock lock(&mutex_);
    const uint64_t excess = std::min(oldest_.size() - max_pages_, kEvictPages);
    auto next = oldest_.begin();
    file = next->first;
    first = next->second;
    while (count < excess && ++next != oldest_.end() && next->first == file && next->second == first + count) ++count;
  }
  // Until they are gone they count as present, so that a change of them waits (and brings them back).
  Punch(file->memfd, first, count);
  MutexLock lock(&mutex_);
  ForgetLocked(*file, first, first + count);
}

void MappedFiles::Discard(const FileRef& file) {
  uint64_t page_count;
  {
    MutexLock lock(&mutex_);
    page_count = file->page_count;
  }
  Punch(file->memfd, 0, page_count);
  MutexLock lock(&mutex_);
  ForgetLocked(*file, 0, page_count);
}

void MappedFiles::ForgetLocked(File& file, uint64_t first, uint64_t end) {
  auto page = file.present.lower_bound(first);
  while (page != file.present.end() && page->first < end) {
    oldest_.erase(page->second);
    page = file.present.erase(page);
  }
}

}  // namespace stagefs::dsa

#include "fs/volume/sharing.h"

#include <errno.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "fs/volume/errno.h"
#include "sal/check.h"

namespace stagefs::volume {
namespace {

// Runs `done` when the last of `parts` has been called.
class Joined {
 public:
  Joined(size_t parts, Sharing::Done done) : left_(parts), done_(std::move(done)) {}

  static Sharing::Done Part(const std::shared_ptr<Joined>& joined) {
    return [joined] {
      if (joined->left_.fetch_sub(1, std::memory_order_acq_rel) == 1) std::move(joined->done_)();
    };
  }

 private:
  std::atomic<size_t> left_;
  Sharing::Done done_;
};

}  // namespace

void Sharing::SetKernelCache(KernelCache* cache) {
  MutexLock lock(&mutex_);
  kernel_cache_ = cache;
  while (kernel_calls_ > 0) kernel_calls_ended_.Wait(&mutex_);
  if (cache != nullptr) return;
  // A mount that was aborted has sent no RELEASE for its open files.
  for (auto use = uses_.begin(); use != uses_.end();) {
    use->second.mount_readers = use->second.mount_writers = 0;
    EraseIfIdle(use++);
  }
}

Sharing::KernelCache* Sharing::BeginKernelCall() {
  if (kernel_cache_ != nullptr) ++kernel_calls_;
  return kernel_cache_;
}

void Sharing::EndKernelCall() {
  MutexLock lock(&mutex_);
  if (--kernel_calls_ == 0) kernel_calls_ended_.SignalAll();
}

void Sharing::EraseIfIdle(Uses::iterator use) {
  if (use->second.idle()) uses_.erase(use);
}

void Sharing::AddViewer(Ino ino, Viewer* viewer) {
  MutexLock lock(&mutex_);
  viewers_.fetch_add(1);
  std::vector<Looking>& viewers = uses_[ino].viewers;
  for (Looking& looking : viewers) {
    if (looking.viewer == viewer) {
      ++looking.times;
      return;
    }
  }
  viewers.push_back({viewer, 1});
}

void Sharing::RemoveViewer(Ino ino, Viewer* viewer) {
  MutexLock lock(&mutex_);
  const auto use = uses_.find(ino);
  STAGEFS_CHECK(use != uses_.end());
  std::vector<Looking>& viewers = use->second.viewers;
  const auto looking =
      std::find_if(viewers.begin(), viewers.end(), [viewer](const Looking& one) { return one.viewer == viewer; });
  STAGEFS_CHECK(looking != viewers.end());
  if (--looking->times == 0) viewers.erase(looking);
  viewers_.fetch_sub(1);
  EraseIfIdle(use);
}

absl::Status Sharing::Open(Ino ino, const Opener& opener) {
  MutexLock lock(&mutex_);
  const auto use_at = uses_.try_emplace(ino).first;
  Use& use = use_at->second;
  if (opener.door == Door::kMount) {
    if (opener.writes && use.exclusive_direct_writers > 0) {
      return ErrnoStatus(EBUSY, "open for direct writing, which excludes writers at the mount");
    }
    ++(opener.writes ? use.mount_writers : use.mount_readers);
    return absl::OkStatus();
  }
  if (!opener.writes) {
    ++use.direct_readers;
    return absl::OkStatus();
  }
  if (!opener.shared && use.mount_writers > 0) {
    EraseIfIdle(use_at);
    return ErrnoStatus(EBUSY, "open for writing at the mount, which excludes a direct writer that does not share");
  }
  if (!use.directly_written()) directly_written_files_.fetch_add(1);
  ++use.direct_writers;
  if (!opener.shared) ++use.exclusive_direct_writers;
  return absl::OkStatus();
}

void Sharing::Close(Ino ino, const Opener& opener) {
  KernelCache* cache = nullptr;
  {
    MutexLock lock(&mutex_);
    const auto use_at = uses_.find(ino);
    STAGEFS_CHECK(use_at != uses_.end());
    Use& use = use_at->second;
    uint32_t& count = opener.door == Door::kMount ? (opener.writes ? use.mount_writers : use.mount_readers)
                                                  : (opener.writes ? use.direct_writers : use.direct_readers);
    STAGEFS_CHECK(count > 0);
    --count;
    const bool direct_writer = opener.door == Door::kDirect && opener.writes;
    if (direct_writer && !opener.shared) {
      STAGEFS_CHECK(use.exclusive_direct_writers > 0);
      --use.exclusive_direct_writers;
    }
    if (direct_writer && count == 0) {
      cache = BeginKernelCall();
      if (cache != nullptr) ++use.endings;
      if (!use.directly_written()) directly_written_files_.fetch_sub(1);
    }
    EraseIfIdle(use_at);
  }
  if (cache != nullptr) EndDirectWriting(ino, cache);
}

// While it had no open file, the kernel was told of no change; what it kept from an earlier one would look fresh to an
// open() after DirectlyWritten() has become false.
void Sharing::EndDirectWriting(Ino ino, KernelCache* cache) {
  cache->DropContent(ino, 0, 0, [this, ino] {
    MutexLock lock(&mutex_);
    const auto use = uses_.find(ino);
    --use->second.endings;
    if (!use->second.directly_written()) directly_written_files_.fetch_sub(1);
    EraseIfIdle(use);
  });
  EndKernelCall();
}

bool Sharing::DirectlyWritten(Ino ino) const {
  if (directly_written_files_.load() == 0) return false;
  MutexLock lock(&mutex_);
  const auto use = uses_.find(ino);
  return use != uses_.end() && use->second.directly_written();
}

void Sharing::DirectWritingBegins(Ino ino, Done done) {
  mutex_.Lock();
  KernelCache* const cache = BeginKernelCall();
  mutex_.Unlock();
  if (cache == nullptr) return std::move(done)();
  cache->DropContent(ino, 0, 0, std::move(done));
  EndKernelCall();
}

// Why the kernel need not hear of a direct change to a file that is not open at the mount: the mount counts its opener
// here before it looks whether to keep pages (DirectlyWritten). If he was counted before our look, the kernel hears.
// If after, it also sees the direct writer, who was counted before he wrote; so the kernel drops at that open() what it
// had, and reads what the volume has, which is the change and more. What it keeps of attributes meanwhile has no
// validity beyond the answer that brought them.
void Sharing::Changed(Ino ino, uint64_t offset, uint64_t length, Door door, Done done) {
  // A viewer who is added after this look reads the volume later than that, and so finds the change.
  if (door == Door::kMount && viewers_.load() == 0) return std::move(done)();
  KernelCache* cache = nullptr;
  std::vector<Looking> viewers;
  mutex_.Lock();
  const auto use = uses_.find(ino);
  if (use != uses_.end()) {
    if (door == Door::kDirect && use->second.mount_readers + use->second.mount_writers > 0) cache = BeginKernelCall();
    viewers = use->second.viewers;
  }
  mutex_.Unlock();
  const size_t hearers = viewers.size() + (cache != nullptr ? 1 : 0);
  if (hearers == 0) return std::move(done)();
  const auto joined = std::make_shared<Joined>(hearers, std::move(done));
  if (cache != nullptr) {
    cache->DropContent(ino, offset, length, Joined::Part(joined));
    EndKernelCall();
  }
  for (const Looking& one : viewers) one.viewer->ContentChanged(ino, offset, length, Joined::Part(joined));
}

// Only the kernel remembers names, and of its own doing it knows.
void Sharing::NameChanged(Ino directory, absl::string_view name, Door door, Done done) {
  KernelCache* cache = nullptr;
  if (door == Door::kDirect) {
    mutex_.Lock();
    cache = BeginKernelCall();
    mutex_.Unlock();
  }
  if (cache == nullptr) return std::move(done)();
  cache->DropName(directory, name, std::move(done));
  EndKernelCall();
}

}  // namespace stagefs::volume

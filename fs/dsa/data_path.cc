#include "fs/dsa/data_path.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/dsa/fabric.h"
#include "fs/dsa/queue_server.h"
#include "fs/volume/errno.h"
#include "sal/check.h"

namespace stagefs::dsa {
namespace {

using Task = absl::AnyInvocable<void() &&>;

constexpr int kLongestSleepMs = 1000;
// Nothing tells when a client has made room for what was held back.
constexpr int kRetryAfterMs = 1;

uint64_t NowNs() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

uint64_t NewToken() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

class DataPathImpl : public DataPath {
 public:
  DataPathImpl(volume::Volume& volume, volume::Sharing& sharing, ClientHandles& handles,
               const DataPathOptions& options, std::unique_ptr<Fabric> fabric)
      : options_(options),
        fabric_(std::move(fabric)),
        wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        context_{.volume = volume,
                 .sharing = sharing,
                 .handles = handles,
                 .options = options_,
                 .buffers = {},
                 .held_bytes = 0,
                 .post = [this](Task task) { Post(std::move(task)); },
                 .is_here = [this] { return std::this_thread::get_id() == thread_id_; }} {
    STAGEFS_CHECK(wake_fd_ >= 0);
    thread_ = std::thread([this] { Run(); });
  }
  ~DataPathImpl() override {
    Post([this] { stopping_ = true; });
    thread_.join();
    close(wake_fd_);
  }

  void AddQueue(uint32_t depth, std::vector<std::byte> client_name, QueueCallback done) override {
    Post([this, depth, client_name = std::move(client_name), done = std::move(done)]() mutable {
      std::move(done)(MakeQueue(depth, client_name));
    });
  }

  void RemoveQueue(uint32_t queue, absl::AnyInvocable<void(absl::Status) &&> done) override {
    Post([this, queue, done = std::move(done)]() mutable {
      const auto found = queues_.find(queue);
      if (found == queues_.end()) return std::move(done)(volume::ErrnoStatus(ENOENT, "There is no such queue"));
      DropQueue(found->first);
      std::move(done)(absl::OkStatus());
    });
  }

 private:
  // All under the lock: when the thread has taken the last task it ends, and this object with it.
  void Post(Task task) {
    MutexLock lock(&mutex_);
    tasks_.push_back(std::move(task));
    posted_.store(true, std::memory_order_seq_cst);
    if (!asleep_.load(std::memory_order_seq_cst)) return;
    const uint64_t one = 1;
    (void)!write(wake_fd_, &one, sizeof(one));
  }

  void Run() {
    thread_id_ = std::this_thread::get_id();
    pthread_setname_np(pthread_self(), "dsa-queues");
    uint64_t last_work_ns = NowNs();
    while (true) {
      if (PollAll() > 0) {
        last_work_ns = NowNs();
        continue;
      }
      if (stopping_ && DropAll()) return;
      // Who waits for the store only keeps the CPU from those that the store waits for.
      if (WaitsForVolume() || NowNs() - last_work_ns > options_.spin_ns) {
        Sleep();
        last_work_ns = NowNs();
      }
    }
  }

  // How much there was to do.
  int PollAll() {
    int count = RunTasks();
    uint32_t broken = 0;
    for (const auto& [id, queue] : queues_) {
      count += queue->Poll();
      if (queue->broken()) broken = id;
    }
    if (broken != 0) {
      DropQueue(broken);
      if (options_.queue_broken) options_.queue_broken(broken);
    }
    std::erase_if(dropped_, [](const std::unique_ptr<QueueServer>& queue) { return !queue->busy(); });
    return count;
  }

  bool HeldBack() const {
    return std::any_of(queues_.begin(), queues_.end(), [](const auto& queue) { return queue.second->held_back(); });
  }

  bool WaitsForVolume() const {
    return std::any_of(queues_.begin(), queues_.end(), [](const auto& queue) { return queue.second->busy(); });
  }

  int RunTasks() {
    if (!posted_.load(std::memory_order_relaxed)) return 0;
    posted_.store(false, std::memory_order_seq_cst);
    std::vector<Task> tasks;
    {
      MutexLock lock(&mutex_);
      tasks.swap(tasks_);
    }
    for (Task& task : tasks) std::move(task)();
    return static_cast<int>(tasks.size());
  }

  // Until a message, a task or, at the latest, a second. Announces first and then looks once more, so that nothing is
  // slept through.
  void Sleep() {
    std::vector<pollfd> waits = {{wake_fd_, POLLIN, 0}};
    asleep_.store(true, std::memory_order_seq_cst);
    for (const auto& [id, queue] : queues_) {
      if (queue->doorbell() != nullptr) queue->doorbell()->Announce();
    }
    bool may_sleep = !posted_.load(std::memory_order_seq_cst) && PollAll() == 0;
    for (const auto& [id, queue] : queues_) {
      if (queue->doorbell() != nullptr) {
        waits.push_back({queue->doorbell()->descriptor(), POLLIN, 0});
      } else {
        may_sleep = may_sleep && queue->endpoint().MaySleep();
        waits.push_back({queue->endpoint().wait_descriptor(), POLLIN, 0});
      }
    }
    if (may_sleep) (void)poll(waits.data(), waits.size(), HeldBack() ? kRetryAfterMs : kLongestSleepMs);
    asleep_.store(false, std::memory_order_relaxed);
    uint64_t ignored;
    (void)!read(wake_fd_, &ignored, sizeof(ignored));
    for (const auto& [id, queue] : queues_) {
      if (queue->doorbell() != nullptr) queue->doorbell()->Awake();
    }
  }

  absl::StatusOr<QueueGrant> MakeQueue(uint32_t depth, const std::vector<std::byte>& client_name) {
    if (depth == 0 || depth > kMaxDepth) {
      return volume::ErrnoStatus(EINVAL, absl::StrCat("The depth of a queue is 1 to ", kMaxDepth));
    }
    if (queues_.size() >= options_.max_queues) {
      return volume::ErrnoStatus(EMFILE, absl::StrCat("A client may have ", options_.max_queues, " queues"));
    }
    auto queue = std::make_unique<QueueServer>(context_, depth, NewToken());
    std::string error;
    if (const int code = queue->Open(*fabric_, client_name, &error); code != 0) {
      queue->Drop();
      return volume::ErrnoStatus(-code, error);
    }
    QueueGrant grant;
    grant.queue = next_queue_++;
    grant.token = queue->token();
    grant.name = queue->name();
    if (queue->doorbell() != nullptr) {
      for (size_t i = 0; i < grant.descriptors.size(); ++i) {
        grant.descriptors[i] = fcntl(queue->doorbell()->descriptors()[i], F_DUPFD_CLOEXEC, 0);
        if (grant.descriptors[i] >= 0) continue;
        for (const int descriptor : grant.descriptors) {
          if (descriptor >= 0) close(descriptor);
        }
        queue->Drop();
        return volume::ErrnoStatus(EMFILE, "The server has no descriptors left");
      }
    }
    queues_.emplace(grant.queue, std::move(queue));
    return grant;
  }

  void DropQueue(uint32_t id) {
    const auto found = queues_.find(id);
    found->second->Drop();
    dropped_.push_back(std::move(found->second));
    queues_.erase(found);
  }

  // Whether nothing is left.
  bool DropAll() {
    while (!queues_.empty()) DropQueue(queues_.begin()->first);
    std::erase_if(dropped_, [](const std::unique_ptr<QueueServer>& queue) { return !queue->busy(); });
    return dropped_.empty();
  }

  // Constant after construction.
  const DataPathOptions options_;
  const std::unique_ptr<Fabric> fabric_;
  const int wake_fd_;
  std::thread thread_;

  // The thread's.
  std::thread::id thread_id_;
  DataContext context_;
  bool stopping_ = false;
  uint32_t next_queue_ = 1;
  absl::flat_hash_map<uint32_t, std::unique_ptr<QueueServer>> queues_;
  std::vector<std::unique_ptr<QueueServer>> dropped_;  // the volume still has something of them

  std::atomic<bool> posted_ = false, asleep_ = false;
  Mutex mutex_;
  std::vector<Task> tasks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

OpenFile::~OpenFile() {
  volume_.Release(ino_);
  sharing_.Close(ino_, opener_);
}

Memory::~Memory() {
  if (gone_ != nullptr) std::move(gone_)();
}

absl::StatusOr<std::unique_ptr<DataPath>> DataPath::Start(volume::Volume& volume, volume::Sharing& sharing,
                                                          ClientHandles& handles, const DataPathOptions& options) {
  std::unique_ptr<Fabric> fabric;
  std::string error;
  if (const int code = Fabric::Open(options.provider, options.address, &fabric, &error); code != 0) {
    return volume::ErrnoStatus(-code, error);
  }
  return std::make_unique<DataPathImpl>(volume, sharing, handles, options, std::move(fabric));
}

}  // namespace stagefs::dsa

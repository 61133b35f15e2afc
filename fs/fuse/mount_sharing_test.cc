// What a program sees on a mount when files are changed through another door, and what that door sees of the mount.
//
// The other door is played in the server's process by DirectDoor, on orders that come through a socket.

#include <dirent.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "fs/fuse/testing/mounted_test.h"
#include "fs/volume/errno.h"
#include "fs/volume/sharing.h"
#include "sal/check.h"
#include "sal/mutex.h"

namespace stagefs::fuse::testing {
namespace {

using volume::Ino;
using volume::Sharing;

constexpr size_t kMaxBytes = 64 << 10;

enum class Action : uint32_t { kOpen, kClose, kWrite, kTruncate, kCreate, kLook, kLookAway, kSeen };

struct Order {
  Action action;
  uint32_t shared = 0;
  Ino ino = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
  char bytes[kMaxBytes] = {};
};

struct Result {
  int32_t error = 0;
  uint64_t offset = 0, length = 0;
};

// A result that a callback brings, and a thread waits for.
class Awaited {
 public:
  absl::AnyInvocable<void(absl::Status) &&> Taker() {
    return [this](absl::Status status) { Take(status); };
  }
  template <typename T>
  absl::AnyInvocable<void(absl::StatusOr<T>) &&> TakerOf() {
    return [this](absl::StatusOr<T> result) { Take(result.status()); };
  }
  Sharing::Done Done() {
    return [this] { Take(absl::OkStatus()); };
  }
  int Wait() {
    MutexLock lock(&mutex_);
    while (!error_.has_value()) taken_.Wait(&mutex_);
    return *error_;
  }

 private:
  void Take(const absl::Status& status) {
    MutexLock lock(&mutex_);
    error_ = volume::ToErrno(status);
    taken_.SignalAll();
  }
  Mutex mutex_;
  CondVar taken_;
  std::optional<int> error_ ABSL_GUARDED_BY(mutex_);
};

// In the server's process: does what direct access does with a volume and Sharing.
class DirectDoor final : public VolumeHolder, public Sharing::Viewer {
 public:
  explicit DirectDoor(int orders_fd) : orders_fd_(orders_fd), holder_(OpenTestVolume()) {
    std::thread([this] { Serve(); }).detach();  // ends with the process
  }
  volume::Volume& volume() override { return holder_->volume(); }
  Sharing* sharing() override { return &sharing_; }

  void ContentChanged(Ino, uint64_t offset, uint64_t length, Sharing::Done done) override {
    {
      MutexLock lock(&mutex_);
      seen_offset_ = offset;
      seen_length_ = length;
    }
    std::move(done)();
  }

 private:
  void Serve() {
    auto order = std::make_unique<Order>();
    while (recv(orders_fd_, order.get(), sizeof(*order), 0) > 0) {
      Result result;
      result.error = Carry(*order, &result);
      STAGEFS_CHECK(send(orders_fd_, &result, sizeof(result), 0) == sizeof(result));
    }
  }

  int Carry(const Order& order, Result* result) {
    switch (order.action) {
      case Action::kOpen: return Open(order);
      case Action::kClose: return Close(order);
      case Action::kWrite: return Write(order);
      case Action::kTruncate: return Truncate(order);
      case Action::kCreate: return Create(order);
      case Action::kLook: return sharing_.AddViewer(order.ino, this), 0;
      case Action::kLookAway: return sharing_.RemoveViewer(order.ino, this), 0;
      case Action::kSeen: {
        MutexLock lock(&mutex_);
        result->offset = std::exchange(seen_offset_, 0);
        result->length = std::exchange(seen_length_, 0);
        return 0;
      }
    }
    return EINVAL;
  }

  static Sharing::Opener Opener(const Order& order) { return {Sharing::Door::kDirect, true, order.shared != 0}; }

  int Open(const Order& order) {
    if (const absl::Status counted = sharing_.Open(order.ino, Opener(order)); !counted.ok()) {
      return volume::ToErrno(counted);
    }
    Awaited opened, begun;
    volume().Open(order.ino, /*truncate=*/false, opened.TakerOf<volume::Attributes>());
    STAGEFS_CHECK(opened.Wait() == 0);
    sharing_.DirectWritingBegins(order.ino, begun.Done());
    return begun.Wait();
  }

  int Close(const Order& order) {
    volume().Release(order.ino);
    sharing_.Close(order.ino, Opener(order));
    return 0;
  }

  int Write(const Order& order) {
    Awaited written, told;
    volume().Write(order.ino, order.offset,
                   absl::MakeConstSpan(reinterpret_cast<const std::byte*>(order.bytes), order.size), false,
                   written.TakerOf<size_t>());
    if (const int error = written.Wait(); error != 0) return error;
    sharing_.Changed(order.ino, order.offset, order.size, Sharing::Door::kDirect, told.Done());
    return told.Wait();
  }

  int Truncate(const Order& order) {
    Awaited changed, told;
    volume::AttributeChange change;
    change.size_bytes = order.size;
    volume().SetAttributes(order.ino, change, changed.TakerOf<volume::Attributes>());
    if (const int error = changed.Wait(); error != 0) return error;
    sharing_.Changed(order.ino, order.size, 0, Sharing::Door::kDirect, told.Done());
    return told.Wait();
  }

  // In the directory `ino`, by the name `bytes`.
  int Create(const Order& order) {
    Awaited made, told;
    volume::NewFile file;
    file.mode = S_IFREG | 0644;
    volume().Create(order.ino, order.bytes, file, /*open=*/false, made.TakerOf<volume::Attributes>());
    if (const int error = made.Wait(); error != 0) return error;
    sharing_.NameChanged(order.ino, order.bytes, Sharing::Door::kDirect, told.Done());
    return told.Wait();
  }

  const int orders_fd_;
  const std::unique_ptr<VolumeHolder> holder_;
  Sharing sharing_;
  Mutex mutex_;
  uint64_t seen_offset_ ABSL_GUARDED_BY(mutex_) = 0, seen_length_ ABSL_GUARDED_BY(mutex_) = 0;
};

class MountSharingTest : public MountedTest {
 protected:
  static void SetUpTestSuite() {
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    const int theirs = fds[1];
    mount_ = std::make_unique<ServedMount>([theirs] { return std::make_unique<DirectDoor>(theirs); }, "");
    orders_fd_ = fds[0];
    close(theirs);
  }
  static void TearDownTestSuite() {
    MountedTest::TearDownTestSuite();
    close(orders_fd_);
  }

  static Result Give(const Order& order) {
    Result result;
    EXPECT_EQ(send(orders_fd_, &order, sizeof(order), 0), static_cast<ssize_t>(sizeof(order))) << errno;
    EXPECT_EQ(recv(orders_fd_, &result, sizeof(result), 0), static_cast<ssize_t>(sizeof(result))) << errno;
    return result;
  }

  static int OpenDirectly(Ino ino, bool shared = false) { return Give({Action::kOpen, shared, ino}).error; }
  // As soon as the RELEASE of who had it open for writing has come, which close(2) does not wait for.
  static void OpenDirectlyWhenReleased(Ino ino) {
    int error;
    while ((error = OpenDirectly(ino)) == EBUSY) sched_yield();
    EXPECT_EQ(error, 0);
  }
  static void CloseDirectly(Ino ino, bool shared = false) { EXPECT_EQ(Give({Action::kClose, shared, ino}).error, 0); }
  static void WriteDirectly(Ino ino, uint64_t offset, absl::string_view bytes) {
    Order order = {Action::kWrite, 0, ino, offset, bytes.size()};
    bytes.copy(order.bytes, bytes.size());
    EXPECT_EQ(Give(order).error, 0);
  }
  static void TruncateDirectly(Ino ino, uint64_t size) {
    EXPECT_EQ(Give({Action::kTruncate, 0, ino, 0, size}).error, 0);
  }
  static void CreateDirectly(Ino directory, const std::string& name) {
    Order order = {Action::kCreate, 0, directory};
    name.copy(order.bytes, name.size());
    EXPECT_EQ(Give(order).error, 0);
  }
  static std::pair<uint64_t, uint64_t> LastSeen() {
    const Result seen = Give({Action::kSeen});
    return {seen.offset, seen.length};
  }

  // A file of the test's directory, not open. Returns its number.
  Ino MakeFile(const std::string& content) {
    WriteFile(Path("f"), content);
    return Stat(Path("f")).st_ino;
  }
  static std::string ReadAt(int fd, off_t offset, size_t size) {
    std::string bytes(size, '\0');
    const ssize_t read = pread(fd, bytes.data(), size, offset);
    EXPECT_GE(read, 0) << errno;
    bytes.resize(std::max<ssize_t>(read, 0));
    return bytes;
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    DIR* const directory = opendir(directory_.c_str());
    EXPECT_NE(directory, nullptr) << errno;
    while (const dirent* entry = readdir(directory)) {
      if (entry->d_name[0] != '.') names.push_back(entry->d_name);
    }
    closedir(directory);
    std::sort(names.begin(), names.end());
    return names;
  }

  static inline int orders_fd_ = -1;
};

TEST_F(MountSharingTest, AFileOpenedBeforeAndOneOpenedAfterShowWhatWasWrittenDirectly) {
  const Ino ino = MakeFile(std::string(100000, 'a'));
  const File before(Path("f"), O_RDONLY);
  EXPECT_EQ(ReadAt(before.fd(), 50000, 3), "aaa");
  OpenDirectlyWhenReleased(ino);
  EXPECT_EQ(ReadAt(before.fd(), 50000, 3), "aaa");
  WriteDirectly(ino, 50001, "b");
  EXPECT_EQ(ReadAt(before.fd(), 50000, 3), "aba");
  const File after(Path("f"), O_RDONLY);
  EXPECT_EQ(ReadAt(after.fd(), 50000, 3), "aba");
  WriteDirectly(ino, 50001, "c");
  EXPECT_EQ(ReadAt(before.fd(), 50000, 3), "aca");
  EXPECT_EQ(ReadAt(after.fd(), 50000, 3), "aca");
  CloseDirectly(ino);
  EXPECT_EQ(ReadFile(Path("f")).substr(50000, 3), "aca");
}

TEST_F(MountSharingTest, AMappingShowsWhatWasWrittenDirectly) {
  const Ino ino = MakeFile(std::string(16384, 'a'));
  File file(Path("f"), O_RDONLY);
  void* const area = mmap(nullptr, 16384, PROT_READ, MAP_SHARED, file.fd(), 0);
  ASSERT_NE(area, MAP_FAILED) << errno;
  const volatile char* const bytes = static_cast<const char*>(area);
  file.Close();
  EXPECT_EQ(bytes[5000], 'a');
  OpenDirectlyWhenReleased(ino);
  for (const char letter : {'b', 'c', 'd'}) {
    WriteDirectly(ino, 4999, std::string(3, letter));
    EXPECT_EQ(bytes[5000], letter);
    EXPECT_EQ(bytes[5002], 'a');
  }
  munmap(area, 16384);
  CloseDirectly(ino);
}

TEST_F(MountSharingTest, StatShowsASizeThatWasChangedDirectly) {
  const Ino ino = MakeFile("123");
  EXPECT_EQ(Stat(Path("f")).st_size, 3);
  OpenDirectlyWhenReleased(ino);
  EXPECT_EQ(Stat(Path("f")).st_size, 3);
  WriteDirectly(ino, 3, "4567");
  EXPECT_EQ(Stat(Path("f")).st_size, 7);
  TruncateDirectly(ino, 5);
  EXPECT_EQ(Stat(Path("f")).st_size, 5);
  WriteDirectly(ino, 99, "x");
  CloseDirectly(ino);
  EXPECT_EQ(Stat(Path("f")).st_size, 100);
}

TEST_F(MountSharingTest, AnOpenFileIsReadToItsNewEnd) {
  const Ino ino = MakeFile("123");
  const File file(Path("f"), O_RDONLY);
  EXPECT_EQ(ReadAt(file.fd(), 0, 100), "123");
  OpenDirectlyWhenReleased(ino);
  WriteDirectly(ino, 3, "45");
  EXPECT_EQ(ReadAt(file.fd(), 0, 100), "12345");
  EXPECT_EQ(lseek(file.fd(), 0, SEEK_END), 5);
  TruncateDirectly(ino, 2);
  EXPECT_EQ(ReadAt(file.fd(), 0, 100), "12");
  CloseDirectly(ino);
}

TEST_F(MountSharingTest, WhatTheKernelReadWhileADirectWriterHadTheFileIsNotReadAgainAfterHisLastWrite) {
  const Ino ino = MakeFile("old");
  OpenDirectlyWhenReleased(ino);
  const uint64_t releases = RequestCount("release");
  EXPECT_EQ(ReadFile(Path("f")), "old");
  while (RequestCount("release") == releases) sched_yield();
  WriteDirectly(ino, 0, "new");
  CloseDirectly(ino);
  EXPECT_EQ(ReadFile(Path("f")), "new");
}

TEST_F(MountSharingTest, WhatTheKernelReadWhileADirectWriterHadTheFileIsForgottenWhenItIsOpenedAgain) {
  const Ino ino = MakeFile("old");
  OpenDirectlyWhenReleased(ino);
  const uint64_t releases = RequestCount("release");
  EXPECT_EQ(ReadFile(Path("f")), "old");
  while (RequestCount("release") == releases) sched_yield();
  WriteDirectly(ino, 0, "new");
  EXPECT_EQ(ReadFile(Path("f")), "new");
  CloseDirectly(ino);
}

// The kernel believes the answers to these whatever it has been told meanwhile.
TEST_F(MountSharingTest, AttributesThatComeWithAChangeOfThemAreNotKept) {
  MakeFile("123");
  const auto asks = [this] {
    const uint64_t before = RequestCount("getattr");
    Stat(Path("f"));
    return RequestCount("getattr") > before;
  };
  asks();
  EXPECT_FALSE(asks());
  ASSERT_EQ(chmod(Path("f").c_str(), 0600), 0);
  EXPECT_TRUE(asks());
  EXPECT_FALSE(asks());
  ASSERT_EQ(link(Path("f").c_str(), Path("g").c_str()), 0);
  EXPECT_TRUE(asks());
  EXPECT_FALSE(asks());
}

TEST_F(MountSharingTest, TheKernelKeepsAttributesAndPagesWhileNobodyWritesDirectly) {
  const Ino ino = MakeFile(std::string(4096, 'a'));
  const auto requests_of_a_look = [this] {
    const uint64_t before = RequestCount("getattr") + RequestCount("read") + RequestCount("lookup");
    Stat(Path("f"));
    ReadFile(Path("f"));
    return RequestCount("getattr") + RequestCount("read") + RequestCount("lookup") - before;
  };
  requests_of_a_look();
  EXPECT_EQ(requests_of_a_look(), 0u);
  OpenDirectlyWhenReleased(ino);
  requests_of_a_look();
  EXPECT_GT(requests_of_a_look(), 0u);
  CloseDirectly(ino);
  // Until the kernel has been made to forget.
  for (uint64_t requests = 1; requests > 0;) requests = requests_of_a_look();
}

TEST_F(MountSharingTest, ANameThatWasMissingIsThereOnceItWasMadeDirectly) {
  const Ino directory = Stat(directory_).st_ino;
  WriteFile(Path("here"), "");
  EXPECT_EQ(Names(), (std::vector<std::string>{"here"}));
  EXPECT_EQ(Names(), (std::vector<std::string>{"here"}));
  EXPECT_EQ(Errno(access(Path("new").c_str(), F_OK)), ENOENT);
  const uint64_t lookups = RequestCount("lookup");
  EXPECT_EQ(Errno(access(Path("new").c_str(), F_OK)), ENOENT);
  EXPECT_EQ(RequestCount("lookup"), lookups) << "the kernel was to remember it";
  CreateDirectly(directory, "new");
  EXPECT_EQ(Errno(access(Path("new").c_str(), F_OK)), 0);
  EXPECT_EQ(Names(), (std::vector<std::string>{"here", "new"}));
  CreateDirectly(directory, "unasked");
  EXPECT_EQ(Names(), (std::vector<std::string>{"here", "new", "unasked"}));
}

TEST_F(MountSharingTest, AnExclusiveDirectWriterKeepsWritersAtTheMountOut) {
  const Ino ino = MakeFile("123");
  OpenDirectlyWhenReleased(ino);
  EXPECT_EQ(Errno(open(Path("f").c_str(), O_WRONLY)), EBUSY);
  EXPECT_EQ(Errno(open(Path("f").c_str(), O_RDWR)), EBUSY);
  EXPECT_EQ(Errno(open(Path("f").c_str(), O_RDONLY | O_TRUNC)), EBUSY);
  EXPECT_EQ(Errno(open(Path("f").c_str(), O_RDWR | O_CREAT, 0644)), EBUSY);
  EXPECT_EQ(Errno(truncate(Path("f").c_str(), 1)), EBUSY);
  EXPECT_EQ(chmod(Path("f").c_str(), 0600), 0) << errno;
  EXPECT_EQ(ReadFile(Path("f")), "123");
  CloseDirectly(ino);
  WriteFile(Path("f"), "45");
  EXPECT_EQ(truncate(Path("f").c_str(), 1), 0) << errno;
  EXPECT_EQ(ReadFile(Path("f")), "4");
}

TEST_F(MountSharingTest, AWriterAtTheMountKeepsAnExclusiveDirectWriterOut) {
  const Ino ino = MakeFile("123");
  OpenDirectlyWhenReleased(ino);
  CloseDirectly(ino);
  for (const int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC}) {
    File file(Path("f"), flags);
    EXPECT_EQ(OpenDirectly(ino), EBUSY) << flags;
    EXPECT_EQ(OpenDirectly(ino, /*shared=*/true), 0) << flags;
    CloseDirectly(ino, /*shared=*/true);
    file.Close();
    OpenDirectlyWhenReleased(ino);
    CloseDirectly(ino);
  }
  const File reader(Path("f"), O_RDONLY);
  EXPECT_EQ(OpenDirectly(ino), 0);
  CloseDirectly(ino);
}

TEST_F(MountSharingTest, CreatedAndUnnamedFilesAreOpenForWritingUntilTheyAreClosed) {
  File created(Path("created"), O_RDWR | O_CREAT | O_EXCL);
  File unnamed(directory_, O_RDWR | O_TMPFILE);
  File read_only(Path("read-only"), O_RDONLY | O_CREAT);
  struct stat status;
  for (File* file : {&created, &unnamed}) {
    ASSERT_EQ(fstat(file->fd(), &status), 0);
    EXPECT_EQ(OpenDirectly(status.st_ino), EBUSY);
  }
  const Ino created_ino = Stat(Path("created")).st_ino;
  ASSERT_EQ(linkat(AT_FDCWD, absl::StrCat("/proc/self/fd/", unnamed.fd()).c_str(), AT_FDCWD, Path("named").c_str(),
                   AT_SYMLINK_FOLLOW), 0) << errno;
  created.Close();
  unnamed.Close();
  for (const Ino ino : {created_ino, Ino{Stat(Path("named")).st_ino}}) {
    OpenDirectlyWhenReleased(ino);
    CloseDirectly(ino);
  }
  EXPECT_EQ(OpenDirectly(Stat(Path("read-only")).st_ino), 0);
  CloseDirectly(Stat(Path("read-only")).st_ino);
}

TEST_F(MountSharingTest, SharedWritersSeeEachOther) {
  const Ino ino = MakeFile(std::string(8192, 'a'));
  ASSERT_EQ(OpenDirectly(ino, /*shared=*/true), 0);
  {
    const File file(Path("f"), O_RDWR);
    void* const area = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
    ASSERT_NE(area, MAP_FAILED) << errno;
    char* const bytes = static_cast<char*>(area);
    bytes[10] = 'm';
    WriteDirectly(ino, 5000, "d");
    EXPECT_EQ(bytes[5000], 'd');
    EXPECT_EQ(pwrite(file.fd(), "w", 1, 5001), 1);
    EXPECT_EQ(bytes[5001], 'w');
    EXPECT_EQ(msync(area, 8192, MS_SYNC), 0);
    munmap(area, 8192);
  }
  CloseDirectly(ino, /*shared=*/true);
  const std::string content = ReadFile(Path("f"));
  EXPECT_EQ(content.substr(9, 3), "ama");
  EXPECT_EQ(content.substr(4999, 4), "adwa");
}

TEST_F(MountSharingTest, AViewerHearsOfEachKindOfChangeBeforeTheProgramDoes) {
  using Seen = std::pair<uint64_t, uint64_t>;
  const Ino ino = MakeFile(std::string(20000, 'a'));
  EXPECT_EQ(Give({Action::kLook, 0, ino}).error, 0);
  {
    const File file(Path("f"), O_RDWR), other(Path("other"), O_RDWR | O_CREAT);
    ASSERT_EQ(pwrite(other.fd(), "12345", 5, 0), 5);
    EXPECT_EQ(LastSeen(), Seen(0, 0)) << "another file's";
    ASSERT_EQ(pwrite(file.fd(), std::string(4096, 'b').data(), 4096, 4096), 4096);
    EXPECT_EQ(LastSeen(), Seen(4096, 4096));
    ASSERT_EQ(fallocate(file.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, 2000), 0) << errno;
    EXPECT_EQ(LastSeen(), Seen(1000, 2000));
    loff_t from = 0, to = 77;
    ASSERT_EQ(copy_file_range(other.fd(), &from, file.fd(), &to, 5, 0), 5) << errno;
    EXPECT_EQ(LastSeen(), Seen(77, 5));
    ASSERT_EQ(ftruncate(file.fd(), 123), 0);
    EXPECT_EQ(LastSeen(), Seen(123, 0));
    ASSERT_EQ(pwrite(file.fd(), "x", 1, 122), 1);
    EXPECT_EQ(LastSeen().second, 1u);
  }
  ASSERT_EQ(pwrite(File(Path("f"), O_RDWR | O_TRUNC).fd(), "x", 1, 0), 1);
  EXPECT_EQ(LastSeen(), Seen(0, 1));
  EXPECT_EQ(Give({Action::kLookAway, 0, ino}).error, 0);
}

// Readers keep the kernel's pages and attributes of the file coming and going; yet each write is seen by the next look.
TEST_F(MountSharingTest, EachDirectWriteIsSeenAtOnceWhateverReadersDo) {
  constexpr uint64_t kWrites = 300;
  const Ino ino = MakeFile(std::string(8, '\0'));
  const File file(Path("f"), O_RDONLY);
  OpenDirectlyWhenReleased(ino);
  std::atomic<bool> ending = false;
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([this, &ending, i] {
      while (!ending.load()) {
        const File mine(Path("f"), O_RDONLY);
        struct stat status;
        for (int k = 0; k <= 5 * i; ++k) {
          ReadAt(mine.fd(), 0, 8192);
          EXPECT_EQ(fstat(mine.fd(), &status), 0);
        }
      }
    });
  }
  for (uint64_t i = 1; i <= kWrites; ++i) {
    const std::string number(reinterpret_cast<const char*>(&i), sizeof(i));
    WriteDirectly(ino, 0, number);
    EXPECT_EQ(ReadAt(file.fd(), 0, 8), number);
    WriteDirectly(ino, 8 * i, number);
    EXPECT_EQ(Stat(Path("f")).st_size, static_cast<off_t>(8 * i + 8));
    EXPECT_EQ(ReadAt(file.fd(), 8 * i, 100), number);
  }
  ending.store(true);
  for (std::thread& reader : readers) reader.join();
  CloseDirectly(ino);
}

// Direct writers come and go while the file is looked up, read and looked at; the size that counts is the last one.
TEST_F(MountSharingTest, NoStaleSizeOrContentSurvivesADirectWriter) {
  constexpr uint64_t kRounds = 200;
  const Ino ino = MakeFile(std::string(8, '\0'));
  OpenDirectlyWhenReleased(ino);
  CloseDirectly(ino);
  std::atomic<bool> ending = false;
  std::vector<std::thread> lookers;
  for (int i = 0; i < 2; ++i) {
    lookers.emplace_back([this, &ending] {
      while (!ending.load()) {
        Stat(Path("f"));
        ReadFile(Path("f"));
        chmod(Path("f").c_str(), 0644);
      }
    });
  }
  for (uint64_t i = 1; i <= kRounds; ++i) {
    const std::string number(reinterpret_cast<const char*>(&i), sizeof(i));
    OpenDirectlyWhenReleased(ino);
    WriteDirectly(ino, 8 * i, number);
    CloseDirectly(ino);
    EXPECT_EQ(Stat(Path("f")).st_size, static_cast<off_t>(8 * i + 8));
    EXPECT_EQ(ReadFile(Path("f")).substr(8 * i), number);
  }
  ending.store(true);
  for (std::thread& looker : lookers) looker.join();
}

}  // namespace
}  // namespace stagefs::fuse::testing

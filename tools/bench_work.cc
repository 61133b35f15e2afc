#include "tools/bench_work.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <latch>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "sal/owned_fd.h"
#include "sal/status_macros.h"
#include "tools/bench_calls.h"

namespace stagefs::tools {

namespace {

constexpr size_t kMiB = 1 << 20;
constexpr size_t kBlock = 4096;
constexpr size_t kStore = 64;
constexpr size_t kAppend = 200;
constexpr int kThreads = 8;
constexpr uint64_t kMostMapped = 64 * kMiB;
constexpr uint64_t kReplaced = 10;

// The blocks of a file, each once, in random order.
std::vector<uint32_t> RandomBlocks(uint64_t size_bytes) {
  std::vector<uint32_t> blocks(size_bytes / kBlock);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(1));
  return blocks;
}

// The rows. Each leaves what only it needs in own_, which Run() removes.
class Rows {
 public:
  Rows(const BenchDirectory& directory, const BenchSettings& settings)
      : settings_(settings), size_(settings.scale.size_bytes), data_(directory.path() + "/data"),
        files_(directory.path() + "/files"), own_(directory.path() + "/own"), meter_(settings) {}

  absl::Status Run(absl::Status (Rows::*row)()) {
    absl::Status result = MakeDirectory(own_);
    if (result.ok()) result = (this->*row)();
    result.Update(RemoveAll(own_));
    return result;
  }
  BenchResult& result() { return meter_.result(); }

  absl::Status SequentialWrite() {
    while (meter_.Going()) {
      RETURN_IF_ERROR(RemoveAll(data_));
      ASSIGN_OR_RETURN(const OwnedFd file, Open(data_, O_CREAT | O_WRONLY));
      meter_.Resume();
      for (uint64_t at = 0; at < size_ && meter_.Going(); at += kMiB) {
        RETURN_IF_ERROR(WriteAt(file, at, kMiB, result().operations));
        meter_.Count(kMiB);
      }
      RETURN_IF_ERROR(Fsync(file));
      meter_.Charge();
    }
    return absl::OkStatus();
  }

  absl::Status SequentialRead() {
    ASSIGN_OR_RETURN(const OwnedFd file, DataFile());
    std::vector<char> buffer(kMiB);
    for (bool first = true; meter_.Going(); first = false) {
      RETURN_IF_ERROR(PrepareReads(file, first));
      meter_.Resume();
      for (uint64_t at = 0; at < size_ && meter_.Going(); at += kMiB) {
        RETURN_IF_ERROR(ReadAt(file, at, buffer.data(), kMiB));
        meter_.Count(kMiB);
      }
    }
    return absl::OkStatus();
  }

  absl::Status RandomRead() {
    ASSIGN_OR_RETURN(const OwnedFd file, DataFile());
    const std::vector<uint32_t> blocks = RandomBlocks(size_);
    std::vector<char> buffer(kBlock);
    for (bool first = true; meter_.Going(); first = false) {
      RETURN_IF_ERROR(PrepareReads(file, first));
      meter_.Resume();
      for (size_t i = 0; i < blocks.size() && meter_.Going(); ++i) {
        RETURN_IF_ERROR(ReadAt(file, uint64_t{blocks[i]} * kBlock, buffer.data(), kBlock));
        meter_.Count(kBlock);
      }
    }
    return absl::OkStatus();
  }

  absl::Status WriteAndFsync() {
    ASSIGN_OR_RETURN(const OwnedFd file, DataFile());
    return WriteAndFsync(file, RandomBlocks(size_), meter_);
  }

  // Each thread has a file of its own.
  absl::Status WriteAndFsyncThreads() {
    const std::vector<uint32_t> blocks = RandomBlocks(size_ / kThreads);
    std::vector<OwnedFd> files(kThreads);
    for (int i = 0; i < kThreads; ++i) {
      ASSIGN_OR_RETURN(files[i], Open(absl::StrCat(own_, "/", i), O_CREAT | O_RDWR));
      RETURN_IF_ERROR(LayOut(files[i], size_ / kThreads));
    }
    std::vector<BenchMeter> meters(kThreads, BenchMeter(settings_));
    std::vector<absl::Status> results(kThreads);
    std::vector<std::thread> threads;
    std::latch start(kThreads);
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        start.arrive_and_wait();
        results[i] = WriteAndFsync(files[i], blocks, meters[i]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    int64_t longest_ns = 0;
    for (int i = 0; i < kThreads; ++i) {
      RETURN_IF_ERROR(results[i]);
      longest_ns = std::max(longest_ns, meters[i].result().busy_ns);
      result().Add(meters[i].result());
    }
    // They were busy at the same time.
    result().busy_ns = longest_ns;
    return absl::OkStatus();
  }

  absl::Status AppendAndFsync() {
    ASSIGN_OR_RETURN(const OwnedFd file, Open(own_ + "/log", O_CREAT | O_WRONLY | O_APPEND));
    while (meter_.Going()) {
      if (ftruncate(file.get(), 0) != 0) return Failed("truncate");
      meter_.Resume();
      for (uint64_t at = 0; at + kAppend <= size_ / 4 && meter_.Going(); at += kAppend) {
        RETURN_IF_ERROR(WriteAt(file, at, kAppend, result().operations));
        RETURN_IF_ERROR(Fsync(file));
        meter_.Count(kAppend);
      }
    }
    return absl::OkStatus();
  }

  absl::Status StoreAndMsync() {
    const uint64_t size = std::min(size_ / 4, kMostMapped);
    ASSIGN_OR_RETURN(const OwnedFd file, Open(own_ + "/mapped", O_CREAT | O_RDWR));
    RETURN_IF_ERROR(LayOut(file, size));
    void* const address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (address == MAP_FAILED) return Failed("mmap");
    const auto unmap = [size](char* memory) { munmap(memory, size); };
    const std::unique_ptr<char, decltype(unmap)> memory(static_cast<char*>(address), unmap);
    const std::vector<uint32_t> blocks = RandomBlocks(size);
    meter_.Resume();
    for (size_t i = 0; meter_.Going(); i = (i + 1) % blocks.size()) {
      char* const page = memory.get() + uint64_t{blocks[i]} * kBlock;
      std::copy_n(Noise(result().operations), kStore, page);
      if (msync(page, kBlock, MS_SYNC) != 0) return Failed("msync");
      meter_.Count(kStore);
    }
    return absl::OkStatus();
  }

  absl::Status RandomWrite() {
    ASSIGN_OR_RETURN(const OwnedFd file, DataFile());
    const std::vector<uint32_t> blocks = RandomBlocks(size_);
    while (meter_.Going()) {
      meter_.Resume();
      for (size_t i = 0; i < blocks.size() && meter_.Going(); ++i) {
        RETURN_IF_ERROR(WriteAt(file, uint64_t{blocks[i]} * kBlock, kBlock, result().operations));
        meter_.Count(kBlock);
      }
      RETURN_IF_ERROR(Fsync(file));
      meter_.Charge();
    }
    return absl::OkStatus();
  }

  absl::Status Create() {
    while (meter_.Going()) {
      RETURN_IF_ERROR(RemoveAll(files_));
      RETURN_IF_ERROR(MakeDirectory(files_));
      meter_.Resume();
      for (uint64_t i = 0; i < settings_.scale.files && meter_.Going(); ++i) {
        RETURN_IF_ERROR(Open(SmallFile(i), O_CREAT | O_WRONLY | O_EXCL).status());
        meter_.Count();
      }
    }
    return absl::OkStatus();
  }

  absl::Status Stat() {
    ASSIGN_OR_RETURN(const uint64_t count, MakeSmallFiles());
    ASSIGN_OR_RETURN(const OwnedFd directory, Open(files_, O_RDONLY | O_DIRECTORY));
    const auto stat_all = [&](bool counted) -> absl::Status {
      for (uint64_t i = 0; i < count && meter_.Going(); ++i) {
        struct stat attributes;
        if (lstat(SmallFile(i).c_str(), &attributes) != 0) return Failed("stat");
        if (counted) meter_.Count();
      }
      return absl::OkStatus();
    };
    if (!settings_.cold) RETURN_IF_ERROR(stat_all(false));
    while (meter_.Going()) {
      if (settings_.cold) RETURN_IF_ERROR(DropCaches(directory));
      meter_.Resume();
      RETURN_IF_ERROR(stat_all(true));
    }
    return absl::OkStatus();
  }

  absl::Status Unlink() {
    while (meter_.Going()) {
      ASSIGN_OR_RETURN(const uint64_t count, MakeSmallFiles());
      meter_.Resume();
      for (uint64_t i = 0; i < count && meter_.Going(); ++i) {
        if (unlink(SmallFile(i).c_str()) != 0) return Failed("unlink");
        meter_.Count();
      }
    }
    return absl::OkStatus();
  }

  absl::Status CreateAndFsync() {
    const std::string mail = own_ + "/mail";
    while (meter_.Going()) {
      RETURN_IF_ERROR(RemoveAll(mail));
      RETURN_IF_ERROR(MakeDirectory(mail));
      meter_.Resume();
      for (uint64_t i = 0; i < settings_.scale.files / 4 + 1 && meter_.Going(); ++i) {
        RETURN_IF_ERROR(WriteFile(absl::StrCat(mail, "/m", i), O_EXCL, result().operations));
        meter_.Count(kBlock);
      }
    }
    return absl::OkStatus();
  }

  absl::Status RenameReplace() {
    const std::string next = own_ + "/next";
    meter_.Resume();
    while (meter_.Going()) {
      RETURN_IF_ERROR(WriteFile(next, O_TRUNC, result().operations));
      if (rename(next.c_str(), absl::StrCat(own_, "/file", result().operations % kReplaced).c_str()) != 0) {
        return Failed("rename");
      }
      meter_.Count(kBlock);
    }
    return absl::OkStatus();
  }

 private:
  std::string SmallFile(uint64_t index) const { return absl::StrCat(files_, "/f", index); }

  // Writes what the file lacks of `size`, so that rows which change it overwrite what is there.
  absl::Status LayOut(const OwnedFd& file, uint64_t size) const {
    struct stat attributes;
    if (fstat(file.get(), &attributes) != 0) return Failed("stat");
    if (static_cast<uint64_t>(attributes.st_size) == size) return absl::OkStatus();
    for (uint64_t at = attributes.st_size; at < size && !meter_.Stopped();) {
      const size_t length = std::min<uint64_t>(size - at, kMiB);
      RETURN_IF_ERROR(WriteAt(file, at, length, at / kMiB));
      at += length;
    }
    return Fsync(file);
  }

  absl::StatusOr<OwnedFd> DataFile() const {
    ASSIGN_OR_RETURN(OwnedFd file, Open(data_, O_CREAT | O_RDWR));
    RETURN_IF_ERROR(LayOut(file, size_));
    return file;
  }

  // How many of the small files there are now: all, or on a slow file system as many as a row's time suffices for.
  absl::StatusOr<uint64_t> MakeSmallFiles() const {
    RETURN_IF_ERROR(MakeDirectory(files_));
    const int64_t deadline_ns = SteadyNowNs() + settings_.row_ns;
    uint64_t count = 0;
    while (count < settings_.scale.files && (count == 0 || SteadyNowNs() < deadline_ns) && !meter_.Stopped()) {
      RETURN_IF_ERROR(Open(SmallFile(count), O_CREAT | O_WRONLY).status());
      ++count;
    }
    return count;
  }

  static absl::Status WriteFile(const std::string& path, int flags, uint64_t variant) {
    ASSIGN_OR_RETURN(const OwnedFd file, Open(path, O_CREAT | O_WRONLY | flags));
    RETURN_IF_ERROR(WriteAt(file, 0, kBlock, variant));
    return Fsync(file);
  }

  static absl::Status WriteAndFsync(const OwnedFd& file, const std::vector<uint32_t>& blocks, BenchMeter& meter) {
    meter.Resume();
    for (size_t i = 0; meter.Going(); i = (i + 1) % blocks.size()) {
      RETURN_IF_ERROR(WriteAt(file, uint64_t{blocks[i]} * kBlock, kBlock, meter.result().operations));
      RETURN_IF_ERROR(Fsync(file));
      meter.Count(kBlock);
    }
    return absl::OkStatus();
  }

  // Drops the cache before each pass, or fills it before the first.
  absl::Status PrepareReads(const OwnedFd& file, bool first) const {
    if (settings_.cold) return DropCaches(file);
    std::vector<char> buffer(kMiB);
    for (uint64_t at = 0; first && at < size_ && !meter_.Stopped(); at += kMiB) {
      RETURN_IF_ERROR(ReadAt(file, at, buffer.data(), kMiB));
    }
    return absl::OkStatus();
  }

  const BenchSettings& settings_;
  const uint64_t size_;
  const std::string data_;   // a file of size_
  const std::string files_;  // a directory of small files
  const std::string own_;    // a directory for the row that runs
  BenchMeter meter_;
};

struct Entry {
  BenchRow row;
  absl::Status (Rows::*run)();
};

constexpr Entry kRows[] = {
    {{"seq_write", "write a file in pieces of 1 MiB, fsync at the end", true, false}, &Rows::SequentialWrite},
    {{"seq_read", "read it in pieces of 1 MiB", true, true}, &Rows::SequentialRead},
    {{"randread_q1", "read 4 KiB at random places", false, true}, &Rows::RandomRead},
    {{"fsync_4k", "overwrite 4 KiB at a random place, fsync", false, false}, &Rows::WriteAndFsync},
    {{"fsync_4k_8jobs", "the same by 8 threads, a file each", false, false}, &Rows::WriteAndFsyncThreads},
    {{"append200_fsync", "append 200 bytes, fsync", false, false}, &Rows::AppendAndFsync},
    {{"mmap_msync_64B", "store 64 bytes in a mapping, msync", false, false}, &Rows::StoreAndMsync},
    {{"randwrite_buf", "overwrite 4 KiB at random places, fsync at the end", true, false}, &Rows::RandomWrite},
    {{"create", "create an empty file", false, false}, &Rows::Create},
    {{"stat", "lstat a file", false, true}, &Rows::Stat},
    {{"unlink", "unlink an empty file", false, false}, &Rows::Unlink},
    {{"create_fsync", "create a file, write 4 KiB, fsync", false, false}, &Rows::CreateAndFsync},
    {{"rename_replace", "write a file of 4 KiB, fsync, rename it over another", false, false}, &Rows::RenameReplace},
};

}  // namespace

std::vector<const BenchRow*> AllBenchRows() {
  std::vector<const BenchRow*> rows;
  for (const Entry& entry : kRows) rows.push_back(&entry.row);
  return rows;
}

absl::StatusOr<std::vector<const BenchRow*>> ParseBenchRows(absl::string_view list) {
  const std::vector<absl::string_view> names = absl::StrSplit(list, ',');
  const std::vector<const BenchRow*> all = AllBenchRows();
  for (const absl::string_view name : names) {
    if (std::any_of(all.begin(), all.end(), [&](const BenchRow* row) { return row->name == name; })) continue;
    const auto append_name = [](std::string* out, const BenchRow* row) { absl::StrAppend(out, row->name); };
    return absl::InvalidArgumentError(
        absl::StrCat("there is no row ", name.empty() ? "''" : name, ", but ", absl::StrJoin(all, ", ", append_name)));
  }
  std::vector<const BenchRow*> rows;
  std::copy_if(all.begin(), all.end(), std::back_inserter(rows), [&](const BenchRow* row) {
    return std::find(names.begin(), names.end(), row->name) != names.end();
  });
  return rows;
}

absl::StatusOr<BenchResult> RunBenchRow(const BenchRow& row, const BenchDirectory& directory,
                                        const BenchSettings& settings) {
  const auto entry = std::find_if(std::begin(kRows), std::end(kRows), [&](const Entry& e) { return &e.row == &row; });
  Noise(0);  // is made at its first use: not in a row's time
  Rows rows(directory, settings);
  const absl::Status status = rows.Run(entry->run);
  // A call that a signal has interrupted may have failed for that alone.
  if (settings.stop->load()) return absl::CancelledError(absl::StrCat(row.name, " was stopped"));
  if (status.ok()) return std::move(rows.result());
  return absl::Status(status.code(), absl::StrCat(row.name, " on ", directory.parent(), ": ", status.message()));
}

}  // namespace stagefs::tools

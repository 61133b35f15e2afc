// Groups on the real engine: what is bounded there (log, dirty blocks, cache, staging memory) must make none of them
// hang, or fail without saying why, and what is not in memory must be read.

#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/engine.h"
#include "fs/volume/check.h"
#include "fs/volume/errno.h"
#include "fs/volume/volume.h"
#include "gtest/gtest.h"
#include "sal/check.h"
#include "sal/memory_store.h"
#include "sal/random.h"
#include "sal/real_environment.h"

namespace stagefs::volume {
namespace {

using Kind = ContentChange::Kind;
using core::kBlockBytes;

constexpr uint64_t kFileBytes = 24 << 20;

struct Size {
  const char* name;
  uint64_t cache_bytes;
  uint64_t log_bytes;
};
constexpr Size kDefault = {"Default", 256 << 20, 0};
constexpr Size kSmallest = {"Smallest", 32 << 20, 4 << 20};

std::string Pattern(uint64_t seed, uint64_t length) {
  std::string bytes(length, '\0');
  sal::Random64 random(seed);
  for (char& byte : bytes) byte = static_cast<char>(random.Next() >> 32);
  return bytes;
}

absl::Span<const std::byte> AsBytes(absl::string_view s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

class GroupEngineTest : public ::testing::TestWithParam<Size> {
 protected:
  GroupEngineTest() : environment_(2), store_(*sal::MemoryStore::Create(512 << 20)) {
    core::FormatOptions format;
    format.log_bytes = GetParam().log_bytes;
    STAGEFS_CHECK(core::Engine::Format(*store_, environment_, format).ok());
    OpenEngine();
    STAGEFS_CHECK(Volume::Format(*engine_, {}).ok());
    volume_ = *Volume::Open(*engine_);
  }
  ~GroupEngineTest() override {
    volume_->Close();
    const absl::StatusOr<CheckReport> report = Check(*engine_, {});
    EXPECT_TRUE(report.ok() && report->problems.empty()) << report.status();
    EXPECT_TRUE(engine_->Close().ok());
  }

  void OpenEngine() {
    core::EngineOptions options;
    options.cache_bytes = GetParam().cache_bytes;
    core::RecoveryReport report;
    engine_ = *core::Engine::Open(*store_, environment_, options, &report);
  }
  // Nothing is in memory then.
  void Reopen() {
    volume_->Close();
    STAGEFS_CHECK(engine_->Close().ok());
    volume_ = nullptr;
    OpenEngine();
    volume_ = *Volume::Open(*engine_);
  }

  template <typename T, typename Start>
  absl::StatusOr<T> Wait(Start start) {
    const std::unique_ptr<sal::Event> over = environment_.NewEvent();
    absl::StatusOr<T> result = absl::UnknownError("");
    start([&](absl::StatusOr<T> value) {
      result = std::move(value);
      over->Set();
    });
    over->Wait();
    return result;
  }
  Ino FileWith(const std::string& name, const std::string& content) {
    const Ino ino = Wait<Attributes>([&](auto done) {
                      volume_->Create(kRootIno, name, {.mode = S_IFREG | 0644}, false, std::move(done));
                    })->ino;
    for (uint64_t at = 0; at < content.size(); at += kMaxWriteBytes) {
      const std::string piece = content.substr(at, kMaxWriteBytes);
      EXPECT_TRUE(Wait<size_t>([&](auto done) {
                    volume_->Write(ino, at, AsBytes(piece), false, std::move(done));
                  }).ok());
    }
    return ino;
  }
  std::string Read(Ino ino, uint64_t size) {
    std::string bytes(size, '\0');
    const auto count = Wait<size_t>([&](auto done) {
      volume_->Read(ino, 0, absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()), size), std::move(done));
    });
    bytes.resize(count.value_or(0));
    return bytes;
  }
  absl::StatusOr<GroupResult> Run(const std::vector<ContentChange>& parts) {
    return Wait<GroupResult>([&](auto done) { volume_->WriteGroup(parts, std::move(done)); });
  }
  bool smallest() const { return GetParam().cache_bytes == kSmallest.cache_bytes; }

  // The group succeeds and makes `expected` of the file in one change, or, in the smallest engine, is refused and leaves
  // no trace.
  void ExpectAllOrRefused(Ino ino, const std::vector<ContentChange>& parts, const std::string& before,
                          const std::string& expected) {
    const core::Lsn lsn = engine_->accepted_lsn();
    const absl::StatusOr<GroupResult> result = Run(parts);
    const int error = ToErrno(result.status());
    if (smallest()) {
      EXPECT_TRUE(error == 0 || error == E2BIG || error == ENOMEM || error == ENOSPC) << result.status();
    } else {
      EXPECT_EQ(error, 0) << result.status();
    }
    EXPECT_EQ(engine_->accepted_lsn(), lsn + (error == 0 ? 1 : 0));
    EXPECT_TRUE(Read(ino, kFileBytes * 2) == (error == 0 ? expected : before));
    std::cout << GetParam().name << ": " << result.status() << "\n";
  }

  sal::RealEnvironment environment_;
  std::unique_ptr<sal::MemoryStore> store_;
  std::unique_ptr<core::Engine> engine_;
  std::unique_ptr<Volume> volume_;
};

std::vector<ContentChange> Writes(Ino ino, const std::string& bytes, uint64_t count, uint64_t length,
                                  const std::function<uint64_t(uint64_t)>& offset_of, std::string* content) {
  std::vector<ContentChange> parts(count);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t from = i * 8 % (bytes.size() - length);
    parts[i].ino = ino;
    parts[i].offset = offset_of(i);
    parts[i].bytes = AsBytes(absl::string_view(bytes).substr(from, length));
    if (content->size() < parts[i].offset + length) content->resize(parts[i].offset + length);
    content->replace(parts[i].offset, length, bytes, from, length);
  }
  return parts;
}

TEST_P(GroupEngineTest, HalfBlocks) {
  const std::string before = Pattern(1, kFileBytes), bytes = Pattern(2, 100'000);
  const Ino ino = FileWith("f", before);
  for (const uint64_t count : {600, 4096}) {
    const std::string now = Read(ino, kFileBytes);
    std::string expected = now;
    const auto parts = Writes(ino, bytes, count, 2048, [](uint64_t i) { return i * 4096 + 1000; }, &expected);
    Reopen();
    ExpectAllOrRefused(ino, parts, now, expected);
  }
}

TEST_P(GroupEngineTest, ManySmallScatteredWrites) {
  const std::string before = Pattern(1, kFileBytes), bytes = Pattern(2, 100'000);
  const Ino ino = FileWith("f", before);
  for (const uint64_t count : {300, 3000, 100'000}) {
    const std::string now = Read(ino, kFileBytes * 2);
    std::string expected = now;
    // The last ones go beyond the end.
    const auto offset_of = [&](uint64_t i) { return i * (kFileBytes / count + 3); };
    const auto parts = Writes(ino, bytes, count, 64, offset_of, &expected);
    Reopen();
    ExpectAllOrRefused(ino, parts, now, expected);
  }
}

TEST_P(GroupEngineTest, SixteenMebibytesInPiecesOfAllSizes) {
  const std::string before = Pattern(1, kFileBytes), bytes = Pattern(2, kMaxGroupBytes + 4096);
  const Ino ino = FileWith("f", before);
  for (const uint64_t length : {4096, 60'000, 100'001, 1 << 20, 16 << 20}) {
    SCOPED_TRACE(length);
    const std::string now = Read(ino, kFileBytes * 2);
    std::string expected = now;
    const auto offset_of = [&](uint64_t i) { return length == 4096 ? i * 4096 : i * (length + 5000) + 17; };
    const auto parts = Writes(ino, bytes, kMaxGroupBytes / length, length, offset_of, &expected);
    ExpectAllOrRefused(ino, parts, now, expected);
  }
}

TEST_P(GroupEngineTest, MoreBlocksThanCanBeMergedAreRefused) {
  const std::string bytes = Pattern(2, 100'000);
  const Ino ino = FileWith("f", "");
  std::string unused;
  std::vector<ContentChange> parts(30'000);
  for (uint64_t i = 0; i < parts.size(); ++i) {
    parts[i].ino = ino;
    parts[i].offset = i * 8192 + 100;
    parts[i].bytes = AsBytes(absl::string_view(bytes).substr(i, 64));
  }
  const absl::StatusOr<GroupResult> result = Run(parts);
  EXPECT_TRUE(ToErrno(result.status()) == E2BIG || ToErrno(result.status()) == ENOMEM) << result.status();
  EXPECT_EQ(Read(ino, 100), "");
}

// Large groups, groups that must be merged, and plain writes, all at once, with staging memory for few of them.
TEST_P(GroupEngineTest, ManyAtOnceAllComeToAnEnd) {
  const std::string before = Pattern(1, kFileBytes), bytes = Pattern(2, 4 << 20);
  const Ino ino = FileWith("f", before);
  const Ino counter = FileWith("counter", "");
  std::atomic<int> under_way = 0, refused = 0;
  std::atomic<uint64_t> added = 0;
  const auto worker = [&](uint64_t seed) {
    sal::Random64 random(seed);
    for (int i = 0; i < 30; ++i) {
      std::vector<ContentChange> parts;
      const uint64_t count = random.OneIn(3) ? 400 : random.OneIn(2) ? 1 : 3;
      const uint64_t length = count == 400 ? 2500 : count == 1 ? random.Between(1, 4 << 20) : 500'000;
      for (uint64_t k = 0; k < count; ++k) {
        parts.emplace_back();
        parts.back().ino = ino;
        parts.back().offset = random.Below(kFileBytes - length);
        parts.back().bytes = AsBytes(bytes).first(length);
      }
      parts.emplace_back();
      parts.back().kind = Kind::kFetchAdd;
      parts.back().ino = counter;
      parts.back().operand = 1;
      ++under_way;
      volume_->WriteGroup(std::move(parts), [&](const absl::StatusOr<GroupResult>& result) {
        added += result.ok() ? 1 : 0;
        const int error = ToErrno(result.status());
        EXPECT_TRUE(error == 0 || (smallest() && (error == E2BIG || error == ENOMEM))) << result.status();
        refused += error == 0 ? 0 : 1;
        --under_way;
      });
      ++under_way;
      volume_->Write(ino, random.Below(kFileBytes - kMaxWriteBytes), AsBytes(bytes).first(kMaxWriteBytes), false,
                     [&](const absl::StatusOr<size_t>& result) {
                       EXPECT_TRUE(result.ok()) << result.status();
                       --under_way;
                     });
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 3; ++seed) threads.emplace_back(worker, seed);
  for (std::thread& thread : threads) thread.join();
  while (under_way > 0) std::this_thread::yield();
  std::string number = Read(counter, 8);
  number.resize(8);
  uint64_t count = 0;
  std::memcpy(&count, number.data(), 8);
  EXPECT_EQ(count, added);
  EXPECT_EQ(added + refused, 90u);
  EXPECT_GT(added, 30u);
}

INSTANTIATE_TEST_SUITE_P(Sizes, GroupEngineTest, ::testing::Values(kDefault, kSmallest),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace stagefs::volume

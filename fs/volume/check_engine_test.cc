// The check over the real engine, on a store in memory.

#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/engine.h"
#include "fs/volume/allocator.h"
#include "fs/volume/check.h"
#include "fs/volume/volume.h"
#include "gtest/gtest.h"
#include "sal/blocking_io.h"
#include "sal/memory_store.h"
#include "sal/real_environment.h"

namespace stagefs::volume {
namespace {

constexpr uint64_t kStoreBytes = 1 << 30;
constexpr int kFiles = 3000;

class CheckEngineTest : public ::testing::Test {
 protected:
  CheckEngineTest() : store_(*sal::MemoryStore::Create(kStoreBytes)) {
    EXPECT_TRUE(core::Engine::Format(*store_, environment_, {}).ok());
    Open();
    EXPECT_TRUE(Volume::Format(*engine_, {}).ok());
  }
  ~CheckEngineTest() override {
    if (engine_ != nullptr) Close();
  }

  void Open() {
    core::EngineOptions options;
    options.cache_bytes = 32 << 20;
    core::RecoveryReport report;
    auto engine = core::Engine::Open(*store_, environment_, options, &report);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
  }
  void Close() {
    EXPECT_TRUE(engine_->Close().ok());
    engine_ = nullptr;
  }
  template <typename T, typename Start>
  absl::StatusOr<T> Wait(Start start) {
    const std::unique_ptr<sal::Event> finished = environment_.NewEvent();
    absl::StatusOr<T> result;
    start([&](absl::StatusOr<T> value) {
      result = std::move(value);
      finished->Set();
    });
    finished->Wait();
    return result;
  }
  // A tree of files, some removed again, some with holes and attributes.
  void Fill() {
    auto volume = Volume::Open(*engine_);
    ASSERT_TRUE(volume.ok()) << volume.status();
    const std::vector<std::byte> content(200 << 10, std::byte{7});
    Ino directory = kRootIno;
    for (int i = 0; i < kFiles; ++i) {
      if (i % 500 == 0) {
        directory = Wait<Attributes>([&](auto done) {
                      (*volume)->MakeDirectory(kRootIno, absl::StrCat("directory ", i), {.mode = S_IFDIR | 0755},
                                               std::move(done));
                    })->ino;
      }
      const auto file = Wait<Attributes>([&](auto done) {
        (*volume)->Create(directory, absl::StrCat("file ", i), {.mode = S_IFREG | 0644}, false, std::move(done));
      });
      ASSERT_TRUE(file.ok()) << file.status();
      const uint64_t sizes[] = {0, 100, 5000, 40000, 200 << 10};
      const uint64_t offset = i % 7 == 0 ? 1 << 20 : 0;
      ASSERT_TRUE(Wait<size_t>([&](auto done) {
                    (*volume)->Write(file->ino, offset, absl::MakeSpan(content).subspan(0, sizes[i % 5]), false,
                                     std::move(done));
                  }).ok());
      if (i % 3 != 0) continue;
      const std::unique_ptr<sal::Event> unlinked = environment_.NewEvent();
      (*volume)->Unlink(directory, absl::StrCat("file ", i), [&](absl::Status status) {
        EXPECT_TRUE(status.ok()) << status;
        unlinked->Set();
      });
      unlinked->Wait();
    }
    (*volume)->Close();
  }

  sal::RealEnvironment environment_;
  std::unique_ptr<sal::MemoryStore> store_;
  std::unique_ptr<core::Engine> engine_;
};

TEST_F(CheckEngineTest, AVolumeThatWasUsedIsGoodAndCanBeMended) {
  Fill();
  Close();
  Open();
  const auto report = Check(*engine_, {.verify_data = true});
  ASSERT_TRUE(report.ok()) << report.status();
  for (const Problem& problem : report->problems) ADD_FAILURE() << ToString(problem);
  EXPECT_GE(report->inodes, kFiles * 2 / 3u);

  // Bits for nobody, and a count that is wrong.
  const std::unique_ptr<sal::Event> done = environment_.NewEvent();
  engine_->Run(
      [](core::Transaction& tx) -> absl::Status {
        const core::Block bitmap = AllocationLayout::BitmapBlock(2);
        const auto bits = tx.Modify(bitmap);
        if (!bits.ok()) return bits.status();
        for (int i = 3000; i < 4000; ++i) (*bits)[i] = std::byte{0xff};
        // As many pieces as a group can have.
        const auto scattered = tx.Modify(AllocationLayout::BitmapBlock(3));
        if (!scattered.ok()) return scattered.status();
        std::fill_n(*scattered, core::kBlockBytes, std::byte{0x55});
        const auto header = tx.Modify(AllocationLayout::kFreeCountAddress / core::kBlockBytes);
        if (!header.ok()) return header.status();
        (*header)[AllocationLayout::kFreeCountAddress % core::kBlockBytes] ^= std::byte{0x55};
        return absl::OkStatus();
      },
      [&](absl::StatusOr<core::Lsn> lsn) {
        EXPECT_TRUE(lsn.ok()) << lsn.status();
        done->Set();
      });
  done->Wait();
  const auto mended = Check(*engine_, {.repair = true});
  ASSERT_TRUE(mended.ok()) << mended.status();
  EXPECT_GE(mended->problem_count, 2u);
  EXPECT_EQ(mended->unrepaired_count(), 0u);
  Close();
  Open();
  const auto again = Check(*engine_, {});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->clean());
  EXPECT_EQ(again->free_blocks, report->free_blocks);
}

TEST_F(CheckEngineTest, ADecayedBlockOfContentIsFound) {
  Fill();
  Close();
  // Overwrites a stretch of the store's home area, metadata spared: group 1 is for data.
  const auto info = core::Engine::Inspect(*store_, environment_);
  ASSERT_TRUE(info.ok());
  const uint64_t home = info->home_start_bytes + (AllocationLayout::kGroupBlocks + 100) * core::kBlockBytes;
  auto* garbage = static_cast<std::byte*>(std::aligned_alloc(core::kBlockBytes, 4 * core::kBlockBytes));
  std::fill_n(garbage, 4 * core::kBlockBytes, std::byte{0x99});
  ASSERT_TRUE(sal::BlockingWrite(*store_, environment_, home, garbage, 4 * core::kBlockBytes).ok());
  std::free(garbage);
  Open();
  const auto quick = Check(*engine_, {});
  ASSERT_TRUE(quick.ok()) << quick.status();
  EXPECT_TRUE(quick->clean());
  const auto report = Check(*engine_, {.verify_data = true});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->problem_count, 4u);
  for (const Problem& problem : report->problems) EXPECT_EQ(problem.kind, ProblemKind::kData) << ToString(problem);
}

}  // namespace
}  // namespace stagefs::volume

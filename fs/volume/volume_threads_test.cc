// Many threads at once: what each of them did is there, and fsck finds nothing wrong. Meant for ThreadSanitizer.

#include <sys/stat.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/check.h"
#include "fs/volume/errno.h"
#include "fs/volume/testing/memory_engine.h"
#include "fs/volume/volume.h"
#include "gtest/gtest.h"
#include "sal/real_environment.h"

namespace stagefs::volume::testing {
namespace {

class VolumeThreadsTest : public ::testing::Test {
 protected:
  VolumeThreadsTest() : environment_(2) {
    MemoryEngine::Options options;
    options.miss_probability = 0.02;
    options.rerun_probability = 0.02;
    options.asynchronous = true;
    options.durability = MemoryEngine::Durability::kWhenAsked;
    options.staging_blocks = 100;
    engine_ = std::make_unique<MemoryEngine>(environment_, options);
    EXPECT_TRUE(Volume::Format(*engine_, {}).ok());
    volume_ = *Volume::Open(*engine_);
  }
  ~VolumeThreadsTest() override { volume_->Close(); }

  template <typename T, typename Start>
  absl::StatusOr<T> Wait(Start start) {
    const std::unique_ptr<sal::Event> event = environment_.NewEvent();
    absl::StatusOr<T> result = absl::UnknownError("no callback");
    start([&](absl::StatusOr<T> value) {
      result = std::move(value);
      event->Set();
    });
    event->Wait();
    return result;
  }
  template <typename Start>
  int WaitStatus(Start start) {
    return ToErrno(Wait<int>([&](auto done) {
      start([done = std::move(done)](absl::Status status) mutable {
        if (status.ok()) {
          done(0);
        } else {
          done(std::move(status));
        }
      });
    }).status());
  }
  Ino Create(Ino directory, const std::string& name, bool open) {
    const auto created = Wait<Attributes>([&](auto done) {
      volume_->Create(directory, name, {.mode = S_IFREG | 0644}, open, std::move(done));
    });
    EXPECT_TRUE(created.ok()) << created.status();
    return created.ok() ? created->ino : 0;
  }

  // Creates, writes, renames over, reads back and removes files, some of them open.
  void Work(Ino directory, int thread) {
    const std::string bytes(100'000, static_cast<char>('a' + thread));
    const auto content = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size());
    for (int i = 0; i < 40; ++i) {
      const std::string name = absl::StrCat(thread, "-", i), kept = absl::StrCat("kept-", thread);
      const bool open = i % 3 == 0;
      const Ino ino = Create(directory, name, open);
      for (const size_t size : {size_t{100}, size_t{5000}, bytes.size()}) {
        EXPECT_TRUE(Wait<size_t>([&](auto done) {
                      volume_->Write(ino, 0, content.first(size), false, std::move(done));
                    }).ok());
      }
      std::string read(bytes.size() + 1, '\0');
      const auto count = Wait<size_t>([&](auto done) {
        volume_->Read(ino, 0, absl::MakeSpan(reinterpret_cast<std::byte*>(read.data()), read.size()),
                      std::move(done));
      });
      EXPECT_TRUE(count.ok()) << count.status();
      read.resize(count.value_or(0));
      EXPECT_TRUE(read == bytes);
      if (i % 2 == 0) {
        EXPECT_EQ(WaitStatus([&](auto done) {
                    volume_->Rename(directory, name, directory, kept, 0, std::move(done));
                  }), 0);
      } else {
        EXPECT_EQ(WaitStatus([&](auto done) { volume_->Unlink(directory, name, std::move(done)); }), 0);
      }
      if (open) volume_->Release(ino);
    }
  }

  sal::RealEnvironment environment_;
  std::unique_ptr<MemoryEngine> engine_;
  std::unique_ptr<Volume> volume_;
};

TEST_F(VolumeThreadsTest, ThreadsInOneDirectoryDoNotDisturbEachOther) {
  constexpr int kThreads = 4;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back([this, i] { Work(kRootIno, i); });
  std::atomic<bool> stop = false;
  std::thread lister([&] {
    while (!stop) {
      EXPECT_TRUE(Wait<std::vector<DirectoryEntry>>([&](auto done) {
                    volume_->ReadDirectory(kRootIno, 0, 1000, true, std::move(done));
                  }).ok());
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  lister.join();
  const auto entries = Wait<std::vector<DirectoryEntry>>([&](auto done) {
    volume_->ReadDirectory(kRootIno, 0, 1000, true, std::move(done));
  });
  ASSERT_TRUE(entries.ok());
  EXPECT_EQ(entries->size(), 2u + kThreads);
  volume_->Close();
  const absl::StatusOr<CheckReport> report = Check(*engine_, {});
  ASSERT_TRUE(report.ok()) << report.status();
  for (const Problem& problem : report->problems) ADD_FAILURE() << ToString(problem);
}

}  // namespace
}  // namespace stagefs::volume::testing

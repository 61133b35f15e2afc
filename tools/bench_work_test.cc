#include "tools/bench_work.h"

#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class BenchWorkTest : public ::testing::Test {
 protected:
  BenchWorkTest() {
    settings_.scale = {.size_bytes = 2 << 20, .files = 50};
    settings_.row_ns = 2'000'000;
    settings_.stop = &stop_;
    directory_ = *BenchDirectory::Make(::testing::TempDir());
  }
  absl::StatusOr<BenchResult> Run(absl::string_view name) {
    return RunBenchRow(*ParseBenchRows(name)->front(), *directory_, settings_);
  }
  std::set<std::string> Names(const std::string& below = "") const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_->path() + below)) {
      names.insert(entry.path().filename());
    }
    return names;
  }
  uint64_t DataSize() const { return std::filesystem::file_size(directory_->path() + "/data"); }

  std::atomic<bool> stop_ = false;
  BenchSettings settings_;
  std::unique_ptr<BenchDirectory> directory_;
};

TEST_F(BenchWorkTest, EveryRowMeasuresSomething) {
  for (const BenchRow* row : AllBenchRows()) {
    const auto result = RunBenchRow(*row, *directory_, settings_);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_GT(result->operations, 0u) << row->name;
    EXPECT_EQ(result->latencies.count(), result->operations) << row->name;
    EXPECT_GT(result->Rate(*row), 0) << row->name;
  }
  EXPECT_THAT(Names(), UnorderedElementsAre("data", "files"));
}

TEST_F(BenchWorkTest, EveryRowRunsAlone) {
  for (const BenchRow* row : AllBenchRows()) {
    directory_ = *BenchDirectory::Make(::testing::TempDir());
    EXPECT_EQ(RunBenchRow(*row, *directory_, settings_).status(), absl::OkStatus());
  }
}

TEST_F(BenchWorkTest, ARowEndsWhenItsTimeIsUp) {
  settings_.row_ns = 30'000'000;
  for (const char* name : {"seq_read", "randread_q1", "stat"}) {
    const auto result = Run(name);
    EXPECT_GE(result->busy_ns, settings_.row_ns) << name;
    EXPECT_LT(result->busy_ns - result->latencies.max_ns(), settings_.row_ns) << name;
  }
}

TEST_F(BenchWorkTest, AFileThatARowLeavesShortIsCompletedByTheNext) {
  settings_.row_ns = 1;
  ASSERT_TRUE(Run("seq_write").ok());
  EXPECT_EQ(DataSize(), 1u << 20);
  ASSERT_TRUE(Run("randwrite_buf").ok());
  EXPECT_EQ(DataSize(), 2u << 20);
}

TEST_F(BenchWorkTest, MoreOperationsThanFilesAreDoneByBeginningAgain) {
  settings_.scale.files = 2;
  settings_.row_ns = 200'000'000;
  for (const char* name : {"create", "stat", "unlink", "create_fsync"}) EXPECT_GT(Run(name)->operations, 4u) << name;
  EXPECT_LE(Names("/files").size(), 2u);
}

TEST_F(BenchWorkTest, AStoppedRowIsCancelled) {
  stop_ = true;
  for (const BenchRow* row : AllBenchRows()) {
    EXPECT_EQ(RunBenchRow(*row, *directory_, settings_).status().code(), absl::StatusCode::kCancelled) << row->name;
  }
}

TEST_F(BenchWorkTest, AnErrorNamesTheRowAndTheDirectory) {
  ASSERT_TRUE(directory_->Remove().ok());
  const absl::Status status = Run("create").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("create on " + ::testing::TempDir() + ": mkdir: No such file"));
}

TEST(ParseBenchRowsTest, RowsComeInTheirOwnOrder) {
  const auto rows = ParseBenchRows("unlink,create");
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ(rows->at(0)->name, "create");
  EXPECT_EQ(rows->at(1)->name, "unlink");
}

TEST(ParseBenchRowsTest, UnknownRowsAreRefusedWithTheNamesThereAre) {
  for (const char* list : {"", "creat", "create,", "create,nonsense"}) {
    const absl::Status status = ParseBenchRows(list).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << list;
    EXPECT_THAT(std::string(status.message()), HasSubstr("but seq_write, seq_read, ")) << list;
  }
}

}  // namespace
}  // namespace stagefs::tools

#include "tools/bench_report.h"

#include <string>

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr BenchRow kWrite = {"write", "write it", true, false};
constexpr BenchRow kStat = {"stat", "stat it", false, true};

BenchResult Result(uint64_t operations, uint64_t bytes, int64_t latency_ns) {
  BenchResult result;
  result.operations = operations;
  result.bytes = bytes;
  result.busy_ns = 1'000'000'000;
  for (uint64_t i = 0; i < operations; ++i) result.latencies.Add(latency_ns);
  return result;
}

// Two directories; in the second one kStat has failed.
BenchReport Report() {
  BenchReport report;
  report.kernel = "6.1";
  report.cpus = 2;
  report.cpu_model = "Model";
  report.settings.scale = report.wanted;
  report.rounds = 3;
  report.directories = {{"/mnt/a", "fuse.stagefs", "/srv/a.img"}, {"/mnt/b", "ext4", "/dev/b"}};
  report.rows = {&kWrite, &kStat};
  report.cells.assign(2, std::vector<BenchCell>(2));
  for (const uint64_t rate : {100, 300, 200}) report.cells[0][0].AddRound(kWrite, Result(1, rate << 20, 1000));
  report.cells[0][1].AddRound(kWrite, Result(1, 50 << 20, 1000));
  report.cells[1][0].AddRound(kStat, Result(70, 0, 12'000));
  return report;
}

TEST(BenchCellTest, ItsRateIsTheMedianOfTheRounds) {
  BenchCell cell;
  EXPECT_EQ(cell.Rate(), 0);
  cell.AddRound(kStat, Result(10, 0, 1));
  cell.AddRound(kStat, Result(40, 0, 1));
  EXPECT_EQ(cell.Rate(), 25);
  cell.AddRound(kStat, Result(20, 0, 1));
  EXPECT_EQ(cell.Rate(), 20);
  EXPECT_EQ(cell.total().operations, 70u);
  EXPECT_EQ(cell.total().latencies.count(), 70u);
}

TEST(BenchReportTest, TheTableSaysWhatWasMeasuredOnWhat) {
  const std::string table = Report().Table();
  EXPECT_THAT(table, HasSubstr("Linux 6.1, 2 CPUs (Model)\n"));
  EXPECT_THAT(table, HasSubstr("[1] /mnt/a: fuse.stagefs on /srv/a.img\n[2] /mnt/b: ext4 on /dev/b\n"));
  EXPECT_THAT(table, HasSubstr("Files of 256 MiB; up to 10000 small ones; 1 s a row, medians of 3 rounds; reads with "
                               "warm caches.\n"));
  EXPECT_THAT(table, HasSubstr(
      "write           MiB/s        200        -        -      50.0        -        -     0.25   write it\n"
      "stat            /s          70.0     12.0     12.0    failed        -        -        -   stat it (warm)\n"));
}

TEST(BenchReportTest, ColdReadsAndFilesThatHadToBeSmallerAreNamed) {
  BenchReport report = Report();
  EXPECT_THAT(report.Table(), Not(HasSubstr("room")));
  report.settings.cold = true;
  report.settings.scale.size_bytes = 64 << 20;
  EXPECT_THAT(report.Table(), HasSubstr("Files of 64 MiB; up to 10000 small ones (there is no room for 256 MiB and "
                                        "10000); "));
  EXPECT_THAT(report.Table(), HasSubstr("reads with the page cache dropped before"));
  EXPECT_THAT(report.Table(), HasSubstr("stat it (cold)\n"));
}

TEST(BenchReportTest, JsonHasAllRoundsAndPercentiles) {
  const std::string json = absl::StrReplaceAll(Report().Json(), {{" ", ""}, {"\n", ""}});
  EXPECT_THAT(json, HasSubstr("\"kernel\":\"6.1\",\"cpus\":2,"));
  EXPECT_THAT(json, HasSubstr("{\"path\":\"/mnt/b\",\"type\":\"ext4\",\"source\":\"/dev/b\"}]"));
  EXPECT_THAT(json, HasSubstr("\"rate\":200,\"rates\":[100,300,200],\"ratio\":1,"));
  EXPECT_THAT(json, HasSubstr("\"rate\":50,\"rates\":[50],\"ratio\":0.25,"));
  EXPECT_THAT(json, HasSubstr("\"p50_us\":12,\"p90_us\":12,\"p99_us\":12,\"p99_9_us\":12,\"max_us\":12}"));
  EXPECT_THAT(json, HasSubstr("{\"directory\":\"/mnt/b\",\"failed\":true}"));
}

}  // namespace
}  // namespace stagefs::tools

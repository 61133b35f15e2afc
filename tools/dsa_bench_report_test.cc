#include "tools/dsa_bench_report.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stagefs::tools {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

// 2,000 operations of 10 us in 2 ms.
DsaBenchReport Report(const DsaCase& work) {
  DsaBenchReport report;
  report.address = "/volume.img";
  report.provider = "shm";
  DsaBenchReport::Row row = {work, {}};
  row.result.operations = 2000;
  row.result.busy_ns = 2'000'000;
  for (int i = 0; i < 2000; ++i) row.result.latencies.Add(10'000);
  report.rows.push_back(std::move(row));
  return report;
}

TEST(DsaBenchReportTest, TableSaysWhatWasMeasured) {
  const std::string table = Report({DsaOperation::kWrite, 4096, 8, true}).Table();
  EXPECT_THAT(table, HasSubstr("/volume.img over shm; 4 MiB (above 32 KiB: 256 MiB) of a file; 1 s a row; polling\n"));
  EXPECT_THAT(table, ContainsRegex("\nwrite +4096 +8 +durable +1000000 +3906[.]2 +10[.]. +10[.]. +10"));
}

TEST(DsaBenchReportTest, WhatHasNoSizeShowsNone) {
  const std::string table = Report({DsaOperation::kFlush, 0, 1, false}).Table();
  EXPECT_THAT(table, ContainsRegex("\nflush +- +1 +done +1000000 +- "));
}

TEST(DsaBenchReportTest, AGroupsBytesAreThoseOfItsWrites) {
  const std::string json = Report({DsaOperation::kGroup, 64, 1, false}).Json();
  EXPECT_THAT(json, HasSubstr("\"operation\": \"group\""));
  EXPECT_THAT(json, ContainsRegex("\"mib_per_second\": 488[.]28"));
  EXPECT_THAT(json, HasSubstr("\"rate\": 1e+06"));
}

}  // namespace
}  // namespace stagefs::tools

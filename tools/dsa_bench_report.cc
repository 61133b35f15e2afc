#include "tools/dsa_bench_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/json.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

double Microseconds(const DsaBenchResult& result, double percent) {
  return result.latencies.PercentileNs(percent) / 1e3;
}

// Until when an operation is timed.
const char* End(const DsaCase& work) { return !work.IsChange() ? "done" : work.durable ? "durable" : "staged"; }

double MiBPerSecond(const DsaBenchReport::Row& row) {
  const uint64_t transfers = row.work.operation == DsaOperation::kGroup ? kGroupWrites : 1;
  return row.result.Rate() * row.work.size_bytes * transfers / (1 << 20);
}

JsonWriter RowJson(const DsaBenchReport::Row& row) {
  JsonWriter json;
  json.Text("operation", row.work.Name());
  json.Number("size_bytes", row.work.size_bytes);
  json.Number("depth", row.work.depth);
  json.Bool("durable", row.work.durable);
  json.Number("operations", row.result.operations);
  json.Number("busy_ns", row.result.busy_ns);
  json.Number("rate", row.result.Rate());
  json.Number("mib_per_second", MiBPerSecond(row));
  json.Number("p50_us", Microseconds(row.result, 50));
  json.Number("p90_us", Microseconds(row.result, 90));
  json.Number("p99_us", Microseconds(row.result, 99));
  json.Number("p99_9_us", Microseconds(row.result, 99.9));
  json.Number("max_us", row.result.latencies.max_ns() / 1e3);
  return json;
}

}  // namespace

std::string DsaBenchReport::Table() const {
  std::string table = absl::StrFormat("%s, %s over %s; %s of a file; %s s a row; %s\n\n", TimeText(wall_ns), address,
                                      provider, settings.span_bytes == 0 ? "4 MiB (above 32 KiB: 256 MiB)" : SizeText(settings.span_bytes), absl::StrCat(settings.case_ns / 1e9),
                                      settings.sleep ? "sleeping" : "polling");
  const std::string head = absl::StrFormat("%-7s%10s%7s  %-8s%10s%10s%10s%10s%10s%10s%10s\n", "work", "size", "depth",
                                           "until", "a second", "MiB/s", "p50 us", "p90 us", "p99 us", "p99.9 us",
                                           "max us");
  absl::StrAppend(&table, head, std::string(head.size() - 1, '-'), "\n");
  for (const Row& row : rows) {
    const bool sized = row.work.IsTransfer();
    absl::StrAppendFormat(&table, "%-7s%10s%7d  %-8s%10.0f%10s%10.1f%10.1f%10.1f%10.1f%10.1f\n", row.work.Name(),
                          sized ? absl::StrCat(row.work.size_bytes) : "-", row.work.depth, End(row.work),
                          row.result.Rate(), sized ? absl::StrFormat("%.1f", MiBPerSecond(row)) : "-",
                          Microseconds(row.result, 50), Microseconds(row.result, 90), Microseconds(row.result, 99),
                          Microseconds(row.result, 99.9), row.result.latencies.max_ns() / 1e3);
  }
  return table;
}

std::string DsaBenchReport::Json() const {
  JsonWriter json;
  json.Text("date", TimeText(wall_ns));
  json.Number("date_ns", wall_ns);
  json.Text("address", address);
  json.Text("provider", provider);
  json.Number("span_bytes", settings.span_bytes);
  json.Number("case_ns", settings.case_ns);
  json.Bool("sleep", settings.sleep);
  std::vector<JsonWriter> list;
  for (const Row& row : rows) list.push_back(RowJson(row));
  json.Objects("rows", list);
  return json.Finish();
}

}  // namespace stagefs::tools

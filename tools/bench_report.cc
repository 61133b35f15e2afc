#include "tools/bench_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/json.h"
#include "tools/terminal.h"

namespace stagefs::tools {

namespace {

// Three digits that count, for small numbers.
std::string NumberText(double number) {
  return absl::StrFormat("%.*f", number < 10 ? 2 : number < 100 ? 1 : 0, number);
}

double Microseconds(const BenchCell& cell, double percent) {
  return cell.total().latencies.PercentileNs(percent) / 1e3;
}

// How often the rate of the first directory; 0 if that is not known.
double Ratio(const BenchCell& cell, const BenchCell& first) {
  return first.Rate() > 0 ? cell.Rate() / first.Rate() : 0;
}

const char* Unit(const BenchRow& row) { return row.throughput ? "MiB/s" : "/s"; }

JsonWriter CellJson(const BenchReport::Directory& directory, const BenchCell& cell, const BenchCell& first) {
  JsonWriter json;
  json.Text("directory", directory.path);
  json.Bool("failed", cell.empty());
  if (cell.empty()) return json;
  json.Number("rate", cell.Rate());
  json.Numbers("rates", cell.rates());
  if (first.Rate() > 0) json.Number("ratio", Ratio(cell, first));
  const BenchResult& total = cell.total();
  json.Number("operations", total.operations);
  json.Number("bytes", total.bytes);
  json.Number("busy_ns", total.busy_ns);
  json.Number("p50_us", Microseconds(cell, 50));
  json.Number("p90_us", Microseconds(cell, 90));
  json.Number("p99_us", Microseconds(cell, 99));
  json.Number("p99_9_us", Microseconds(cell, 99.9));
  json.Number("max_us", total.latencies.max_ns() / 1e3);
  return json;
}

}  // namespace

void BenchCell::AddRound(const BenchRow& row, const BenchResult& result) {
  rates_.push_back(result.Rate(row));
  total_.Add(result);
}

double BenchCell::Rate() const {
  if (rates_.empty()) return 0;
  std::vector<double> sorted = rates_;
  std::sort(sorted.begin(), sorted.end());
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

std::string BenchReport::Table() const {
  std::string table = absl::StrFormat("%s, Linux %s, %d CPUs (%s)\n", TimeText(wall_ns), kernel, cpus, cpu_model);
  for (size_t i = 0; i < directories.size(); ++i) {
    absl::StrAppendFormat(&table, "[%d] %s: %s on %s\n", i + 1, directories[i].path, directories[i].type,
                          directories[i].source);
  }
  absl::StrAppendFormat(&table, "Files of %s; up to %d small ones", SizeText(settings.scale.size_bytes),
                        settings.scale.files);
  if (settings.scale.size_bytes < wanted.size_bytes || settings.scale.files < wanted.files) {
    absl::StrAppendFormat(&table, " (there is no room for %s and %d)", SizeText(wanted.size_bytes), wanted.files);
  }
  absl::StrAppendFormat(&table, "; %s s a row, %s; reads with %s.\n\n", absl::StrCat(settings.row_ns / 1e9),
                        rounds == 1 ? "one round" : absl::StrCat("medians of ", rounds, " rounds"),
                        settings.cold ? "the page cache dropped before" : "warm caches");

  std::string line = absl::StrFormat("%-16s%-6s", "row", "unit");
  for (size_t i = 0; i < directories.size(); ++i) {
    absl::StrAppendFormat(&line, "%10s%9s%9s%s", absl::StrCat("[", i + 1, "] rate"), "p50 us", "p99 us",
                          i > 0 ? "    ratio" : "");
  }
  absl::StrAppend(&table, line, "   what\n", std::string(line.size() + 7, '-'), "\n");
  for (size_t r = 0; r < rows.size(); ++r) {
    const BenchRow& row = *rows[r];
    absl::StrAppendFormat(&table, "%-16s%-6s", row.name, Unit(row));
    for (size_t i = 0; i < directories.size(); ++i) {
      const BenchCell& cell = cells[r][i];
      const bool latencies = !cell.empty() && !row.throughput;
      absl::StrAppendFormat(&table, "%10s%9s%9s", cell.empty() ? "failed" : NumberText(cell.Rate()),
                            latencies ? NumberText(Microseconds(cell, 50)) : "-",
                            latencies ? NumberText(Microseconds(cell, 99)) : "-");
      if (i == 0) continue;
      const double ratio = Ratio(cell, cells[r][0]);
      absl::StrAppendFormat(&table, "%9s", ratio > 0 ? NumberText(ratio) : "-");
    }
    absl::StrAppend(&table, "   ", row.what, row.reads ? settings.cold ? " (cold)" : " (warm)" : "", "\n");
  }
  return table;
}

std::string BenchReport::Json() const {
  JsonWriter json;
  json.Text("date", TimeText(wall_ns));
  json.Number("date_ns", wall_ns);
  json.Text("kernel", kernel);
  json.Number("cpus", cpus);
  json.Text("cpu_model", cpu_model);
  json.Number("rounds", rounds);
  json.Number("row_ns", settings.row_ns);
  json.Number("size_bytes", settings.scale.size_bytes);
  json.Number("wanted_size_bytes", wanted.size_bytes);
  json.Number("files", settings.scale.files);
  json.Number("wanted_files", wanted.files);
  json.Bool("cold", settings.cold);
  std::vector<JsonWriter> list;
  for (const Directory& directory : directories) {
    list.emplace_back();
    list.back().Text("path", directory.path);
    list.back().Text("type", directory.type);
    list.back().Text("source", directory.source);
  }
  json.Objects("directories", list);
  list.clear();
  for (size_t r = 0; r < rows.size(); ++r) {
    std::vector<JsonWriter> results;
    for (size_t i = 0; i < directories.size(); ++i) {
      results.push_back(CellJson(directories[i], cells[r][i], cells[r][0]));
    }
    list.emplace_back();
    list.back().Text("row", rows[r]->name);
    list.back().Text("what", rows[r]->what);
    list.back().Text("unit", Unit(*rows[r]));
    list.back().Objects("results", results);
  }
  json.Objects("rows", list);
  return json.Finish();
}

}  // namespace stagefs::tools

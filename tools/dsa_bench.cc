#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"
#include "tools/commands.h"
#include "tools/dsa_bench_case.h"
#include "tools/dsa_bench_report.h"
#include "tools/dsa_bench_session.h"
#include "tools/terminal.h"

namespace stagefs::tools {
namespace {

constexpr char kSummary[] =
    "Measures direct access to the volume of the server at ADDRESS (its socket, its store, or HOST:PORT):\n"
    "percentiles of the time of an operation, and rates. Without --op, --size, --depth and --durable it\n"
    "measures a short standard set.\n"
    "\n"
    "FILE is a path in the volume. It is made if it is not there, its content is REPLACED, and it is left\n"
    "empty: direct access cannot remove names.";

// What the command line says of the cases.
struct Wishes {
  std::vector<DsaOperation> operations;
  std::vector<uint64_t> sizes;
  std::vector<uint64_t> depths;
  bool durable = false;
};

absl::StatusOr<std::vector<DsaCase>> CasesOf(const Wishes& wishes) {
  if (wishes.operations.empty() && wishes.sizes.empty() && wishes.depths.empty() && !wishes.durable) {
    return StandardDsaCases();
  }
  const DsaCase usual;
  return CombineDsaCases(
      wishes.operations.empty() ? std::vector<DsaOperation>{usual.operation} : wishes.operations,
      wishes.sizes.empty() ? std::vector<uint64_t>{usual.size_bytes} : wishes.sizes,
      wishes.depths.empty() ? std::vector<uint64_t>{usual.depth} : wishes.depths, wishes.durable);
}

absl::Status CheckSpan(const std::vector<DsaCase>& cases, uint64_t span_bytes) {
  if (span_bytes == 0) return absl::OkStatus();
  uint64_t least = 8;  // of an atomic
  for (const DsaCase& work : cases) least = std::max(least, work.size_bytes);
  if (span_bytes >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--span must be at least ", SizeText(least)));
}

absl::Status Bench(const std::string& address, const std::string& path, const DsaBenchSettings& settings,
                   const std::vector<DsaCase>& cases, bool json) {
  RETURN_IF_ERROR(CheckSpan(cases, settings.span_bytes));
  DsaBenchReport report;
  report.wall_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  report.address = address;
  report.settings = settings;
  ASSIGN_OR_RETURN(const std::unique_ptr<DsaBenchSession> session, DsaBenchSession::Open(address, path, settings));
  report.provider = session->provider();
  ProgressBar bar("measuring");
  for (const DsaCase& work : cases) {
    ASSIGN_OR_RETURN(DsaBenchResult result, session->Measure(work));
    report.rows.push_back({work, std::move(result)});
    bar.Update(static_cast<double>(report.rows.size()) / cases.size());
  }
  std::fputs((json ? report.Json() : report.Table()).c_str(), stdout);
  return session->Close();
}

// Sets *target to what `parse` makes of the value.
template <typename T>
std::function<absl::Status(absl::string_view)> Parsed(absl::StatusOr<T> (*parse)(absl::string_view), T* target) {
  return [=](absl::string_view value) -> absl::Status {
    ASSIGN_OR_RETURN(*target, parse(value));
    return absl::OkStatus();
  };
}

}  // namespace

int RunDsaBench(const Invocation& invocation) {
  Wishes wishes;
  DsaBenchSettings settings;
  bool json = false;
  bool busy = false;
  ArgumentParser parser(invocation, {"ADDRESS", "FILE"}, kSummary);
  parser.AddValue(0, "op", "OP[,OP]", "of write, read, cas, add, flush, group (default write)",
                  Parsed(ParseDsaOperations, &wishes.operations));
  parser.AddValue(0, "size", "SIZE[,SIZE]", "of a read or write (default 64)", Parsed(ParseDsaSizes, &wishes.sizes));
  parser.AddValue(0, "depth", "N[,N]", "operations under way at once (default 1)",
                  Parsed(ParseDsaDepths, &wishes.depths));
  parser.AddFlag(0, "durable", "time changes until they are durable, not until they are staged", &wishes.durable);
  parser.AddValue(0, "seconds", "N", "time for each row (default 1)", [&](absl::string_view value) -> absl::Status {
    ASSIGN_OR_RETURN(const uint64_t case_ns, ParseDurationNs(value));
    settings.case_ns = static_cast<int64_t>(case_ns);
    return absl::OkStatus();
  });
  parser.AddSize(0, "span", "how much of the file is used (default 4M,\nand 256M for sizes above 32K)", &settings.span_bytes);
  parser.AddText(0, "provider", "NAME", "of libfabric: shm, tcp, verbs\n(default: the fastest that the server allows)",
                 &settings.provider);
  parser.AddText(0, "key", "FILE", "the key for a server on another machine", &settings.key_file);
  parser.AddFlag(0, "busy", "poll for completions (default)", &busy);
  parser.AddFlag(0, "sleep", "wait for completions in dsa_wait()", &settings.sleep);
  parser.AddFlag(0, "json", "print JSON", &json);
  auto operands = parser.Parse();
  if (absl::IsCancelled(operands.status())) return 0;
  absl::Status result = operands.status();
  if (result.ok() && busy && settings.sleep) {
    result = absl::InvalidArgumentError("--busy and --sleep exclude each other");
  }
  if (result.ok()) {
    const auto cases = CasesOf(wishes);
    result = cases.ok() ? Bench((*operands)[0], (*operands)[1], settings, *cases, json) : cases.status();
  }
  if (!result.ok()) PrintError(invocation, result);
  return result.ok() ? 0 : 1;
}

}  // namespace stagefs::tools

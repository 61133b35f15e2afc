// The deterministic simulator: core and fs/volume on one thread, one seed, a simulated clock, executor and disk.
//
//   simulator --seed N [--operations N] [--faults LIST] [--verbose]   one seed; the same seed gives the same hash
//   simulator --seconds N | --hours N [--seed FIRST] ...              seed after seed, until the first failure
//
// Replaying a failure takes the same commit, seed, --operations and --faults.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tests/simulator/simulation.h"

namespace stagefs::simulator {
namespace {

constexpr char kUsage[] =
    "simulator [--seed N] [--operations N] [--seconds N | --hours N] [--faults all|none|LIST] [--verbose]\n"
    "  --seed N         the seed, or with --seconds and --hours the first (default 1)\n"
    "  --operations N   for each seed, about (default 10000)\n"
    "  --seconds N, --hours N\n"
    "                   goes on with the next seeds for so long, and says every 10 s how far it is\n"
    "  --faults LIST    of the disk, with commas between them (default all)\n"
    "  --verbose        prints every operation, its LSN and its answer\n";

struct Arguments {
  SimulationOptions simulation;
  std::string faults = "all";
  uint64_t seconds = 0;
  bool verbose = false;
};

// False: they make no sense; says why.
bool Parse(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i], value;
    if (name == "--verbose") {
      arguments->verbose = true;
      continue;
    }
    if (const size_t equals = name.find('='); equals != name.npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (i + 1 < argc) {
      value = argv[++i];
    }
    uint64_t number = 0;
    const bool is_number = absl::SimpleAtoi(value, &number);
    if (name == "--seed" && is_number) {
      arguments->simulation.seed = number;
    } else if (name == "--operations" && is_number) {
      arguments->simulation.operations = number;
    } else if (name == "--seconds" && is_number) {
      arguments->seconds = number;
    } else if (name == "--hours" && is_number) {
      arguments->seconds = number * 3600;
    } else if (name == "--faults") {
      const absl::StatusOr<FaultSet> faults = ParseFaults(value);
      if (!faults.ok()) {
        std::fprintf(stderr, "simulator: %s\n", std::string(faults.status().message()).c_str());
        return false;
      }
      arguments->simulation.faults = *faults;
      arguments->faults = value;
    } else {
      std::fprintf(stderr, "simulator: %s %s is no option\n%s", name.c_str(), value.c_str(), kUsage);
      return false;
    }
  }
  return true;
}

// The commit that is checked out here, if any. Not the simulator's own: whoever replays has to know that it was.
std::string Commit() {
  FILE* const git = popen("git rev-parse HEAD 2>/dev/null", "r");
  char line[64] = {};
  const bool known = git != nullptr && std::fgets(line, sizeof(line), git) != nullptr;
  if (git != nullptr) pclose(git);
  return known ? std::string(line, 40) : "unknown";
}

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void PrintProgress(const Counts& counts, Clock::time_point start) {
  const double seconds = SecondsSince(start);
  std::printf("%.0f s: %s; %.0f operations a second\n", seconds, counts.ToString().c_str(),
              static_cast<double>(counts.operations) / seconds);
  std::fflush(stdout);
}

int Run(const Arguments& arguments) {
  const Clock::time_point start = Clock::now();
  Clock::time_point last_line = start;
  SimulationOptions options = arguments.simulation;
  Counts counts;
  do {
    Trace trace(arguments.verbose);
    const absl::Status status = Simulate(options, &trace, &counts);
    if (!status.ok()) {
      std::printf("seed %llu FAILS: %s\n", static_cast<unsigned long long>(options.seed),
                  std::string(status.message()).c_str());
      std::printf("commit %s; replay: simulator --seed %llu --operations %llu --faults %s --verbose\n",
                  Commit().c_str(), static_cast<unsigned long long>(options.seed),
                  static_cast<unsigned long long>(options.operations), arguments.faults.c_str());
      return 1;
    }
    if (arguments.seconds == 0) {
      std::printf("seed %llu: hash %016llx\n", static_cast<unsigned long long>(options.seed),
                  static_cast<unsigned long long>(trace.hash()));
    }
    if (arguments.seconds > 0 && SecondsSince(last_line) >= 10) {
      PrintProgress(counts, start);
      last_line = Clock::now();
    }
    ++options.seed;
  } while (SecondsSince(start) < static_cast<double>(arguments.seconds));
  PrintProgress(counts, start);
  return 0;
}

}  // namespace
}  // namespace stagefs::simulator

int main(int argc, char** argv) {
  stagefs::simulator::Arguments arguments;
  if (!stagefs::simulator::Parse(argc, argv, &arguments)) return 2;
  return stagefs::simulator::Run(arguments);
}

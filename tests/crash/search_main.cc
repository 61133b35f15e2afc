// The exhaustive crash search. See search.h and docs/testing.md.
//
//   search --operations=1           all workloads of one operation
//   search --operations=2           and all of two
//   search --sample=5000 --length=3 --seed=1   so many workloads of so many operations, by seed (and no others, unless
//                                   --operations is given)
//   search --shard=2/8              the second eighth of them
//   search --workload="cold: ..."   one workload, by the name that a violation gives
//   search --list                   only prints the names
//
// Prints a line every 10 seconds. Goes on after a violation, and exits with 1 if there was any.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/crash/search.h"
#include "tests/crash/search_workloads.h"

namespace stagefs::crash {
namespace {

struct Flags {
  uint64_t operations = 0;
  uint64_t sample = 0;
  uint64_t length = 3;
  uint64_t seed = 1;
  uint64_t shard = 1, shards = 1;
  std::string workload;
  bool list = false;
};

[[noreturn]] void Usage(const std::string& what) {
  std::fprintf(stderr, "search: %s\nusage: search --operations=1|2 | --sample=COUNT [--length=3] | --workload=NAME\n"
               "       [--seed=1] [--shard=1/1] [--list]\n", what.c_str());
  std::exit(2);
}

Flags ParseFlags(int argc, char** argv) {
  Flags flags;
  const std::map<std::string, uint64_t*> numbers = {{"--operations", &flags.operations}, {"--sample", &flags.sample},
                                                    {"--length", &flags.length}, {"--seed", &flags.seed}};
  for (int i = 1; i < argc; ++i) {
    const std::pair<std::string, std::string> flag = absl::StrSplit(argv[i], absl::MaxSplits('=', 1));
    if (const auto number = numbers.find(flag.first); number != numbers.end()) {
      if (!absl::SimpleAtoi(flag.second, number->second)) Usage(absl::StrCat(argv[i], ": not a number"));
    } else if (flag.first == "--shard") {
      const std::vector<std::string> parts = absl::StrSplit(flag.second, '/');
      if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &flags.shard) ||
          !absl::SimpleAtoi(parts[1], &flags.shards) || flags.shard < 1 || flags.shard > flags.shards) {
        Usage(absl::StrCat(argv[i], ": must be like 2/8"));
      }
    } else if (flag.first == "--workload") {
      flags.workload = flag.second;
    } else if (flag.first == "--list") {
      flags.list = true;
    } else {
      Usage(absl::StrCat("no such flag: ", argv[i]));
    }
  }
  if (flags.operations == 0 && flags.sample == 0 && flags.workload.empty()) Usage("nothing to do");
  if (flags.operations > 2) Usage("all of more than 2 operations are too many: take a --sample");
  return flags;
}

std::vector<SearchWorkload> Chosen(const Flags& flags) {
  if (!flags.workload.empty()) {
    const absl::StatusOr<SearchWorkload> workload = Parse(flags.workload);
    if (!workload.ok()) Usage(std::string(workload.status().message()));
    return {*workload};
  }
  std::vector<SearchWorkload> all;
  const auto add = [&](const std::vector<SearchWorkload>& more) { all.insert(all.end(), more.begin(), more.end()); };
  if (flags.operations >= 1) add(AllOfOne());
  if (flags.operations >= 2) add(AllOfTwo());
  if (flags.sample > 0) add(Sample(flags.length, flags.sample, flags.seed));
  std::vector<SearchWorkload> chosen;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i * flags.shards / all.size() == flags.shard - 1) chosen.push_back(all[i]);  // neighbours share most states
  }
  return chosen;
}

int Run(const Flags& flags) {
  using Clock = std::chrono::steady_clock;
  const std::vector<SearchWorkload> workloads = Chosen(flags);
  if (flags.list) {
    for (const SearchWorkload& workload : workloads) std::printf("%s\n", workload.name().c_str());
    return 0;
  }
  const Clock::time_point start = Clock::now();
  Clock::time_point reported = start;
  Search search({.seed = flags.seed});
  uint64_t violations = 0;
  const auto report = [&] {
    const SearchCounts& c = search.counts();
    std::printf("%lu of %zu workloads, %lu cuts, %lu crash states, %lu distinct, %lu checked, %lu violations, %ld s\n",
                c.workloads, workloads.size(), c.cuts, c.states, c.distinct, c.checked, violations,
                std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - start).count());
    std::fflush(stdout);
    reported = Clock::now();
  };
  for (const SearchWorkload& workload : workloads) {
    const absl::Status status = search.Try(workload);
    if (!status.ok()) {
      ++violations;
      std::printf("VIOLATION %s\n", std::string(status.message()).c_str());
    }
    if (Clock::now() - reported > std::chrono::seconds(10)) report();
  }
  report();
  return violations == 0 ? 0 : 1;
}

}  // namespace
}  // namespace stagefs::crash

int main(int argc, char** argv) { return stagefs::crash::Run(stagefs::crash::ParseFlags(argc, argv)); }

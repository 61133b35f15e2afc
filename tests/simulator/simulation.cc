#include "tests/simulator/simulation.h"

#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace stagefs::simulator {
namespace {

using sal::SimulatedFault;

constexpr absl::string_view kFaultNames[] = {"read-error",  "write-error", "flush-error",       "device-full",
                                             "slow-flush",  "lost-write",  "torn-write",        "misdirected-write",
                                             "corrupted-write", "decay"};
static_assert(std::size(kFaultNames) == sal::kSimulatedFaultKinds);

}  // namespace

absl::string_view FaultName(SimulatedFault fault) { return kFaultNames[static_cast<size_t>(fault)]; }

FaultSet AllFaults() {
  FaultSet all;
  all.fill(true);
  return all;
}

absl::StatusOr<FaultSet> ParseFaults(absl::string_view text) {
  FaultSet faults = {};
  if (text == "all") return AllFaults();
  if (text == "none") return faults;
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    const auto found = std::find(std::begin(kFaultNames), std::end(kFaultNames), name);
    if (found == std::end(kFaultNames)) {
      std::string names = "all, none";
      for (const absl::string_view known : kFaultNames) absl::StrAppend(&names, ", ", known);
      return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" is no fault; there are ", names));
    }
    faults[found - std::begin(kFaultNames)] = true;
  }
  return faults;
}

bool IsDestructive(SimulatedFault fault) { return fault >= SimulatedFault::kLostWrite; }

void Counts::Add(const Counts& other) {
  seeds += other.seeds;
  operations += other.operations;
  volume_operations += other.volume_operations;
  lives += other.lives;
  crashes += other.crashes;
  cut_recoveries += other.cut_recoveries;
  closes += other.closes;
  checks += other.checks;
  errors += other.errors;
  reported_losses += other.reported_losses;
  parked += other.parked;
  checkpoints += other.checkpoints;
  for (size_t i = 0; i < faults.size(); ++i) faults[i] += other.faults[i];
}

std::string Counts::ToString() const {
  std::string text = absl::StrCat(seeds, " seeds, ", operations, " operations (", volume_operations, " on volumes), ",
                                  crashes, " crashes, ", cut_recoveries, " recoveries cut short, ", closes,
                                  " orderly closes, ", checks, " checks by fsck, ", checkpoints, " checkpoints, ", parked,
                                  " changes parked, ", errors, " answers with an error, ", reported_losses,
                                  " losses reported; faults:");
  for (size_t i = 0; i < faults.size(); ++i) absl::StrAppend(&text, " ", kFaultNames[i], " ", faults[i]);
  return text;
}

absl::Status Simulate(const SimulationOptions& options, Trace* trace, Counts* counts) {
  ++counts->seeds;
  return options.seed % 4 == 0 ? SimulateEngine(options, trace, counts) : SimulateVolume(options, trace, counts);
}

}  // namespace stagefs::simulator

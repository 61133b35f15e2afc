#include "tests/replay/recorded_disk.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"

namespace stagefs::replay {

using sal::Random64;
using sal::RecordEventKind;
using sal::SimulatedImage;

namespace {

// Larger ranges without data (zeroing, discards) are torn in one place only, and discards of them read as zeros.
constexpr uint64_t kLargestFinelyTorn = 4 << 20;

bool Overlaps(const WriteAtRisk& write, uint64_t offset, uint64_t length) {
  return write.offset_bytes < offset + length && offset < write.offset_bytes + write.length_bytes;
}

// Extremes find bugs that an even mixture hides.
RecordedDisk::Fate ChooseFate(Random64& random) {
  switch (random.Below(5)) {
    case 0: return RecordedDisk::Fate::kKeep;
    case 1: return RecordedDisk::Fate::kDrop;
    default: return RecordedDisk::Fate::kRandom;
  }
}

}  // namespace

void WriteAtRisk::ApplyTo(SimulatedImage& image) const {
  const auto apply = [&](uint64_t from, uint64_t to) {
    if (from >= to) return;
    if (data.empty()) {
      image.Zero(from, to - from);
    } else {
      image.Write(from, to - from, data.data() + (from - offset_bytes));
    }
  };
  std::vector<std::pair<uint64_t, uint64_t>> gaps = excluded;
  std::sort(gaps.begin(), gaps.end());
  const uint64_t end = offset_bytes + length_bytes;
  uint64_t position = offset_bytes;
  for (const auto& [gap, length] : gaps) {
    apply(position, std::min(gap, end));
    position = std::max(position, gap + length);
  }
  apply(position, end);
}

void WriteAtRisk::Tear(uint64_t unit_bytes, Random64& random) {
  const uint64_t units = length_bytes / unit_bytes;
  if (units < 2) return;
  const uint64_t style = length_bytes > kLargestFinelyTorn ? random.Below(2) : random.Below(3);
  const uint64_t cut = random.Between(1, units - 1) * unit_bytes;
  if (style == 0) {
    excluded.emplace_back(offset_bytes + cut, length_bytes - cut);
  } else if (style == 1) {
    excluded.emplace_back(offset_bytes, cut);
  } else {
    for (uint64_t i = 0; i < units; ++i) {
      if (random.OneIn(2)) excluded.emplace_back(offset_bytes + i * unit_bytes, unit_bytes);
    }
  }
}

RecordedDisk::RecordedDisk(RecordReader& reader, SimulatedImage base, const Options& options)
    : reader_(reader),
      options_(options),
      garbage_(kLargestFinelyTorn, std::byte{0xDC}),
      durable_(std::move(base)) {}

absl::Status RecordedDisk::AdvanceTo(uint64_t position) {
  if (position < reader_.position()) {
    return absl::OutOfRangeError(absl::StrCat("position ", position, " lies before ", reader_.position()));
  }
  RecordEvent event;
  while (reader_.position() < position) {
    ASSIGN_OR_RETURN(const bool found, reader_.Next(&event));
    if (!found) return absl::OutOfRangeError(absl::StrCat("the record ends at position ", reader_.position()));
    RETURN_IF_ERROR(Apply(event));
  }
  return absl::OkStatus();
}

absl::Status RecordedDisk::Apply(const RecordEvent& event) {
  switch (event.kind) {
    case RecordEventKind::kWrite:
    case RecordEventKind::kZero:
    case RecordEventKind::kDiscard:
    case RecordEventKind::kFlush:
      in_flight_[event.request_number] = {.event = event, .flush_up_to = first_unflushed_ + unflushed_.size()};
      return absl::OkStatus();
    case RecordEventKind::kCompleted: {
      const auto found = in_flight_.find(event.request_number);
      if (found == in_flight_.end()) {
        return absl::DataLossError(absl::StrCat("event ", reader_.position(), ": request ", event.request_number,
                                                " completes and is not in flight"));
      }
      const InFlight request = found->second;
      in_flight_.erase(found);
      Finish(request);
      return absl::OkStatus();
    }
    case RecordEventKind::kFailed:  // stays in flight: whether it took effect, no later flush will say
    case RecordEventKind::kMark:
      return absl::OkStatus();
  }
  return absl::DataLossError("a kind of event that the reader let through");
}

void RecordedDisk::Finish(const InFlight& request) {
  if (request.event.kind == RecordEventKind::kFlush) {
    if (options_.ignore_flushes) return;
    for (; first_unflushed_ < request.flush_up_to; ++first_unflushed_) {
      unflushed_.front().ApplyTo(durable_);
      unflushed_.pop_front();
    }
    return;
  }
  const WriteAtRisk write = WriteOf(request.event);
  if (!request.event.fua || options_.ignore_flushes) {
    unflushed_.push_back(write);
    return;
  }
  // Older writes that reach the medium later must not overwrite it.
  for (WriteAtRisk& other : unflushed_) {
    if (Overlaps(other, write.offset_bytes, write.length_bytes)) {
      other.excluded.emplace_back(write.offset_bytes, write.length_bytes);
    }
  }
  write.ApplyTo(durable_);
}

WriteAtRisk RecordedDisk::WriteOf(const RecordEvent& event) const {
  WriteAtRisk write;
  write.offset_bytes = event.offset_bytes;
  write.length_bytes = event.length_bytes;
  write.data = event.data;
  if (event.kind == RecordEventKind::kDiscard && event.length_bytes <= kLargestFinelyTorn &&
      Random64(event.request_number).OneIn(2)) {
    write.data = absl::MakeConstSpan(garbage_).first(event.length_bytes);
  }
  return write;
}

SimulatedImage RecordedDisk::Cut(uint64_t seed, Fate fate, CutReport* report) const {
  Random64 random(seed);
  SimulatedImage image = durable_;
  std::vector<WriteAtRisk> landing;
  for (const auto& [number, request] : in_flight_) {
    if (request.event.kind != RecordEventKind::kFlush) landing.push_back(WriteOf(request.event));
  }
  for (size_t i = landing.size(); i > 1; --i) std::swap(landing[i - 1], landing[random.Below(i)]);

  const auto apply = [&](WriteAtRisk write, Fate chosen) {
    if (chosen == Fate::kRandom) {
      switch (random.Below(3)) {
        case 0: chosen = Fate::kKeep; break;
        case 1: chosen = Fate::kDrop; break;
        default:
          write.Tear(reader_.atomic_write_bytes(), random);
          ++report->torn;
          write.ApplyTo(image);
          return;
      }
    }
    if (chosen == Fate::kDrop) {
      ++report->dropped;
    } else {
      ++report->kept;
      write.ApplyTo(image);
    }
  };
  const Fate unflushed_fate = fate == Fate::kRandom ? ChooseFate(random) : fate;
  const Fate landing_fate = fate == Fate::kRandom ? ChooseFate(random) : fate;
  for (const WriteAtRisk& write : unflushed_) apply(write, unflushed_fate);
  for (const WriteAtRisk& write : landing) apply(write, landing_fate);
  return image;
}

}  // namespace stagefs::replay

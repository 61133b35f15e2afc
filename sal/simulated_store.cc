#include "sal/simulated_store.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "sal/check.h"
#include "sal/request_check.h"

namespace stagefs::sal {

namespace {

// Ranges without data (zeroing, large discards) can be as large as the disk: they are torn in one place only.
constexpr uint64_t kLargestFinelyTorn = 4 << 20;

bool Overlaps(const SimulatedWrite& a, const SimulatedWrite& b) {
  return a.offset_bytes < b.offset_bytes + b.length_bytes && b.offset_bytes < a.offset_bytes + a.length_bytes;
}

// How a crash treats the writes of one kind. Extremes find bugs that an even mixture hides.
enum class Fate { kKeepAll, kDropAll, kMix };

Fate ChooseFate(Random64& random) {
  switch (random.Below(5)) {
    case 0: return Fate::kKeepAll;
    case 1: return Fate::kDropAll;
    default: return Fate::kMix;
  }
}

// False: the write is dropped. Otherwise `write` is what is left of it.
bool Survives(SimulatedWrite& write, Fate fate, uint64_t unit, Random64& random) {
  if (fate == Fate::kKeepAll) return true;
  if (fate == Fate::kDropAll) return false;
  switch (random.Below(3)) {
    case 0: return true;
    case 1: return false;
    default: write.Tear(unit, random); return true;
  }
}

}  // namespace

void SimulatedWrite::ApplyTo(SimulatedImage& image) const {
  const auto apply = [&](uint64_t from, uint64_t to) {
    if (from >= to) return;
    if (data == nullptr) {
      image.Zero(from, to - from);
    } else {
      image.Write(from, to - from, data->data() + (from - offset_bytes));
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

void SimulatedWrite::Tear(uint64_t unit_bytes, Random64& random) {
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

SimulatedStore::SimulatedStore(SimulatedEnvironment& environment, const SimulatedStoreOptions& options,
                               SimulatedDisk disk)
    : environment_(environment),
      options_(options),
      name_(absl::StrCat("simulated:", options.size_bytes)),
      random_(options.seed),
      disk_(std::move(disk)) {
  geometry_.size_bytes = options.size_bytes;
  geometry_.atomic_write_bytes = options.atomic_write_bytes;
  geometry_.max_request_bytes = options.max_request_bytes;
  geometry_.fua = options.fua;
  geometry_.discard = options.discard;
}

SimulatedStore::~SimulatedStore() { STAGEFS_CHECK(outstanding_ == 0); }

void SimulatedStore::Submit(absl::Span<Request* const> requests) {
  for (Request* request : requests) {
    ++outstanding_;
    const uint64_t id = ++request_count_;
    absl::Status status = CheckRequest(geometry_, name_, *request);
    if (status.ok() && request->op == Request::Op::kDiscard && !geometry_.discard) {
      status = absl::UnimplementedError(absl::StrCat(name_, ": no discard"));
    }
    if (status.ok() && request->fua && !geometry_.fua) {
      status = absl::InvalidArgumentError(absl::StrCat(name_, ": ", Describe(*request), ": no FUA here"));
    }
    uint64_t latency_ns = random_.Between(options_.shortest_latency_ns, options_.longest_latency_ns);
    if (!status.ok()) {
      environment_.Schedule(latency_ns, [this, request, status = std::move(status)] {
        --outstanding_;
        Complete(request, status);
      });
      continue;
    }
    if (request->op == Request::Op::kFlush) latency_ns *= 2;
    if (!power_off_) {
      InFlight added = Capture(request);
      CountOverlaps(added);
      InjectFaults(added);
      if (request->op == Request::Op::kFlush && Hits(SimulatedFault::kSlowFlush, 0, 0)) latency_ns *= 100;
      in_flight_.emplace(id, std::move(added));
      environment_.Schedule(latency_ns, [this, id] { Finish(id); });
      if (id == cut_at_) power_off_ = true;
    } else {
      environment_.Schedule(latency_ns, [this, request] {
        --outstanding_;
        Complete(request, absl::UnavailableError(absl::StrCat(name_, ": power is off")));
      });
    }
  }
}

SimulatedStore::InFlight SimulatedStore::Capture(Request* request) {
  InFlight added{.request = request, .op = request->op, .fua = request->fua, .write = {}};
  if (request->op == Request::Op::kFlush) {
    added.flush_up_to = first_unflushed_ + disk_.unflushed.size();
    return added;
  }
  added.write.offset_bytes = request->offset_bytes;
  added.write.length_bytes = request->length_bytes;
  std::vector<std::byte> data;
  if (request->op == Request::Op::kWrite) {
    data.reserve(request->length_bytes);
    for (const iovec& buffer : request->buffers) {
      const std::byte* bytes = static_cast<const std::byte*>(buffer.iov_base);
      data.insert(data.end(), bytes, bytes + buffer.iov_len);
    }
  } else if (request->op == Request::Op::kDiscard && request->length_bytes <= kLargestFinelyTorn && random_.OneIn(2)) {
    data.assign(request->length_bytes, std::byte{0xDC});  // discarded blocks read as anything
  }
  if (!data.empty()) added.write.data = std::make_shared<const std::vector<std::byte>>(std::move(data));
  added.submitted = added.write.data;
  return added;
}

bool SimulatedStore::Hits(SimulatedFault fault, uint64_t offset_bytes, uint64_t length_bytes) {
  const uint32_t one_in = faults_[fault];
  if (one_in == 0 || !random_.OneIn(one_in)) return false;
  if (faults_.may_hit && !faults_.may_hit(fault, offset_bytes, length_bytes)) return false;
  ++fault_counts_[static_cast<size_t>(fault)];
  return true;
}

void SimulatedStore::InjectFaults(InFlight& added) {
  const uint64_t offset = added.write.offset_bytes, length = added.write.length_bytes;
  Decay();
  switch (added.op) {
    case Request::Op::kRead:
      if (Hits(SimulatedFault::kReadError, offset, length)) {
        added.error = absl::DataLossError(absl::StrCat(name_, ": ", Describe(*added.request), ": read error"));
      }
      return;
    case Request::Op::kFlush:
      if (Hits(SimulatedFault::kFlushError, 0, 0)) {
        added.error = absl::UnavailableError(absl::StrCat(name_, ": flush error"));
      }
      return;
    case Request::Op::kWrite:
      return DamageWrite(added);
    case Request::Op::kDiscard:
    case Request::Op::kZero:
      return;
  }
}

void SimulatedStore::DamageWrite(InFlight& added) {
  SimulatedWrite& write = added.write;
  const uint64_t offset = write.offset_bytes, length = write.length_bytes;
  const auto lose = [&write] { write.excluded.emplace_back(write.offset_bytes, write.length_bytes); };
  if (!full_) full_ = Hits(SimulatedFault::kDeviceFull, offset, length);
  if (full_ && !disk_.current.Holds(offset, length) &&
      (!faults_.may_hit || faults_.may_hit(SimulatedFault::kDeviceFull, offset, length))) {
    lose();
    added.error = absl::UnavailableError(absl::StrCat(name_, ": ", Describe(*added.request), ": no space left"));
  } else if (Hits(SimulatedFault::kWriteError, offset, length)) {
    if (random_.OneIn(2)) lose();
    write.Tear(geometry_.atomic_write_bytes, random_);
    added.error = absl::UnavailableError(absl::StrCat(name_, ": ", Describe(*added.request), ": write error"));
  } else if (Hits(SimulatedFault::kLostWrite, offset, length)) {
    lose();
  } else if (Hits(SimulatedFault::kTornWrite, offset, length)) {
    write.Tear(geometry_.atomic_write_bytes, random_);
  } else if (Hits(SimulatedFault::kCorruptedWrite, offset, length)) {
    std::vector<std::byte> bytes = *write.data;
    bytes[random_.Below(length)] ^= std::byte{1} << random_.Below(8);
    write.data = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  } else if (Hits(SimulatedFault::kMisdirectedWrite, offset, length)) {
    Misdirect(write);
  }
  places_[places_written_++ % places_.size()] = {offset, length};
}

// To a place that was written lately, or anywhere: misdirection matters where there is something to lose.
void SimulatedStore::Misdirect(SimulatedWrite& write) {
  uint64_t target = random_.Below(geometry_.size_bytes);
  if (places_written_ > 0 && random_.OneIn(2)) {
    target = places_[random_.Below(std::min<uint64_t>(places_written_, places_.size()))].first;
  }
  target = std::min(target / 4096 * 4096, geometry_.size_bytes - write.length_bytes);
  if (faults_.may_hit && !faults_.may_hit(SimulatedFault::kMisdirectedWrite, target, write.length_bytes)) {
    write.excluded.emplace_back(write.offset_bytes, write.length_bytes);  // lost, then
    return;
  }
  write.offset_bytes = target;
}

void SimulatedStore::Decay() {
  const uint32_t one_in = faults_[SimulatedFault::kDecay];
  if (one_in == 0 || places_written_ == 0 || !random_.OneIn(one_in)) return;
  constexpr int kTries = 8;  // most of what is written lately may be spared
  for (int i = 0; i < kTries; ++i) {
    const auto& [offset, length] = places_[random_.Below(std::min<uint64_t>(places_written_, places_.size()))];
    const uint64_t place = offset + random_.Below(length);
    if (faults_.may_hit && !faults_.may_hit(SimulatedFault::kDecay, place, 1)) continue;
    ++fault_counts_[static_cast<size_t>(SimulatedFault::kDecay)];
    std::byte value;
    ReadRaw(place, &value, 1);
    value ^= std::byte{1} << random_.Below(8);
    WriteRaw(place, &value, 1);
    return;
  }
}

void SimulatedStore::CountOverlaps(const InFlight& added) {
  if (added.op == Request::Op::kFlush) return;
  for (const auto& [id, other] : in_flight_) {
    if (other.op == Request::Op::kFlush) continue;
    if (added.op == Request::Op::kRead && other.op == Request::Op::kRead) continue;
    if (Overlaps(added.write, other.write)) {
      ++overlapping_requests_;
      return;
    }
  }
}

void SimulatedStore::Finish(uint64_t id) {
  --outstanding_;
  const auto found = in_flight_.find(id);
  Request* const request = found->second.request;
  if (power_off_) {
    // The record stays: Crash() decides what has become of it.
    Complete(request, absl::UnavailableError(absl::StrCat(name_, ": power is off")));
    return;
  }
  InFlight done = std::move(found->second);
  in_flight_.erase(found);
  absl::Status outcome = std::move(done.error);
  if (!outcome.ok()) done.fua = false;
  switch (done.op) {
    case Request::Op::kRead: {
      uint64_t position = request->offset_bytes;
      for (const iovec& buffer : request->buffers) {
        disk_.current.Read(position, buffer.iov_len, buffer.iov_base);
        position += buffer.iov_len;
      }
      break;
    }
    case Request::Op::kWrite: {
      const std::byte* captured = done.submitted->data();
      for (const iovec& buffer : request->buffers) {
        // The caller must not change a write's memory while it is in flight.
        STAGEFS_CHECK(std::memcmp(captured, buffer.iov_base, buffer.iov_len) == 0);
        captured += buffer.iov_len;
      }
      FinishWrite(done);
      break;
    }
    case Request::Op::kDiscard:
    case Request::Op::kZero:
      FinishWrite(done);
      break;
    case Request::Op::kFlush:
      if (options_.lie_about_flush || !outcome.ok()) break;
      for (; first_unflushed_ < done.flush_up_to; ++first_unflushed_) {
        disk_.unflushed.front().ApplyTo(disk_.durable);
        disk_.unflushed.pop_front();
      }
      break;
  }
  Complete(request, std::move(outcome));
}

void SimulatedStore::FinishWrite(InFlight& done) {
  done.write.ApplyTo(disk_.current);
  if (done.fua && !options_.lie_about_fua) {
    Exclude(done.write.offset_bytes, done.write.length_bytes);
    done.write.ApplyTo(disk_.durable);
  } else {
    disk_.unflushed.push_back(std::move(done.write));
  }
}

// What has just been made durable must not be overwritten by older writes that reach the medium later.
void SimulatedStore::Exclude(uint64_t offset_bytes, uint64_t length_bytes) {
  SimulatedWrite range;
  range.offset_bytes = offset_bytes;
  range.length_bytes = length_bytes;
  for (SimulatedWrite& write : disk_.unflushed) {
    if (Overlaps(write, range)) write.excluded.emplace_back(offset_bytes, length_bytes);
  }
}

std::vector<SimulatedWrite> SimulatedStore::AtRisk() const {
  std::vector<SimulatedWrite> writes(disk_.unflushed.begin(), disk_.unflushed.end());
  for (const auto& [id, request] : in_flight_) {
    if (request.op != Request::Op::kRead && request.op != Request::Op::kFlush) writes.push_back(request.write);
  }
  return writes;
}

SimulatedDisk SimulatedStore::Crash(uint64_t seed, CrashKind kind) const {
  Random64 random(seed);
  SimulatedDisk result = disk_;
  const std::vector<SimulatedWrite> at_risk = AtRisk();
  std::vector<SimulatedWrite> landing(at_risk.begin() + disk_.unflushed.size(), at_risk.end());
  for (size_t i = landing.size(); i > 1; --i) std::swap(landing[i - 1], landing[random.Below(i)]);

  const Fate landing_fate = ChooseFate(random);
  const uint64_t unit = geometry_.atomic_write_bytes;
  if (kind == CrashKind::kPowerCut) {
    const Fate unflushed_fate = ChooseFate(random);
    for (SimulatedWrite& write : result.unflushed) {
      if (Survives(write, unflushed_fate, unit, random)) write.ApplyTo(result.durable);
    }
    result.unflushed.clear();
    for (SimulatedWrite& write : landing) {
      if (Survives(write, landing_fate, unit, random)) write.ApplyTo(result.durable);
    }
    result.current = result.durable;
  } else {
    for (SimulatedWrite& write : landing) {
      if (!Survives(write, landing_fate, unit, random)) continue;
      write.ApplyTo(result.current);
      result.unflushed.push_back(std::move(write));
    }
  }
  return result;
}

void SimulatedStore::ReadRaw(uint64_t offset_bytes, void* destination, uint64_t length_bytes) const {
  disk_.current.Read(offset_bytes, length_bytes, destination);
}

void SimulatedStore::WriteRaw(uint64_t offset_bytes, const void* source, uint64_t length_bytes) {
  Exclude(offset_bytes, length_bytes);
  disk_.current.Write(offset_bytes, length_bytes, source);
  disk_.durable.Write(offset_bytes, length_bytes, source);
}

void SimulatedStore::CorruptByte(uint64_t offset_bytes) {
  std::byte value;
  ReadRaw(offset_bytes, &value, 1);
  value ^= std::byte{0x40};
  WriteRaw(offset_bytes, &value, 1);
}

}  // namespace stagefs::sal

#include "tests/crash/crash_states.h"

#include <algorithm>
#include <array>
#include <set>

#include "core/checksum.h"
#include "sal/random.h"

namespace stagefs::crash {
namespace {

constexpr uint64_t kPageBytes = sal::SimulatedImage::kPageBytes;
constexpr uint64_t kTornUnitBytes = 512;  // Geometry::atomic_write_bytes

using Page = std::array<std::byte, kPageBytes>;

// A sum over pages, so that what a write changes can be added; pages of zeros count nothing, whether they are stored
// or not.
uint64_t PageFingerprint(uint64_t number, const std::byte* bytes) {
  static constexpr Page kZeros = {};
  if (std::equal(kZeros.begin(), kZeros.end(), bytes)) return 0;
  return core::Hash(bytes, kPageBytes, number);
}

template <typename Visit>
void ForEachPageOf(const sal::SimulatedWrite& write, Visit visit) {
  const uint64_t end = write.offset_bytes + write.length_bytes;
  for (uint64_t page = write.offset_bytes / kPageBytes; page * kPageBytes < end; ++page) visit(page);
}

uint64_t FingerprintOfPages(const sal::SimulatedImage& image, const sal::SimulatedWrite& write) {
  uint64_t sum = 0;
  Page bytes;
  ForEachPageOf(write, [&](uint64_t page) {
    image.Read(page * kPageBytes, kPageBytes, bytes.data());
    sum += PageFingerprint(page, bytes.data());
  });
  return sum;
}

}  // namespace

uint64_t Fingerprint(const sal::SimulatedImage& image) {
  uint64_t sum = 0;
  image.ForEachPage([&](uint64_t page, const std::byte* bytes) { sum += PageFingerprint(page, bytes); });
  return sum;
}

CrashStates::CrashStates(const sal::SimulatedImage& durable, std::vector<sal::SimulatedWrite> at_risk, uint64_t seed)
    : durable_(durable), at_risk_(std::move(at_risk)), durable_fingerprint_(Fingerprint(durable)) {
  std::set<uint64_t> pages;
  for (const sal::SimulatedWrite& write : at_risk_) {
    ForEachPageOf(write, [&](uint64_t page) { overlapping_ |= !pages.insert(page).second; });
  }
  // The same writes in another order leave the same states: those that are sampled should be the same, too.
  if (!overlapping_) {
    std::sort(at_risk_.begin(), at_risk_.end(), [](const sal::SimulatedWrite& a, const sal::SimulatedWrite& b) {
      return a.offset_bytes < b.offset_bytes;
    });
  }
  seed += durable_fingerprint_;
  for (const sal::SimulatedWrite& write : at_risk_) AddWays(write, seed);
  ChooseStates(seed);
}

void CrashStates::AddWays(const sal::SimulatedWrite& write, uint64_t seed) {
  std::vector<Way>& ways = ways_.emplace_back();
  ways.push_back({write});
  sal::Random64 random(seed + ways_.size());
  for (size_t i = 0; i < kTornWays; ++i) {
    sal::SimulatedWrite torn = write;
    torn.Tear(kTornUnitBytes, random);
    ways.push_back({std::move(torn)});
  }
  const uint64_t before = FingerprintOfPages(durable_, write);
  for (Way& way : ways) {
    sal::SimulatedImage image = durable_;
    way.write.ApplyTo(image);
    way.difference = FingerprintOfPages(image, write) - before;
  }
}

void CrashStates::ChooseStates(uint64_t seed) {
  const size_t count = at_risk_.size();
  sal::Random64 random(seed);
  if (count <= kMostForAllSubsets) {
    for (uint64_t subset = 0; subset < uint64_t{1} << count; ++subset) {
      Fates& fates = all_.emplace_back(count);
      for (size_t i = 0; i < count; ++i) fates[i] = subset >> i & 1;
    }
  } else {
    all_.push_back(Fates(count, 0));
    all_.push_back(Fates(count, 1));
    while (all_.size() < kSampledSubsets) {
      Fates& fates = all_.emplace_back(count);
      for (uint8_t& fate : fates) fate = random.Below(2);
    }
  }
  for (size_t i = 0; count > 0 && i < kTornStates; ++i) {
    Fates& fates = all_.emplace_back(count);
    for (uint8_t& fate : fates) fate = random.Below(2 + kTornWays);
    fates[random.Below(count)] = random.Between(2, 1 + kTornWays);
  }
}

sal::SimulatedImage CrashStates::Image(const Fates& fates) const {
  sal::SimulatedImage image = durable_;
  for (size_t i = 0; i < fates.size(); ++i) {
    if (fates[i] > 0) WayOf(i, fates[i]).write.ApplyTo(image);
  }
  return image;
}

uint64_t CrashStates::FingerprintOf(const Fates& fates) const {
  if (overlapping_) return Fingerprint(Image(fates));
  uint64_t sum = durable_fingerprint_;
  for (size_t i = 0; i < fates.size(); ++i) {
    if (fates[i] > 0) sum += WayOf(i, fates[i]).difference;
  }
  return sum;
}

std::vector<bool> CrashStates::Touching(const std::vector<std::pair<uint64_t, uint64_t>>& ranges) const {
  std::vector<bool> touching(at_risk_.size());
  for (size_t i = 0; i < at_risk_.size(); ++i) {
    const uint64_t start = at_risk_[i].offset_bytes, end = start + at_risk_[i].length_bytes;
    touching[i] = std::any_of(ranges.begin(), ranges.end(), [&](const std::pair<uint64_t, uint64_t>& range) {
      return range.first < end && start < range.first + range.second;
    });
  }
  return touching;
}

}  // namespace stagefs::crash

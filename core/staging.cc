#include "core/staging.h"

#include <bit>

#include "core/checksum.h"
#include "sal/check.h"

namespace stagefs::core {
namespace {

constexpr uint32_t kUnitsPerSlab = StagingMemory::kSlabBytes / StagingMemory::kUnitBytes;
static_assert(kUnitsPerSlab == 32);

// Units of a buffer for so many blocks.
uint32_t UnitsFor(uint64_t block_count) {
  return std::bit_ceil(
      static_cast<uint32_t>((block_count * kBlockBytes + StagingMemory::kUnitBytes - 1) / StagingMemory::kUnitBytes));
}

uint32_t MaskOf(uint32_t unit, uint32_t count) { return (~uint32_t{0} >> (kUnitsPerSlab - count)) << unit; }

// The first unit of the lowest free run of `count` at a multiple of `count`, or kUnitsPerSlab.
uint32_t FindRun(uint32_t free, uint32_t count) {
  uint32_t begins = free;  // bit i: as many units as were joined so far are free from i on
  for (uint32_t joined = 1; joined < count; joined *= 2) begins &= begins >> joined;
  for (uint32_t unit = 0; begins != 0 && unit < kUnitsPerSlab; unit += count) {
    if (begins & (uint32_t{1} << unit)) return unit;
  }
  return kUnitsPerSlab;
}

}  // namespace

StagingMemory::StagingMemory(uint64_t limit_bytes)
    : area_(limit_bytes / kSlabBytes * kSlabBytes), first_touch_(area_.span()), free_units_(limit_bytes / kSlabBytes, ~uint32_t{0}) {
  STAGEFS_CHECK(limit_bytes >= kSlabBytes);
}

std::shared_ptr<StagedBuffer> StagingMemory::Allocate(uint64_t block_count) {
  const uint32_t units = UnitsFor(block_count);
  STAGEFS_CHECK(block_count > 0 && units <= kUnitsPerSlab);
  MutexLock lock(&mutex_);
  for (size_t slab = 0; slab < free_units_.size(); ++slab) {
    const uint32_t unit = FindRun(free_units_[slab], units);
    if (unit == kUnitsPerSlab) continue;
    free_units_[slab] &= ~MaskOf(unit, units);
    used_bytes_ += units * kUnitBytes;
    const uint64_t offset = slab * kSlabBytes + unit * kUnitBytes;
    first_touch_.Uses(offset + units * kUnitBytes);
    std::byte* const data = area_.data() + offset;
    return std::shared_ptr<StagedBuffer>(new StagedBuffer(shared_from_this(), data, block_count));
  }
  return nullptr;
}

void StagingMemory::WhenAvailable(absl::AnyInvocable<void() &&> retry) {
  {
    MutexLock lock(&mutex_);
    if (used_bytes_ > 0 && !nobody_waits_) {
      waiting_.push_back(std::move(retry));
      return;
    }
  }
  std::move(retry)();
}

void StagingMemory::StopWaiting() {
  std::vector<absl::AnyInvocable<void() &&>> waiting;
  {
    MutexLock lock(&mutex_);
    nobody_waits_ = true;
    waiting.swap(waiting_);
  }
  for (auto& retry : waiting) std::move(retry)();
}

void StagingMemory::Free(const StagedBuffer& buffer) {
  const uint64_t offset = static_cast<uint64_t>(buffer.data_ - area_.data());
  const uint32_t units = UnitsFor(buffer.block_count_);
  std::vector<absl::AnyInvocable<void() &&>> waiting;
  {
    MutexLock lock(&mutex_);
    free_units_[offset / kSlabBytes] |= MaskOf(offset % kSlabBytes / kUnitBytes, units);
    used_bytes_ -= units * kUnitBytes;
    waiting.swap(waiting_);
  }
  for (auto& retry : waiting) std::move(retry)();
}

uint64_t StagingMemory::used_bytes() const {
  MutexLock lock(&mutex_);
  return used_bytes_;
}

StagedBuffer::~StagedBuffer() { owner_->Free(*this); }

void StagedBuffer::Seal() {
  content_hashes_.resize(block_count_);
  for (uint64_t i = 0; i < block_count_; ++i) content_hashes_[i] = ContentHash(block(i));
}

}  // namespace stagefs::core

#include "fs/volume/testing/memory_transaction.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/engine.h"
#include "sal/check.h"
#include "sal/status_macros.h"

// Bodies run under the engine's lock, which the analysis cannot see from here.
#define STAGEFS_UNDER_ENGINE_LOCK engine_.mutex_.AssertHeld()

namespace stagefs::volume::testing {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using Image = MemoryEngine::Image;
using Slot = MemoryEngine::Slot;

namespace {

const Image& FilledImage(int fill) {
  static const Image* const zeros = new Image{};
  static const Image* const released = [] {
    auto* image = new Image;
    std::memset(image->data(), 0xDB, image->size());
    return image;
  }();
  return fill == 0 ? *zeros : *released;
}

absl::Status BadChecksum(Block block) { return absl::DataLossError(absl::StrCat("block ", block, ": bad checksum")); }

}  // namespace

const std::byte* MemoryTransaction::ImageOf(const Slot* slot) {
  if (slot == nullptr) return FilledImage(0).data();
  if (slot->use == Use::kReleased) return FilledImage(0xDB).data();
  return slot->image ? slot->image->data() : FilledImage(0).data();
}

absl::Status MemoryTransaction::Touch(Block block) {
  STAGEFS_UNDER_ENGINE_LOCK;
  if (block >= engine_.capacity_blocks()) {
    return absl::OutOfRangeError(absl::StrCat("block ", block, " is beyond the capacity"));
  }
  if (to_load_.contains(block) && !resident_->contains(block) && missed_) {
    return absl::UnavailableError(absl::StrCat("block ", block, " is not in memory"));
  }
  if (resident_->contains(block) || changing_.contains(block)) return absl::OkStatus();
  if (engine_.Chance(engine_.options_.miss_probability)) {
    to_load_.insert(block);
    missed_ = true;
    return absl::UnavailableError(absl::StrCat("block ", block, " is not in memory"));
  }
  resident_->insert(block);
  return absl::OkStatus();
}

void MemoryTransaction::LoadMissed() { resident_->insert(to_load_.begin(), to_load_.end()); }

absl::Status MemoryTransaction::CheckRange(BlockRange range) const {
  const uint64_t capacity = engine_.capacity_blocks();
  if (range.count > capacity || range.first > capacity - range.count) {
    return absl::OutOfRangeError(absl::StrCat("blocks ", range.first, " to ", range.end(), " exceed the capacity"));
  }
  return absl::OkStatus();
}

MemoryTransaction::Use MemoryTransaction::UseOf(Block block) const {
  STAGEFS_UNDER_ENGINE_LOCK;
  const auto found = changing_.find(block);
  if (found != changing_.end()) return found->second.use;
  const Slot* slot = engine_.FindSlot(block);
  return slot == nullptr ? Use::kNever : slot->use;
}

absl::StatusOr<const std::byte*> MemoryTransaction::Read(Block block) {
  STAGEFS_UNDER_ENGINE_LOCK;
  RETURN_IF_ERROR(Touch(block));
  const auto found = changing_.find(block);
  if (found != changing_.end()) {
    if (found->second.use == Use::kReleased) return FilledImage(0xDB).data();
    return found->second.image ? found->second.image->data() : FilledImage(0).data();
  }
  const Slot* slot = engine_.FindSlot(block);
  if (slot != nullptr && slot->bad) return BadChecksum(block);
  return ImageOf(slot);
}

absl::StatusOr<MemoryTransaction::Changing*> MemoryTransaction::Change(Block block, bool whole) {
  STAGEFS_UNDER_ENGINE_LOCK;
  // Bytes of a block that is free must not be written before it was made Fresh(), Zero()ed or written as an extent.
  STAGEFS_CHECK(UseOf(block) != Use::kReleased);
  auto [found, inserted] = changing_.try_emplace(block);
  Changing& changing = found->second;
  if (inserted) {
    const Slot* slot = engine_.FindSlot(block);
    if (slot != nullptr && slot->bad && !whole) {
      changing_.erase(found);
      return BadChecksum(block);
    }
    changing.image = std::make_unique<Image>();
    std::memcpy(changing.image->data(), ImageOf(slot), kBlockBytes);
  } else if (!changing.image) {
    changing.image = std::make_unique<Image>();
  }
  changing.use = Use::kInUse;
  changing.extent = false;
  return &changing;
}

absl::StatusOr<std::byte*> MemoryTransaction::Modify(Block block) {
  RETURN_IF_ERROR(Touch(block));
  ASSIGN_OR_RETURN(Changing * changing, Change(block, /*whole=*/false));
  return changing->image->data();
}

MemoryTransaction::Changing& MemoryTransaction::Replace(Block block) {
  STAGEFS_CHECK(!Quarantined({block, 1}).has_value());
  structural_ = true;
  Changing& changing = changing_[block];
  changing.image = nullptr;
  changing.use = Use::kInUse;
  changing.replaced = true;
  changing.extent = false;
  return changing;
}

absl::StatusOr<std::byte*> MemoryTransaction::Fresh(Block block) {
  RETURN_IF_ERROR(Touch(block));
  Changing& changing = Replace(block);
  changing.image = std::make_unique<Image>();
  return changing.image->data();
}

void MemoryTransaction::Prefetch(Block block) {
  if (block < engine_.capacity_blocks()) to_load_.insert(block);
}

absl::Status MemoryTransaction::Write(uint64_t address, absl::Span<const std::byte> bytes) {
  if (bytes.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckRange({address / kBlockBytes, (address + bytes.size() - 1) / kBlockBytes + 1 -
                                                         address / kBlockBytes}));
  while (!bytes.empty()) {
    const Block block = address / kBlockBytes;
    const uint64_t offset = address % kBlockBytes;
    const uint64_t part = std::min<uint64_t>(bytes.size(), kBlockBytes - offset);
    const bool whole = part == kBlockBytes;
    if (!whole) RETURN_IF_ERROR(Touch(block));
    ASSIGN_OR_RETURN(Changing * changing, Change(block, whole));
    std::memcpy(changing->image->data() + offset, bytes.data(), part);
    address += part;
    bytes.remove_prefix(part);
  }
  return absl::OkStatus();
}

absl::Status MemoryTransaction::Zero(uint64_t address, uint64_t length) {
  if (length == 0) return absl::OkStatus();
  const Block first = address / kBlockBytes;
  const BlockRange all{first, (address + length - 1) / kBlockBytes + 1 - first};
  RETURN_IF_ERROR(CheckRange(all));
  if (length / kBlockBytes > kMaxZeroBlocks) {
    return absl::InvalidArgumentError(absl::StrCat("zeroing of ", length / kBlockBytes, " blocks in one transaction"));
  }
  // The engine may need the checksum table's entries.
  RETURN_IF_ERROR(Touch(all.first));
  RETURN_IF_ERROR(Touch(all.end() - 1));
  const uint64_t end = address + length;
  while (address < end) {
    const Block block = address / kBlockBytes;
    const uint64_t offset = address % kBlockBytes;
    const uint64_t part = std::min(end - address, kBlockBytes - offset);
    if (part == kBlockBytes) {
      Replace(block);
    } else {
      ASSIGN_OR_RETURN(Changing * changing, Change(block, /*whole=*/false));
      std::memset(changing->image->data() + offset, 0, part);
    }
    address += part;
  }
  return absl::OkStatus();
}

absl::Status MemoryTransaction::WriteExtent(BlockRange range, std::shared_ptr<const core::StagedData> data,
                                            uint64_t first_in_data) {
  STAGEFS_CHECK(data != nullptr && range.count > 0 && first_in_data + range.count <= data->block_count());
  RETURN_IF_ERROR(CheckRange(range));
  RETURN_IF_ERROR(Touch(range.first));
  RETURN_IF_ERROR(Touch(range.end() - 1));
  // bytes() is for those who fill the buffer; reading it changes nothing.
  const std::byte* bytes = const_cast<core::StagedData&>(*data).bytes().data() + first_in_data * kBlockBytes;
  for (uint64_t i = 0; i < range.count; ++i) {
    // Fresh space only: never onto blocks in use.
    STAGEFS_CHECK(UseOf(range.first + i) != Use::kInUse);
    Changing& changing = Replace(range.first + i);
    changing.image = std::make_unique<Image>();
    changing.extent = true;
    std::memcpy(changing.image->data(), bytes + i * kBlockBytes, kBlockBytes);
  }
  return absl::OkStatus();
}

void MemoryTransaction::Release(BlockRange range) {
  STAGEFS_CHECK(range.count > 0 && CheckRange(range).ok());
  structural_ = true;
  for (Block block = range.first; block < range.end(); ++block) {
    // Nobody took it, or it was released twice.
    STAGEFS_CHECK(UseOf(block) == Use::kInUse);
    Changing& changing = changing_[block];
    changing.image = nullptr;
    changing.use = Use::kReleased;
    changing.replaced = true;
  }
  released_.push_back(range);
}

std::optional<BlockRange> MemoryTransaction::Quarantined(BlockRange range) {
  STAGEFS_UNDER_ENGINE_LOCK;
  std::optional<BlockRange> first;
  const auto consider = [&](const BlockRange& held) {
    if (!held.Overlaps(range)) return;
    const Block begin = std::max(held.first, range.first);
    const BlockRange part{begin, std::min(held.end(), range.end()) - begin};
    if (!first.has_value() || part.first < first->first) first = part;
  };
  for (const BlockRange& held : released_) consider(held);
  for (const MemoryEngine::Quarantine& quarantine : engine_.quarantines_) consider(quarantine.range);
  return first;
}

void MemoryTransaction::ReadInto(uint64_t address, uint64_t length, std::byte* destination) {
  if (length == 0) return;
  const Block first = address / kBlockBytes;
  STAGEFS_CHECK(CheckRange({first, (address + length - 1) / kBlockBytes + 1 - first}).ok());
  reads_.push_back({address, length, destination});
}

absl::StatusOr<bool> MemoryTransaction::NeverWritten(Block block) {
  STAGEFS_UNDER_ENGINE_LOCK;
  RETURN_IF_ERROR(Touch(block));
  const auto found = changing_.find(block);
  if (found != changing_.end()) return found->second.use != Use::kReleased && !found->second.image;
  const Slot* slot = engine_.FindSlot(block);
  return slot == nullptr || (slot->use != Use::kReleased && !slot->image && !slot->bad);
}

bool MemoryTransaction::Changed() const { return structural_ || logged_bytes() > 0; }

uint64_t MemoryTransaction::logged_bytes() const {
  STAGEFS_UNDER_ENGINE_LOCK;
  constexpr uint64_t kRecordOverhead = 16;
  uint64_t total = 0;
  for (const auto& [block, changing] : changing_) {
    if (!changing.image || changing.extent) continue;
    const std::byte* base = changing.replaced ? FilledImage(0).data() : ImageOf(engine_.FindSlot(block));
    uint64_t last = kBlockBytes;  // the last byte that differed
    for (uint64_t i = 0; i < kBlockBytes; ++i) {
      if ((*changing.image)[i] == base[i]) continue;
      total += last < kBlockBytes && i - last <= kRecordOverhead ? i - last : 1 + kRecordOverhead;
      last = i;
    }
  }
  return total;
}

std::vector<std::pair<Block, Slot>> MemoryTransaction::TakeSlots() {
  std::vector<std::pair<Block, Slot>> slots;
  slots.reserve(changing_.size());
  for (auto& [block, changing] : changing_) {
    Slot slot;
    slot.use = changing.use;
    slot.image = std::shared_ptr<const Image>(std::move(changing.image));
    slots.emplace_back(block, std::move(slot));
  }
  return slots;
}

}  // namespace stagefs::volume::testing

#include "fs/volume/group_plan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "core/bytes.h"
#include "fs/volume/errno.h"
#include "fs/volume/volume_state.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::kBlockBytes;
using Kind = ContentChange::Kind;

// What a write adds to the log besides its bytes: a record's header, and words that it covers in part.
constexpr uint64_t kRecordBytes = 40;
constexpr uint64_t kNumberBytes = 8;
// Staging memory is given out in powers of two of such units.
constexpr uint64_t kStagingUnitBytes = 64 << 10;
constexpr uint64_t kUnlimited = ~uint64_t{0};

uint64_t FirstBlock(const ContentChange& part) { return part.offset / kBlockBytes; }
uint64_t EndBlock(const ContentChange& part) {
  return (part.offset + LengthOf(part) + kBlockBytes - 1) / kBlockBytes;
}

// The bytes of `part` within a block: [from, to) of the file.
std::pair<uint64_t, uint64_t> Within(const ContentChange& part, uint64_t file_block) {
  return {std::max(part.offset, file_block * kBlockBytes),
          std::min(part.offset + LengthOf(part), (file_block + 1) * kBlockBytes)};
}

bool IsLarge(const ContentChange& part) {
  return part.kind == Kind::kWrite && StagedBlocks::Plan(part.offset, part.bytes.size()).count > 0;
}

uint64_t StagingBytes(uint64_t block_count) {
  return std::bit_ceil((block_count * kBlockBytes + kStagingUnitBytes - 1) / kStagingUnitBytes) * kStagingUnitBytes;
}

// Of buffers that hold so many blocks together.
uint64_t StagingBytesOfAll(uint64_t block_count) {
  constexpr uint64_t kMost = GroupPlan::kBufferBlocks;
  const uint64_t rest = block_count % kMost;
  return block_count / kMost * StagingBytes(kMost) + (rest > 0 ? StagingBytes(rest) : 0);
}

}  // namespace

uint64_t LengthOf(const ContentChange& part) {
  switch (part.kind) {
    case Kind::kWrite:
      return part.bytes.size();
    case Kind::kWriteStaged:
      return part.staged->block_count() * kBlockBytes;
    default:
      return kNumberBytes;
  }
}

absl::Span<const std::byte> BytesOf(const ContentChange& part) {
  if (part.kind == Kind::kWrite) return part.bytes;
  // bytes() is for those who fill the buffer; reading it changes nothing.
  return const_cast<core::StagedData&>(*part.staged).bytes();
}

bool StoresOver(const ContentChange& part, uint64_t before, uint64_t* after) {
  *after = part.kind == Kind::kFetchAdd ? before + part.operand : part.operand;
  return part.kind == Kind::kFetchAdd ? part.operand != 0 : before == part.expected;
}

GroupLimits GroupLimits::For(const core::EngineStats& stats) {
  constexpr uint64_t kMostMerged = 8192;  // more would log too much about where they are
  const auto share = [](uint64_t of, uint64_t parts) { return of == 0 ? kUnlimited : of / parts; };
  GroupLimits limits;
  limits.logged_bytes = std::min<uint64_t>(768 << 10, share(stats.log_capacity_bytes, 4));
  // The engine takes changes of up to half of the dirty blocks it may have.
  limits.logged_blocks = std::min<uint64_t>(4096, share(stats.dirty_blocks_limit, 4));
  limits.merged_blocks = std::min(kMostMerged, share(stats.cache_blocks_limit, 5));
  limits.staging_bytes = share(stats.staged_bytes_limit, 1);
  return limits;
}

absl::Status GroupPlan::CheckPart(const ContentChange& part) const {
  if (part.kind == Kind::kWriteStaged) {
    if (part.staged == nullptr) return ErrnoStatus(EINVAL, "Nothing is staged");
    if (part.offset % kBlockBytes != 0) return ErrnoStatus(EINVAL, "Staged blocks at an unaligned offset");
  }
  if (IsAtomic(part) && part.offset % kNumberBytes != 0) return ErrnoStatus(EINVAL, "A number at an unaligned offset");
  if (part.offset > kMaxFileBytes || LengthOf(part) > kMaxFileBytes - part.offset) return ErrnoStatus(EFBIG);
  return absl::OkStatus();
}

absl::Status GroupPlan::Make() {
  uint64_t total = 0;
  bool large = false;
  for (const ContentChange& part : parts_) {
    RETURN_IF_ERROR(CheckPart(part));
    const uint64_t length = LengthOf(part);
    if (length > kMaxGroupBytes - total) return ErrnoStatus(E2BIG, "Too large a group for one change");
    total += length;
    has_staged_parts_ |= part.kind == Kind::kWriteStaged;
    large |= length >= VolumeState::kExtentThresholdBytes && IsLarge(part);
  }
  FindFiles();
  composed_ = !FitsLog();
  if (composed_) {
    FindTouches();
    FindBlocks();
  } else if (large) {
    PlanPieces();
  }
  return composed_ || large ? CheckLimits() : absl::OkStatus();
}

void GroupPlan::FindFiles() {
  absl::flat_hash_map<Ino, uint32_t> index;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const ContentChange& part = parts_[i];
    uint32_t file = 0;
    if (files_.empty()) {
      files_.push_back({.ino = part.ino});
    } else if (!file_of_.empty() || part.ino != files_[0].ino) {
      if (file_of_.empty()) {
        file_of_.assign(i, 0);
        file_of_.reserve(parts_.size());
        index[files_[0].ino] = 0;
      }
      const auto [found, inserted] = index.try_emplace(part.ino, files_.size());
      if (inserted) files_.push_back({.ino = part.ino});
      file = found->second;
      file_of_.push_back(file);
    }
    if (IsAtomic(part) || LengthOf(part) == 0) continue;
    files_[file].written_end = std::max(files_[file].written_end, part.offset + LengthOf(part));
  }
}

bool GroupPlan::FitsLog() const {
  uint64_t bytes = 0;
  uint64_t blocks = 2 * files_.size();
  for (const ContentChange& part : parts_) {
    if (part.kind == Kind::kWriteStaged) continue;
    const uint64_t length = LengthOf(part);
    if (length >= VolumeState::kExtentThresholdBytes && IsLarge(part)) {  // its head and its tail
      bytes += 2 * (kBlockBytes + kRecordBytes);
      blocks += 2;
    } else {
      bytes += length + kRecordBytes;
      blocks += EndBlock(part) - FirstBlock(part);
    }
  }
  return bytes <= limits_.logged_bytes && blocks <= limits_.logged_blocks;
}

// Cuts the whole blocks of large parts into what a buffer holds. The head goes to the first piece, the tail to the last.
void GroupPlan::PlanPieces() {
  for (uint32_t i = 0; i < parts_.size(); ++i) {
    const ContentChange& part = parts_[i];
    if (!IsLarge(part)) continue;
    const StagedBlocks all = StagedBlocks::Plan(part.offset, part.bytes.size());
    uint64_t begin = part.offset;
    for (uint64_t done = 0; done < all.count;) {
      const uint64_t first = all.first_file_block + done;
      const uint64_t count = std::min(kBufferBlocks, all.count - done);
      done += count;
      const uint64_t end = done < all.count ? (first + count) * kBlockBytes : part.offset + part.bytes.size();
      pieces_.push_back({.part = i,
                         .first_byte = begin - part.offset,
                         .length = end - begin,
                         .blocks = {.data = nullptr, .first_file_block = first, .count = count}});
      begin = end;
    }
  }
}

void GroupPlan::AddTouches(size_t part) {
  for (uint64_t block = FirstBlock(parts_[part]); block < EndBlock(parts_[part]); ++block) {
    touches_.push_back({block, FileOf(part), static_cast<uint32_t>(part)});
  }
}

void GroupPlan::FindTouches() {
  const auto key = [](const Touch& touch) { return std::pair(touch.file, touch.file_block); };
  const auto before = [&](const Touch& a, const Touch& b) { return key(a) < key(b); };
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i].kind != Kind::kWriteStaged && LengthOf(parts_[i]) > 0) AddTouches(i);
  }
  std::stable_sort(touches_.begin(), touches_.end(), before);
  if (!has_staged_parts_) return;
  // Of the staged blocks those that others touch, too.
  std::vector<Touch> others;
  others.swap(touches_);
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i].kind == Kind::kWriteStaged) AddTouches(i);
  }
  std::erase_if(touches_, [&](const Touch& touch) {
    return !std::binary_search(others.begin(), others.end(), touch, before);
  });
  touches_.insert(touches_.end(), others.begin(), others.end());
  std::sort(touches_.begin(), touches_.end(), [](const Touch& a, const Touch& b) {
    return std::tuple(a.file, a.file_block, a.part) < std::tuple(b.file, b.file_block, b.part);
  });
}

void GroupPlan::FindBlocks() {
  for (size_t at = 0; at < touches_.size();) {
    const Touch& first = touches_[at];
    GroupBlock block = {.file = first.file, .file_block = first.file_block, .first_touch = at};
    while (at < touches_.size() && touches_[at].file == first.file && touches_[at].file_block == first.file_block) ++at;
    block.touch_count = at - block.first_touch;
    (IsStatic(block) ? static_blocks_ : dynamic_blocks_).push_back(block);
  }
}

// Whether plain bytes cover the block.
bool GroupPlan::IsStatic(const GroupBlock& block) const {
  std::vector<std::pair<uint64_t, uint64_t>> covered;
  for (size_t i = block.first_touch; i < block.first_touch + block.touch_count; ++i) {
    const ContentChange& part = parts_[touches_[i].part];
    if (IsAtomic(part)) return false;
    covered.push_back(Within(part, block.file_block));
  }
  std::sort(covered.begin(), covered.end());
  uint64_t up_to = block.file_block * kBlockBytes;
  for (const auto& [from, to] : covered) {
    if (from > up_to) return false;
    up_to = std::max(up_to, to);
  }
  return up_to == (block.file_block + 1) * kBlockBytes;
}

absl::Status GroupPlan::CheckLimits() const {
  uint64_t staging_bytes = StagingBytesOfAll(static_blocks_.size()) + StagingBytesOfAll(dynamic_blocks_.size());
  for (const GroupPiece& piece : pieces_) staging_bytes += StagingBytes(piece.blocks.count);
  if (staging_bytes > limits_.staging_bytes) {
    return ErrnoStatus(ENOMEM, absl::StrCat("A group needs ", staging_bytes, " bytes of staging memory, there are ",
                                            limits_.staging_bytes));
  }
  if (!composed_) return absl::OkStatus();
  if (dynamic_blocks_.size() > limits_.merged_blocks || 2 * files_.size() > limits_.logged_blocks) {
    return ErrnoStatus(E2BIG, absl::StrCat("A group changes ", dynamic_blocks_.size(), " blocks in part, of ",
                                           files_.size(), " files; the most is ", limits_.merged_blocks, ", of ",
                                           limits_.logged_blocks / 2));
  }
  return absl::OkStatus();
}

uint64_t GroupPlan::Compose(const GroupBlock& block, std::byte* image, std::vector<uint64_t>* previous) const {
  uint64_t stored_end = 0;
  for (size_t i = block.first_touch; i < block.first_touch + block.touch_count; ++i) {
    const ContentChange& part = parts_[touches_[i].part];
    const auto [from, to] = Within(part, block.file_block);
    std::byte* const place = image + from % kBlockBytes;
    if (IsAtomic(part)) {
      const auto before = core::Load<uint64_t>(place);
      uint64_t after = 0;
      const bool stores = StoresOver(part, before, &after);
      if (previous != nullptr) (*previous)[touches_[i].part] = before;
      if (!stores) continue;
      core::Store<uint64_t>(place, after);
    } else {
      std::memcpy(place, BytesOf(part).data() + (from - part.offset), to - from);
    }
    stored_end = std::max(stored_end, to);
  }
  return stored_end;
}

}  // namespace stagefs::volume

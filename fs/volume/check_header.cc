// The part of a check that looks at the header and its copy: each by itself, whether they tell the same, and, where
// they do not, which of them the tree bears out.

#include <algorithm>
#include <cstring>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "fs/volume/allocator.h"
#include "fs/volume/btree_node.h"
#include "fs/volume/check_context.h"
#include "fs/volume/header.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::Block;
using core::Engine;
using core::kBlockBytes;
using core::Transaction;

constexpr uint64_t kFreeCountOffset = AllocationLayout::kFreeCountAddress % kBlockBytes;

// One of the two places.
struct Place {
  Block block = 0;
  absl::StatusOr<VolumeHeader> header;
  bool spotless = false;   // no byte that means nothing is set
  bool root_fits = false;  // where it says the root is, there is this volume's root
  uint64_t free_blocks = 0;
};

bool AllZero(const std::byte* bytes, uint64_t from, uint64_t to) {
  return std::all_of(bytes + from, bytes + to, [](std::byte b) { return b == std::byte{0}; });
}

absl::Status ReadPlace(Transaction& tx, uint64_t capacity_blocks, Place* place) {
  const absl::StatusOr<const std::byte*> bytes = tx.Read(place->block);
  if (absl::IsDataLoss(bytes.status())) {
    place->header = bytes.status();
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(bytes.status());
  place->header = DecodeHeader(*bytes);
  if (!place->header.ok()) return absl::OkStatus();
  const VolumeHeader& header = *place->header;
  if (header.capacity_blocks > capacity_blocks || header.capacity_blocks < Allocator::kMinCapacityBlocks) {
    place->header = absl::DataLossError(absl::StrCat("it says that the volume has ", header.capacity_blocks,
                                                     " blocks, the device below it has ", capacity_blocks));
    return absl::OkStatus();
  }
  std::vector<std::byte> encoded(kHeaderBytes);
  EncodeHeader(header, encoded.data());
  const uint64_t counted = place->block == kHeaderBlock ? sizeof(uint64_t) : 0;
  place->spotless = std::equal(encoded.begin(), encoded.end(), *bytes) &&
                    AllZero(*bytes, kHeaderBytes, kFreeCountOffset) &&
                    AllZero(*bytes, kFreeCountOffset + counted, kBlockBytes);
  std::memcpy(&place->free_blocks, *bytes + kFreeCountOffset, sizeof(place->free_blocks));
  if (!AllocationLayout(header.capacity_blocks).IsUsable({header.root_block, 1})) return absl::OkStatus();
  const absl::StatusOr<const std::byte*> root = tx.Read(header.root_block);
  if (absl::IsDataLoss(root.status())) return absl::OkStatus();
  RETURN_IF_ERROR(root.status());
  const auto node = NodeView::Open(*root, header.root_block, header.root_height - 1);
  place->root_fits = node.ok() && node->volume() == header.hash_seed;
  return absl::OkStatus();
}

// How much speaks for what a place says.
int Weight(const Place& place, uint64_t capacity_blocks) {
  if (!place.header.ok()) return -1;
  return (place.root_fits ? 2 : 0) + (place.header->capacity_blocks == capacity_blocks ? 1 : 0);
}

// In what the copy differs from what it should say; the count of inodes is as of some earlier time.
std::string Differences(const VolumeHeader& header, const VolumeHeader& copy) {
  const VolumeHeader expected = HeaderCopyOf(header);
  std::vector<std::string> what;
  const auto compare = [&](auto VolumeHeader::*field, absl::string_view name) {
    if (copy.*field != expected.*field) {
      what.push_back(absl::StrCat(name, " ", copy.*field, ", expected ", expected.*field));
    }
  };
  compare(&VolumeHeader::version_minor, "minor version");
  compare(&VolumeHeader::capacity_blocks, "capacity");
  compare(&VolumeHeader::root_block, "root block");
  compare(&VolumeHeader::root_height, "height");
  compare(&VolumeHeader::flags, "flags");
  compare(&VolumeHeader::next_ino, "next inode");
  compare(&VolumeHeader::hash_seed, "hash seed");
  compare(&VolumeHeader::created_ns, "creation time");
  return absl::StrJoin(what, ", ");
}

// The next inode must be above all that ever were: of two that do not fit, the higher one, if it can be.
uint64_t NextIno(const Place& header, const Place& copy) {
  if (!header.header.ok()) return copy.header->next_ino;
  if (!copy.header.ok()) return header.header->next_ino;
  const uint64_t first = header.header->next_ino, second = copy.header->next_ino;
  if (HeaderCopyOf(*header.header).next_ino == second) return first;
  return std::max(first, second) < kMaxIno / 2 ? std::max(first, second) : std::min(first, second);
}

}  // namespace

absl::StatusOr<std::optional<FoundHeader>> CheckHeader(Engine& engine, bool may_fix, CheckReport* report, bool* fixed) {
  const uint64_t capacity = engine.capacity_blocks();
  Place header, copy;
  RETURN_IF_ERROR(RunBody(engine, [&](Transaction& tx) -> absl::Status {
    header = {.block = kHeaderBlock, .header = absl::UnknownError("not read")};
    copy = {.block = HeaderCopyBlock(capacity), .header = absl::UnknownError("not read")};
    RETURN_IF_ERROR(ReadPlace(tx, capacity, &header));
    return ReadPlace(tx, capacity, &copy);
  }));
  if (!header.header.ok() && !copy.header.ok()) {
    for (const Place* place : {&header, &copy}) {
      if (absl::IsFailedPrecondition(place->header.status())) return place->header.status();
    }
    if (absl::IsInvalidArgument(header.header.status()) && absl::IsInvalidArgument(copy.header.status())) {
      return header.header.status();
    }
  }
  const auto found = [&](const Place& place, absl::string_view name, const std::string& what) {
    ++report->problem_count;
    report->problems.push_back(
        {ProblemKind::kHeader, "volume", absl::StrCat(name, " (block ", place.block, "): ", what), false});
  };
  for (const auto& [place, name] : {std::pair(&header, "the header"), std::pair(&copy, "the copy of the header")}) {
    if (!place->header.ok()) {
      found(*place, name, std::string(place->header.status().message()));
    } else if (!place->spotless) {
      found(*place, name, "reserved bytes are not zero");
    }
  }
  if (!header.header.ok() && !copy.header.ok()) return std::nullopt;
  const bool use_copy = Weight(copy, capacity) > Weight(header, capacity);
  const Place& used = use_copy ? copy : header;
  if (header.header.ok() && copy.header.ok()) {
    const std::string differences = Differences(*header.header, *copy.header);
    if (!differences.empty()) {
      found(copy, "the copy of the header",
            absl::StrCat("it does not fit the header: ", differences, use_copy ? "; the copy is right" : ""));
    }
  }
  FoundHeader result = {.header = *used.header, .block = used.block};
  if (report->problem_count == 0 || !may_fix) return result;
  result.header.next_ino = NextIno(header, copy);
  if (header.header.ok()) result.header.inode_count = header.header->inode_count;
  result.block = kHeaderBlock;
  RETURN_IF_ERROR(
      RunBody(engine, [&](Transaction& tx) { return RewriteHeader(tx, result.header, header.free_blocks); }));
  *fixed = true;
  return result;
}

}  // namespace stagefs::volume

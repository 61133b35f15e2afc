#include "fs/volume/header.h"

#include <algorithm>
#include <cstring>

#include "fs/volume/allocator.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

// The copy's next_ino goes up in such steps.
constexpr uint64_t kCopyInoStep = 1 << 16;

// All of `block` is new, whether it could be read before or not.
absl::StatusOr<std::byte*> Replace(core::Transaction& tx, core::Block block) {
  RETURN_IF_ERROR(tx.Zero(block * core::kBlockBytes, core::kBlockBytes));
  return tx.Modify(block);
}

}  // namespace

core::Block HeaderCopyBlock(uint64_t capacity_blocks) { return AllocationLayout(capacity_blocks).HeaderCopyBlock(); }

VolumeHeader HeaderCopyOf(const VolumeHeader& header) {
  VolumeHeader copy = header;
  copy.next_ino = std::min((header.next_ino / kCopyInoStep + 1) * kCopyInoStep, kMaxIno);
  return copy;
}

absl::StatusOr<VolumeHeader> ReadHeader(core::Transaction& tx, core::Block block) {
  ASSIGN_OR_RETURN(const std::byte* const bytes, tx.Read(block));
  return DecodeHeader(bytes);
}

absl::Status UpdateHeader(core::Transaction& tx, absl::FunctionRef<void(VolumeHeader&)> update) {
  ASSIGN_OR_RETURN(std::byte* const bytes, tx.Modify(kHeaderBlock));
  ASSIGN_OR_RETURN(VolumeHeader header, DecodeHeader(bytes));
  VolumeHeader copy_before = HeaderCopyOf(header);
  update(header);
  EncodeHeader(header, bytes);
  VolumeHeader copy = HeaderCopyOf(header);
  copy_before.inode_count = copy.inode_count;
  return copy == copy_before ? absl::OkStatus() : RewriteHeaderCopy(tx, header);
}

absl::Status RewriteHeader(core::Transaction& tx, const VolumeHeader& header, uint64_t free_blocks) {
  ASSIGN_OR_RETURN(std::byte* const bytes, Replace(tx, kHeaderBlock));
  EncodeHeader(header, bytes);
  std::memcpy(bytes + AllocationLayout::kFreeCountAddress % core::kBlockBytes, &free_blocks, sizeof(free_blocks));
  return RewriteHeaderCopy(tx, header);
}

absl::Status RewriteHeaderCopy(core::Transaction& tx, const VolumeHeader& header) {
  ASSIGN_OR_RETURN(std::byte* const bytes, Replace(tx, HeaderCopyBlock(header.capacity_blocks)));
  EncodeHeader(HeaderCopyOf(header), bytes);
  return absl::OkStatus();
}

}  // namespace stagefs::volume

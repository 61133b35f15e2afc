#include "fs/volume/volume_state.h"

#include "absl/strings/str_cat.h"
#include "fs/volume/header.h"
#include "sal/status_macros.h"

namespace stagefs::volume {

VolumeState::VolumeState(core::Engine& engine, uint64_t capacity_blocks, uint64_t hash_seed, uint64_t hash_mask,
                         core::Block header_block)
    : engine_(engine),
      capacity_blocks_(capacity_blocks),
      hash_seed_(hash_seed),
      hash_mask_(hash_mask),
      header_block_(header_block),
      allocator_(capacity_blocks, header_block),
      tree_(this, capacity_blocks) {}

uint64_t VolumeState::HashOf(absl::string_view name) const {
  const uint64_t hash = HashName(hash_seed_, name) & hash_mask_;
  return hash == 0 ? 1 : hash;
}

absl::StatusOr<VolumeHeader> VolumeState::Header(core::Transaction& tx) {
  return ReadHeader(tx, header_block_);
}

absl::Status VolumeState::UpdateHeader(core::Transaction& tx, absl::FunctionRef<void(VolumeHeader&)> update) {
  return volume::UpdateHeader(tx, update);
}

absl::Status VolumeState::Erase(core::Transaction& tx, const Key& key) {
  absl::Status status = tree_.Erase(tx, key);
  if (!absl::IsNotFound(status)) return status;
  return absl::DataLossError(absl::StrCat("The tree has no item of inode ", key.ino, ", kind ", key.kind, ", offset ",
                                          key.offset, ", which others promise"));
}

absl::StatusOr<BTreeStorage::Root> VolumeState::GetRoot(core::Transaction& tx) {
  ASSIGN_OR_RETURN(const VolumeHeader header, Header(tx));
  return Root{.block = header.root_block, .height = header.root_height};
}

absl::Status VolumeState::SetRoot(core::Transaction& tx, Root root) {
  return UpdateHeader(tx, [&](VolumeHeader& header) {
    header.root_block = root.block;
    header.root_height = root.height;
  });
}

absl::StatusOr<core::Block> VolumeState::AllocateNode(core::Transaction& tx, core::Block near) {
  ASSIGN_OR_RETURN(const core::BlockRange range, allocator_.Allocate(tx, 1, 1, near, node_use_));
  return range.first;
}

absl::Status VolumeState::FreeNode(core::Transaction& tx, core::Block block) {
  // What is free never looks like a node: fsck may believe what it finds when it looks for lost ones.
  RETURN_IF_ERROR(tx.Zero(block * core::kBlockBytes, core::kBlockBytes));
  return allocator_.Free(tx, {.first = block, .count = 1});
}

void VolumeState::DropOpener(Ino ino) {
  const auto it = open_.find(ino);
  if (it == open_.end() || --it->second.count > 0) return;
  const bool orphan = it->second.orphan;
  open_.erase(it);
  if (orphan) QueueRemoval(ino);
}

void VolumeState::MarkOrphan(Ino ino) {
  const auto it = open_.find(ino);
  if (it == open_.end()) {
    QueueRemoval(ino);
  } else {
    it->second.orphan = true;
  }
}

void VolumeState::UnmarkOrphan(Ino ino) {
  const auto it = open_.find(ino);
  if (it != open_.end()) it->second.orphan = false;
}

}  // namespace stagefs::volume

// GroupChange: the change that a group is (group_plan.h), in one or more runs of its body.
//
// Before the body runs its owner gives it the staging buffers it asks for, and has it fill them. What depends on the
// old content is filled in by the first run that gets so far; one that finds other content there needs new buffers.
//
// Not thread-safe; bodies are serialised by the engine's sequencer lock.

#ifndef STAGEFS_FS_VOLUME_GROUP_CHANGE_H_
#define STAGEFS_FS_VOLUME_GROUP_CHANGE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "core/engine.h"
#include "fs/volume/file_content.h"
#include "fs/volume/file_map.h"
#include "fs/volume/group_plan.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

class GroupChange {
 public:
  // A staging buffer: what it is for, and the buffer itself when there is one.
  struct Buffer {
    uint64_t block_count = 0;
    std::shared_ptr<core::StagedData> data;
  };

  // `plan` must have been made, and outlive this object.
  GroupChange(VolumeState& state, const GroupPlan& plan);

  // Whoever owns this puts data into each, then calls Fill().
  absl::Span<Buffer> buffers() { return absl::MakeSpan(buffers_); }
  // Fills and seals all that can be known before the change.
  void Fill();
  // The body. If it needs new buffers it returns Aborted, and needs_new_buffers() says so.
  absl::Status Run(Change& change, GroupResult* result);
  bool needs_new_buffers() const { return needs_new_buffers_; }
  // Lets go of the buffers, so that new ones can be put in their places.
  void DropBuffers();

 private:
  // A file in one run of the body.
  struct File {
    Ino ino = 0;
    Inode inode;
    bool loaded = false;
    bool stored = false;   // something was written: it has to be put back
    FileRun extent;        // the one last looked at; valid until the map changes
    uint64_t new_end = 0;  // composed: behind the last byte stored
  };

  absl::StatusOr<File*> Load(core::Transaction& tx, uint32_t index);
  absl::Status PutBack(Change& change);

  // --- In place ---
  absl::Status RunInPlace(Change& change, GroupResult* result);
  absl::Status WritePart(Change& change, size_t part, GroupResult* result);
  absl::Status WriteBytes(Change& change, File& file, uint64_t offset, absl::Span<const std::byte> bytes,
                          const StagedBlocks& staged);
  absl::Status ChangeNumber(Change& change, File& file, const ContentChange& part, uint64_t* previous);
  absl::Status WriteStagedPart(Change& change, size_t part);
  // Has everything loaded that the parts from `part` on will miss, so that not each of them costs a run.
  void Foresee(core::Transaction& tx, size_t part);
  void ForeseeBlock(core::Transaction& tx, File& file, uint64_t file_block);

  // --- Composed ---
  absl::Status RunComposed(Change& change, GroupResult* result);
  // Loads the files and maps all blocks, so that one run misses all that will be needed.
  absl::Status ForeseeBlocks(core::Transaction& tx);
  absl::Status ComposeDynamic(Change& change, GroupResult* result);
  absl::Status WriteComposed(Change& change);
  // The blocks [first, +count) of one buffer, of which only those marked in `wanted` (null: all).
  absl::Status WriteFrom(Change& change, absl::Span<const GroupBlock> blocks, const Buffer& buffer,
                         const std::vector<bool>* wanted, size_t first);

  VolumeState& state_;
  const GroupPlan& plan_;
  // In place: one for each piece. Composed: for the static blocks, then for the dynamic ones.
  std::vector<Buffer> buffers_;
  size_t static_buffers_ = 0;
  bool dynamic_sealed_ = false;
  bool needs_new_buffers_ = false;

  // Of one run.
  absl::InlinedVector<File, 1> files_;
  size_t next_piece_ = 0;
  std::vector<bool> changed_;  // of the dynamic blocks
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_GROUP_CHANGE_H_

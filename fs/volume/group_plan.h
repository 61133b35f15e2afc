// GroupPlan: how a Volume::WriteGroup() is carried out, as far as that can be known before its change begins.
//
// A group is written in one of two ways:
//   * In place: one part after the other. Large stretches of kWrite go to extents, from staging buffers filled before;
//     everything else is logged. For groups that log little.
//   * Composed: what one change could not log is put together block by block in staging buffers, and written to extents.
//     Static blocks are known before the change: plain bytes cover them. Dynamic ones need what was there before, and
//     are put together while the change is made. kWriteStaged parts are written before, and what other parts have to do
//     with their blocks is composed over them.
//
// Invariant of composed groups: a block comes out as if the parts had been carried out one after the other, since bytes
// behind the end of a file read as zeros and a part sees of the others only the bytes of its own blocks.
//
// Not thread-safe.

#ifndef STAGEFS_FS_VOLUME_GROUP_PLAN_H_
#define STAGEFS_FS_VOLUME_GROUP_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/engine.h"
#include "fs/volume/file_content.h"
#include "fs/volume/volume.h"

namespace stagefs::volume {

// What one group may take of an engine.
struct GroupLimits {
  uint64_t logged_bytes = 0;   // of the parts; the volume's structures come on top
  uint64_t logged_blocks = 0;  // blocks changed in part, and two for each file
  uint64_t merged_blocks = 0;  // blocks whose old content is needed in memory at once
  uint64_t staging_bytes = 0;

  // `stats` say how large the engine is; what they leave out (0) is taken for large.
  static GroupLimits For(const core::EngineStats& stats);
};

struct GroupFile {
  Ino ino = 0;
  uint64_t written_end = 0;  // where the last byte of its kWrite and kWriteStaged parts ends; 0: there is none
};

// A stretch of a large kWrite part, in groups written in place.
struct GroupPiece {
  uint32_t part = 0;
  uint64_t first_byte = 0;  // of the part's bytes
  uint64_t length = 0;
  StagedBlocks blocks;  // without data: that is its writer's
};

// A block of a composed group.
struct GroupBlock {
  uint32_t file = 0;
  uint64_t file_block = 0;
  // What the parts do to it: GroupPlan's touches [first_touch, first_touch + touch_count), in the order of the parts.
  size_t first_touch = 0;
  size_t touch_count = 0;
};

class GroupPlan {
 public:
  // The largest staging buffer, in blocks.
  static constexpr uint64_t kBufferBlocks = 512;

  GroupPlan(std::vector<ContentChange> parts, const GroupLimits& limits) : parts_(std::move(parts)), limits_(limits) {}

  // Call first, once. Errors: E2BIG (more than kMaxGroupBytes, or than one change can take), EINVAL (misaligned, or
  // kWriteStaged without data), EFBIG, ENOMEM (more than all staging memory).
  absl::Status Make();

  absl::Span<const ContentChange> parts() const { return parts_; }
  absl::Span<const GroupFile> files() const { return files_; }
  uint32_t FileOf(size_t part) const { return file_of_.empty() ? 0 : file_of_[part]; }
  bool has_staged_parts() const { return has_staged_parts_; }
  bool composed() const { return composed_; }

  // In place: of the large parts, in order, without gaps. Parts that have none are logged.
  absl::Span<const GroupPiece> pieces() const { return pieces_; }

  // Composed: ascending by file and block.
  absl::Span<const GroupBlock> static_blocks() const { return static_blocks_; }
  absl::Span<const GroupBlock> dynamic_blocks() const { return dynamic_blocks_; }
  // Does to `image`, kBlockBytes of the block as it was before, what the parts do. `previous`, if given, has a number
  // for each part. Returns where in the file the last byte ends that was stored; 0: nothing was.
  uint64_t Compose(const GroupBlock& block, std::byte* image, std::vector<uint64_t>* previous) const;

 private:
  // One part's share in one block.
  struct Touch {
    uint64_t file_block;
    uint32_t file;
    uint32_t part;
  };

  absl::Status CheckPart(const ContentChange& part) const;
  void FindFiles();
  // Whether one change may log what is left to be logged if the group is written in place.
  bool FitsLog() const;
  void PlanPieces();
  void FindTouches();
  void AddTouches(size_t part);
  void FindBlocks();
  bool IsStatic(const GroupBlock& block) const;
  absl::Status CheckLimits() const;

  std::vector<ContentChange> parts_;
  GroupLimits limits_;
  absl::InlinedVector<GroupFile, 1> files_;
  std::vector<uint32_t> file_of_;  // empty: there is one file
  bool has_staged_parts_ = false;
  bool composed_ = false;
  std::vector<GroupPiece> pieces_;
  std::vector<Touch> touches_;
  std::vector<GroupBlock> static_blocks_, dynamic_blocks_;
};

inline bool IsAtomic(const ContentChange& part) {
  return part.kind == ContentChange::Kind::kCompareAndSwap || part.kind == ContentChange::Kind::kFetchAdd;
}
// How many bytes of the file the part is about.
uint64_t LengthOf(const ContentChange& part);
// What a kWrite or kWriteStaged part writes.
absl::Span<const std::byte> BytesOf(const ContentChange& part);
// Whether an atomic part stores anything where `before` is, and what.
bool StoresOver(const ContentChange& part, uint64_t before, uint64_t* after);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_GROUP_PLAN_H_

// WriteOperation: Volume::Write(). Copies the whole blocks of a large write into a staging buffer and seals it before
// the change begins, so that no checksum is computed and no large copy made under the engine's lock.

#ifndef STAGEFS_FS_VOLUME_FILE_WRITE_H_
#define STAGEFS_FS_VOLUME_FILE_WRITE_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "fs/volume/file_content.h"
#include "fs/volume/orphans.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

class WriteOperation {
 public:
  // Deletes itself after `done`. `state` and `remover` must outlive it.
  static void Start(VolumeState& state, Remover& remover, Ino ino, uint64_t offset, absl::Span<const std::byte> bytes,
                    bool append, Callback<size_t> done);

 private:
  WriteOperation(VolumeState& state, Remover& remover, Ino ino, uint64_t offset, absl::Span<const std::byte> bytes,
                 bool append, Callback<size_t> done);

  // Takes and fills the buffer, waiting for staging memory if there is none, and goes on to Run().
  void Stage();
  void Run();
  absl::Status Body(Change& change);
  void Finished(absl::StatusOr<size_t> result);

  VolumeState& state_;
  Remover& remover_;
  const Ino ino_;
  const absl::Span<const std::byte> bytes_;
  const bool append_;
  Callback<size_t> done_;
  uint64_t offset_;      // if append_: where the end of the file was last seen
  StagedBlocks staged_;  // fits offset_
  bool misplaced_ = false;  // the end of the file has moved: stage again
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_FILE_WRITE_H_

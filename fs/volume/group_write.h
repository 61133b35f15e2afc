// GroupWrite: Volume::WriteGroup(). Plans the group, takes and fills its staging buffers, and runs its change.

#ifndef STAGEFS_FS_VOLUME_GROUP_WRITE_H_
#define STAGEFS_FS_VOLUME_GROUP_WRITE_H_

#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fs/volume/group_change.h"
#include "fs/volume/group_plan.h"
#include "fs/volume/orphans.h"
#include "fs/volume/staging_turn.h"
#include "fs/volume/volume.h"
#include "fs/volume/volume_state.h"

namespace stagefs::volume {

class GroupWrite {
 public:
  // Deletes itself after `done`. The references must outlive it.
  static void Start(VolumeState& state, Remover& remover, StagingTurn& turn, const GroupLimits& limits,
                    std::vector<ContentChange> parts, Callback<GroupResult> done);

 private:
  GroupWrite(VolumeState& state, Remover& remover, StagingTurn& turn, GroupPlan plan, Callback<GroupResult> done);

  // Takes all buffers, then fills them and goes on to Run().
  void Stage();
  // Takes the buffers that are missing, waiting for staging memory if there is none; when it has them all, Staged().
  void TakeBuffers();
  // Ends the turn, if this was one.
  void Staged(absl::Status status);
  void Run();
  void Finished(absl::StatusOr<GroupResult> result);

  VolumeState& state_;
  Remover& remover_;
  StagingTurn& turn_;
  const GroupPlan plan_;
  GroupChange change_;
  Callback<GroupResult> done_;
  size_t buffers_taken_ = 0;
  bool body_ok_ = false;           // the last run of the body returned OK
  bool logged_instead_ = false;    // ... and logged what no free extent was found for
};

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_GROUP_WRITE_H_

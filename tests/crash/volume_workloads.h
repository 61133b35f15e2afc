// What volume_sweep runs: short workloads on the tree of VolumeRun::Prepared().

#ifndef STAGEFS_TESTS_CRASH_VOLUME_WORKLOADS_H_
#define STAGEFS_TESTS_CRASH_VOLUME_WORKLOADS_H_

#include <cstdint>
#include <vector>

#include "tests/crash/volume_model.h"

namespace stagefs::crash {

// One operation, then Sync().
std::vector<FileWorkload> SingleOperations();
// Space that is freed and used again, names that are replaced, holes that are filled.
std::vector<FileWorkload> DirectedFileWorkloads();
// Groups: in place, on inline files, with extents, over holes and ends, and what has to be composed.
std::vector<FileWorkload> GroupWorkloads();
// Half of the operations are not waited for.
FileWorkload RandomFileWorkload(uint64_t seed, uint64_t op_count);

}  // namespace stagefs::crash

#endif  // STAGEFS_TESTS_CRASH_VOLUME_WORKLOADS_H_

// Broken: which invariant of docs/recovery.md to violate. For tests alone, which show that the crash sweep notices.

#ifndef STAGEFS_CORE_BROKEN_H_
#define STAGEFS_CORE_BROKEN_H_

#include <cstdint>

namespace stagefs::core {

enum class Broken : uint8_t {
  kNothing = 0,
  kDurableBeforeFlush,       // 1: a frame counts as durable when its write completed
  kFrameBeforeExtents,       // 2: a frame does not wait for the extents it names, nor for their flush
  kReuseBeforeDurable,       // 3: released space can be used at once
  kSamePlaceInLap,           // 4: the next frame starts in the last block of the one before
  kNoZeroForFreshBlocks,     // 5: fresh blocks are logged without a Zero record
  kNoRevocation,             // 6: replay ignores that Extent, Zero and Release end earlier redo
  kDestageBeforeDurable,     // 7: blocks go home before their LSN is durable
  kNoIntents,                // 7: blocks go home without an intent
  kTailBeforeFlush,          // 8: the superblock is written without a flush of what it covers
  kReuseBeforeSuperblocks,   // 8: ring space is reused before both superblocks know the tail
  kSameSaltAgain,            // 9: a new epoch has salt and number of the old one; nor is the chain checked, which
                             //    alone would still tell their frames apart
  kNoChain,                  // 9: replay does not check which frame a frame was written after
  kNoFlushBeforeReplay,      // 9: recovery writes home what it read, without making the log durable first
  kNoDurableRecord,          // 10: no frame says what was durable when it was cut
  kNoPoison,                 // 12: a block with a bad base gets a valid checksum again
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_BROKEN_H_

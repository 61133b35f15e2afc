// Operation: one Engine::Run() on its way, which may try several times.

#ifndef STAGEFS_CORE_OPERATION_H_
#define STAGEFS_CORE_OPERATION_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/engine.h"
#include "core/pending_change.h"

namespace stagefs::core {

// Used in sections of the monitor only. Held by whoever will run it next.
struct Operation {
  Engine::Body body;
  Engine::Done done;

  // What the last try missed, and what has been loaded and pinned for the next one.
  Misses wanted;
  uint32_t loads_left = 0;
  std::vector<std::pair<Block, uint64_t>> block_pins;  // with their incarnation
  std::vector<uint64_t> table_pins;
  absl::flat_hash_map<Block, absl::Status> failed;  // blocks that could not be loaded
  absl::Status fatal;  // a table block could not be read

  // Read while its table blocks were being loaded: bytes that are right if they match the entry (see Reader).
  struct EarlyRead {
    BlockRange range;
    std::byte* destination = nullptr;
    bool arrived = false;
  };
  std::vector<EarlyRead> early_reads;
};

using OperationRef = std::shared_ptr<Operation>;

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_OPERATION_H_

// Loader: brings into memory what bodies missed: first the blocks of the checksum table, then home blocks, which it
// checks against them. Each is read once, however many operations wait for it.
//
// Every method runs in a section of the monitor.

#ifndef STAGEFS_CORE_LOADER_H_
#define STAGEFS_CORE_LOADER_H_

#include <functional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/operation.h"
#include "core/state.h"

namespace stagefs::core {

class Loader {
 public:
  // `on_ready`: all that `operation` wanted is in memory and pinned, or is noted as failed. `on_no_room`: there is no
  // memory for it now.
  Loader(State* state, std::function<void(OperationRef, Outbox&)> on_ready,
         std::function<void(OperationRef, Outbox&)> on_no_room)
      : state_(state), on_ready_(std::move(on_ready)), on_no_room_(std::move(on_no_room)) {}

  // Loads what operation->wanted names, and waits for what else is counted in operation->loads_left.
  void Load(OperationRef operation, Outbox& outbox);
  // One of operation->loads_left is over.
  void Arrived(OperationRef operation, Outbox& outbox);
  // Drops the operation's pins.
  void Unpin(Operation& operation);

 private:
  struct Read;
  using Waiters = std::vector<OperationRef>;

  bool StartTable(uint64_t index, const OperationRef& operation, Outbox& outbox);
  bool StartBlock(Block block, const OperationRef& operation, Outbox& outbox);
  void TableLoaded(Read& read, const absl::Status& status, Outbox& outbox);
  void BlockLoaded(Read& read, const absl::Status& status, Outbox& outbox);

  State* const state_;
  const std::function<void(OperationRef, Outbox&)> on_ready_;
  const std::function<void(OperationRef, Outbox&)> on_no_room_;
  absl::flat_hash_map<uint64_t, Waiters> tables_;  // being read
  absl::flat_hash_map<Block, Waiters> blocks_;     // being read
};

}  // namespace stagefs::core

#endif  // STAGEFS_CORE_LOADER_H_

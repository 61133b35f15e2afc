// CheckContext: what the parts of a check share in one round: the engine, the tree, the problems found.

#ifndef STAGEFS_FS_VOLUME_CHECK_CONTEXT_H_
#define STAGEFS_FS_VOLUME_CHECK_CONTEXT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/engine.h"
#include "fs/volume/allocator.h"
#include "fs/volume/btree.h"
#include "fs/volume/check.h"
#include "fs/volume/check_walk.h"
#include "fs/volume/format.h"

namespace stagefs::volume {

// Runs `body` and waits for its end.
absl::Status RunBody(core::Engine& engine, core::Engine::Body body);

class CheckContext : public BTreeStorage {
 public:
  // Looks at an item; false ends the walk.
  using Visit = absl::FunctionRef<absl::StatusOr<bool>(const Key& key, absl::string_view value)>;

  // `engine` and `options` must outlive the context. `header`, read from `header_block`, is what the volume says of
  // itself; with `may_fix` it is block 1.
  CheckContext(core::Engine& engine, const CheckOptions& options, const VolumeHeader& header, core::Block header_block,
               bool may_fix);

  core::Engine& engine() { return engine_; }
  const CheckOptions& options() const { return options_; }
  const VolumeHeader& header() const { return header_; }
  core::Block header_block() const { return header_block_; }
  // How many groups one UsedMap covers.
  uint64_t window_groups() const;
  const AllocationLayout& layout() const { return allocator_.layout(); }
  BTree& tree() { return tree_; }
  CheckReport& report() { return report_; }

  // --- Problems ---
  void Report(ProblemKind kind, std::string object, std::string message);
  // Whether to mend. Not what depends on the whole tree while some of it cannot be read.
  bool may_fix() const { return may_fix_; }
  bool may_fix_items() const { return may_fix_ && tree_whole_; }
  bool tree_whole() const { return tree_whole_; }
  void TreeIsNotWhole() { tree_whole_ = false; }
  // Runs a repair. If it cannot be done the problem stays, and the next round reports it again. Errors: only that the
  // engine accepts no more changes.
  absl::Status Fix(core::Engine::Body body);
  void CountFix() { ++fixes_; }
  uint64_t fixes() const { return fixes_; }

  // --- Progress: `part` of the step that goes from `from` to `to` ---
  void SetStep(double from, double to);
  void Progress(double part);

  // --- Reading ---
  absl::Status Run(core::Engine::Body body) { return RunBody(engine_, std::move(body)); }
  // Visits the batches of leaves from the start on.
  absl::Status WalkBatches(const Key& first, absl::FunctionRef<absl::StatusOr<bool>(const WalkBatch&)> visit);
  // Visits the items with `first` <= key <= `last`, outside of any body, so it may change what it has seen. Damaged
  // nodes are passed over.
  absl::Status WalkItems(const Key& first, const Key& last, Visit visit);
  absl::StatusOr<std::optional<std::string>> Find(const Key& key);
  absl::StatusOr<std::optional<Inode>> FindInode(uint64_t ino);
  uint64_t HashOf(absl::string_view name) const { return HashName(header_.hash_seed, name); }

  // --- In repairs: bodies ---
  absl::StatusOr<std::optional<Inode>> GetInode(core::Transaction& tx, uint64_t ino);
  absl::Status PutInode(core::Transaction& tx, uint64_t ino, const Inode& inode);
  // Like BTree::Erase(), but it may be gone already.
  absl::Status EraseItem(core::Transaction& tx, const Key& key);
  absl::Status PutOrphan(core::Transaction& tx, uint64_t ino, const Orphan& orphan);
  // Names, with the directory's size and link count. AddName() gives AlreadyExists or ResourceExhausted.
  absl::Status AddName(core::Transaction& tx, uint64_t directory, absl::string_view name, uint64_t ino, uint8_t type);
  absl::Status RemoveName(core::Transaction& tx, uint64_t directory, absl::string_view name);
  absl::Status SetNameType(core::Transaction& tx, uint64_t directory, absl::string_view name, uint8_t type);
  // An inode number, counted in the header.
  absl::StatusOr<uint64_t> TakeInodeNumber(core::Transaction& tx);
  // Up to `wanted` blocks in one piece, for content.
  absl::StatusOr<core::BlockRange> AllocateData(core::Transaction& tx, uint64_t wanted);
  // Frees `block`, as FreeNode(), if its bit says that it is in use.
  absl::Status FreeNodeIfInUse(core::Transaction& tx, core::Block block);
  // Gives `ino` a name in /lost+found, which is made if need be.
  absl::Status MoveToLostFound(core::Transaction& tx, uint64_t ino);
  Inode NewInode(uint32_t mode, uint32_t nlink);

  // --- BTreeStorage ---
  absl::StatusOr<Root> GetRoot(core::Transaction& tx) override;
  absl::Status SetRoot(core::Transaction& tx, Root root) override;
  absl::StatusOr<core::Block> AllocateNode(core::Transaction& tx, core::Block near) override;
  absl::Status FreeNode(core::Transaction& tx, core::Block block) override;
  uint64_t NodeVolume() const override { return header_.hash_seed; }

 private:
  absl::StatusOr<std::vector<std::string>> LoadBucket(core::Transaction& tx, const Key& key);
  absl::StatusOr<uint64_t> LostFound(core::Transaction& tx);

  core::Engine& engine_;
  const CheckOptions& options_;
  const VolumeHeader header_;
  const core::Block header_block_;
  const bool may_fix_;
  Allocator allocator_;
  BTree tree_;
  CheckReport report_;
  bool tree_whole_ = true;
  uint64_t fixes_ = 0;
  double step_from_ = 0, step_to_ = 0;
};

// Looks at the header and its copy, and makes them fit. Returns what the volume says of itself and where that was read.
// Nothing: neither can be used (reported).
struct FoundHeader {
  VolumeHeader header;
  core::Block block = kHeaderBlock;
};
absl::StatusOr<std::optional<FoundHeader>> CheckHeader(core::Engine& engine, bool may_fix, CheckReport* report,
                                                       bool* fixed);

// The parts, in the order in which they run. Each reports, and mends if it may. Errors: the engine's alone.
// True: the tree itself was mended, everything else is to be looked at again.
absl::StatusOr<bool> CheckSpace(CheckContext& context);
absl::Status CheckInodes(CheckContext& context);
absl::Status CheckNames(CheckContext& context);
absl::Status CheckReachability(CheckContext& context);
absl::Status CheckData(CheckContext& context);

}  // namespace stagefs::volume

#endif  // STAGEFS_FS_VOLUME_CHECK_CONTEXT_H_

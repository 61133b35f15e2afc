#include "fs/volume/orphans.h"

#include <optional>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "fs/volume/file_map.h"
#include "fs/volume/inode.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

absl::StatusOr<std::optional<Orphan>> FindOrphan(VolumeState& state, core::Transaction& tx, Ino ino) {
  ASSIGN_OR_RETURN(const std::optional<absl::string_view> value, state.tree().Find(tx, OrphanKey(ino)));
  if (!value.has_value()) return std::nullopt;
  ASSIGN_OR_RETURN(const Orphan orphan, DecodeOrphan(*value));
  return orphan;
}

// Removes items of `ino` other than the inode itself, and frees what they map. True: all are gone.
absl::StatusOr<bool> RemoveItems(VolumeState& state, core::Transaction& tx, Ino ino, Inode* inode) {
  RemovalBudget budget;
  ASSIGN_OR_RETURN(const uint64_t done, Unmap(state, tx, ino, inode, 0, kEndOfFileBlocks, &budget));
  if (done != kEndOfFileBlocks) return false;
  absl::InlinedVector<Key, 4> keys;
  bool all = true;
  RETURN_IF_ERROR(state.tree().Scan(tx, Key{ino, kKindInode, 1}, Key{ino, 0xff, ~uint64_t{0}},
                                    [&](const BTree::Item& item) {
                                      if (keys.size() == budget.items) {
                                        all = false;
                                        return false;
                                      }
                                      keys.push_back(item.key);
                                      return true;
                                    }));
  for (const Key& key : keys) {
    if (key.kind == kKindEntry || key.kind == kKindExtent) {
      return absl::DataLossError(absl::StrCat("Removed inode ", ino, " still has an item of kind ", key.kind));
    }
    RETURN_IF_ERROR(state.Erase(tx, key));
  }
  return all;
}

}  // namespace

absl::Status PutOrphan(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode, uint64_t from_block) {
  const Orphan orphan = {
      .what = inode.nlink == 0 ? Orphan::What::kInode : Orphan::What::kTruncate,
      .from_block = (inode.flags & kInodeTruncatePending) != 0 ? from_block : 0,
  };
  char bytes[kOrphanBytes];
  EncodeOrphan(orphan, bytes);
  return state.tree().Put(tx, OrphanKey(ino), absl::string_view(bytes, sizeof(bytes)));
}

absl::Status RemoveUnlinked(VolumeState& state, core::Transaction& tx, Ino ino, Inode inode) {
  const bool pending = (inode.flags & kInodeTruncatePending) != 0;
  if (!state.IsOpen(ino) && !pending) {
    ASSIGN_OR_RETURN(const bool gone, RemoveItems(state, tx, ino, &inode));
    if (gone) return EraseInode(state, tx, ino);
  }
  uint64_t from_block = 0;
  if (pending) {
    ASSIGN_OR_RETURN(const std::optional<Orphan> orphan, FindOrphan(state, tx, ino));
    if (orphan.has_value()) from_block = orphan->from_block;
  }
  RETURN_IF_ERROR(PutOrphan(state, tx, ino, inode, from_block));
  RETURN_IF_ERROR(PutInode(state, tx, ino, inode));
  tx.OnAccept([&state, ino](core::Lsn) { state.MarkOrphan(ino); });
  return absl::OkStatus();
}

absl::Status DropLink(VolumeState& state, Change& change, Ino ino, Inode inode) {
  if (inode.nlink == 0) return absl::DataLossError(absl::StrCat("Inode ", ino, " has a name but no links"));
  inode.nlink = IsDirectory(inode) ? 0 : inode.nlink - 1;
  TouchInode(change, &inode);
  if (inode.nlink > 0) return PutInode(state, change.tx, ino, inode);
  return RemoveUnlinked(state, change.tx, ino, inode);
}

absl::Status ForgetOrphan(VolumeState& state, core::Transaction& tx, Ino ino, const Inode& inode) {
  if ((inode.flags & kInodeTruncatePending) != 0) {
    ASSIGN_OR_RETURN(const std::optional<Orphan> orphan, FindOrphan(state, tx, ino));
    RETURN_IF_ERROR(PutOrphan(state, tx, ino, inode, orphan.has_value() ? orphan->from_block : 0));
  } else {
    RETURN_IF_ERROR(state.Erase(tx, OrphanKey(ino)));
  }
  tx.OnAccept([&state, ino](core::Lsn) { state.UnmarkOrphan(ino); });
  return absl::OkStatus();
}

absl::StatusOr<bool> RemovalStep(VolumeState& state, core::Transaction& tx, Ino ino) {
  state.SetNodeUse(SpaceUse::kFreeing);
  ASSIGN_OR_RETURN(const std::optional<Orphan> orphan, FindOrphan(state, tx, ino));
  if (!orphan.has_value()) return true;
  ASSIGN_OR_RETURN(Inode inode, NeedInode(state, tx, ino));
  const bool unlinked = orphan->what == Orphan::What::kInode;
  if (unlinked && !state.IsOpen(ino)) {
    ASSIGN_OR_RETURN(const bool gone, RemoveItems(state, tx, ino, &inode));
    if (!gone) {
      RETURN_IF_ERROR(PutInode(state, tx, ino, inode));
      return false;
    }
    RETURN_IF_ERROR(EraseInode(state, tx, ino));
    RETURN_IF_ERROR(state.Erase(tx, OrphanKey(ino)));
    return true;
  }
  if ((inode.flags & kInodeTruncatePending) == 0) return true;
  RemovalBudget budget;
  ASSIGN_OR_RETURN(const uint64_t done,
                   Unmap(state, tx, ino, &inode, orphan->from_block, kEndOfFileBlocks, &budget));
  if (done == kEndOfFileBlocks) {
    inode.flags &= ~kInodeTruncatePending;
    if (unlinked) {
      RETURN_IF_ERROR(PutOrphan(state, tx, ino, inode, 0));
    } else {
      RETURN_IF_ERROR(state.Erase(tx, OrphanKey(ino)));
    }
  }
  RETURN_IF_ERROR(PutInode(state, tx, ino, inode));
  return done == kEndOfFileBlocks;
}

struct Remover::Step {
  bool search = false;  // look for the first orphan from `cursor` on; else `ino` is known
  Ino cursor = 0;
  Ino ino = 0;
  bool finished = false;
  bool none = false;  // searched in vain
};

Remover::Remover(VolumeState& state)
    : state_(state), environment_(state.engine().environment()), idle_(environment_.NewEvent()) {
  state_.SetRemovalSink([this](Ino ino) { Queue(ino); });
}

Remover::~Remover() {
  MutexLock lock(&mutex_);
  STAGEFS_CHECK(!running_);
}

void Remover::Queue(Ino ino) {
  MutexLock lock(&mutex_);
  if (queued_.insert(ino).second) queue_.push_back(ino);
  StartIfNeeded();
}

void Remover::StartRecovery() {
  MutexLock lock(&mutex_);
  recovering_ = true;
  recovery_cursor_ = 0;
  StartIfNeeded();
}

void Remover::StartIfNeeded() {
  if (running_ || stopped_ || (queue_.empty() && !recovering_)) return;
  running_ = true;
  environment_.Post([this] { RunStep(); });
}

bool Remover::WhenProgress(absl::AnyInvocable<void() &&> retry) {
  MutexLock lock(&mutex_);
  if (!running_ || stopped_) return false;
  waiters_.push_back(std::move(retry));
  return true;
}

void Remover::RunStep() {
  auto step = std::make_shared<Step>();
  {
    MutexLock lock(&mutex_);
    if (!queue_.empty()) {
      // Taken out before the step looks, so that what is queued meanwhile is looked at again.
      step->ino = queue_.front();
      queue_.pop_front();
      queued_.erase(step->ino);
    } else {
      step->search = true;
      step->cursor = recovery_cursor_;
    }
  }
  state_.engine().Run(
      [this, step](core::Transaction& tx) -> absl::Status {
        step->finished = step->none = false;
        if (step->search) {
          ASSIGN_OR_RETURN(const std::optional<BTree::Item> item,
                           state_.tree().AtOrAfter(tx, OrphanKey(step->cursor)));
          step->none = !item.has_value() || item->key.ino != 0 || item->key.kind != kKindOrphan;
          if (step->none) return absl::OkStatus();
          step->ino = item->key.offset;
        }
        ASSIGN_OR_RETURN(step->finished, RemovalStep(state_, tx, step->ino));
        return absl::OkStatus();
      },
      [this, step](const absl::StatusOr<core::Lsn>& lsn) { StepDone(*step, lsn.status()); });
}

void Remover::StepDone(const Step& step, const absl::Status& status) {
  if (!status.ok()) {
    environment_.Log(absl::StrCat("stagefs: the space of inode ", step.ino, " was not given back: ", status.ToString(),
                                  "; the next mount tries again"));
  }
  std::vector<absl::AnyInvocable<void() &&>> waiters;
  {
    MutexLock lock(&mutex_);
    waiters.swap(waiters_);
    if (absl::IsFailedPrecondition(status)) {  // nothing is accepted any more
      queue_.clear();
      queued_.clear();
      recovering_ = false;
    } else if (step.search) {
      // An orphan that cannot be looked at or removed must not keep the others.
      if (step.none || (!status.ok() && step.ino == 0)) recovering_ = false;
      if (step.finished || !status.ok()) recovery_cursor_ = step.ino + 1;
    } else if (status.ok() && !step.finished && queued_.insert(step.ino).second) {
      queue_.push_front(step.ino);
    }
    running_ = false;
    StartIfNeeded();
    if (!running_ && stopped_) idle_->Set();
  }
  for (auto& waiter : waiters) std::move(waiter)();
}

void Remover::Finish(Ino ino, absl::AnyInvocable<void(absl::Status) &&> done) {
  auto finished = std::make_shared<bool>(false);
  state_.engine().Run(
      [this, ino, finished](core::Transaction& tx) -> absl::Status {
        ASSIGN_OR_RETURN(*finished, RemovalStep(state_, tx, ino));
        return absl::OkStatus();
      },
      [this, ino, finished, done = std::move(done)](absl::StatusOr<core::Lsn> lsn) mutable {
        // Always through the executor: steps must not pile up on the stack.
        environment_.Post([this, ino, finished, done = std::move(done), status = lsn.status()]() mutable {
          if (status.ok() && !*finished) {
            Finish(ino, std::move(done));
          } else {
            std::move(done)(status);
          }
        });
      });
}

void Remover::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    if (!running_) return;
  }
  idle_->Wait();
}

}  // namespace stagefs::volume

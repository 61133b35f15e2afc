#include "fs/volume/file_write.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "fs/volume/errno.h"
#include "fs/volume/inode.h"
#include "fs/volume/volume_operation.h"
#include "sal/status_macros.h"

namespace stagefs::volume {

using core::kBlockBytes;

void WriteOperation::Start(VolumeState& state, Remover& remover, Ino ino, uint64_t offset,
                           absl::Span<const std::byte> bytes, bool append, Callback<size_t> done) {
  auto* const operation = new WriteOperation(state, remover, ino, offset, bytes, append, std::move(done));
  if (append) {
    operation->Run();  // finds out where the end is
  } else {
    operation->Stage();
  }
}

WriteOperation::WriteOperation(VolumeState& state, Remover& remover, Ino ino, uint64_t offset,
                               absl::Span<const std::byte> bytes, bool append, Callback<size_t> done)
    : state_(state),
      remover_(remover),
      ino_(ino),
      bytes_(bytes),
      append_(append),
      done_(std::move(done)),
      offset_(offset) {}

void WriteOperation::Stage() {
  staged_ = StagedBlocks::Plan(offset_, bytes_.size());
  if (staged_.count > 0) {
    const std::shared_ptr<core::StagedData> data = state_.engine().TryStage(staged_.count);
    if (data == nullptr) {
      // After a failure no buffer may come back. The change would be refused anyway.
      if (absl::Status health = state_.engine().health(); !health.ok()) return Finished(std::move(health));
      state_.engine().WhenStaging([this] { Stage(); });
      return;
    }
    std::memcpy(data->bytes().data(), bytes_.data() + (staged_.first_file_block * kBlockBytes - offset_),
                staged_.count * kBlockBytes);
    data->Seal();
    staged_.data = data;
  }
  Run();
}

void WriteOperation::Run() {
  RunOperation<size_t>(
      state_, remover_,
      [this](Change& change, size_t* result) {
        *result = bytes_.size();
        return Body(change);
      },
      [this](absl::StatusOr<size_t> result) { Finished(std::move(result)); });
}

absl::Status WriteOperation::Body(Change& change) {
  misplaced_ = false;
  ASSIGN_OR_RETURN(Inode inode, GetFile(state_, change.tx, ino_));
  if (bytes_.empty()) return absl::OkStatus();
  const uint64_t offset = append_ ? inode.size_bytes : offset_;
  if (offset > kMaxFileBytes || bytes_.size() > kMaxFileBytes - offset) return ErrnoStatus(EFBIG);
  if (append_) {
    const StagedBlocks plan = StagedBlocks::Plan(offset, bytes_.size());
    if (plan.count != staged_.count || (plan.count > 0 && offset != offset_)) {
      offset_ = offset;
      misplaced_ = true;
      return absl::AbortedError("The end of the file has moved");
    }
  }
  RETURN_IF_ERROR(WriteContent(state_, change, ino_, &inode, offset, bytes_, staged_));
  ClearSetIdBits(&inode);
  TouchContent(change, &inode);
  return PutInode(state_, change.tx, ino_, inode);
}

void WriteOperation::Finished(absl::StatusOr<size_t> result) {
  if (misplaced_ && absl::IsAborted(result.status())) {
    staged_ = {};
    Stage();
    return;
  }
  Callback<size_t> done = std::move(done_);
  delete this;
  std::move(done)(std::move(result));
}

}  // namespace stagefs::volume

// What each kind of work does on the volume, once its turn has come.

#include <errno.h>

#include <algorithm>
#include <utility>

#include "core/types.h"
#include "fs/dsa/queue_server.h"
#include "fs/volume/errno.h"

namespace stagefs::dsa {
namespace {

using core::kBlockBytes;
using volume::ContentChange;
using volume::GroupResult;

// Small parts of a group are put together in buffers of that size.
constexpr uint64_t kSmallPartBytes = 16 << 10, kSharedBufferBytes = 64 << 10;
// What a part of a group costs beside its bytes.
constexpr uint64_t kPartBytes = sizeof(ContentChange);

// After a failure of the engine what is not durable never will be: that is EIO, as for fsync.
int DurabilityError(const absl::Status& status) {
  return status.ok() ? 0 : absl::IsFailedPrecondition(status) ? -EIO : -volume::ToErrno(status);
}

ContentChange Part(ContentChange::Kind kind, volume::Ino ino, uint64_t offset) {
  ContentChange part;
  part.kind = kind;
  part.ino = ino;
  part.offset = offset;
  return part;
}

ContentChange WritePart(volume::Ino ino, uint64_t offset, absl::Span<const std::byte> bytes) {
  ContentChange part = Part(ContentChange::Kind::kWrite, ino, offset);
  part.bytes = bytes;
  return part;
}

// The smallest range of each file that covers what the group has written.
std::vector<TouchedRange> TouchedBy(const Group& group) {
  std::vector<TouchedRange> touched;
  for (const ContentChange& part : group.parts) {
    const uint64_t end = part.offset + part.bytes.size();
    const auto same = std::find_if(touched.begin(), touched.end(),
                                   [&](const TouchedRange& range) { return range.ino == part.ino; });
    if (same == touched.end()) {
      touched.push_back({part.ino, part.offset, end});
    } else {
      same->begin = std::min(same->begin, part.offset);
      same->end = std::max(same->end, end);
    }
  }
  return touched;
}

}  // namespace

void QueueServer::Start(Piece* piece) {
  const Work& work = *piece->work;
  const bool in_group = piece->in_group && group_ != nullptr;
  if (work.status != 0) {
    if (in_group && group_->status == 0) group_->status = work.status;
    return EndPiece(piece, work.status);
  }
  switch (work.opcode()) {
    case Opcode::kRead:
      return StartRead(piece);
    // An unordered work behind the group has its turn before the commit: it is no part of the group.
    case Opcode::kWrite:
      return in_group ? AddToGroup(piece) : StartWrite(piece);
    case Opcode::kCompareSwap:
    case Opcode::kFetchAdd:
      return in_group ? EndPiece(piece, group_->status = -EINVAL) : StartAtomic(piece);
    case Opcode::kFlush:
      return StartFlush(piece);
    case Opcode::kBegin:
      if (group_ != nullptr) return EndPiece(piece, group_->status = -EINVAL);
      group_ = std::make_unique<Group>();
      return EndPiece(piece, 0);
    case Opcode::kCommit:
      return StartCommit(piece);
    case Opcode::kAbort:
      if (group_ == nullptr) return EndPiece(piece, -EINVAL);
      DropGroup();
      return EndPiece(piece, 0);
  }
}

// --- Changes ---

void QueueServer::StartWrite(Piece* piece) {
  const Work& work = *piece->work;
  const volume::Ino ino = work.file->ino();
  std::vector<ContentChange> parts;
  const auto add = [&](uint64_t offset, const std::byte* bytes, uint64_t length) {
    if (length > 0) parts.push_back(WritePart(ino, offset, absl::MakeConstSpan(bytes, length)));
  };
  if (work.entry.inline_bytes > 0) {
    add(piece->offset, work.inline_data.data(), work.entry.inline_bytes);
  } else {
    add(piece->offset, piece->buffer.data(), piece->head_bytes);
    if (piece->staged != nullptr) {
      parts.push_back(Part(ContentChange::Kind::kWriteStaged, ino, piece->offset + piece->head_bytes));
      parts.back().staged = piece->staged;
    }
    add(piece->offset + piece->length - piece->tail_bytes, piece->buffer.data() + piece->head_bytes,
        piece->tail_bytes);
  }
  piece->touched.assign({{ino, piece->offset, piece->offset + piece->length}});
  StartChange(piece, std::move(parts));
}

void QueueServer::StartAtomic(Piece* piece) {
  const Work& work = *piece->work;
  const bool swap = work.opcode() == Opcode::kCompareSwap;
  std::vector<ContentChange> parts = {
      Part(swap ? ContentChange::Kind::kCompareAndSwap : ContentChange::Kind::kFetchAdd, work.file->ino(),
           work.entry.offset)};
  parts.front().expected = work.entry.expected;
  parts.front().operand = work.entry.operand;
  piece->touched.assign({{work.file->ino(), work.entry.offset, work.entry.offset + 8}});
  StartChange(piece, std::move(parts));
}

void QueueServer::StartChange(Piece* piece, std::vector<ContentChange> parts) {
  if (piece->ordered()) ++unaccepted_;
  ++on_volume_;
  context_.volume.WriteGroup(std::move(parts), [this, piece](absl::StatusOr<GroupResult> result) {
    Back([this, piece, result = std::move(result)]() mutable {
      --on_volume_;
      Accepted(piece, std::move(result));
    });
  });
}

void QueueServer::Accepted(Piece* piece, absl::StatusOr<GroupResult> result) {
  if (piece->ordered()) --unaccepted_;
  if (!result.ok()) return EndPiece(piece, -volume::ToErrno(result.status()));
  Work* const work = piece->work;
  work->lsn = std::max(work->lsn, result->lsn);
  if (work->opcode() == Opcode::kCompareSwap || work->opcode() == Opcode::kFetchAdd) {
    work->value = result->previous.front();
  }
  TellOthers(piece);
}

// One file after the other.
void QueueServer::TellOthers(Piece* piece) {
  if (piece->touched.empty()) return EndPiece(piece, 0);
  const TouchedRange range = piece->touched.back();
  piece->touched.pop_back();
  ++on_volume_;
  context_.sharing.Changed(range.ino, range.begin, range.end - range.begin, volume::Sharing::Door::kDirect,
                           [this, piece] {
                             Back([this, piece] {
                               --on_volume_;
                               TellOthers(piece);
                             });
                           });
}

// One question at a time, for all that wait: what is accepted meanwhile shares the next flush.
void QueueServer::AskForDurability() {
  if (asked_for_durability_ || undurable_.empty()) return;
  core::Lsn lsn = 0;
  for (const Work* work : undurable_) lsn = std::max(lsn, work->lsn);
  asked_for_durability_ = true;
  ++on_volume_;
  context_.volume.engine().WhenDurable(lsn, [this, lsn](absl::Status status) {
    Back([this, lsn, error = DurabilityError(status)] {
      --on_volume_;
      asked_for_durability_ = false;
      std::erase_if(undurable_, [&](Work* work) {
        if (work->lsn > lsn && error == 0) return false;
        work->status = error;
        Complete(work);
        return true;
      });
    });
  });
}

// --- Groups ---

void QueueServer::AddToGroup(Piece* piece) {
  Group& group = *group_;
  const Work& work = *piece->work;
  const uint64_t cost = piece->length + kPartBytes;
  if (group.status == 0 && group.bytes + piece->length > volume::kMaxGroupBytes) group.status = -E2BIG;
  if (group.status == 0 && context_.held_bytes + cost > context_.options.max_bytes) group.status = -ENOMEM;
  if (group.status != 0) return EndPiece(piece, group.status);
  const std::byte* const bytes = piece->buffer.empty() ? work.inline_data.data() : piece->buffer.data();
  group.parts.push_back(WritePart(work.file->ino(), piece->offset, Keep(&group, piece, bytes)));
  if (group.files.empty() || group.files.back() != work.file) group.files.push_back(work.file);
  group.bytes += piece->length;
  group.held_bytes += cost;
  context_.held_bytes += cost;
  EndPiece(piece, 0);
}

// The group's own: the piece's buffer, or a copy behind other small ones.
absl::Span<const std::byte> QueueServer::Keep(Group* group, Piece* piece, const std::byte* bytes) {
  if (piece->length > kSmallPartBytes) {
    // In front: the last one is where small parts go.
    const absl::Span<const std::byte> kept = piece->buffer.bytes();
    group->buffers.insert(group->buffers.begin(), std::move(piece->buffer));
    return kept;
  }
  if (group->room < piece->length) {
    group->buffers.push_back(context_.buffers.Take(kSharedBufferBytes));
    group->room = kSharedBufferBytes;
  }
  std::byte* const place = group->buffers.back().data() + (kSharedBufferBytes - group->room);
  std::copy_n(bytes, piece->length, place);
  group->room -= piece->length;
  return absl::MakeConstSpan(place, piece->length);
}

void QueueServer::StartCommit(Piece* piece) {
  if (group_ == nullptr) return EndPiece(piece, -EINVAL);
  if (const int status = group_->status; status != 0) {
    DropGroup();
    return EndPiece(piece, status);
  }
  piece->group = std::move(group_);
  context_.held_bytes -= piece->group->held_bytes;  // they are on their way now
  piece->touched = TouchedBy(*piece->group);
  StartChange(piece, std::move(piece->group->parts));
}

void QueueServer::DropGroup() {
  if (group_ == nullptr) return;
  context_.held_bytes -= group_->held_bytes;
  group_.reset();
}

// --- What changes nothing ---

void QueueServer::StartRead(Piece* piece) {
  Work& work = *piece->work;
  absl::Span<std::byte> destination;
  uint64_t from = piece->offset;
  if (work.entry.length <= kMaxInlineBytes) {
    destination = absl::MakeSpan(work.inline_data.data(), piece->length);
  } else {
    // Whole blocks: the store reads them into the buffer itself.
    from -= from % kBlockBytes;
    const uint64_t end = (piece->offset + piece->length + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    piece->buffer = context_.buffers.Take(end - from);
    destination = absl::MakeSpan(piece->buffer.data(), end - from);
  }
  piece->head_bytes = piece->offset - from;
  ++on_volume_;
  context_.volume.Read(work.file->ino(), from, destination, [this, piece](absl::StatusOr<size_t> bytes) {
    Back([this, piece, bytes = std::move(bytes)]() mutable {
      --on_volume_;
      HasRead(piece, std::move(bytes));
    });
  });
}

void QueueServer::HasRead(Piece* piece, absl::StatusOr<size_t> bytes) {
  if (!bytes.ok()) return EndPiece(piece, -volume::ToErrno(bytes.status()));
  Work* const work = piece->work;
  const uint64_t skipped = piece->head_bytes;
  const uint64_t read = *bytes > skipped ? std::min<uint64_t>(*bytes - skipped, piece->length) : 0;
  if (read < piece->length) work->read_end = std::min(work->read_end, piece->offset - work->entry.offset + read);
  if (read == 0 || piece->buffer.empty() || dropped()) return EndPiece(piece, 0);
  piece->state = Piece::State::kDelivering;
  AddMove(piece, piece->buffer.data() + skipped, read, piece->remote_address);
  delivering_.push_back(piece);
}

// Waits for durability as durable changes do.
void QueueServer::StartFlush(Piece* piece) {
  piece->work->lsn = context_.volume.engine().accepted_lsn();
  EndPiece(piece, 0);
}

}  // namespace stagefs::dsa

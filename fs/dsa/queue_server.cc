#include "fs/dsa/queue_server.h"

#include <errno.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/types.h"
#include "sal/check.h"

namespace stagefs::dsa {
namespace {

using core::kBlockBytes;

// A longer read or write is carried out in pieces that end on multiples of it.
constexpr uint64_t kPieceBytes = volume::kMaxWriteBytes;
// How much of its works a queue may have under way.
constexpr uint64_t kWindowBytes = 8 << 20;
// From here on whole blocks go where the engine writes them from.
constexpr uint64_t kStageFromBytes = 64 << 10;

}  // namespace

QueueServer::~QueueServer() { STAGEFS_CHECK(dropped() && !busy()); }

int QueueServer::Open(Fabric& fabric, std::span<const std::byte> client_name, std::string* error) {
  if (!fabric.has_wait_descriptors()) {
    if (const int code = Doorbell::Create(&doorbell_); code != 0) {
      *error = "making a doorbell";
      return code;
    }
  }
  std::unique_ptr<Endpoint> endpoint;
  int code = Endpoint::Create(fabric, depth_, *this, &endpoint, error);
  if (code == 0) code = endpoint->SetPeer(client_name, error);
  if (code == 0) endpoint_ = std::move(endpoint);
  return code;
}

int QueueServer::Poll() {
  if (dropped() || broken_) return 0;
  const int events = endpoint_->Poll();
  if (events < 0) broken_ = true;
  held_back_ = false;
  const bool moved = Step();
  // The client may have to do its part, and sleep.
  if (held_back_ && doorbell_ != nullptr) doorbell_->Ring();
  return std::max(events, 0) + (moved ? 1 : 0);
}

void QueueServer::Drop() {
  endpoint_.reset();
  doorbell_.reset();
  // What the volume does not have will never be used. Others wait for staging memory, and so may we: until then this
  // queue is busy.
  for (const std::unique_ptr<Piece>& piece : pieces_) {
    if (piece->state == Piece::State::kStarted) continue;
    piece->staged.reset();
    piece->buffer.Reset();
  }
  context_.held_bytes -= std::exchange(held_bytes_, 0);
  DropGroup();
}

void QueueServer::Broken(int) { broken_ = true; }

// --- Arrival ---

void QueueServer::Received(std::span<const std::byte> message) {
  BatchReader<WorkEntry> batch(message);
  if (!batch.valid() || batch.token() != token_) return;  // of somebody else
  while (const auto received = batch.Next()) {
    if (active_ == depth_) broken_ = true;
    if (broken_) return;
    Arrive(received->entry, received->data);
  }
  if (!batch.valid()) broken_ = true;
}

void QueueServer::Arrive(const WorkEntry& entry, std::span<const std::byte> data) {
  if (free_works_.empty()) {
    works_.push_back(std::make_unique<Work>());
    free_works_.push_back(works_.back().get());
  }
  Work* const work = free_works_.back();
  free_works_.pop_back();
  work->entry = entry;
  std::memcpy(work->inline_data.data(), data.data(), data.size());
  work->split_bytes = 0;
  work->split = false;
  work->pieces = 0;
  work->status = Check(work);
  work->read_end = entry.length;
  work->lsn = 0;
  work->value = 0;
  if (work->Has(kFence) && epochs_.back() > 0) epochs_.push_back(0);
  work->epoch = first_epoch_ + epochs_.size() - 1;
  ++epochs_.back();
  ++active_;
  arrived_.push_back(work);
}

int QueueServer::Check(Work* work) {
  const WorkEntry& entry = work->entry;
  if ((entry.flags & ~kKnownFlags) != 0) return -EINVAL;
  if (entry.inline_bytes > 0 && work->opcode() != Opcode::kWrite) return -EINVAL;
  switch (work->opcode()) {
    case Opcode::kFlush:
    case Opcode::kBegin:
    case Opcode::kCommit:
    case Opcode::kAbort:
      return 0;
    case Opcode::kRead:
    case Opcode::kWrite:
    case Opcode::kCompareSwap:
    case Opcode::kFetchAdd:
      break;
    default:
      return -EINVAL;
  }
  work->file = context_.handles.files.Find(entry.file);
  if (work->file == nullptr) return -EBADF;
  const bool reads = work->opcode() != Opcode::kWrite, writes = work->opcode() != Opcode::kRead;
  if ((reads && !work->file->reads()) || (writes && !work->file->writes())) return -EBADF;
  if (reads && writes) {
    if (entry.offset % 8 != 0) return -EINVAL;
    return entry.offset > volume::kMaxFileBytes - 8 ? -EFBIG : 0;
  }
  if (entry.length == 0 || entry.length > kMaxTransferBytes) return -EINVAL;
  if (entry.offset > volume::kMaxFileBytes - entry.length) return writes ? -EFBIG : -EINVAL;
  return CheckMemory(*work);
}

int QueueServer::CheckMemory(const Work& work) {
  const WorkEntry& entry = work.entry;
  if (entry.inline_bytes > 0) {
    return entry.inline_bytes == entry.length && entry.memory == 0 && entry.address == 0 ? 0 : -EINVAL;
  }
  const std::shared_ptr<Memory> memory = context_.handles.memories.Find(entry.memory);
  if (memory == nullptr) return -EINVAL;
  if (entry.address > memory->size_bytes() || entry.length > memory->size_bytes() - entry.address) return -EFAULT;
  const uint32_t needed = work.opcode() == Opcode::kRead ? kMayWrite : kMayRead;
  if ((memory->access() & needed) == 0) return -EFAULT;
  const_cast<Work&>(work).memory = memory;
  return 0;
}

// --- The pipeline ---

bool QueueServer::Step() {
  bool ever_moved = false;
  while (!dropped() && !broken_) {
    bool moved = SplitWorks();
    moved |= FetchPieces();
    moved |= TakeTurns();
    if (!moved) break;
    ever_moved = true;
  }
  if (dropped() || broken_) return ever_moved;
  ever_moved |= Deliver();
  AskForDurability();
  SendCompletions();
  return ever_moved;
}

bool QueueServer::SplitWorks() {
  bool moved = false;
  while (!arrived_.empty()) {
    Work* const work = arrived_.front();
    const uint64_t bytes = work->memory == nullptr
                               ? 0
                               : std::min(work->entry.length - work->split_bytes, kPieceBytes);
    // One piece at least, so that everything goes on some day.
    if (held_bytes_ > 0 && bytes > 0 &&
        (held_bytes_ + bytes > kWindowBytes || context_.held_bytes + bytes > context_.options.max_bytes)) {
      break;
    }
    SplitOff(work);
    if (work->split) arrived_.pop_front();
    moved = true;
  }
  return moved;
}

void QueueServer::SplitOff(Work* work) {
  if (free_pieces_.empty()) {
    pieces_.push_back(std::make_unique<Piece>());
    free_pieces_.push_back(pieces_.back().get());
  }
  Piece* const piece = free_pieces_.back();
  free_pieces_.pop_back();
  const WorkEntry& entry = work->entry;
  piece->queue = this;
  piece->work = work;
  piece->state = Piece::State::kReady;
  piece->offset = entry.offset + work->split_bytes;
  piece->length = 0;
  piece->head_bytes = piece->tail_bytes = 0;
  piece->move_count = piece->moves_started = piece->moves_over = 0;
  piece->move_status = 0;
  if (work->status == 0 && (work->opcode() == Opcode::kRead || work->opcode() == Opcode::kWrite)) {
    const uint64_t left = entry.length - work->split_bytes;
    piece->length = entry.length <= kPieceBytes ? left : std::min(left, kPieceBytes - piece->offset % kPieceBytes);
    if (work->memory != nullptr) {
      piece->remote_address = work->memory->address() + entry.address + work->split_bytes;
      held_bytes_ += piece->length;
      context_.held_bytes += piece->length;
    }
    work->split_bytes += piece->length;
  }
  work->split = work->status != 0 || piece->length == 0 || work->split_bytes == entry.length;
  if (work->opcode() == Opcode::kBegin) splits_group_ = true;
  if (work->opcode() == Opcode::kCommit || work->opcode() == Opcode::kAbort) splits_group_ = false;
  piece->in_group = splits_group_ && work->opcode() != Opcode::kRead && work->opcode() != Opcode::kFlush;
  if (work->opcode() == Opcode::kCommit) ++commits_;
  ++work->pieces;
  waiting_.push_back(piece);
  if (!piece->ordered()) ++unordered_waiting_;
  if (work->opcode() == Opcode::kWrite && work->memory != nullptr && piece->length > 0) {
    piece->state = Piece::State::kFetching;
    fetching_.push_back(piece);
  }
}

// In their order, so that the one whose turn comes first has its bytes first.
bool QueueServer::FetchPieces() {
  bool moved = false;
  while (!fetching_.empty()) {
    Piece* const piece = fetching_.front();
    if (HeldByFence(*piece->work)) break;
    if (piece->move_count == 0 && !TakeMemory(piece)) break;
    if (!StartMoves(piece)) {
      held_back_ = true;
      break;
    }
    fetching_.pop_front();
    moved = true;
  }
  return moved;
}

// Where the bytes of a write are to go, and which moves that takes. False: not now.
bool QueueServer::TakeMemory(Piece* piece) {
  const uint64_t first = (piece->offset + kBlockBytes - 1) / kBlockBytes;
  const uint64_t end = (piece->offset + piece->length) / kBlockBytes;
  // A group may stay uncommitted, and a peer on a network may take its time: neither may hold staging memory. Nor may
  // what waits for a commit, which itself may wait for staging memory.
  const bool stage = !piece->in_group && commits_ == 0 && context_.options.provider == "shm" && end > first &&
                     (end - first) * kBlockBytes >= kStageFromBytes;
  uint64_t staged_bytes = 0;
  if (stage) {
    core::Engine& engine = context_.volume.engine();
    piece->staged = engine.TryStage(end - first);
    if (piece->staged == nullptr && engine.health().ok()) {
      if (waits_for_staging_) return false;
      waits_for_staging_ = true;
      ++on_volume_;
      engine.WhenStaging([this] {
        Back([this] {
          --on_volume_;
          waits_for_staging_ = false;
        });
      });
      return false;
    }
    if (piece->staged != nullptr) {
      staged_bytes = piece->staged->bytes().size();
      piece->head_bytes = first * kBlockBytes - piece->offset;
    }
  }
  if (staged_bytes == 0) piece->head_bytes = piece->length;
  piece->tail_bytes = piece->length - piece->head_bytes - staged_bytes;
  const uint64_t loose_bytes = piece->head_bytes + piece->tail_bytes;
  if (loose_bytes > 0) piece->buffer = context_.buffers.Take(loose_bytes);
  AddMove(piece, piece->buffer.data(), piece->head_bytes, piece->remote_address);
  if (staged_bytes > 0) {
    AddMove(piece, piece->staged->bytes().data(), staged_bytes, piece->remote_address + piece->head_bytes);
  }
  AddMove(piece, piece->buffer.data() + piece->head_bytes, piece->tail_bytes,
          piece->remote_address + piece->head_bytes + staged_bytes);
  return true;
}

void QueueServer::AddMove(Piece* piece, std::byte* local, uint64_t bytes, uint64_t remote_address) {
  if (bytes == 0) return;
  Piece::Move& move = piece->moves[piece->move_count++];
  move.piece = piece;
  move.local = local;
  move.bytes = bytes;
  move.remote_address = remote_address;
  move.done = [](Transfer* transfer, int status) {
    Piece* const moved = static_cast<Piece::Move*>(transfer)->piece;
    moved->queue->MoveOver(moved, status);
  };
}

// False: not all of them could be started yet.
bool QueueServer::StartMoves(Piece* piece) {
  while (piece->moves_started < piece->move_count) {
    Piece::Move& move = piece->moves[piece->moves_started];
    const uint64_t key = piece->work->memory->key();
    const int code = piece->state == Piece::State::kFetching
                         ? endpoint_->Read(move.local, move.bytes, move.remote_address, key, &move)
                         : endpoint_->Write(move.local, move.bytes, move.remote_address, key, &move);
    if (code == -EAGAIN) return false;
    if (code != 0) {  // the rest is not tried
      piece->move_status = code;
      piece->move_count = piece->moves_started;
      if (piece->moves_over == piece->move_count) MovesOver(piece);
      return true;
    }
    ++piece->moves_started;
  }
  return true;
}

void QueueServer::MoveOver(Piece* piece, int status) {
  if (status != 0) piece->move_status = status;
  if (++piece->moves_over == piece->move_count) MovesOver(piece);
}

void QueueServer::MovesOver(Piece* piece) {
  // Whatever the provider calls it, the client's memory could not be used.
  const int status = piece->move_status == 0 ? 0 : piece->move_status == -ECANCELED ? -ECANCELED : -EFAULT;
  if (piece->state == Piece::State::kDelivering) return EndPiece(piece, status);
  if (status != 0 && piece->work->status == 0) piece->work->status = status;
  if (status == 0 && piece->staged != nullptr) piece->staged->Seal();
  piece->state = Piece::State::kReady;
}

bool QueueServer::MayStart(const Piece& piece, bool blocked) const {
  if (piece.state != Piece::State::kReady) return false;
  if (HeldByFence(*piece.work)) return false;
  return !piece.ordered() || !blocked;
}

bool QueueServer::TakeTurns() {
  bool moved = false;
  bool blocked = unaccepted_ > 0;
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    if (blocked && unordered_waiting_ == 0) break;
    Piece* const piece = *it;
    if (!MayStart(*piece, blocked)) {
      blocked = blocked || piece->ordered();
      ++it;
      continue;
    }
    it = waiting_.erase(it);
    if (!piece->ordered()) --unordered_waiting_;
    piece->state = Piece::State::kStarted;
    Start(piece);  // which changes nothing in waiting_
    blocked = blocked || unaccepted_ > 0;
    moved = true;
  }
  return moved;
}

bool QueueServer::Deliver() {
  bool moved = false;
  for (; !delivering_.empty() && StartMoves(delivering_.front()); moved = true) delivering_.pop_front();
  held_back_ |= !delivering_.empty();
  return moved;
}

void QueueServer::EndPiece(Piece* piece, int status) {
  Work* const work = piece->work;
  if (status != 0 && work->status == 0) work->status = status;
  piece->buffer.Reset();
  piece->staged.reset();
  piece->group.reset();
  if (work->opcode() == Opcode::kCommit) --commits_;
  if (work->memory != nullptr && !dropped()) {
    held_bytes_ -= piece->length;
    context_.held_bytes -= piece->length;
  }
  free_pieces_.push_back(piece);
  --work->pieces;
  if (work->status != 0 && !work->split) {  // the rest of it is not begun
    work->split = true;
    std::erase(arrived_, work);
  }
  if (work->split && work->pieces == 0) EndWork(work);
}

void QueueServer::EndWork(Work* work) {
  const bool waits = work->opcode() == Opcode::kFlush || (work->Has(kDurable) && work->IsChange());
  if (work->status != 0 || !waits) return Complete(work);
  undurable_.push_back(work);
}

void QueueServer::Complete(Work* work) {
  work->file.reset();
  work->memory.reset();
  --epochs_[work->epoch - first_epoch_];
  while (epochs_.size() > 1 && epochs_.front() == 0) {
    epochs_.pop_front();
    ++first_epoch_;
  }
  completed_.push_back(work);
}

void QueueServer::SendCompletions() {
  bool wake = false;
  while (!completed_.empty()) {
    std::byte* const memory = endpoint_->SendBuffer();
    if (memory == nullptr) {
      held_back_ = true;
      break;
    }
    BatchWriter<CompletionEntry> batch(memory, 0);
    size_t count = 0;
    for (; count < completed_.size(); ++count) {
      const Work& work = *completed_[count];
      CompletionEntry entry = {};
      entry.cookie = work.entry.cookie;
      entry.status = work.status;
      entry.lsn = work.lsn;
      entry.value = work.value;
      std::span<const std::byte> data;
      if (work.status == 0) {
        entry.length = work.opcode() == Opcode::kRead ? work.read_end : work.entry.length;
        if (work.opcode() == Opcode::kRead && work.entry.length <= kMaxInlineBytes) {
          data = {work.inline_data.data(), work.read_end};
        }
      }
      entry.inline_bytes = static_cast<uint16_t>(data.size());
      if (!batch.Add(entry, data)) break;
    }
    const int code = endpoint_->Send(batch.Finish().size());
    if (code == -EAGAIN) {
      held_back_ = true;
      break;
    }
    wake = true;
    if (code != 0) {
      broken_ = true;
      return;
    }
    for (size_t i = 0; i < count; ++i) free_works_.push_back(completed_[i]);
    completed_.erase(completed_.begin(), completed_.begin() + static_cast<ptrdiff_t>(count));
    active_ -= static_cast<uint32_t>(count);
  }
  if (wake && doorbell_ != nullptr) doorbell_->Ring();
}

}  // namespace stagefs::dsa

#include "core/reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/aligned_memory.h"
#include "core/checksum.h"
#include "sal/mutex.h"

namespace stagefs::core {

// A run of blocks that one request reads.
struct Reader::Piece {
  Block first = 0;
  std::vector<uint64_t> expected;  // table entries when the read began
  std::byte* target = nullptr;     // whole blocks
  AlignedMemory bounce;            // what `target` is if the destination takes only part of a block or is unaligned
  std::byte* destination = nullptr;
  uint64_t offset = 0, length = 0;  // what of `bounce` goes to `destination`
  bool early = false;               // the blocks are in `target` already, as of before the plan
  sal::Request request;

  BlockRange range() const { return {first, expected.size()}; }
};

struct Reader::Batch {
  // From memory, copied outside the section.
  struct Copy {
    ImageRef image;
    std::shared_ptr<const StagedBuffer> staged;
    const std::byte* source = nullptr;
    std::byte* destination = nullptr;
    uint64_t length = 0;
  };
  uint64_t number = 0;
  std::vector<uint64_t> table_pins;  // so that the entries can be asked again when the blocks have arrived
  std::vector<Copy> copies;
  std::vector<std::unique_ptr<Piece>> pieces;
  absl::AnyInvocable<void(absl::Status) &&> done;
  Mutex mutex;
  uint64_t pieces_left ABSL_GUARDED_BY(mutex) = 0;
  absl::Status status ABSL_GUARDED_BY(mutex);
};

void Reader::Start(const std::vector<PlannedRead>& reads, absl::Span<const Operation::EarlyRead> early,
                   absl::AnyInvocable<void(absl::Status) &&> done, Outbox& outbox) {
  auto batch = std::make_shared<Batch>();
  batch->done = std::move(done);
  batch->number = state_->next_read++;
  state_->active_reads.insert(batch->number);
  for (const PlannedRead& read : reads) {
    Plan(read, *batch);
    const Block last = (read.address + read.length - 1) / kBlockBytes;
    for (uint64_t index = ChecksumTable::IndexOf(read.address / kBlockBytes);
         !batch->pieces.empty() && index <= ChecksumTable::IndexOf(last); ++index) {
      state_->table.Pin(index);
      batch->table_pins.push_back(index);
    }
  }
  {
    MutexLock lock(&batch->mutex);
    batch->pieces_left = batch->pieces.size() + 1;  // one for the copies
  }
  for (const std::unique_ptr<Piece>& piece : batch->pieces) {
    piece->request.op = sal::Request::Op::kRead;
    piece->request.offset_bytes = state_->HomeOffset(piece->first);
    piece->request.length_bytes = piece->expected.size() * kBlockBytes;
    piece->request.buffers.push_back({piece->target, piece->request.length_bytes});
    piece->early = std::any_of(early.begin(), early.end(), [&](const Operation::EarlyRead& read) {
      return read.arrived && read.range.first <= piece->first && piece->range().end() <= read.range.end() &&
             piece->target == read.destination + (piece->first - read.range.first) * kBlockBytes;
    });
    if (piece->early) {
      outbox.Call([this, piece = piece.get(), batch]() mutable { PieceRead(piece, std::move(batch), absl::OkStatus()); });
    } else {
      SubmitPiece(piece.get(), batch, outbox);
    }
  }
  outbox.Call([this, batch = std::move(batch)]() mutable {
    for (Batch::Copy& copy : batch->copies) std::memcpy(copy.destination, copy.source, copy.length);
    batch->copies.clear();
    Finish(std::move(batch));
  });
}

// Sorts the blocks of `read` into those in memory, those that are zeros, and runs that must be read.
void Reader::Plan(const PlannedRead& read, Batch& batch) {
  const uint64_t largest = state_->monitor.store().geometry().max_request_bytes / kBlockBytes;
  std::byte* destination = read.destination;
  Piece* run = nullptr;  // the piece that the next block could extend
  for (uint64_t address = read.address, left = read.length; left > 0;) {
    const Block block = address / kBlockBytes;
    const uint64_t offset = address % kBlockBytes;
    const uint64_t length = std::min(kBlockBytes - offset, left);
    const uint64_t entry = state_->table.Get(block);
    Piece* extended = nullptr;
    if (const BlockCache::Entry* const cached = state_->cache.Find(block)) {
      batch.copies.push_back({cached->image, nullptr, cached->image.data() + offset, destination, length});
    } else if (entry == kNeverWritten) {
      std::memset(destination, 0, length);
    } else if (entry == kPoisoned) {
      MutexLock lock(&batch.mutex);
      batch.status.Update(absl::DataLossError(absl::StrCat("home block ", block, " was lost")));
    } else if (const ExtentsInFlight::Extent* const extent = state_->extents.Find(block)) {
      batch.copies.push_back({ImageRef(), extent->data, extent->At(block) + offset, destination, length});
    } else if (length == kBlockBytes && reinterpret_cast<uintptr_t>(destination) % kBlockBytes == 0) {
      if (run == nullptr || run->expected.size() == largest) {
        run = batch.pieces.emplace_back(std::make_unique<Piece>()).get();
        run->first = block;
        run->target = destination;
      }
      run->expected.push_back(entry);
      extended = run;
    } else {
      Piece& part = *batch.pieces.emplace_back(std::make_unique<Piece>());
      part.bounce = AlignedMemory(kBlockBytes);
      part.first = block;
      part.target = part.bounce.data();
      part.expected.push_back(entry);
      part.destination = destination;
      part.offset = offset;
      part.length = length;
    }
    run = extended;
    address += length;
    destination += length;
    left -= length;
  }
}

// The request holds the batch, and with it the piece, until it is over.
void Reader::SubmitPiece(Piece* piece, std::shared_ptr<Batch> batch, Outbox& outbox) {
  state_->stats.bytes_read += piece->request.length_bytes;
  outbox.Submit(&piece->request, [this, piece, batch = std::move(batch)](absl::Status status) mutable {
    PieceRead(piece, std::move(batch), std::move(status));
  });
}

void Reader::ReadAgain(Piece* piece, std::shared_ptr<Batch> batch) {
  state_->monitor.Run([&](Outbox& outbox) {
    for (uint64_t i = 0; i < piece->expected.size(); ++i) piece->expected[i] = state_->table.Get(piece->first + i);
    SubmitPiece(piece, std::move(batch), outbox);
  });
}

void Reader::PieceRead(Piece* piece, std::shared_ptr<Batch> batch, absl::Status status) {
  if (status.ok()) {
    bool again = false;
    status = Verify(*piece, &again);
    if (again) return ReadAgain(piece, std::move(batch));
  }
  if (status.ok() && piece->destination != nullptr) {
    std::memcpy(piece->destination, piece->target + piece->offset, piece->length);
  }
  if (!status.ok()) {
    MutexLock lock(&batch->mutex);
    batch->status.Update(status);
  }
  Finish(std::move(batch));
}

absl::Status Reader::Verify(Piece& piece, bool* again) {
  for (uint64_t i = 0; i < piece.expected.size(); ++i) {
    const uint64_t found =
        TableEntry(ContentHash(piece.target + i * kBlockBytes), piece.first + i, state_->volume_salt);
    if (found == piece.expected[i]) continue;
    if (std::exchange(piece.early, false)) {
      *again = true;
      return absl::OkStatus();
    }
    absl::Status status = Recheck(piece, i, found, again);
    if (!status.ok() || *again) return status;
  }
  return absl::OkStatus();
}

// The block does not match what the table said when the read began. If it got new content meanwhile, that is what the
// reader gets, for the read and the write were concurrent. Otherwise it is damaged.
absl::Status Reader::Recheck(Piece& piece, uint64_t index, uint64_t found, bool* again) {
  const Block block = piece.first + index;
  std::byte* const target = piece.target + index * kBlockBytes;
  absl::Status status;
  state_->monitor.Run([&](Outbox&) {
    const uint64_t entry = state_->table.Get(block);
    if (const BlockCache::Entry* const cached = state_->cache.Find(block)) {
      std::memcpy(target, cached->image.data(), kBlockBytes);
    } else if (entry == kNeverWritten) {
      std::memset(target, 0, kBlockBytes);
    } else if (const ExtentsInFlight::Extent* const extent = state_->extents.Find(block)) {
      std::memcpy(target, extent->At(block), kBlockBytes);
    } else if (entry != piece.expected[index]) {
      *again = found != entry;  // it went home while it was being read
    } else {
      ++state_->stats.checksum_errors;
      status = absl::DataLossError(absl::StrCat("home block ", block, ": checksum ", absl::Hex(found), ", expected ",
                                                absl::Hex(entry)));
    }
  });
  if (!status.ok()) {
    state_->monitor.environment().Log(
        absl::StrCat("stagefs: ", state_->monitor.store().name(), ": ", status.ToString()));
  }
  return status;
}

void Reader::ReadEarly(const std::vector<PlannedRead>& reads, const OperationRef& operation,
                       std::function<void(OperationRef, Outbox&)> on_arrival, Outbox& outbox) {
  const uint64_t largest = state_->monitor.store().geometry().max_request_bytes / kBlockBytes;
  std::vector<Operation::EarlyRead>& early = operation->early_reads;
  for (const PlannedRead& read : reads) {
    if (read.address % kBlockBytes != 0 || reinterpret_cast<uintptr_t>(read.destination) % kBlockBytes != 0) continue;
    for (uint64_t i = 0; i < read.length / kBlockBytes; ++i) {
      const Block block = read.address / kBlockBytes + i;
      std::byte* const destination = read.destination + i * kBlockBytes;
      if (state_->cache.Find(block) != nullptr || state_->extents.Find(block) != nullptr) continue;
      if (!early.empty() && early.back().range.end() == block && early.back().range.count < largest &&
          early.back().destination + early.back().range.count * kBlockBytes == destination) {
        ++early.back().range.count;
      } else {
        early.push_back({{block, 1}, destination});
      }
    }
  }
  operation->loads_left += early.size();
  for (Operation::EarlyRead& read : early) {
    // Blocks on which a read is in flight must not be given to another owner, who would write them meanwhile.
    const uint64_t number = state_->next_read++;
    state_->active_reads.insert(number);
    auto request = std::make_unique<sal::Request>();
    request->op = sal::Request::Op::kRead;
    request->offset_bytes = state_->HomeOffset(read.range.first);
    request->length_bytes = read.range.count * kBlockBytes;
    request->buffers.push_back({read.destination, request->length_bytes});
    state_->stats.bytes_read += request->length_bytes;
    sal::Request* const raw = request.get();
    outbox.Submit(raw, [this, number, operation, &read, on_arrival, request = std::move(request)](absl::Status status) {
      state_->monitor.Run([&](Outbox& inner) {
        state_->active_reads.erase(number);
        read.arrived = status.ok();  // if not, the read proper will tell
        if (!state_->quarantine.empty()) state_->on_progress(inner);
        on_arrival(operation, inner);
      });
    });
  }
}

void Reader::Finish(std::shared_ptr<Batch> batch) {
  absl::Status status;
  {
    MutexLock lock(&batch->mutex);
    if (--batch->pieces_left > 0) return;
    status = batch->status;
  }
  state_->monitor.Run([&](Outbox& outbox) {
    state_->active_reads.erase(batch->number);
    for (const uint64_t index : batch->table_pins) state_->table.Unpin(index);
    if (!state_->quarantine.empty() || state_->starved) state_->on_progress(outbox);
  });
  std::move(batch->done)(std::move(status));
}

}  // namespace stagefs::core

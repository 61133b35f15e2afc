#include "tests/simulator/engine_life.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/aligned_memory.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::simulator {
namespace {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using core::Lsn;

constexpr uint64_t kLongestOperationNs = 300'000'000'000;
constexpr uint64_t kMostRangeBlocks = 256;

Piece ToPiece(const char* bytes) {
  auto piece = std::make_shared<std::array<char, kBlockBytes>>();
  std::memcpy(piece->data(), bytes, kBlockBytes);
  return piece;
}

std::string ToBytes(const Piece& piece) {
  return piece == nullptr ? std::string(kBlockBytes, '\0') : std::string(piece->data(), kBlockBytes);
}

absl::Span<const std::byte> AsBytes(absl::string_view s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

}  // namespace

void BlockChange::ApplyTo(BlockModel& model) const {
  for (const BlockRange& range : released) {
    model.blocks.erase(model.blocks.lower_bound(range.first), model.blocks.lower_bound(range.end()));
  }
  for (const auto& [block, piece] : written) model.blocks[block] = piece;
  if (slot >= 0) model.slots[slot] = range;
}

// One operation under way.
struct EngineLife::Flight {
  bool busy = false;
  Op op;
  std::shared_ptr<core::StagedData> staged;
  Lsn asked_lsn = 0;  // of kDurable and kCheckpoint
  // Of a read: what each block may hold, since the body ran or later.
  BlockRange range;
  std::vector<std::vector<Piece>> versions;
  core::AlignedMemory buffer = core::AlignedMemory((kMostRangeBlocks + 1) * kBlockBytes);
  std::byte* destination = nullptr;
};

EngineLife::EngineLife(const EngineLifeOptions& options, sal::SimulatedDisk disk, Trace* trace)
    : options_(options),
      trace_(trace),
      environment_(options.seed),
      store_(environment_, options.store, std::move(disk)),
      random_(options.seed + 17),
      flights_(options.in_flight),
      serial_(options.seed << 24) {
  STAGEFS_CHECK(options.largest_range <= kMostRangeBlocks);
}

EngineLife::~EngineLife() {
  store_.CutNow();
  NoteEnd();
  if (engine_ != nullptr) engine_->Abandon();
  engine_.reset();
  environment_.RunUntilIdle();
}

void EngineLife::NoteEnd() {
  if (engine_ != nullptr) stats_ = engine_->stats();
}

absl::Status EngineLife::Format(uint64_t log_bytes) {
  core::FormatOptions format;
  format.log_bytes = log_bytes;
  return core::Engine::Format(store_, environment_, format);
}

absl::Status EngineLife::Open() {
  report_ = core::RecoveryReport();
  auto engine = core::Engine::Open(store_, environment_, options_.engine, &report_);
  trace_->Mix({environment_.NowNs(), store_.request_count(), report_.recovered_lsn, report_.lost_block_count});
  RETURN_IF_ERROR(engine.status());
  engine_ = *std::move(engine);
  acknowledged_ = engine_->accepted_lsn();
  return absl::OkStatus();
}

absl::Status EngineLife::Close() {
  const Lsn accepted = engine_->accepted_lsn();
  const absl::Status status = engine_->Close();
  NoteEnd();
  if (status.ok()) acknowledged_ = std::max(acknowledged_, accepted);
  engine_.reset();
  environment_.RunUntilIdle();
  return status;
}

bool EngineLife::MayFail() const {
  return damaged_ || store_.power_off() || !engine_->health().ok() || stats_.read_only ||
         store_.fault_count(sal::SimulatedFault::kReadError) > 0;
}

EngineLife::Op EngineLife::Choose() {
  static constexpr Kind kKinds[] = {
      Kind::kMakeExtent, Kind::kMakeExtent, Kind::kMakeWhole, Kind::kMakeParts, Kind::kMakeFresh, Kind::kWrite,
      Kind::kWrite,      Kind::kWrite,      Kind::kModify,    Kind::kModify,    Kind::kZero,      Kind::kRelease,
      Kind::kRelease,    Kind::kMove,       Kind::kRead,      Kind::kRead,      Kind::kRead,      Kind::kDurable};
  Op op;
  op.kind = random_.OneIn(100) ? Kind::kCheckpoint : kKinds[random_.Below(std::size(kKinds))];
  op.slot = static_cast<int>(random_.Below(model_->slots.size()));
  op.serial = ++serial_;
  if (op.kind <= Kind::kMakeFresh) {
    op.length = random_.Between(1, random_.OneIn(2) ? 4 : options_.largest_range);
    return op;
  }
  const uint64_t size = model_->slots[op.slot].count * kBlockBytes;
  if (size == 0) return op;
  op.offset = random_.Below(size);
  op.length = random_.Between(1, std::min(size - op.offset, random_.OneIn(3) ? size : 3000));
  if (random_.OneIn(4)) {
    op.offset = op.offset / kBlockBytes * kBlockBytes;
    op.length = std::min(size - op.offset, (op.length + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
  }
  return op;
}

// Gives the slot a new range, by first fit among what nobody owns, and releases its old one.
absl::Status EngineLife::MakeRange(core::Transaction& tx, const Op& op, uint64_t count, BlockChange* change) {
  BlockRange range = {options_.arena.first, count};
  for (;;) {
    if (range.end() > options_.arena.end()) return absl::ResourceExhaustedError("the arena is full");
    const auto owned = model_->blocks.lower_bound(range.first);
    if (owned != model_->blocks.end() && owned->first < range.end()) {
      range.first = owned->first + 1;
      continue;
    }
    const std::optional<BlockRange> quarantined = tx.Quarantined(range);
    if (!quarantined.has_value()) break;
    range.first = quarantined->end();
  }
  const BlockRange old = model_->slots[op.slot];
  if (old.count > 0) {
    tx.Release(old);
    change->released.push_back(old);
  }
  change->slot = op.slot;
  change->range = range;
  return absl::OkStatus();
}

absl::Status EngineLife::Make(core::Transaction& tx, Flight& flight, BlockChange* change) {
  const Op& op = flight.op;
  RETURN_IF_ERROR(MakeRange(tx, op, op.length, change));
  const BlockRange range = change->range;
  if (op.kind == Kind::kMakeExtent) RETURN_IF_ERROR(tx.WriteExtent(range, flight.staged, 0));
  if (op.kind == Kind::kMakeParts) RETURN_IF_ERROR(tx.Zero(range.first * kBlockBytes, range.count * kBlockBytes));
  for (uint64_t i = 0; i < range.count; ++i) {
    const Block block = range.first + i;
    std::string content(kBlockBytes, '\0');
    const uint64_t offset = (op.serial * 37 + i * 611) % 3000, length = 1 + (op.serial * 101 + i * 13) % 900;
    switch (op.kind) {
      case Kind::kMakeExtent:
        std::memcpy(content.data(), flight.staged->bytes().data() + i * kBlockBytes, kBlockBytes);
        break;
      case Kind::kMakeWhole:
        FillPattern(op.serial * 1000 + i, content.data(), kBlockBytes);
        RETURN_IF_ERROR(tx.Write(block * kBlockBytes, AsBytes(content)));
        break;
      case Kind::kMakeParts: {
        if ((op.serial + i) % 3 == 0) {  // stays zeros
          change->written.emplace_back(block, nullptr);
          continue;
        }
        FillPattern(op.serial * 1000 + i, content.data() + offset, length);
        RETURN_IF_ERROR(tx.Write(block * kBlockBytes + offset, AsBytes(content).subspan(offset, length)));
        break;
      }
      default: {
        FillPattern(op.serial * 1000 + i, content.data() + offset, length);
        ASSIGN_OR_RETURN(std::byte* const image, tx.Fresh(block));
        std::memcpy(image + offset, content.data() + offset, length);
        break;
      }
    }
    change->written.emplace_back(block, ToPiece(content.data()));
  }
  return absl::OkStatus();
}

absl::Status EngineLife::Overwrite(core::Transaction& tx, const Op& op, BlockChange* change) {
  const BlockRange range = model_->slots[op.slot];
  const uint64_t size = range.count * kBlockBytes;
  if (op.offset >= size || op.length == 0) return absl::OkStatus();  // the slot has changed hands
  uint64_t length = std::min(op.length, size - op.offset);
  if (op.kind == Kind::kModify) length = std::min({length, kBlockBytes - op.offset % kBlockBytes, uint64_t{24}});
  const uint64_t address = range.first * kBlockBytes + op.offset;
  std::string bytes(length, '\0');
  if (op.kind != Kind::kZero) FillPattern(op.serial, bytes.data(), length);
  if (op.kind == Kind::kZero) {
    RETURN_IF_ERROR(tx.Zero(address, length));
  } else if (op.kind == Kind::kWrite) {
    RETURN_IF_ERROR(tx.Write(address, AsBytes(bytes)));
  } else {
    ASSIGN_OR_RETURN(std::byte* const image, tx.Modify(address / kBlockBytes));
    std::memcpy(image + address % kBlockBytes, bytes.data(), length);
  }
  for (uint64_t at = 0; at < length;) {
    const Block block = (address + at) / kBlockBytes;
    const uint64_t offset = (address + at) % kBlockBytes, part = std::min(kBlockBytes - offset, length - at);
    std::string content = ToBytes(model_->blocks.at(block));
    content.replace(offset, part, bytes, at, part);
    change->written.emplace_back(block, ToPiece(content.data()));
    at += part;
  }
  return absl::OkStatus();
}

absl::Status EngineLife::Move(core::Transaction& tx, const Op& op, BlockChange* change) {
  const BlockRange old = model_->slots[op.slot];
  if (old.count == 0) return absl::OkStatus();
  RETURN_IF_ERROR(MakeRange(tx, op, old.count, change));
  RETURN_IF_ERROR(tx.Zero(change->range.first * kBlockBytes, old.count * kBlockBytes));
  for (uint64_t i = 0; i < old.count; ++i) {
    ASSIGN_OR_RETURN(const std::byte* const source, tx.Read(old.first + i));
    std::string content(reinterpret_cast<const char*>(source), kBlockBytes);
    if (!Matches(model_->blocks.at(old.first + i), 0, kBlockBytes, content.data())) {
      return absl::InternalError(absl::StrCat("a body reads wrong bytes in block ", old.first + i));
    }
    FillPattern(op.serial * 1000 + i, content.data() + 8, 24);
    RETURN_IF_ERROR(tx.Write((change->range.first + i) * kBlockBytes, AsBytes(content)));
    change->written.emplace_back(change->range.first + i, ToPiece(content.data()));
  }
  return absl::OkStatus();
}

absl::Status EngineLife::Body(core::Transaction& tx, Flight& flight, BlockChange* change) {
  const Op& op = flight.op;
  switch (op.kind) {
    case Kind::kMakeExtent:
    case Kind::kMakeWhole:
    case Kind::kMakeParts:
    case Kind::kMakeFresh:
      return Make(tx, flight, change);
    case Kind::kWrite:
    case Kind::kModify:
    case Kind::kZero:
      return Overwrite(tx, op, change);
    case Kind::kMove:
      return Move(tx, op, change);
    default: {
      const BlockRange old = model_->slots[op.slot];
      if (old.count == 0) return absl::OkStatus();
      tx.Release(old);
      change->released.push_back(old);
      change->slot = op.slot;
      change->range = {};
      return absl::OkStatus();
    }
  }
}

void EngineLife::Accept(Lsn lsn, BlockChange change) {
  change.lsn = lsn;
  change.ApplyTo(*model_);
  for (Flight& flight : flights_) {
    if (!flight.busy || flight.op.kind != Kind::kRead || flight.versions.empty()) continue;
    for (const auto& [block, piece] : change.written) {
      if (block >= flight.range.first && block < flight.range.end()) {
        flight.versions[block - flight.range.first].push_back(piece);
      }
    }
  }
  history_.push_back(std::move(change));
}

void EngineLife::StartRead(Flight& flight) {
  flight.versions.clear();
  flight.destination = flight.buffer.data() + flight.op.serial % 2 * 64;
  engine_->Run(
      [this, &flight](core::Transaction& tx) {
        flight.range = model_->slots[flight.op.slot];
        flight.versions.clear();
        for (Block block = flight.range.first; block < flight.range.end(); ++block) {
          flight.versions.push_back({model_->blocks.at(block)});
        }
        tx.ReadInto(flight.range.first * kBlockBytes, flight.range.count * kBlockBytes, flight.destination);
        return absl::OkStatus();
      },
      [this, &flight](const absl::StatusOr<Lsn>& lsn) { Finish(flight, lsn.status()); });
}

void EngineLife::Start(Flight& flight) {
  flight.busy = true;
  ++busy_;
  const Op& op = flight.op;
  trace_->Mix({static_cast<uint64_t>(op.kind), static_cast<uint64_t>(op.slot), op.offset, op.length,
               environment_.NowNs()});
  if (trace_->verbose()) {
    trace_->Say(absl::StrCat(environment_.NowNs(), " start kind ", static_cast<int>(op.kind), " slot ", op.slot, " ",
                             op.offset, "+", op.length, " #", op.serial));
  }
  if (op.kind == Kind::kRead) return StartRead(flight);
  if (op.kind == Kind::kDurable || op.kind == Kind::kCheckpoint) {
    flight.asked_lsn = engine_->accepted_lsn();
    const auto done = [this, &flight](const absl::Status& status) {
      if (status.ok()) acknowledged_ = std::max(acknowledged_, flight.asked_lsn);
      Finish(flight, status);
    };
    return op.kind == Kind::kDurable ? engine_->WhenDurable(flight.asked_lsn, done) : engine_->Checkpoint(done);
  }
  if (op.kind == Kind::kMakeExtent) {
    flight.staged = engine_->TryStage(op.length);
    if (flight.staged == nullptr) return Finish(flight, absl::ResourceExhaustedError("no staging memory"));
    FillPattern(op.serial, reinterpret_cast<char*>(flight.staged->bytes().data()), op.length * kBlockBytes);
    flight.staged->Seal();
  }
  engine_->Run(
      [this, &flight](core::Transaction& tx) -> absl::Status {
        auto change = std::make_shared<BlockChange>();
        RETURN_IF_ERROR(Body(tx, flight, change.get()));
        if (change->written.empty() && change->released.empty()) return absl::OkStatus();
        tx.OnAccept([this, change](Lsn lsn) { Accept(lsn, std::move(*change)); });
        return absl::OkStatus();
      },
      [this, &flight](const absl::StatusOr<Lsn>& lsn) { Finish(flight, lsn.status()); });
}

absl::Status EngineLife::CheckRead(const Flight& flight) const {
  for (uint64_t i = 0; i < flight.versions.size(); ++i) {
    const char* const found = reinterpret_cast<const char*>(flight.destination + i * kBlockBytes);
    const auto& versions = flight.versions[i];
    if (std::none_of(versions.begin(), versions.end(),
                     [&](const Piece& piece) { return Matches(piece, 0, kBlockBytes, found); })) {
      return absl::InternalError(absl::StrCat("block ", flight.range.first + i, " reads wrong bytes"));
    }
  }
  return absl::OkStatus();
}

void EngineLife::Finish(Flight& flight, const absl::Status& status) {
  trace_->Mix({static_cast<uint64_t>(status.code()), environment_.NowNs(), store_.request_count()});
  if (trace_->verbose()) {
    trace_->Say(absl::StrCat(environment_.NowNs(), " #", flight.op.serial, ": ", status.ToString(), ", accepted LSN ",
                             engine_->accepted_lsn()));
  }
  flight.busy = false;
  flight.staged = nullptr;
  --busy_;
  ++operations_;
  if (status.ok()) {
    if (flight.op.kind == Kind::kRead) failure_.Update(CheckRead(flight));
    return;
  }
  if (absl::IsResourceExhausted(status)) return;
  ++errors_;
  const bool reported = absl::IsDataLoss(status) || absl::IsUnavailable(status) || absl::IsFailedPrecondition(status);
  if (!MayFail() || !reported) {
    failure_.Update(absl::InternalError(absl::StrCat("operation of kind ", static_cast<int>(flight.op.kind), ", #",
                                                     flight.op.serial, ": ", status.ToString())));
  }
}

absl::Status EngineLife::Work(uint64_t count, BlockModel* model, bool damaged) {
  model_ = model;
  damaged_ = damaged;
  NoteEnd();
  const uint64_t end = operations_ + count;
  uint64_t last_progress_ns = environment_.NowNs();
  uint64_t seen_operations = operations_;
  while (failure_.ok()) {
    const bool more = operations_ + busy_ < end && !store_.power_off();
    if (!more && busy_ == 0) break;
    const auto free = std::find_if(flights_.begin(), flights_.end(), [](const Flight& f) { return !f.busy; });
    if (more && free != flights_.end() && !random_.OneIn(4)) {
      free->op = Choose();
      Start(*free);
    } else if (!environment_.RunOne() && busy_ > 0) {
      return absl::InternalError("operations are stuck, and nothing is left to run");
    }
    if (operations_ != seen_operations) {
      seen_operations = operations_;
      last_progress_ns = environment_.NowNs();
    } else if (busy_ > 0 && environment_.NowNs() - last_progress_ns > kLongestOperationNs) {
      failure_ = absl::InternalError(absl::StrCat(busy_, " operations are stuck; ", engine_->health().ToString()));
    }
  }
  NoteEnd();
  if (!failure_.ok()) {
    store_.CutNow();
    engine_->Abandon();  // no body or callback runs any more on what the caller takes away
  }
  return failure_;
}

absl::Status EngineLife::Verify(const BlockModel& model, bool damaged) {
  const core::AlignedMemory buffer(kMostRangeBlocks * kBlockBytes);
  for (const BlockRange& range : model.slots) {
    if (range.count == 0) continue;
    bool done = false;
    absl::Status status;
    engine_->Run(
        [&](core::Transaction& tx) {
          tx.ReadInto(range.first * kBlockBytes, range.count * kBlockBytes, buffer.data());
          return absl::OkStatus();
        },
        [&](const absl::StatusOr<Lsn>& lsn) {
          status = lsn.status();
          done = true;
        });
    while (!done) STAGEFS_CHECK(environment_.RunOne());
    if (!status.ok() && damaged && absl::IsDataLoss(status)) continue;
    RETURN_IF_ERROR(status);
    for (uint64_t i = 0; i < range.count; ++i) {
      if (!Matches(model.blocks.at(range.first + i), 0, kBlockBytes,
                   reinterpret_cast<const char*>(buffer.data() + i * kBlockBytes))) {
        return absl::InternalError(absl::StrCat("block ", range.first + i, " holds wrong bytes"));
      }
    }
  }
  trace_->Mix({environment_.NowNs(), store_.request_count()});
  return absl::OkStatus();
}

}  // namespace stagefs::simulator

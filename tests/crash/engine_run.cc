#include "tests/crash/engine_run.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/format.h"
#include "sal/check.h"
#include "sal/status_macros.h"

namespace stagefs::crash {
namespace {

using core::Block;
using core::BlockRange;
using core::kBlockBytes;
using core::Lsn;

constexpr uint64_t kLongestOperationNs = 120'000'000'000;

sal::SimulatedStoreOptions StoreOptions(const RunOptions& options) {
  sal::SimulatedStoreOptions store;
  store.seed = options.seed * 7919 + 1;
  store.size_bytes = EngineRun::kStoreBytes;
  store.fua = options.fua;
  return store;
}

core::EngineOptions MakeEngineOptions(const RunOptions& options) {
  core::EngineOptions engine;
  engine.cache_bytes = 32 << 20;
  engine.dirty_blocks = EngineRun::kDirtyBlocks;
  engine.blocks_per_piece = 8;
  engine.broken = options.broken;
  return engine;
}

// Bytes that differ for every operation, and within it: `serial` and `salt` choose them.
void Fill(char* bytes, uint64_t count, uint64_t serial, uint64_t salt) {
  sal::Random64 random(serial * 1'000'003 + salt);
  for (uint64_t at = 0; at < count; at += 8) {
    const uint64_t word = random.Next() | 0x0101010101010101;  // no zero bytes: zeros are easily right by chance
    std::memcpy(bytes + at, &word, std::min<uint64_t>(8, count - at));
  }
}

absl::Span<const std::byte> AsBytes(absl::string_view s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

EngineModel::Content ToContent(std::string bytes) { return std::make_shared<const std::string>(std::move(bytes)); }

}  // namespace

EngineRun::EngineRun(const RunOptions& options, sal::SimulatedDisk disk)
    : options_(options),
      environment_(options.seed),
      store_(environment_, StoreOptions(options), std::move(disk)),
      recording_(&store_),
      read_buffer_((kMostArenaBlocks + 1) * kBlockBytes),
      serial_(options.seed << 20) {
  core::AlignedMemory::KeepForReuse();
}

EngineRun::~EngineRun() {
  store_.CutNow();  // no body runs on a model that may be gone
  if (engine_ != nullptr) engine_->Abandon();
  engine_.reset();
  environment_.RunUntilIdle();
}

sal::SimulatedDisk EngineRun::Formatted(uint64_t seed) {
  EngineRun run({.seed = seed}, {});
  core::FormatOptions format;
  format.log_bytes = kLogBytes;
  STAGEFS_CHECK(core::Engine::Format(run.store_, run.environment_, format).ok());
  return run.store_.Crash(1, sal::SimulatedStore::CrashKind::kPowerCut);
}

sal::SimulatedDisk EngineRun::NearlyWrapped(uint64_t seed) {
  EngineRun run({.seed = seed}, Formatted(seed));
  STAGEFS_CHECK(run.Open().ok());
  EngineModel model(24);
  STAGEFS_CHECK(run.Execute(&model, {CreatePart(0, 1)}).ok());
  // One block of the log for each durable change. The checkpoint at the end adds one more and empties the log.
  const uint64_t frames = kLogBytes / kBlockBytes - 20;
  for (uint64_t i = 0; i < frames; ++i) STAGEFS_CHECK(run.Execute(&model, {Patch(0, 0), Durable()}).ok());
  STAGEFS_CHECK(run.Execute(&model, {Release(0), Close()}).ok());
  const sal::SimulatedDisk disk = run.store_.Crash(1, sal::SimulatedStore::CrashKind::kPowerCut);
  std::vector<std::byte> block(kBlockBytes);
  disk.durable.Read(0, kBlockBytes, block.data());
  const absl::StatusOr<core::Superblock> superblock = core::DecodeSuperblock(block.data(), 0);
  STAGEFS_CHECK(superblock.ok());
  const uint64_t left = superblock->log_blocks - superblock->tail_position % superblock->log_blocks;
  STAGEFS_CHECK(left > 2 && left < 20);
  return disk;
}

absl::Status EngineRun::Open() {
  report_ = core::RecoveryReport();
  auto engine = core::Engine::Open(recording_, environment_, MakeEngineOptions(options_), &report_);
  RETURN_IF_ERROR(engine.status());
  engine_ = *std::move(engine);
  acknowledged_ = engine_->accepted_lsn();  // what is served after a recovery is durable
  return absl::OkStatus();
}

bool EngineRun::RunUntil(const bool& done) {
  const uint64_t start_ns = environment_.NowNs();
  while (!done && !store_.power_off()) {
    if (!environment_.RunOne() || environment_.NowNs() - start_ns > kLongestOperationNs) return false;
  }
  return true;
}

absl::Status EngineRun::Execute(EngineModel* model, const std::vector<Op>& ops) {
  for (const Op& op : ops) {
    if (store_.power_off()) return absl::OkStatus();
    if (op.kind == Op::Kind::kLetRun) {
      const uint64_t end_ns = environment_.NowNs() + op.a;
      while (!store_.power_off() && environment_.NowNs() < end_ns) {
        environment_.RunFor(std::min<uint64_t>(end_ns - environment_.NowNs(), 20 * kMicrosecond));
      }
      continue;
    }
    if (op.kind == Op::Kind::kClose) {
      while (outstanding_ > 0 && !store_.power_off() && environment_.RunOne()) {
      }
      const Lsn accepted = engine_->accepted_lsn();
      const absl::Status status = engine_->Close();
      if (status.ok()) acknowledged_ = std::max(acknowledged_, accepted);
      if (!status.ok() && !store_.power_off()) return absl::InternalError(absl::StrCat("close: ", status.ToString()));
      return absl::OkStatus();
    }
    last_done_ = false;
    Start(model, op);
    if (op.wait && !RunUntil(last_done_)) {
      return absl::InternalError(absl::StrCat("operation of kind ", static_cast<int>(op.kind), " is stuck"));
    }
    if (!failure_.ok() && !store_.power_off()) return failure_;
  }
  const uint64_t start_ns = environment_.NowNs();
  while (outstanding_ > 0 && !store_.power_off()) {
    if (!environment_.RunOne() || environment_.NowNs() - start_ns > kLongestOperationNs) {
      return absl::InternalError(absl::StrCat(outstanding_, " operations are stuck"));
    }
  }
  return store_.power_off() ? absl::OkStatus() : failure_;
}

void EngineRun::Start(EngineModel* model, const Op& op) {
  ++outstanding_;
  const uint64_t serial = ++serial_;
  const bool waited_for = op.wait;
  // Operations that nobody waits for must not end the wait of a later one.
  auto over = [this, waited_for](const absl::Status& status) {
    --outstanding_;
    if (waited_for) last_done_ = true;
    if (!status.ok() && !store_.power_off() && !absl::IsResourceExhausted(status)) {
      failure_.Update(absl::InternalError(absl::StrCat("an operation failed: ", status.ToString())));
    }
  };
  if (op.kind == Op::Kind::kDurable || op.kind == Op::Kind::kCheckpoint) {
    const Lsn lsn = engine_->accepted_lsn();
    auto done = [this, lsn, over](const absl::Status& status) {
      if (status.ok()) acknowledged_ = std::max(acknowledged_, lsn);
      over(status);
    };
    if (op.kind == Op::Kind::kDurable) return engine_->WhenDurable(lsn, done);
    return engine_->Checkpoint(done);
  }
  std::shared_ptr<core::StagedData> staged;
  if (op.kind == Op::Kind::kCreateExtent) {
    staged = engine_->TryStage(op.a);
    STAGEFS_CHECK(staged != nullptr);  // workloads stay far below the staging memory
    Fill(reinterpret_cast<char*>(staged->bytes().data()), staged->bytes().size(), serial, 0);
    staged->Seal();
  }
  engine_->Run(
      [this, model, op, serial, staged](core::Transaction& tx) -> absl::Status {
        // What is accepted without power reaches no disk.
        if (store_.power_off()) return absl::CancelledError("the power is off");
        auto plan = std::make_shared<Plan>();
        RETURN_IF_ERROR(Body(tx, op, serial, *model, staged, *plan));
        if (plan->change.blocks.empty() && plan->change.slots.empty()) return absl::OkStatus();
        tx.OnAccept([model, plan](Lsn lsn) {
          // A change that changed no byte (zeros over zeros) takes no LSN.
          if (!model->history().empty() && model->history().back().lsn == lsn) return;
          plan->change.lsn = lsn;
          model->Accept(std::move(plan->change));
        });
        return absl::OkStatus();
      },
      [over](const absl::StatusOr<Lsn>& lsn) { over(lsn.status()); });
}

// Gives `slot` a new range and releases its old one.
absl::Status EngineRun::Allocate(core::Transaction& tx, const EngineModel& model, int slot, uint64_t count, Plan& plan,
                                 BlockRange* range) {
  const std::optional<BlockRange> found = model.FindFree(tx, count);
  if (!found.has_value()) return absl::ResourceExhaustedError("the arena is full");
  *range = *found;
  const BlockRange old = model.current().slots[slot];
  if (old.count > 0) tx.Release(old);
  for (Block block = old.first; block < old.end(); ++block) plan.change.blocks[block] = nullptr;
  plan.change.slots.emplace_back(slot, *range);
  return absl::OkStatus();
}

absl::Status EngineRun::Body(core::Transaction& tx, const Op& op, uint64_t serial, const EngineModel& model,
                             const std::shared_ptr<core::StagedData>& staged, Plan& plan) {
  const EngineModel::State& now = model.current();
  const BlockRange old = now.slots[op.slot];
  EngineModel::Blocks& blocks = plan.change.blocks;
  BlockRange range;
  switch (op.kind) {
    case Op::Kind::kCreatePart:
    case Op::Kind::kCreateFresh: {
      RETURN_IF_ERROR(Allocate(tx, model, op.slot, op.a, plan, &range));
      const bool fresh = op.kind == Op::Kind::kCreateFresh;
      if (!fresh) RETURN_IF_ERROR(tx.Zero(range.first * kBlockBytes, range.count * kBlockBytes));
      for (Block block = range.first; block < range.end(); ++block) {
        std::string content(kBlockBytes, '\0');
        const uint64_t offset = (serial * 37 + block * 611) % 3000;
        const uint64_t length = 1 + (serial * 101 + block * 13) % 900;
        Fill(content.data() + offset, length, serial, block);
        if (fresh) {
          ASSIGN_OR_RETURN(std::byte* const image, tx.Fresh(block));
          std::memcpy(image + offset, content.data() + offset, length);
        } else {
          RETURN_IF_ERROR(tx.Write(block * kBlockBytes + offset,
                                   AsBytes(absl::string_view(content).substr(offset, length))));
        }
        blocks[block] = ToContent(std::move(content));
      }
      return absl::OkStatus();
    }
    case Op::Kind::kCreateWhole: {
      RETURN_IF_ERROR(Allocate(tx, model, op.slot, op.a, plan, &range));
      std::string content(range.count * kBlockBytes, '\0');
      Fill(content.data(), content.size(), serial, 0);
      RETURN_IF_ERROR(tx.Write(range.first * kBlockBytes, AsBytes(content)));
      for (uint64_t i = 0; i < range.count; ++i) {
        blocks[range.first + i] = ToContent(content.substr(i * kBlockBytes, kBlockBytes));
      }
      return absl::OkStatus();
    }
    case Op::Kind::kCreateExtent: {
      RETURN_IF_ERROR(Allocate(tx, model, op.slot, op.a, plan, &range));
      RETURN_IF_ERROR(tx.WriteExtent(range, staged, 0));
      const char* const bytes = reinterpret_cast<const char*>(staged->bytes().data());
      for (uint64_t i = 0; i < range.count; ++i) {
        blocks[range.first + i] = ToContent(std::string(bytes + i * kBlockBytes, kBlockBytes));
      }
      return absl::OkStatus();
    }
    case Op::Kind::kOverwrite:
    case Op::Kind::kZero: {
      const uint64_t size = old.count * kBlockBytes;
      if (op.a >= size) return absl::OkStatus();
      const uint64_t length = std::min(op.b, size - op.a);
      std::string bytes(length, '\0');
      const uint64_t address = old.first * kBlockBytes + op.a;
      if (op.kind == Op::Kind::kOverwrite) {
        Fill(bytes.data(), length, serial, 0);
        RETURN_IF_ERROR(tx.Write(address, AsBytes(bytes)));
      } else {
        RETURN_IF_ERROR(tx.Zero(address, length));
      }
      for (uint64_t at = 0; at < length;) {
        const Block block = (address + at) / kBlockBytes;
        const uint64_t offset = (address + at) % kBlockBytes;
        const uint64_t part = std::min(kBlockBytes - offset, length - at);
        std::string content = *now.blocks.at(block);
        content.replace(offset, part, bytes, at, part);
        blocks[block] = ToContent(std::move(content));
        at += part;
      }
      return absl::OkStatus();
    }
    case Op::Kind::kPatch: {
      if (op.a >= old.count) return absl::OkStatus();
      const Block block = old.first + op.a;
      ASSIGN_OR_RETURN(std::byte* const image, tx.Modify(block));
      std::string content = *now.blocks.at(block);
      for (const uint64_t place : {serial * 53 % 4000, serial * 7 % 1000, 2000 + serial * 11 % 30}) {
        Fill(content.data() + place, 5, serial, place);
        std::memcpy(image + place, content.data() + place, 5);
      }
      blocks[block] = ToContent(std::move(content));
      return absl::OkStatus();
    }
    case Op::Kind::kRelease:
      if (old.count == 0) return absl::OkStatus();
      tx.Release(old);
      for (Block block = old.first; block < old.end(); ++block) blocks[block] = nullptr;
      plan.change.slots.emplace_back(op.slot, BlockRange{});
      return absl::OkStatus();
    case Op::Kind::kMoveAndPatch: {
      if (old.count == 0) return absl::OkStatus();
      RETURN_IF_ERROR(Allocate(tx, model, op.slot, old.count, plan, &range));
      RETURN_IF_ERROR(tx.Zero(range.first * kBlockBytes, range.count * kBlockBytes));
      for (Block block = old.first; block < old.end(); ++block) tx.Prefetch(block);
      for (uint64_t i = 0; i < old.count; ++i) {
        ASSIGN_OR_RETURN(const std::byte* const source, tx.Read(old.first + i));
        std::string content(reinterpret_cast<const char*>(source), kBlockBytes);
        if (content != *now.blocks.at(old.first + i)) {
          return absl::InternalError(absl::StrCat("a body reads wrong bytes in block ", old.first + i));
        }
        Fill(content.data() + 8, 24, serial, i);
        RETURN_IF_ERROR(tx.Write((range.first + i) * kBlockBytes, AsBytes(content)));
        blocks[range.first + i] = ToContent(std::move(content));
      }
      return absl::OkStatus();
    }
    default:
      return absl::InternalError("not a change");
  }
}

absl::Status EngineRun::Read(BlockRange range, std::string* bytes) {
  STAGEFS_CHECK(range.count <= kMostArenaBlocks);
  // Aligned and unaligned in turn.
  std::byte* const destination = read_buffer_.data() + (++reads_ % 2) * 64;
  const uint64_t size = range.count * kBlockBytes;
  std::memset(destination, '?', size);
  bool done = false;
  absl::Status status;
  engine_->Run(
      [range, destination, size](core::Transaction& tx) {
        tx.ReadInto(range.first * kBlockBytes, size, destination);
        return absl::OkStatus();
      },
      [&](const absl::StatusOr<Lsn>& lsn) {
        status = lsn.status();
        done = true;
      });
  // It ends without power too, and must: it refers to what is here.
  const uint64_t start_ns = environment_.NowNs();
  while (!done) STAGEFS_CHECK(environment_.RunOne() && environment_.NowNs() - start_ns < kLongestOperationNs);
  bytes->assign(reinterpret_cast<const char*>(destination), size);
  return status;
}

absl::Status EngineRun::Verify(const EngineModel::State& state) {
  for (auto it = state.blocks.begin(); it != state.blocks.end();) {
    BlockRange range = {it->first, 1};
    auto end = std::next(it);
    for (; end != state.blocks.end() && end->first == range.end(); ++end) ++range.count;
    std::string bytes;
    if (const absl::Status status = Read(range, &bytes); !status.ok()) {
      return absl::InternalError(absl::StrCat("blocks ", range.first, " to ", range.end() - 1,
                                              " cannot be read: ", status.ToString()));
    }
    for (uint64_t i = 0; it != end; ++it, ++i) {
      const absl::string_view found = absl::string_view(bytes).substr(i * kBlockBytes, kBlockBytes);
      if (found == *it->second) continue;
      const uint64_t at = std::mismatch(found.begin(), found.end(), it->second->begin()).first - found.begin();
      return absl::InternalError(absl::StrCat("block ", it->first, " differs from the model at byte ", at));
    }
  }
  return absl::OkStatus();
}

absl::Status EngineRun::VerifyUnlessCut(const EngineModel::State& state) {
  const absl::Status status = Verify(state);
  return store_.power_off() ? absl::OkStatus() : status;
}

}  // namespace stagefs::crash

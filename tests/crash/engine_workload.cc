#include "tests/crash/engine_workload.h"

#include "absl/strings/str_cat.h"
#include "core/types.h"
#include "sal/random.h"

namespace stagefs::crash {
namespace {

using Kind = Op::Kind;
constexpr uint64_t kBlock = core::kBlockBytes;

}  // namespace

Op CreatePart(int slot, uint64_t blocks) { return {Kind::kCreatePart, slot, blocks}; }
Op CreateFresh(int slot, uint64_t blocks) { return {Kind::kCreateFresh, slot, blocks}; }
Op CreateWhole(int slot, uint64_t blocks) { return {Kind::kCreateWhole, slot, blocks}; }
Op CreateExtent(int slot, uint64_t blocks) { return {Kind::kCreateExtent, slot, blocks}; }
Op Overwrite(int slot, uint64_t offset_bytes, uint64_t length_bytes) {
  return {Kind::kOverwrite, slot, offset_bytes, length_bytes};
}
Op Patch(int slot, uint64_t block) { return {Kind::kPatch, slot, block}; }
Op Zero(int slot, uint64_t offset_bytes, uint64_t length_bytes) {
  return {Kind::kZero, slot, offset_bytes, length_bytes};
}
Op Release(int slot) { return {Kind::kRelease, slot}; }
Op MoveAndPatch(int slot) { return {Kind::kMoveAndPatch, slot}; }
Op Durable() { return {Kind::kDurable}; }
Op Checkpoint() { return {Kind::kCheckpoint}; }
Op LetRun(uint64_t ns) { return {Kind::kLetRun, 0, ns}; }
Op Close() { return {Kind::kClose}; }
Op Async(Op op) {
  op.wait = false;
  return op;
}

std::vector<Workload> ShortWorkloads() {
  std::vector<Workload> all;
  all.push_back({"part of a fresh block", {CreatePart(0, 1), Durable()}});
  all.push_back({"fresh blocks", {CreateFresh(0, 3), Durable()}});
  all.push_back({"whole blocks inline", {CreateWhole(0, 2), Durable()}});
  all.push_back({"an extent", {CreateExtent(0, 5), Durable()}});
  all.push_back({"two extents, not waited for", {Async(CreateExtent(0, 3)), Async(CreateExtent(1, 4)), Durable()}});
  all.push_back({"overwrite", {CreateWhole(0, 2), Durable(), Overwrite(0, 100, 300), Durable()}});
  all.push_back({"overwrite across blocks", {CreatePart(0, 3), Durable(), Overwrite(0, 4000, 5000), Durable()}});
  all.push_back({"patch of an extent", {CreateExtent(0, 3), Patch(0, 1), Durable()}});
  all.push_back({"patch of a destaged block", {CreateWhole(0, 2), Checkpoint(), Patch(0, 1), Durable()}});
  all.push_back({"zero in place", {CreateExtent(0, 4), Durable(), Zero(0, 2000, 9000), Durable()}});
  all.push_back({"zero, then part", {CreateWhole(0, 2), Checkpoint(), Zero(0, 0, 2 * kBlock), Overwrite(0, 50, 20),
                                     Durable()}});
  all.push_back({"release and reuse as extent",
                 {CreateWhole(0, 3), Durable(), Release(0), CreateExtent(1, 3), Durable()}, 4});
  all.push_back({"release and reuse by part",
                 {CreateExtent(0, 3), Checkpoint(), Release(0), CreatePart(1, 3), Durable()}, 4});
  all.push_back({"release and reuse by fresh blocks",
                 {CreateExtent(0, 3), Checkpoint(), Release(0), CreateFresh(1, 3), Durable()}, 4});
  all.push_back({"redo, release, extent, redo",
                 {CreatePart(0, 2), Patch(0, 0), Durable(), Release(0), CreateExtent(1, 2), Patch(1, 1), Durable()},
                 3});
  all.push_back({"move", {CreateWhole(0, 2), Durable(), MoveAndPatch(0), MoveAndPatch(0), Durable()}, 5});
  all.push_back({"the flush interval", {CreateWhole(0, 1), LetRun(1'100'000 * kMicrosecond), Patch(0, 0),
                                        LetRun(2'200'000 * kMicrosecond), Patch(0, 0)}});
  all.push_back({"close", {CreateWhole(0, 2), CreateExtent(1, 2), Close()}});
  all.push_back({"checkpoint between", {CreateWhole(0, 2), CreateExtent(1, 2), Checkpoint(), Overwrite(0, 10, 5000),
                                        Overwrite(1, 10, 5000), Checkpoint(), Patch(0, 1), Durable()}});
  all.push_back({"a stream of small changes",
                 {CreatePart(0, 2), Async(Durable()), Async(Patch(0, 0)), LetRun(60 * kMicrosecond), Async(Durable()),
                  Async(Patch(0, 1)), LetRun(60 * kMicrosecond), Async(Durable()), Async(Patch(0, 0)),
                  LetRun(60 * kMicrosecond), Async(Durable()), Async(Patch(0, 1)), Durable()}});
  return all;
}

std::vector<Workload> DestageWorkloads() {
  std::vector<Workload> all;
  // A checkpoint's steps take a few hundred microseconds each: what follows falls into one after the other.
  for (const uint64_t delay_us : {0, 150, 400, 700, 1100}) {
    const Op wait = LetRun(delay_us * kMicrosecond);
    const auto named = [&](const char* what) { return absl::StrCat(what, " ", delay_us, " us into a destage"); };
    all.push_back({named("patch"), {CreateWhole(0, 3), Durable(), Async(Checkpoint()), wait, Patch(0, 0), Durable(),
                                    Patch(0, 2), Checkpoint()}});
    all.push_back({named("zero"), {CreateWhole(0, 3), Durable(), Async(Checkpoint()), wait, Zero(0, 0, 2 * kBlock),
                                   Overwrite(0, 7, 10), Durable(), Checkpoint()}});
    all.push_back({named("release and reuse"),
                   {CreateWhole(0, 3), Durable(), Async(Checkpoint()), wait, Release(0), Async(CreateExtent(1, 3)),
                    Async(CreateExtent(2, 2)), Durable(), Patch(1, 1), Checkpoint()}, 4});
    all.push_back({named("move"), {CreateExtent(0, 3), Patch(0, 1), Async(Checkpoint()), wait, MoveAndPatch(0),
                                   Durable(), MoveAndPatch(0), Checkpoint()}, 8});
  }
  return all;
}

std::vector<Workload> WrapWorkloads() {
  std::vector<Workload> all;
  Workload frames{"small frames around the end of the ring", {CreatePart(0, 2)}};
  for (int i = 0; i < 12; ++i) {
    frames.ops.push_back(Patch(0, i % 2));
    frames.ops.push_back(Durable());
    if (i == 6) frames.ops.push_back(Async(Checkpoint()));
  }
  frames.log_nearly_wrapped = true;
  all.push_back(frames);
  Workload large{"large frames around the end of the ring",
                 {CreateWhole(0, 12), CreateExtent(1, 3), Durable(), Overwrite(0, 1, 12 * kBlock - 2), Durable(),
                  Overwrite(0, 3, 12 * kBlock - 9), Checkpoint(), Patch(0, 5), Durable()}};
  large.log_nearly_wrapped = true;
  all.push_back(large);
  return all;
}

std::vector<Workload> TwoFramesInFlightWorkloads() {
  // A checkpoint cuts a frame at once; a wish for durability waits for the frame before.
  return {{"two frames in flight",
           {CreateWhole(0, 2), Durable(), Async(Patch(0, 0)), Async(Durable()), Async(Patch(0, 1)),
            Async(Checkpoint()), Async(Patch(0, 0)), LetRun(300 * kMicrosecond), Durable()}},
          {"two frames in flight, with an extent",
           {CreateWhole(0, 2), Durable(), Async(CreateExtent(1, 2)), Async(Durable()), Async(Patch(0, 1)),
            Async(Checkpoint()), Async(Patch(1, 0)), LetRun(300 * kMicrosecond), Durable()}}};
}

std::vector<Workload> FullLogWorkloads() {
  Workload stream{"a stream that fills the log", {CreateWhole(0, 32)}, 40};
  for (int i = 0; i < 60; ++i) {
    stream.ops.push_back(Async(Overwrite(0, 1, 32 * kBlock - 2)));
    stream.ops.push_back(LetRun(30 * kMicrosecond));
    if (i % 5 == 0) stream.ops.push_back(Async(Durable()));
  }
  return {stream};
}

Workload RandomWorkload(uint64_t seed, uint64_t op_count) {
  sal::Random64 random(seed);
  Workload w;
  w.name = absl::StrCat("random, seed ", seed, ", ", op_count, " operations");
  w.arena_blocks = random.Between(6, 40);
  w.log_nearly_wrapped = random.OneIn(3);
  const int slots = random.Between(1, 4);
  const uint64_t most = random.Between(1, 6);
  for (uint64_t i = 0; i < op_count; ++i) {
    const int slot = random.Below(slots);
    const uint64_t blocks = random.Between(1, most);
    const uint64_t offset = random.Below(most * kBlock);
    const uint64_t length = random.OneIn(3) ? random.Between(1, 100) : random.Between(1, 3 * kBlock);
    Op op = Durable();
    switch (random.Below(16)) {
      case 0: op = CreatePart(slot, blocks); break;
      case 1: op = CreateFresh(slot, blocks); break;
      case 2: op = CreateWhole(slot, blocks); break;
      case 3:
      case 4: op = CreateExtent(slot, blocks); break;
      case 5:
      case 6: op = Overwrite(slot, offset, length); break;
      case 7: op = Patch(slot, random.Below(most)); break;
      case 8: op = Zero(slot, offset, length); break;
      case 9: op = Zero(slot, 0, most * kBlock); break;
      case 10: op = Release(slot); break;
      case 11: op = MoveAndPatch(slot); break;
      case 12: op = Checkpoint(); break;
      case 13: op = LetRun(random.Below(1500) * kMicrosecond); break;
      default: break;
    }
    op.wait = random.OneIn(2);
    w.ops.push_back(op);
  }
  if (random.OneIn(4)) w.ops.push_back(Close());
  return w;
}

}  // namespace stagefs::crash

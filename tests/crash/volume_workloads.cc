#include "tests/crash/volume_workloads.h"

#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sal/random.h"

namespace stagefs::crash {
namespace {

using Kind = FileOp::Kind;

}  // namespace

std::vector<FileWorkload> SingleOperations() {
  const std::vector<FileOp> ops = {
      {Kind::kCreate, "e"},
      {Kind::kCreate, "d/y"},
      {Kind::kMakeDirectory, "g"},
      {Kind::kSymlink, "e", "target"},
      {Kind::kWrite, "s", "", 50, 100},
      {Kind::kWrite, "s", "", 50, 2000},
      {Kind::kWrite, "a", "", 1000, 500},
      {Kind::kWrite, "a", "", 6000, 3000},
      {Kind::kWrite, "a", "", 20000, 10},
      {Kind::kWrite, "b", "", 65536, 131072},
      {Kind::kWrite, "b", "", 1000, 100000},
      {Kind::kAppend, "b", "", 0, 150000},
      {Kind::kAppend, "a", "", 0, 700},
      {Kind::kTruncate, "b", "", 10000},
      {Kind::kTruncate, "b", "", 0},
      {Kind::kTruncate, "a", "", 3000},
      {Kind::kTruncate, "a", "", 30000},
      {Kind::kRename, "a", "b"},
      {Kind::kRename, "b", "e"},
      {Kind::kRename, "d", "g"},
      {Kind::kRename, "d/x", "a"},
      {Kind::kExchange, "a", "b"},
      {Kind::kLink, "a", "e"},
      {Kind::kUnlink, "b"},
      {Kind::kUnlink, "s"},
      {Kind::kOpenUnlink, "b"},
      {Kind::kPunch, "b", "", 10000, 50000},
      {Kind::kZeroRange, "b", "", 10000, 50000},
      {Kind::kAllocate, "a", "", 0, 50000},
      {Kind::kGrow, "a", "", 0, 50000},
      {Kind::kGrow, "a", "", 0, 400000},  // more than there is: it grows as far as it can
      {Kind::kChangeMode, "a", "", 0600},
      {Kind::kSetTime, "a", "", 1'000'000'000},
      {Kind::kSetXattr, "a", "", 0, 300},
      {Kind::kSetXattr, "a", "", 0, 3000},
  };
  std::vector<FileWorkload> all;
  for (const FileOp& op : ops) all.push_back({ToString(op), {op, {Kind::kSync}}});
  return all;
}

std::vector<FileWorkload> DirectedFileWorkloads() {
  const FileOp sync = {Kind::kSync};
  const FileOp ask = {.kind = Kind::kSync, .wait = false};
  const FileOp checkpoint = {.kind = Kind::kCheckpoint, .wait = false};
  const FileOp soon = {Kind::kLetRun, "", "", 300'000};
  return {
      {"delete, and use the space for an extent",
       {{Kind::kUnlink, "b"}, {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 300000}, sync}},
      {"write, delete, and use the space for an extent",
       {{Kind::kWrite, "b", "", 10, 60000}, {Kind::kWrite, "b", "", 60020, 60000},
        {Kind::kWrite, "b", "", 120030, 60000}, {Kind::kWrite, "b", "", 180040, 60000},
        {Kind::kWrite, "b", "", 240050, 59000}, ask, {Kind::kUnlink, "b"},
        {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 250000}, {Kind::kCreate, "f"},
        {Kind::kWrite, "f", "", 0, 250000}, sync}},
      {"write, delete, and let files come and go until the space is used again",
       {{Kind::kWrite, "b", "", 10, 60000}, {Kind::kWrite, "b", "", 60020, 60000},
        {Kind::kWrite, "b", "", 120030, 60000}, {Kind::kWrite, "b", "", 180040, 60000}, ask, {Kind::kUnlink, "b"},
        {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 250000}, {Kind::kTruncate, "e", "", 0},
        {Kind::kWrite, "e", "", 0, 250000}, {Kind::kTruncate, "e", "", 0}, {Kind::kWrite, "e", "", 0, 250000},
        {Kind::kTruncate, "e", "", 0}, {Kind::kWrite, "e", "", 0, 250000}, {Kind::kTruncate, "e", "", 0},
        {Kind::kWrite, "e", "", 0, 250000}, {Kind::kCreate, "f"}, {Kind::kWrite, "f", "", 0, 200000}, sync}},
      {"delete, and use the space for small files",
       {{Kind::kUnlink, "b"}, {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 100, 5000},
        {Kind::kAppend, "a", "", 0, 20000}, sync}},
      {"delete while it is being destaged, and use the space",
       {{Kind::kWrite, "a", "", 100, 4000}, {Kind::kWrite, "b", "", 5000, 30000}, checkpoint, soon,
        {Kind::kUnlink, "b"}, {Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 250000}, sync,
        {Kind::kWrite, "e", "", 3, 100}, sync}},
      {"rename over, and use the space",
       {{Kind::kRename, "a", "b"}, {Kind::kAppend, "b", "", 0, 300000}, sync, {Kind::kTruncate, "b", "", 0}, sync}},
      {"truncate and write again",
       {{Kind::kTruncate, "b", "", 5000}, {Kind::kWrite, "b", "", 100000, 200000}, sync}},
      {"truncate, grow, read zeros", {{Kind::kTruncate, "b", "", 5001}, {Kind::kTruncate, "b", "", 40000}, sync}},
      {"punch and fill partly",
       {{Kind::kPunch, "b", "", 8192, 65536}, ask, {Kind::kWrite, "b", "", 20000, 300}, sync}},
      {"a new file, renamed over an old one",
       {{Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 70000}, sync, {Kind::kRename, "e", "b"}, sync}},
      {"a new file, not synced, renamed over an old one",
       {{Kind::kCreate, "e"}, {Kind::kWrite, "e", "", 0, 7000}, {Kind::kRename, "e", "a"}, ask,
        {Kind::kWrite, "s", "", 0, 20}, sync}},
      {"links to one file",
       {{Kind::kLink, "b", "d/y"}, {Kind::kUnlink, "b"}, ask, {Kind::kWrite, "d/y", "", 0, 100}, {Kind::kUnlink, "d/y"},
        sync}},
      {"order across files",
       {{Kind::kWrite, "a", "", 0, 100}, {Kind::kWrite, "b", "", 0, 100}, {Kind::kWrite, "s", "", 0, 100}, ask,
        {Kind::kWrite, "b", "", 200, 100}, {Kind::kWrite, "a", "", 200, 100}, sync}},
      {"a directory comes and goes",
       {{Kind::kMakeDirectory, "g"}, {Kind::kRename, "d/x", "g/z"}, ask, {Kind::kRename, "g/z", "e"},
        {Kind::kRemoveDirectory, "g"}, sync}},
      {"several at once",
       {{.kind = Kind::kWrite, .name = "a", .offset = 100, .length = 300, .wait = false},
        {.kind = Kind::kAppend, .name = "b", .length = 70'000, .wait = false},
        {.kind = Kind::kRename, .name = "s", .other = "d/y", .wait = false},
        {.kind = Kind::kWrite, .name = "d/x", .offset = 0, .length = 66'000, .wait = false}, ask,
        {.kind = Kind::kGrow, .name = "a", .length = 90'000, .wait = false},
        {.kind = Kind::kUnlink, .name = "b", .wait = false}, sync}},
      {"the flush interval alone",
       {{Kind::kWrite, "a", "", 0, 5000}, {Kind::kLetRun, "", "", 2'100'000'000}, {Kind::kWrite, "s", "", 0, 5}}},
  };
}

std::vector<FileWorkload> GroupWorkloads() {
  const FileOp sync = {Kind::kSync};
  const FileOp ask = {.kind = Kind::kSync, .wait = false};
  const FileOp checkpoint = {.kind = Kind::kCheckpoint, .wait = false};
  return {
      {"a small group", {{Kind::kGroup, "a", "b", 1000, 64}, sync}},
      {"a group on a small file and one that stops being small",
       {{Kind::kGroup, "s", "s", 40, 40}, ask, {Kind::kGroup, "s", "a", 480, 60}, sync}},
      {"a group with extents", {{Kind::kGroup, "a", "b", 3000, 80'000}, sync}},
      {"a group of numbers that are composed", {{Kind::kLargeGroup, "a", "b", 100, 8}, sync}},
      {"composed over holes and the end", {{Kind::kLargeGroup, "s", "d/x", 10'000, 8}, sync}},
      {"a group while others sync",
       {{Kind::kWrite, "a", "", 1000, 10}, {Kind::kWrite, "b", "", 1000, 10},  // in memory from here on
        {.kind = Kind::kGroup, .name = "a", .other = "b", .offset = 1000, .length = 64, .wait = false}, ask,
        {.kind = Kind::kGroup, .name = "b", .other = "d/x", .offset = 7000, .length = 20'000, .wait = false}, ask,
        sync}},
      {"groups one after the other",
       {{Kind::kGroup, "a", "b", 1000, 64}, ask, {Kind::kGroup, "b", "d/x", 900, 9000}, checkpoint,
        {Kind::kLargeGroup, "a", "a", 0, 8}, ask, {Kind::kGroup, "a", "s", 0, 70'000}, sync}},
  };
}

FileWorkload RandomFileWorkload(uint64_t seed, uint64_t op_count) {
  sal::Random64 random(seed);
  static constexpr const char* kFiles[] = {"a", "b", "s", "e", "f", "d/x", "d/y"};
  const auto file = [&] { return std::string(kFiles[random.Below(std::size(kFiles))]); };
  FileWorkload w{absl::StrCat("random, seed ", seed, ", ", op_count, " operations"), {}};
  for (uint64_t i = 0; i < op_count; ++i) {
    FileOp op = {static_cast<Kind>(random.Below(static_cast<uint64_t>(Kind::kLetRun) + 1)), file()};
    if (random.OneIn(3)) op.kind = Kind::kWrite;
    if (random.OneIn(6)) op.kind = Kind::kGroup;
    const uint64_t scale = random.OneIn(3) ? 250'000 : random.OneIn(2) ? 30'000 : 600;
    op.offset = random.Below(scale);
    op.length = random.Between(1, scale);
    switch (op.kind) {
      case Kind::kMakeDirectory:
      case Kind::kRemoveDirectory: op.name = random.OneIn(2) ? "g" : "h"; break;
      case Kind::kSymlink: op.other = "somewhere"; break;
      case Kind::kRename: op.name = random.OneIn(6) ? "d" : op.name; op.other = random.OneIn(6) ? "g" : file(); break;
      case Kind::kGroup:
      case Kind::kExchange:
      case Kind::kLink: op.other = file(); break;
      case Kind::kSetXattr: op.length = random.Between(1, 2500); break;
      // On a full volume it zeroes what it can, in several changes, before it fails.
      case Kind::kZeroRange: op.kind = Kind::kPunch; break;
      case Kind::kAllocate:
      case Kind::kGrow: op.length = random.Between(1, 60'000); break;
      case Kind::kLetRun: op.offset = random.Below(1'500'000); [[fallthrough]];
      case Kind::kClose:
      case Kind::kSync:
      case Kind::kCheckpoint: op.name = ""; break;
      default: break;
    }
    op.wait = op.kind != Kind::kCheckpoint && random.OneIn(2);
    w.ops.push_back(std::move(op));
  }
  if (random.OneIn(2)) w.ops.push_back({Kind::kSync});
  return w;
}

}  // namespace stagefs::crash

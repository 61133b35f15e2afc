// Fuzzes the decoding of what the tree's items hold, and of the volume's header. The first byte of an input says which;
// what follows is either the bytes themselves or changes to valid ones. What decodes must encode to the same again.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "fs/volume/format.h"
#include "sal/check.h"
#include "tests/fuzz/input.h"

namespace stagefs::volume {
namespace {

void RequireDataLoss(const absl::Status& status) { STAGEFS_CHECK(status.ok() || absl::IsDataLoss(status)); }

std::string Damaged(fuzz::Input& input, std::string value) {
  if (input.Bool()) return std::string(input.rest());
  while (!input.empty()) {
    if (value.size() < 8 || input.Byte() >= 250) {
      value.resize(input.Below(value.size() + 16));
    } else {
      fuzz::Patch(input, absl::MakeSpan(reinterpret_cast<std::byte*>(value.data()), value.size()));
    }
  }
  return value;
}

void FuzzHeader(fuzz::Input& input) {
  VolumeHeader header;
  header.capacity_blocks = 1000;
  header.root_block = 3;
  header.root_height = 2;
  header.next_ino = 17;
  std::string bytes(kHeaderBytes, '\0');
  EncodeHeader(header, reinterpret_cast<std::byte*>(bytes.data()));
  bytes = Damaged(input, bytes);
  bytes.resize(kHeaderBytes);
  const absl::StatusOr<VolumeHeader> decoded = DecodeHeader(reinterpret_cast<const std::byte*>(bytes.data()));
  if (!decoded.ok()) {
    STAGEFS_CHECK(absl::IsDataLoss(decoded.status()) || absl::IsInvalidArgument(decoded.status()) ||
                  absl::IsFailedPrecondition(decoded.status()));
    return;
  }
  STAGEFS_CHECK(decoded->root_block > 0 && decoded->root_block < decoded->capacity_blocks);
  std::string again(kHeaderBytes, '\0');
  EncodeHeader(*decoded, reinterpret_cast<std::byte*>(again.data()));
  const absl::StatusOr<VolumeHeader> twice = DecodeHeader(reinterpret_cast<const std::byte*>(again.data()));
  STAGEFS_CHECK(twice.ok() && *twice == *decoded);
}

void FuzzInode(fuzz::Input& input) {
  std::string bytes(kInodeBytes, '\0');
  EncodeInode({.mode = 0100644, .nlink = 1, .size_bytes = 5, .flags = kInodeInline}, bytes.data());
  bytes = Damaged(input, bytes);
  const absl::StatusOr<Inode> decoded = DecodeInode(bytes);
  RequireDataLoss(decoded.status());
  if (!decoded.ok()) return;
  std::string again(kInodeBytes, '\0');
  EncodeInode(*decoded, again.data());
  constexpr size_t kNamed = 88;  // what follows is reserved
  STAGEFS_CHECK(again.substr(0, kNamed) == bytes.substr(0, kNamed));
}

void FuzzExtent(fuzz::Input& input) {
  std::string bytes(kExtentBytes, '\0');
  EncodeExtent({.home = 100, .count = 16}, bytes.data());
  bytes = Damaged(input, bytes);
  const absl::StatusOr<Extent> decoded = DecodeExtent(bytes);
  RequireDataLoss(decoded.status());
  if (!decoded.ok()) return;
  STAGEFS_CHECK(decoded->home != 0 && decoded->count >= 1 && decoded->count <= kMaxExtentBlocks);
  std::string again(kExtentBytes, '\0');
  EncodeExtent(*decoded, again.data());
  STAGEFS_CHECK(again == bytes);
}

void FuzzOrphan(fuzz::Input& input) {
  std::string bytes(kOrphanBytes, '\0');
  EncodeOrphan({.what = Orphan::What::kTruncate, .from_block = 9}, bytes.data());
  bytes = Damaged(input, bytes);
  const absl::StatusOr<Orphan> decoded = DecodeOrphan(bytes);
  RequireDataLoss(decoded.status());
  if (!decoded.ok()) return;
  std::string again(kOrphanBytes, '\0');
  EncodeOrphan(*decoded, again.data());
  STAGEFS_CHECK(again[0] == bytes[0] && again.substr(8) == bytes.substr(8));
}

// Items that hold one or more entries: each is taken off the front, put to the end of another string, and in the end
// they are the same.
template <typename Take, typename Append>
void FuzzList(fuzz::Input& input, std::string bytes, Take take, Append append) {
  bytes = Damaged(input, std::move(bytes));
  std::string again;
  absl::string_view rest = bytes;
  while (!rest.empty()) {
    const size_t before = rest.size();
    const auto entry = take(&rest);
    RequireDataLoss(entry.status());
    if (!entry.ok()) break;
    STAGEFS_CHECK(rest.size() < before && !entry->name.empty() && entry->name.size() <= 255);
    append(*entry, &again);
  }
  STAGEFS_CHECK(absl::string_view(bytes).substr(0, again.size()) == again);
}

void Fuzz(fuzz::Input input) {
  std::string list;
  switch (input.Byte() % 6) {
    case 0: return FuzzHeader(input);
    case 1: return FuzzInode(input);
    case 2: return FuzzExtent(input);
    case 3: return FuzzOrphan(input);
    case 4:
      AppendEntry({.ino = 5, .type = 8, .slot = 0, .name = "a name"}, &list);
      AppendEntry({.ino = 6, .type = 4, .slot = 1, .name = "another"}, &list);
      return FuzzList(input, list, TakeEntry, AppendEntry);
    default:
      AppendXattrEntry({.value_id = 0, .value_bytes = 5, .name = "user.a", .inline_value = "value"}, &list);
      AppendXattrEntry({.value_id = 3, .value_bytes = 5000, .name = "user.b", .inline_value = ""}, &list);
      return FuzzList(input, list, TakeXattrEntry, AppendXattrEntry);
  }
}

}  // namespace
}  // namespace stagefs::volume

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::volume::Fuzz({data, size});
  return 0;
}

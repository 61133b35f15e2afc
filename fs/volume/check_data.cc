// The part of a check that reads the content of files, so that the engine verifies every checksum.

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/volume/check_context.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::kBlockBytes;

constexpr uint64_t kBlocksPerRead = 256;

class DataCheck {
 public:
  explicit DataCheck(CheckContext& context) : context_(context), storage_((kBlocksPerRead + 1) * kBlockBytes) {
    // Reads are cheap into aligned memory.
    const uint64_t address = reinterpret_cast<uintptr_t>(storage_.data());
    buffer_ = storage_.data() + (kBlockBytes - address % kBlockBytes) % kBlockBytes;
  }

  absl::Status Run() {
    context_.SetStep(0.9, 1.0);
    return context_.WalkItems(Key{1, 0, 0}, Key{~uint64_t{0}, 0xff, ~uint64_t{0}},
                              [&](const Key& key, absl::string_view value) -> absl::StatusOr<bool> {
      if (key.kind != kKindExtent) return true;
      const absl::StatusOr<Extent> extent = DecodeExtent(value);
      if (!extent.ok() || !context_.layout().IsUsable({extent->home, extent->count})) return true;
      RETURN_IF_ERROR(ReadExtent(key, *extent));
      const uint64_t in_use = context_.report().used_blocks;
      context_.Progress(static_cast<double>(blocks_read_) / static_cast<double>(std::max<uint64_t>(1, in_use)));
      return true;
    });
  }

 private:
  absl::Status ReadBlocks(core::BlockRange range) {
    const absl::Status status = context_.Run([&](core::Transaction& tx) {
      tx.ReadInto(range.first * kBlockBytes, range.count * kBlockBytes, buffer_);
      return absl::OkStatus();
    });
    blocks_read_ += range.count;
    return status;
  }

  absl::Status ReadExtent(const Key& key, const Extent& extent) {
    for (uint64_t at = 0; at < extent.count; at += kBlocksPerRead) {
      const core::BlockRange part{extent.home + at, std::min(kBlocksPerRead, extent.count - at)};
      if (ReadBlocks(part).ok()) continue;
      // Which blocks is it?
      for (uint64_t i = 0; i < part.count; ++i) {
        const absl::Status status = ReadBlocks({part.first + i, 1});
        if (status.ok()) continue;
        if (absl::IsFailedPrecondition(status)) return status;
        context_.Report(ProblemKind::kData, absl::StrCat("inode ", key.ino),
                        absl::StrCat("block ", key.offset + at + i, " of its content, home block ", part.first + i,
                                     ", cannot be read: ", status.message()));
      }
    }
    return absl::OkStatus();
  }

  CheckContext& context_;
  std::vector<std::byte> storage_;
  std::byte* buffer_;
  uint64_t blocks_read_ = 0;
};

}  // namespace

absl::Status CheckData(CheckContext& context) { return DataCheck(context).Run(); }

}  // namespace stagefs::volume

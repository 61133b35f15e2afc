#include "fs/volume/check_reader.h"

#include "fs/volume/check_context.h"

namespace stagefs::volume {

absl::Status BlockReader::Read(core::Engine& engine, core::BlockRange range) {
  return RunBody(engine, [&](core::Transaction& tx) {
    tx.ReadInto(range.first * core::kBlockBytes, range.count * core::kBlockBytes, buffer_);
    return absl::OkStatus();
  });
}

}  // namespace stagefs::volume

#include "core/log_reader.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/checksum.h"
#include "sal/blocking_io.h"
#include "sal/status_macros.h"

namespace stagefs::core {

LogReader::LogReader(sal::BlockStore* store, sal::Environment* environment, const Superblock& superblock,
                     Broken broken)
    : store_(store), environment_(environment), superblock_(superblock), broken_(broken) {
  // One frame never exceeds the window; a chunk more lets a fetch read ahead.
  buffer_ = AlignedMemory((superblock.window_blocks + kChunkBlocks) * kBlockBytes);
  Rewind();
}

void LogReader::Rewind() {
  place_ = {superblock_.tail_position, superblock_.tail_sequence, superblock_.tail_chain};
}

absl::StatusOr<const std::byte*> LogReader::Fetch(uint64_t position, uint64_t count) {
  if (position < buffer_position_ || position + count > buffer_position_ + buffer_blocks_) {
    const uint64_t blocks = std::max(count, kChunkBlocks);
    buffer_blocks_ = 0;
    for (uint64_t done = 0; done < blocks;) {
      const uint64_t place = (position + done) % superblock_.log_blocks;
      const uint64_t run = std::min(blocks - done, superblock_.log_blocks - place);
      RETURN_IF_ERROR(sal::BlockingRead(*store_, *environment_, (superblock_.log_start + place) * kBlockBytes,
                                        buffer_.data() + done * kBlockBytes, run * kBlockBytes));
      done += run;
    }
    buffer_position_ = position;
    buffer_blocks_ = blocks;
  }
  return buffer_.data() + (position - buffer_position_) * kBlockBytes;
}

absl::StatusOr<std::optional<FrameHeader>> LogReader::FrameAt(uint64_t position) {
  ASSIGN_OR_RETURN(const std::byte* bytes, Fetch(position, 1));
  const FrameHeader header = Load<FrameHeader>(bytes);
  if (header.magic != kFrameMagic || std::memcmp(header.uuid, superblock_.uuid, sizeof(header.uuid)) != 0 ||
      header.epoch != superblock_.epoch || header.position != position ||
      header.frame_blocks > superblock_.window_blocks ||
      header.payload_bytes > header.frame_blocks * kBlockBytes ||
      header.frame_blocks != FrameBlocks(header.payload_bytes)) {
    return std::nullopt;
  }
  ASSIGN_OR_RETURN(bytes, Fetch(position, header.frame_blocks));
  if (header.checksum != Hash(bytes + 8, sizeof(FrameHeader) + header.payload_bytes - 8, superblock_.salt)) {
    return std::nullopt;
  }
  const Lsn limit = superblock_.covered_lsn + kMostLsnsPerEpoch;
  if (header.first_lsn >= limit || header.durable_lsn >= limit ||
      header.change_count > header.payload_bytes / sizeof(ChangeHeader)) {
    return absl::DataLossError(absl::StrCat("log frame ", header.sequence, " holds nonsense: first LSN ",
                                            header.first_lsn, ", durable LSN ", header.durable_lsn, ", ",
                                            header.change_count, " changes"));
  }
  return header;
}

absl::StatusOr<std::optional<LogReader::Frame>> LogReader::Next() {
  // The whole ring can hold valid frames; it cannot hold more.
  if (place_.position - superblock_.tail_position >= superblock_.log_blocks) return std::nullopt;
  ASSIGN_OR_RETURN(const std::optional<FrameHeader> header, FrameAt(place_.position));
  const bool check_chain = broken_ != Broken::kNoChain && broken_ != Broken::kSameSaltAgain;
  if (!header.has_value() || header->sequence != place_.sequence || (check_chain && header->chain != place_.chain)) {
    return std::nullopt;
  }
  ASSIGN_OR_RETURN(const std::byte* const bytes, Fetch(place_.position, header->frame_blocks));
  place_ = {place_.position + header->frame_blocks, place_.sequence + 1, header->checksum};
  return Frame{*header, {bytes + sizeof(FrameHeader), header->payload_bytes}};
}

absl::StatusOr<LogReader::Beyond> LogReader::ScanBeyond() {
  Beyond beyond;
  // Frames that were in flight lie within the window. Some may be older than the hole and lie where the ring has not
  // been reused yet; their sequence tells.
  for (uint64_t position = place_.position; position < place_.position + superblock_.window_blocks; ++position) {
    ASSIGN_OR_RETURN(const std::optional<FrameHeader> header, FrameAt(position));
    if (!header.has_value() || header->sequence < place_.sequence) continue;
    beyond.highest_lsn = std::max(beyond.highest_lsn, header->first_lsn + header->change_count);
    beyond.highest_durable = std::max(beyond.highest_durable, header->durable_lsn);
  }
  return beyond;
}

}  // namespace stagefs::core

#include "core/log_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/checksum.h"
#include "sal/check.h"

namespace stagefs::core {

LogWriter::LogWriter(Monitor* monitor, FlushQueue* flushes, const Options& options,
                     std::function<void(Outbox&)> on_progress,
                     std::function<void(absl::Status, Outbox&)> on_failure)
    : monitor_(monitor),
      flushes_(flushes),
      options_(options),
      on_progress_(std::move(on_progress)),
      on_failure_(std::move(on_failure)),
      memory_(options.region_count * options.region_bytes),
      first_touch_(memory_.span()) {
  for (uint64_t i = 0; i < options_.region_count; ++i) {
    regions_.push_back(std::make_unique<Region>());
    regions_.back()->offset = i * options_.region_bytes;
  }
}

void LogWriter::Start(const Superblock& superblock, LogPlace tail, LogPlace head, Lsn durable_lsn,
                      Lsn recorded_lsn) {
  STAGEFS_CHECK(idle());
  log_start_ = superblock.log_start;
  log_blocks_ = superblock.log_blocks;
  window_blocks_ = superblock.window_blocks;
  epoch_ = superblock.epoch;
  salt_ = superblock.salt;
  std::copy(std::begin(superblock.uuid), std::end(superblock.uuid), std::begin(uuid_));
  head_ = head;
  reuse_position_ = tail.position;
  durable_position_ = head.position;
  durable_lsn_ = last_cut_lsn_ = durable_lsn;
  recorded_durable_lsn_ = record_lsn_ = recorded_lsn;
  wanted_lsn_ = 0;
}

bool LogWriter::RegionFits(uint64_t payload_bytes) const {
  if (active_region_ != nullptr &&
      active_.offset + sizeof(FrameHeader) + payload_bytes + kBlockBytes <= options_.region_bytes) {
    return true;
  }
  return std::any_of(regions_.begin(), regions_.end(), [this](const std::unique_ptr<Region>& region) {
    return region.get() != active_region_ && region->unwritten_frames == 0;
  });
}

// One block more than it takes, because the change may have to start a frame of its own.
uint64_t LogWriter::EndWith(uint64_t change_bytes) const {
  return head_.position + FrameBlocks(active_.payload_bytes + change_bytes) + 1;
}

bool LogWriter::RingHasRoom(uint64_t change_bytes, bool is_intent) const {
  const uint64_t reserve = is_intent ? 0 : options_.reserve_blocks;
  return EndWith(change_bytes) - reuse_position_ + reserve <= log_blocks_;
}

bool LogWriter::HasRoom(uint64_t change_bytes, bool is_intent) const {
  return RingHasRoom(change_bytes, is_intent) && EndWith(change_bytes) - durable_position_ <= window_blocks_ &&
         RegionFits(active_.payload_bytes + change_bytes);
}

bool LogWriter::CanEverFit(uint64_t change_bytes) const {
  const uint64_t blocks = FrameBlocks(change_bytes) + 2;
  return blocks + options_.reserve_blocks <= log_blocks_ && blocks <= window_blocks_ &&
         (blocks + 1) * kBlockBytes <= options_.region_bytes;
}

bool LogWriter::TakeRegion(uint64_t payload_bytes) {
  if (active_region_ != nullptr &&
      active_.offset + sizeof(FrameHeader) + payload_bytes + kBlockBytes <= options_.region_bytes) {
    return true;
  }
  for (const std::unique_ptr<Region>& region : regions_) {
    if (region.get() == active_region_ || region->unwritten_frames > 0) continue;
    active_region_ = region.get();
    active_ = Active();
    return true;
  }
  return false;
}

std::byte* LogWriter::Append(Lsn lsn, uint64_t change_bytes, Outbox& outbox) {
  const bool fits_active =
      active_region_ != nullptr && active_.offset + sizeof(FrameHeader) + active_.payload_bytes + change_bytes +
                                           kBlockBytes <= options_.region_bytes;
  if (!fits_active) {
    if (active_.change_count > 0) Cut(lsn);
    STAGEFS_CHECK(TakeRegion(change_bytes));
    Pump(outbox);
  }
  const uint64_t offset = active_.offset + sizeof(FrameHeader) + active_.payload_bytes;
  first_touch_.Uses(active_region_->offset + offset + change_bytes);
  if (active_.change_count == 0) active_.first_lsn = lsn;
  STAGEFS_CHECK(lsn > active_.last_lsn);
  active_.last_lsn = lsn;
  active_.payload_bytes += change_bytes;
  ++active_.change_count;
  return Memory(*active_region_, offset);
}

uint64_t LogWriter::AwaitExtent() {
  ++active_.extents_pending;
  return head_.sequence;  // the active frame will be cut under this number
}

void LogWriter::ExtentWritten(uint64_t frame_sequence, Outbox& outbox) {
  if (!failure_.ok()) return;
  const uint64_t cover = flushes_->NextCover();
  if (frame_sequence == head_.sequence) {
    --active_.extents_pending;
    active_.extents_cover = std::max(active_.extents_cover, cover);
    return;
  }
  if (frames_.empty() || frame_sequence < frames_.front().place.sequence) {
    STAGEFS_CHECK(options_.broken != Broken::kNothing);  // a frame cannot be durable before its extents
    return;
  }
  Frame& frame = frames_[frame_sequence - frames_.front().place.sequence];
  --frame.extents_pending;
  frame.extents_cover = std::max(frame.extents_cover, cover);
  if (frame.extents_pending == 0) Pump(outbox);
}

void LogWriter::Cut(Lsn first_lsn_if_empty) {
  std::byte* const start = Memory(*active_region_, active_.offset);
  FrameHeader header = {};
  header.magic = kFrameMagic;
  header.frame_blocks = FrameBlocks(active_.payload_bytes);
  header.payload_bytes = active_.payload_bytes;
  header.change_count = active_.change_count;
  std::copy(std::begin(uuid_), std::end(uuid_), std::begin(header.uuid));
  header.epoch = epoch_;
  header.sequence = head_.sequence;
  header.position = head_.position;
  header.chain = head_.chain;
  header.first_lsn = active_.change_count > 0 ? active_.first_lsn : first_lsn_if_empty;
  header.durable_lsn = options_.broken == Broken::kNoDurableRecord ? 0 : durable_lsn_;
  const uint64_t used = sizeof(FrameHeader) + active_.payload_bytes;
  std::memset(start + used, 0, header.frame_blocks * kBlockBytes - used);
  Store(start, header);
  header.checksum = Hash(start + 8, used - 8, salt_);
  Store(start, header);

  Frame& frame = frames_.emplace_back();
  frame.region = active_region_;
  frame.offset = active_.offset;
  frame.blocks = header.frame_blocks;
  frame.place = head_;
  frame.first_lsn = header.first_lsn;
  frame.last_lsn = active_.change_count > 0 ? active_.last_lsn : last_cut_lsn_;
  frame.recorded_lsn = durable_lsn_;
  frame.extents_pending = active_.extents_pending;
  frame.extents_cover = active_.extents_cover;
  ++active_region_->unwritten_frames;

  last_cut_lsn_ = frame.last_lsn;
  recorded_durable_lsn_ = durable_lsn_;
  head_.position += options_.broken == Broken::kSamePlaceInLap ? frame.blocks - 1 : frame.blocks;
  head_.sequence += 1;
  head_.chain = header.checksum;
  ++frames_cut_;
  const uint64_t next_offset = active_.offset + frame.blocks * kBlockBytes;
  active_ = Active();
  active_.offset = next_offset;
}

LogPlace LogWriter::CutHere(Outbox& outbox) {
  if (active_.change_count > 0) Cut(0);
  Pump(outbox);
  return head_;
}

void LogWriter::RecordDurable(Lsn next_lsn, Outbox& outbox) {
  if (!failure_.ok() || !idle() || recorded_durable_lsn_ >= durable_lsn_) return;
  if (!HasRoom(0, /*is_intent=*/true) || !TakeRegion(0)) return;
  Cut(next_lsn);
  frames_.back().wanted = true;
  Pump(outbox);
}

void LogWriter::WantDurableRecord(Lsn next_lsn, Outbox& outbox) {
  // Any frame cut from now on says it. Frames under way may be older; when they are written, this is asked again.
  if (active_.change_count > 0) return Want(active_.last_lsn, outbox);
  RecordDurable(next_lsn, outbox);
}

void LogWriter::WhenDurable(Lsn lsn, Engine::DurableCallback done, Outbox& outbox) {
  if (lsn <= durable_lsn_ || !failure_.ok()) {
    // What was durable before a failure stays so; everything else gets the reason.
    outbox.Call([done = std::move(done), status = lsn <= durable_lsn_ ? absl::OkStatus() : failure_]() mutable {
      std::move(done)(status);
    });
    return;
  }
  waiters_.emplace(lsn, std::move(done));
  Want(lsn, outbox);
}

void LogWriter::Want(Lsn lsn, Outbox& outbox) {
  wanted_lsn_ = std::max(wanted_lsn_, lsn);
  Pump(outbox);
}

bool LogWriter::ShouldCut() const {
  if (active_.change_count == 0) return false;
  if (active_.payload_bytes >= kFrameTargetBytes) return true;
  if (wanted_lsn_ <= last_cut_lsn_) return false;
  return std::all_of(frames_.begin(), frames_.end(),
                     [](const Frame& frame) { return frame.state == Frame::State::kWritten; });
}

void LogWriter::Pump(Outbox& outbox) {
  if (!failure_.ok()) return;
  if (ShouldCut()) Cut(0);
  SubmitReady(outbox);
  WantFlushes();
  StartFlush(outbox);
}

void LogWriter::SubmitReady(Outbox& outbox) {
  bool earlier_need_flush = false;
  for (Frame& frame : frames_) {
    if (frame.state == Frame::State::kWaiting) {
      if (options_.broken != Broken::kFrameBeforeExtents) {
        if (frame.extents_pending > 0) return;
        if (!flushes_->Covered(frame.extents_cover)) {
          flushes_->Want(frame.extents_cover);
          return;
        }
      }
      const bool wanted = frame.wanted || wanted_lsn_ >= frame.first_lsn;
      const bool fua = monitor_->store().geometry().fua && wanted && !earlier_need_flush;
      SubmitFrame(frame, fua, outbox);
    }
    if (!frame.fua) earlier_need_flush = true;
  }
}

void LogWriter::SubmitFrame(Frame& frame, bool fua, Outbox& outbox) {
  frame.state = Frame::State::kWriting;
  frame.fua = fua;
  const uint64_t largest = monitor_->store().geometry().max_request_bytes / kBlockBytes;
  for (uint64_t done = 0; done < frame.blocks;) {
    const uint64_t place = (frame.place.position + done) % log_blocks_;
    const uint64_t count = std::min({frame.blocks - done, log_blocks_ - place, largest});
    sal::Request& part = frame.parts.emplace_back();
    part.op = sal::Request::Op::kWrite;
    part.fua = fua;
    part.offset_bytes = (log_start_ + place) * kBlockBytes;
    part.length_bytes = count * kBlockBytes;
    part.buffers.push_back({Memory(*frame.region, frame.offset + done * kBlockBytes), part.length_bytes});
    done += count;
  }
  frame.parts_left = frame.parts.size();
  bytes_written_ += frame.blocks * kBlockBytes;
  for (sal::Request& part : frame.parts) {
    outbox.Submit(&part, [this, sequence = frame.place.sequence](absl::Status status) {
      PartWritten(sequence, std::move(status));
    });
  }
}

void LogWriter::PartWritten(uint64_t sequence, absl::Status status) {
  monitor_->Run([&](Outbox& outbox) {
    if (!failure_.ok()) return;
    if (!status.ok()) return on_failure_(std::move(status), outbox);
    Frame& frame = frames_[sequence - frames_.front().place.sequence];
    if (--frame.parts_left > 0) return;
    frame.state = Frame::State::kWritten;
    frame.cover = flushes_->NextCover();
    --frame.region->unwritten_frames;
    AdvanceDurable(outbox);
    Pump(outbox);
    on_progress_(outbox);
  });
}

bool LogWriter::IsDurable(const Frame& frame) const {
  if (frame.state != Frame::State::kWritten) return false;
  return frame.fua || flushes_->Covered(frame.cover) || options_.broken == Broken::kDurableBeforeFlush;
}

void LogWriter::AdvanceDurable(Outbox& outbox) {
  while (!frames_.empty() && IsDurable(frames_.front())) {
    durable_lsn_ = std::max(durable_lsn_, frames_.front().last_lsn);
    record_lsn_ = std::max(record_lsn_, frames_.front().recorded_lsn);
    durable_position_ = frames_.front().place.position + frames_.front().blocks;
    frames_.pop_front();
  }
  while (!waiters_.empty() && waiters_.begin()->first <= durable_lsn_) {
    outbox.Call([done = std::move(waiters_.begin()->second)]() mutable { std::move(done)(absl::OkStatus()); });
    waiters_.erase(waiters_.begin());
  }
}

// One flush for all frames that are wanted: only when none of those is still on its way, or when the window is half
// full and must move on.
void LogWriter::WantFlushes() {
  const bool window_half_full = (head_.position - durable_position_) * 2 > window_blocks_;
  uint64_t cover = 0;
  for (const Frame& frame : frames_) {
    if (frame.first_lsn > wanted_lsn_ && !frame.wanted && !window_half_full) break;
    if (frame.state != Frame::State::kWritten) {
      if (!window_half_full) return;
      break;
    }
    if (!frame.fua) cover = std::max(cover, frame.cover);
  }
  if (cover > 0) flushes_->Want(cover);
}

void LogWriter::StartFlush(Outbox& outbox) {
  if (!flushes_->StartNext()) return;
  flush_request_.op = sal::Request::Op::kFlush;
  outbox.Submit(&flush_request_, [this](absl::Status status) {
    monitor_->Run([&](Outbox& inner) {
      if (!failure_.ok()) return;
      if (!status.ok()) return on_failure_(std::move(status), inner);
      flushes_->Completed();
      AdvanceDurable(inner);
      Pump(inner);
      on_progress_(inner);
    });
  });
}

void LogWriter::Fail(const absl::Status& reason, Outbox& outbox) {
  if (!failure_.ok()) return;
  failure_ = reason;
  for (auto& [lsn, done] : waiters_) {
    outbox.Call([done = std::move(done), reason]() mutable { std::move(done)(reason); });
  }
  waiters_.clear();
}

}  // namespace stagefs::core

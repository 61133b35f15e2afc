#include "fs/volume/group_change.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/bytes.h"
#include "fs/volume/errno.h"
#include "fs/volume/inode.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

using core::kBlockBytes;
using Kind = ContentChange::Kind;

constexpr uint64_t kBufferBlocks = GroupPlan::kBufferBlocks;

// Buffers that hold `count` blocks together.
void AddBuffers(uint64_t count, std::vector<GroupChange::Buffer>* buffers) {
  for (uint64_t done = 0; done < count; done += kBufferBlocks) {
    buffers->push_back({.block_count = std::min(kBufferBlocks, count - done), .data = nullptr});
  }
}

// Adds up what several steps say, of which the first few may have missed: true if there is no use in going on. A miss is
// passed on as it is, whatever comes behind it.
bool IsOver(absl::Status status, absl::Status* missed) {
  const bool over = !status.ok() && !absl::IsUnavailable(status);
  missed->Update(std::move(status));
  return over;
}

}  // namespace

GroupChange::GroupChange(VolumeState& state, const GroupPlan& plan) : state_(state), plan_(plan) {
  AddBuffers(plan.static_blocks().size(), &buffers_);
  static_buffers_ = buffers_.size();
  AddBuffers(plan.dynamic_blocks().size(), &buffers_);
  for (const GroupPiece& piece : plan.pieces()) buffers_.push_back({.block_count = piece.blocks.count, .data = nullptr});
}

void GroupChange::Fill() {
  for (size_t i = 0; i < plan_.pieces().size(); ++i) {
    const GroupPiece& piece = plan_.pieces()[i];
    const ContentChange& part = plan_.parts()[piece.part];
    std::memcpy(buffers_[i].data->bytes().data(),
                part.bytes.data() + (piece.blocks.first_file_block * kBlockBytes - part.offset),
                piece.blocks.count * kBlockBytes);
    buffers_[i].data->Seal();
  }
  for (size_t i = 0; i < plan_.static_blocks().size(); ++i) {
    const Buffer& buffer = buffers_[i / kBufferBlocks];
    plan_.Compose(plan_.static_blocks()[i], buffer.data->bytes().data() + i % kBufferBlocks * kBlockBytes, nullptr);
  }
  for (size_t i = 0; i < static_buffers_; ++i) buffers_[i].data->Seal();
}

void GroupChange::DropBuffers() {
  for (Buffer& buffer : buffers_) buffer.data = nullptr;
  dynamic_sealed_ = false;
}

absl::Status GroupChange::Run(Change& change, GroupResult* result) {
  needs_new_buffers_ = false;
  files_.clear();
  for (const GroupFile& file : plan_.files()) files_.emplace_back().ino = file.ino;
  result->previous.assign(plan_.parts().size(), 0);
  RETURN_IF_ERROR(plan_.composed() ? RunComposed(change, result) : RunInPlace(change, result));
  return PutBack(change);
}

absl::StatusOr<GroupChange::File*> GroupChange::Load(core::Transaction& tx, uint32_t index) {
  File& file = files_[index];
  if (!file.loaded) {
    ASSIGN_OR_RETURN(file.inode, GetFile(state_, tx, file.ino));
    file.loaded = true;
  }
  return &file;
}

absl::Status GroupChange::PutBack(Change& change) {
  for (File& file : files_) {
    if (!file.stored) continue;
    ClearSetIdBits(&file.inode);
    TouchContent(change, &file.inode);
    RETURN_IF_ERROR(PutInode(state_, change.tx, file.ino, file.inode));
  }
  return absl::OkStatus();
}

absl::Status GroupChange::RunInPlace(Change& change, GroupResult* result) {
  next_piece_ = 0;
  for (size_t i = 0; i < plan_.parts().size(); ++i) {
    absl::Status status = WritePart(change, i, result);
    if (absl::IsUnavailable(status)) Foresee(change.tx, i + 1);
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

absl::Status GroupChange::WritePart(Change& change, size_t part, GroupResult* result) {
  const ContentChange& wanted = plan_.parts()[part];
  ASSIGN_OR_RETURN(File * file, Load(change.tx, plan_.FileOf(part)));
  if (IsAtomic(wanted)) return ChangeNumber(change, *file, wanted, &result->previous[part]);
  if (wanted.kind == Kind::kWriteStaged) return WriteStagedPart(change, part);
  if (wanted.bytes.empty()) return absl::OkStatus();
  const absl::Span<const GroupPiece> pieces = plan_.pieces();
  if (next_piece_ == pieces.size() || pieces[next_piece_].part != part) {
    return WriteBytes(change, *file, wanted.offset, wanted.bytes, {});
  }
  for (; next_piece_ < pieces.size() && pieces[next_piece_].part == part; ++next_piece_) {
    const GroupPiece& piece = pieces[next_piece_];
    StagedBlocks staged = piece.blocks;
    staged.data = buffers_[next_piece_].data;
    RETURN_IF_ERROR(WriteBytes(change, *file, wanted.offset + piece.first_byte,
                               wanted.bytes.subspan(piece.first_byte, piece.length), staged));
  }
  return absl::OkStatus();
}

absl::Status GroupChange::WriteBytes(Change& change, File& file, uint64_t offset, absl::Span<const std::byte> bytes,
                                     const StagedBlocks& staged) {
  file.stored = true;
  // Most of all, a few bytes of a block that is there: the next ones most likely lie in the same extent.
  const uint64_t block = offset / kBlockBytes;
  const bool inlined = (file.inode.flags & kInodeInline) != 0;
  if (!inlined && offset % kBlockBytes + bytes.size() <= kBlockBytes && offset + bytes.size() <= file.inode.size_bytes) {
    if (!file.extent.Holds(block)) {
      ASSIGN_OR_RETURN(file.extent, ExtentAt(state_, change.tx, file.ino, block));
    }
    if (file.extent.Holds(block)) {
      return change.tx.Write((file.extent.home + (block - file.extent.file_block)) * kBlockBytes + offset % kBlockBytes,
                             bytes);
    }
  }
  file.extent = {};
  return WriteContent(state_, change, file.ino, &file.inode, offset, bytes, staged);
}

absl::Status GroupChange::ChangeNumber(Change& change, File& file, const ContentChange& part, uint64_t* previous) {
  std::array<std::byte, sizeof(uint64_t)> bytes;
  RETURN_IF_ERROR(ReadNow(state_, change.tx, file.ino, file.inode, part.offset, absl::MakeSpan(bytes)));
  *previous = core::Load<uint64_t>(bytes.data());
  uint64_t after = 0;
  if (!StoresOver(part, *previous, &after)) return absl::OkStatus();
  core::Store(bytes.data(), after);
  return WriteBytes(change, file, part.offset, bytes, {});
}

absl::Status GroupChange::WriteStagedPart(Change& change, size_t part) {
  const ContentChange& wanted = plan_.parts()[part];
  ASSIGN_OR_RETURN(File * file, Load(change.tx, plan_.FileOf(part)));
  const StagedBlocks staged = {wanted.staged, wanted.offset / kBlockBytes, wanted.staged->block_count()};
  file->stored = true;
  file->extent = {};
  return WriteContent(state_, change, file->ino, &file->inode, wanted.offset, BytesOf(wanted), staged);
}

void GroupChange::Foresee(core::Transaction& tx, size_t part) {
  for (size_t i = part; i < plan_.parts().size(); ++i) {
    const ContentChange& wanted = plan_.parts()[i];
    const absl::StatusOr<File*> file = Load(tx, plan_.FileOf(i));
    const uint64_t length = LengthOf(wanted);
    if (!file.ok() || length == 0 || ((*file)->inode.flags & kInodeInline) != 0) continue;
    ForeseeBlock(tx, **file, wanted.offset / kBlockBytes);
    ForeseeBlock(tx, **file, (wanted.offset + length - 1) / kBlockBytes);
  }
}

void GroupChange::ForeseeBlock(core::Transaction& tx, File& file, uint64_t file_block) {
  if (!file.extent.Holds(file_block)) {
    const absl::StatusOr<FileRun> extent = ExtentAt(state_, tx, file.ino, file_block);
    if (!extent.ok()) return;
    file.extent = *extent;
  }
  if (file.extent.Holds(file_block)) tx.Prefetch(file.extent.home + (file_block - file.extent.file_block));
}

absl::Status GroupChange::RunComposed(Change& change, GroupResult* result) {
  RETURN_IF_ERROR(ForeseeBlocks(change.tx));
  for (size_t i = 0; i < plan_.parts().size(); ++i) {
    if (plan_.parts()[i].kind == Kind::kWriteStaged) RETURN_IF_ERROR(WriteStagedPart(change, i));
  }
  RETURN_IF_ERROR(ComposeDynamic(change, result));
  for (size_t i = 0; i < files_.size(); ++i) {
    File& file = files_[i];
    const uint64_t end = std::max(file.new_end, plan_.files()[i].written_end);
    file.stored |= end > 0;
    const bool grows = end > file.inode.size_bytes;
    if (grows && (file.inode.flags & kInodeTruncatePending) != 0) return change.FinishRemovalFirst(file.ino);
    if (file.stored) RETURN_IF_ERROR(MoveInlineToBlocks(state_, change, file.ino, &file.inode));
    if (grows) file.inode.size_bytes = end;
  }
  return WriteComposed(change);
}

absl::Status GroupChange::ForeseeBlocks(core::Transaction& tx) {
  absl::Status missed;
  const auto foresee = [&](const GroupBlock& block, bool content) -> absl::Status {
    File& file = files_[block.file];
    if ((file.inode.flags & kInodeInline) != 0) return absl::OkStatus();
    if (!file.extent.Holds(block.file_block)) {
      ASSIGN_OR_RETURN(file.extent, ExtentAt(state_, tx, file.ino, block.file_block));
      if (!file.extent.mapped()) return absl::OkStatus();
      // The block will be released.
      const uint64_t group = AllocationLayout::GroupOf(file.extent.home);
      tx.Prefetch(AllocationLayout::BitmapBlock(group));
      tx.Prefetch(AllocationLayout::SummaryBlock(group));
    }
    if (content && file.extent.Holds(block.file_block)) {
      tx.Prefetch(file.extent.home + (block.file_block - file.extent.file_block));
    }
    return absl::OkStatus();
  };
  for (uint32_t i = 0; i < files_.size(); ++i) {
    if (IsOver(Load(tx, i).status(), &missed)) return missed;
  }
  RETURN_IF_ERROR(missed);
  for (const GroupBlock& block : plan_.static_blocks()) {
    if (IsOver(foresee(block, /*content=*/false), &missed)) return missed;
  }
  for (const GroupBlock& block : plan_.dynamic_blocks()) {
    if (IsOver(foresee(block, /*content=*/true), &missed)) return missed;
  }
  for (File& file : files_) file.extent = {};
  return missed;
}

absl::Status GroupChange::ComposeDynamic(Change& change, GroupResult* result) {
  const absl::Span<const GroupBlock> blocks = plan_.dynamic_blocks();
  changed_.assign(blocks.size(), false);
  bool differs = false;
  for (size_t i = 0; i < blocks.size(); ++i) {
    std::array<std::byte, kBlockBytes> image;
    File& file = files_[blocks[i].file];
    RETURN_IF_ERROR(ReadNow(state_, change.tx, file.ino, file.inode, blocks[i].file_block * kBlockBytes,
                            absl::MakeSpan(image)));
    const uint64_t stored_end = plan_.Compose(blocks[i], image.data(), &result->previous);
    changed_[i] = stored_end > 0;
    file.new_end = std::max(file.new_end, stored_end);
    std::byte* const place = buffers_[static_buffers_ + i / kBufferBlocks].data->bytes().data() +
                             i % kBufferBlocks * kBlockBytes;
    if (!dynamic_sealed_) {
      std::memcpy(place, image.data(), kBlockBytes);
    } else {
      differs |= changed_[i] && std::memcmp(place, image.data(), kBlockBytes) != 0;
    }
  }
  if (differs) {
    needs_new_buffers_ = true;
    return absl::AbortedError("What the group builds on has changed");
  }
  if (!dynamic_sealed_) {
    for (size_t i = static_buffers_; i < buffers_.size(); ++i) buffers_[i].data->Seal();
    dynamic_sealed_ = true;
  }
  return absl::OkStatus();
}

absl::Status GroupChange::WriteComposed(Change& change) {
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const bool dynamic = i >= static_buffers_;
    const size_t first = (dynamic ? i - static_buffers_ : i) * kBufferBlocks;
    const absl::Span<const GroupBlock> blocks = dynamic ? plan_.dynamic_blocks() : plan_.static_blocks();
    RETURN_IF_ERROR(WriteFrom(change, blocks.subspan(first, buffers_[i].block_count), buffers_[i],
                              dynamic ? &changed_ : nullptr, first));
  }
  return absl::OkStatus();
}

absl::Status GroupChange::WriteFrom(Change& change, absl::Span<const GroupBlock> blocks, const Buffer& buffer,
                                    const std::vector<bool>* wanted, size_t first) {
  std::vector<BlockOfFile> run;
  for (size_t i = 0; i <= blocks.size(); ++i) {
    if (i < blocks.size() && (wanted == nullptr || (*wanted)[first + i])) {
      File& file = files_[blocks[i].file];
      run.push_back({file.ino, &file.inode, blocks[i].file_block});
      continue;
    }
    if (run.empty()) continue;
    const size_t begin = i - run.size();
    const auto bytes = buffer.data->bytes().subspan(begin * kBlockBytes, run.size() * kBlockBytes);
    RETURN_IF_ERROR(WriteBlocks(state_, change, run, buffer.data, begin, bytes));
    run.clear();
  }
  return absl::OkStatus();
}

}  // namespace stagefs::volume

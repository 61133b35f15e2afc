// Making and opening volumes.

#include "fs/volume/volume.h"

#include <sys/stat.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/volume/format.h"
#include "fs/volume/header.h"
#include "fs/volume/inode.h"
#include "fs/volume/volume_impl.h"
#include "sal/environment.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

constexpr uint64_t kEveryHashBit = ~uint64_t{0};

absl::StatusOr<core::Lsn> RunAndWait(core::Engine& engine, core::Engine::Body body) {
  const std::unique_ptr<sal::Event> finished = engine.environment().NewEvent();
  absl::StatusOr<core::Lsn> result = absl::UnknownError("not run");
  engine.Run(std::move(body), [&](absl::StatusOr<core::Lsn> lsn) {
    result = std::move(lsn);
    finished->Set();
  });
  finished->Wait();
  return result;
}

absl::Status WaitUntilDurable(core::Engine& engine, core::Lsn lsn) {
  const std::unique_ptr<sal::Event> finished = engine.environment().NewEvent();
  absl::Status result;
  engine.WhenDurable(lsn, [&](absl::Status status) {
    result = std::move(status);
    finished->Set();
  });
  finished->Wait();
  return result;
}

absl::StatusOr<VolumeHeader> HeaderIn(core::Engine& engine, core::Block block) {
  absl::StatusOr<VolumeHeader> header;
  RETURN_IF_ERROR(RunAndWait(engine, [&](core::Transaction& tx) -> absl::Status {
                    header = ReadHeader(tx, block);
                    return header.status();
                  }).status());
  if (header->capacity_blocks > engine.capacity_blocks()) {
    return absl::DataLossError(absl::StrCat("The volume has ", header->capacity_blocks, " blocks, the device below it ",
                                            engine.capacity_blocks()));
  }
  return header;
}

// Writes block 1 anew from its copy: what the copy does not know is counted.
absl::Status RestoreHeader(core::Engine& engine, VolumeHeader header, core::Block copy_block) {
  constexpr uint64_t kItemsPerBody = 10000;
  VolumeState state(engine, header.capacity_blocks, header.hash_seed, kEveryHashBit, copy_block);
  header.inode_count = 0;
  std::optional<Key> next = Key{};
  while (next.has_value()) {
    const Key first = *next;
    uint64_t inodes = 0;
    RETURN_IF_ERROR(RunAndWait(engine, [&](core::Transaction& tx) {
                      inodes = 0;
                      next = std::nullopt;
                      uint64_t items = 0;
                      return state.tree().Scan(tx, first, Key{~uint64_t{0}, 0xff, ~uint64_t{0}},
                                               [&](const BTree::Item& item) {
                                                 if (items++ == kItemsPerBody) next = item.key;
                                                 if (!next.has_value() && item.key.kind == kKindInode) ++inodes;
                                                 return !next.has_value();
                                               });
                    }).status());
    header.inode_count += inodes;
  }
  return RunAndWait(engine, [&](core::Transaction& tx) -> absl::Status {
           ASSIGN_OR_RETURN(const uint64_t free_blocks, state.allocator().CountFreeBlocks(tx));
           return RewriteHeader(tx, header, free_blocks);
         }).status();
}

}  // namespace

absl::Status Volume::Format(core::Engine& engine, const VolumeFormatOptions& options) {
  sal::Environment& environment = engine.environment();
  VolumeHeader header;
  header.capacity_blocks = engine.capacity_blocks();
  header.root_height = 1;
  header.next_ino = kRootIno + 1;
  header.hash_seed = environment.Random();
  header.inode_count = 1;
  header.created_ns = environment.WallNs();
  VolumeState state(engine, header.capacity_blocks, header.hash_seed, kEveryHashBit);
  const absl::StatusOr<core::Lsn> lsn = RunAndWait(engine, [&](core::Transaction& tx) -> absl::Status {
    state.SetNodeUse(SpaceUse::kMetadata);
    RETURN_IF_ERROR(state.allocator().Format(tx));
    ASSIGN_OR_RETURN(header.root_block, state.AllocateNode(tx, kHeaderBlock));
    ASSIGN_OR_RETURN(std::byte* const bytes, tx.Modify(kHeaderBlock));
    EncodeHeader(header, bytes);
    RETURN_IF_ERROR(state.tree().Format(tx, header.root_block));
    RETURN_IF_ERROR(RewriteHeaderCopy(tx, header));
    Inode root;
    root.mode = S_IFDIR | (options.root_mode & 07777);
    root.nlink = 2;
    root.uid = options.root_uid;
    root.gid = options.root_gid;
    root.atime_ns = root.mtime_ns = root.ctime_ns = root.btime_ns = header.created_ns;
    root.parent = kRootIno;
    return PutInode(state, tx, kRootIno, root);
  });
  RETURN_IF_ERROR(lsn.status());
  return WaitUntilDurable(engine, *lsn);
}

absl::StatusOr<std::unique_ptr<Volume>> Volume::Open(core::Engine& engine, std::vector<std::string>* warnings) {
  return VolumeImpl::Open(engine, kEveryHashBit, warnings);
}

absl::StatusOr<std::unique_ptr<VolumeImpl>> VolumeImpl::Open(core::Engine& engine, uint64_t hash_mask,
                                                             std::vector<std::string>* warnings) {
  const bool read_only = engine.stats().read_only;
  core::Block header_block = kHeaderBlock;
  absl::StatusOr<VolumeHeader> header = HeaderIn(engine, kHeaderBlock);
  // A version from the future is no damage.
  if (absl::IsDataLoss(header.status()) || absl::IsInvalidArgument(header.status())) {
    const absl::Status why = header.status();
    header_block = HeaderCopyBlock(engine.capacity_blocks());
    header = HeaderIn(engine, header_block);
    if (!header.ok()) return why;
    if (!read_only) {
      RETURN_IF_ERROR(RestoreHeader(engine, *header, header_block));
      header_block = kHeaderBlock;
    }
    if (warnings != nullptr) {
      warnings->push_back(absl::StrCat("The volume header is lost (", why.message(), "); its copy is used",
                                       read_only ? "" : ", and the header written anew"));
    }
  }
  RETURN_IF_ERROR(header.status());
  if ((header->flags & kHeaderGathering) != 0) {
    return absl::FailedPreconditionError("A repair of the volume was interrupted: stagefs fsck -y has to finish it");
  }
  std::unique_ptr<VolumeImpl> volume(new VolumeImpl(engine, *header, header_block, hash_mask));
  if (!read_only) volume->remover_.StartRecovery();
  return volume;
}

}  // namespace stagefs::volume

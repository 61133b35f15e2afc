// Making and opening volumes.

#include "fs/volume/volume.h"

#include <sys/stat.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/volume/format.h"
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

absl::StatusOr<std::unique_ptr<Volume>> Volume::Open(core::Engine& engine) {
  return VolumeImpl::Open(engine, kEveryHashBit);
}

absl::StatusOr<std::unique_ptr<VolumeImpl>> VolumeImpl::Open(core::Engine& engine, uint64_t hash_mask) {
  std::optional<VolumeHeader> header;
  RETURN_IF_ERROR(RunAndWait(engine, [&](core::Transaction& tx) -> absl::Status {
                    ASSIGN_OR_RETURN(const std::byte* const bytes, tx.Read(kHeaderBlock));
                    ASSIGN_OR_RETURN(header, DecodeHeader(bytes));
                    return absl::OkStatus();
                  }).status());
  if (header->capacity_blocks > engine.capacity_blocks()) {
    return absl::DataLossError(absl::StrCat("The volume has ", header->capacity_blocks, " blocks, the device below it ",
                                            engine.capacity_blocks()));
  }
  std::unique_ptr<VolumeImpl> volume(new VolumeImpl(engine, *header, hash_mask));
  const core::EngineStats stats = engine.stats();
  if (!stats.read_only) volume->remover_.StartRecovery();
  return volume;
}

}  // namespace stagefs::volume

#include "fs/volume/volume_impl.h"

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "fs/volume/directory_operations.h"
#include "fs/volume/errno.h"
#include "fs/volume/file_content.h"
#include "fs/volume/file_space.h"
#include "fs/volume/file_write.h"
#include "fs/volume/group_write.h"
#include "fs/volume/inode.h"
#include "fs/volume/volume_operation.h"
#include "fs/volume/xattr.h"
#include "sal/status_macros.h"

namespace stagefs::volume {
namespace {

// Lambdas may outlive what a string_view refers to.
std::string Own(absl::string_view text) { return std::string(text); }

absl::Status ChangeAttributes(VolumeState& state, Change& change, Ino ino, const AttributeChange& wanted,
                              Attributes* result) {
  ASSIGN_OR_RETURN(Inode inode, GetInode(state, change.tx, ino, ESTALE));
  if (wanted.size_bytes.has_value()) {
    if (IsDirectory(inode)) return ErrnoStatus(EISDIR);
    if (!IsRegular(inode)) return ErrnoStatus(EINVAL);
    if (*wanted.size_bytes < inode.size_bytes) state.SetNodeUse(SpaceUse::kFreeing);
    RETURN_IF_ERROR(SetSize(state, change, ino, &inode, *wanted.size_bytes));
    ClearSetIdBits(&inode);
    TouchContent(change, &inode);
  }
  if (wanted.uid.has_value()) inode.uid = *wanted.uid;
  if (wanted.gid.has_value()) inode.gid = *wanted.gid;
  if (wanted.uid.has_value() || wanted.gid.has_value()) ClearSetIdBits(&inode);
  if (wanted.mode.has_value()) inode.mode = (inode.mode & S_IFMT) | (*wanted.mode & 07777);
  if (wanted.atime_ns.has_value()) inode.atime_ns = *wanted.atime_ns;
  if (wanted.mtime_ns.has_value()) inode.mtime_ns = *wanted.mtime_ns;
  inode.ctime_ns = wanted.ctime_ns.value_or(change.now_ns);
  *result = ToAttributes(ino, inode);
  return PutInode(state, change.tx, ino, inode);
}

absl::Status OpenInode(VolumeState& state, Change& change, Ino ino, bool truncate, Attributes* result) {
  ASSIGN_OR_RETURN(Inode inode, GetInode(state, change.tx, ino, ESTALE));
  if (truncate && IsRegular(inode)) {
    state.SetNodeUse(SpaceUse::kFreeing);
    RETURN_IF_ERROR(SetSize(state, change, ino, &inode, 0));
    ClearSetIdBits(&inode);
    TouchContent(change, &inode);
    RETURN_IF_ERROR(PutInode(state, change.tx, ino, inode));
  }
  change.tx.OnAccept([&state, ino](core::Lsn) { state.AddOpener(ino); });
  *result = ToAttributes(ino, inode);
  return absl::OkStatus();
}

absl::Status ReadTarget(VolumeState& state, Change& change, Ino ino, std::string* result) {
  ASSIGN_OR_RETURN(const Inode inode, GetInode(state, change.tx, ino, ESTALE));
  if (!S_ISLNK(inode.mode)) return ErrnoStatus(EINVAL, "Not a symbolic link");
  if (inode.size_bytes > kMaxSymlinkBytes) return absl::DataLossError("A symbolic link is too long");
  result->resize(inode.size_bytes);
  return ReadContent(state, change.tx, ino, inode, 0,
                     absl::MakeSpan(reinterpret_cast<std::byte*>(result->data()), result->size()))
      .status();
}

absl::Status FillStatFs(VolumeState& state, Change& change, StatFs* result) {
  ASSIGN_OR_RETURN(const VolumeHeader header, state.Header(change.tx));
  // What the volume itself always needs is not counted at all.
  result->total_blocks = state.allocator().layout().usable_blocks();
  ASSIGN_OR_RETURN(result->free_blocks, state.allocator().FreeBlocks(change.tx));
  const uint64_t reserve = state.allocator().reserve_blocks();
  result->available_blocks = result->free_blocks > reserve ? result->free_blocks - reserve : 0;
  result->inodes = header.inode_count;
  return absl::OkStatus();
}

}  // namespace

VolumeImpl::VolumeImpl(core::Engine& engine, const VolumeHeader& header, core::Block header_block, uint64_t hash_mask)
    : state_(engine, header.capacity_blocks, header.hash_seed, hash_mask, header_block),
      remover_(state_),
      staging_turn_(engine.environment()),
      group_limits_(GroupLimits::For(engine.stats())),
      released_(engine.environment().NewEvent()) {}

VolumeImpl::~VolumeImpl() { Close(); }

void VolumeImpl::Close() {
  bool wait = false;
  {
    MutexLock lock(&mutex_);
    closing_ = true;
    wait = releases_ > 0;
  }
  if (wait) {
    released_->Wait();
    MutexLock lock(&mutex_);  // the one that called Set() is out of it now
  }
  remover_.Stop();
}

void VolumeImpl::Lookup(Ino directory, absl::string_view name, Callback<Attributes> done) {
  RunOperation<Attributes>(
      state_, remover_,
      [this, directory, name = Own(name)](Change& change, Attributes* result) {
        return LookupName(state_, change, directory, name, result);
      },
      std::move(done));
}

void VolumeImpl::Create(Ino directory, absl::string_view name, const NewFile& file, bool open,
                        Callback<Attributes> done) {
  if (S_ISDIR(file.mode) || S_ISLNK(file.mode)) return std::move(done)(ErrnoStatus(EINVAL, "Not a type to create"));
  NewFile typed = file;
  if ((typed.mode & S_IFMT) == 0) typed.mode |= S_IFREG;
  RunOperation<Attributes>(
      state_, remover_,
      [this, directory, name = Own(name), typed, open](Change& change, Attributes* result) {
        return CreateName(state_, change, directory, name, typed, "", open, result);
      },
      std::move(done));
}

void VolumeImpl::MakeDirectory(Ino directory, absl::string_view name, const NewFile& file, Callback<Attributes> done) {
  RunOperation<Attributes>(
      state_, remover_,
      [this, directory, name = Own(name), file](Change& change, Attributes* result) {
        return CreateDirectory(state_, change, directory, name, file, result);
      },
      std::move(done));
}

void VolumeImpl::MakeSymlink(Ino directory, absl::string_view name, absl::string_view target, const NewFile& file,
                             Callback<Attributes> done) {
  NewFile link = file;
  link.mode = S_IFLNK | 0777;
  RunOperation<Attributes>(
      state_, remover_,
      [this, directory, name = Own(name), target = Own(target), link](Change& change, Attributes* result) {
        return CreateName(state_, change, directory, name, link, target, /*open=*/false, result);
      },
      std::move(done));
}

void VolumeImpl::CreateUnnamed(const NewFile& file, Callback<Attributes> done) {
  NewFile regular = file;
  regular.mode = (file.mode & ~uint32_t{S_IFMT}) | S_IFREG;
  RunOperation<Attributes>(
      state_, remover_,
      [this, regular](Change& change, Attributes* result) {
        return CreateWithoutName(state_, change, regular, result);
      },
      std::move(done));
}

void VolumeImpl::Link(Ino ino, Ino directory, absl::string_view name, Callback<Attributes> done) {
  RunOperation<Attributes>(
      state_, remover_,
      [this, ino, directory, name = Own(name)](Change& change, Attributes* result) {
        return LinkName(state_, change, ino, directory, name, result);
      },
      std::move(done));
}

void VolumeImpl::Unlink(Ino directory, absl::string_view name, StatusCallback done) {
  RunOperation<Nothing>(
      state_, remover_,
      [this, directory, name = Own(name)](Change& change, Nothing*) {
        return UnlinkName(state_, change, directory, name);
      },
      std::move(done));
}

void VolumeImpl::RemoveDirectory(Ino directory, absl::string_view name, StatusCallback done) {
  RunOperation<Nothing>(
      state_, remover_,
      [this, directory, name = Own(name)](Change& change, Nothing*) {
        return RemoveDirectoryName(state_, change, directory, name);
      },
      std::move(done));
}

void VolumeImpl::Rename(Ino directory, absl::string_view name, Ino new_directory, absl::string_view new_name,
                        uint32_t flags, StatusCallback done) {
  RunOperation<Nothing>(
      state_, remover_,
      [this, directory, name = Own(name), new_directory, new_name = Own(new_name), flags](Change& change, Nothing*) {
        return RenameName(state_, change, directory, name, new_directory, new_name, flags);
      },
      std::move(done));
}

void VolumeImpl::ReadSymlink(Ino ino, Callback<std::string> done) {
  RunOperation<std::string>(
      state_, remover_,
      [this, ino](Change& change, std::string* result) { return ReadTarget(state_, change, ino, result); },
      std::move(done));
}

void VolumeImpl::ReadDirectory(Ino directory, uint64_t cookie, uint32_t max_entries, bool with_attributes,
                               Callback<std::vector<DirectoryEntry>> done) {
  RunOperation<std::vector<DirectoryEntry>>(
      state_, remover_,
      [=, this](Change& change, std::vector<DirectoryEntry>* result) {
        return ListDirectory(state_, change, directory, cookie, max_entries, with_attributes, result);
      },
      std::move(done));
}

void VolumeImpl::GetAttributes(Ino ino, Callback<Attributes> done) {
  RunOperation<Attributes>(
      state_, remover_,
      [this, ino](Change& change, Attributes* result) -> absl::Status {
        ASSIGN_OR_RETURN(const Inode inode, GetInode(state_, change.tx, ino, ESTALE));
        *result = ToAttributes(ino, inode);
        return absl::OkStatus();
      },
      std::move(done));
}

void VolumeImpl::SetAttributes(Ino ino, const AttributeChange& wanted, Callback<Attributes> done) {
  RunOperation<Attributes>(
      state_, remover_,
      [this, ino, wanted](Change& change, Attributes* result) {
        return ChangeAttributes(state_, change, ino, wanted, result);
      },
      std::move(done));
}

void VolumeImpl::Open(Ino ino, bool truncate, Callback<Attributes> done) {
  RunOperation<Attributes>(
      state_, remover_,
      [this, ino, truncate](Change& change, Attributes* result) {
        return OpenInode(state_, change, ino, truncate, result);
      },
      std::move(done));
}

void VolumeImpl::Release(Ino ino) {
  {
    MutexLock lock(&mutex_);
    ++releases_;
  }
  RunOperation<Nothing>(
      state_, remover_,
      [this, ino](Change& change, Nothing*) {
        change.tx.OnAccept([this, ino](core::Lsn) { state_.DropOpener(ino); });
        return absl::OkStatus();
      },
      [this](const absl::Status&) {
        MutexLock lock(&mutex_);
        if (--releases_ == 0 && closing_) released_->Set();
      });
}

void VolumeImpl::Read(Ino ino, uint64_t offset, absl::Span<std::byte> destination, Callback<size_t> done) {
  RunOperation<size_t>(
      state_, remover_,
      [this, ino, offset, destination](Change& change, size_t* result) -> absl::Status {
        ASSIGN_OR_RETURN(const Inode inode, GetFile(state_, change.tx, ino));
        ASSIGN_OR_RETURN(*result, ReadContent(state_, change.tx, ino, inode, offset, destination));
        return absl::OkStatus();
      },
      std::move(done));
}

void VolumeImpl::Write(Ino ino, uint64_t offset, absl::Span<const std::byte> bytes, bool append,
                       Callback<size_t> done) {
  if (bytes.size() > kMaxWriteBytes) return std::move(done)(ErrnoStatus(EINVAL, "Too large a write for one change"));
  if (!append && (offset > kMaxFileBytes || bytes.size() > kMaxFileBytes - offset)) {
    return std::move(done)(ErrnoStatus(EFBIG));
  }
  WriteOperation::Start(state_, remover_, ino, offset, bytes, append, std::move(done));
}

void VolumeImpl::WriteGroup(std::vector<ContentChange> parts, Callback<GroupResult> done) {
  GroupWrite::Start(state_, remover_, staging_turn_, group_limits_, std::move(parts), std::move(done));
}

void VolumeImpl::Allocate(Ino ino, int mode, uint64_t offset, uint64_t length, StatusCallback done) {
  const absl::Status checked = CheckAllocate(mode, offset, length);
  if (!checked.ok()) return std::move(done)(checked);
  AllocateFrom(ino, mode, offset, offset + length, std::move(done));
}

void VolumeImpl::AllocateFrom(Ino ino, int mode, uint64_t offset, uint64_t end, StatusCallback done) {
  RunOperation<uint64_t>(
      state_, remover_,
      [=, this](Change& change, uint64_t* next) {
        return AllocateStep(state_, change, ino, mode, offset, end, next);
      },
      [=, this, done = std::move(done)](absl::StatusOr<uint64_t> next) mutable {
        if (!next.ok() || *next >= end) return std::move(done)(next.status());
        // Through the executor: the steps of a large range must not pile up on the stack.
        engine().environment().Post([=, this, from = *next, done = std::move(done)]() mutable {
          AllocateFrom(ino, mode, from, end, std::move(done));
        });
      });
}

void VolumeImpl::Seek(Ino ino, uint64_t offset, int whence, Callback<uint64_t> done) {
  RunOperation<uint64_t>(
      state_, remover_,
      [=, this](Change& change, uint64_t* result) {
        return SeekContent(state_, change, ino, offset, whence, result);
      },
      std::move(done));
}

void VolumeImpl::SetXattr(Ino ino, absl::string_view name, absl::string_view value, int flags, StatusCallback done) {
  RunOperation<Nothing>(
      state_, remover_,
      [this, ino, name = Own(name), value = Own(value), flags](Change& change, Nothing*) {
        return SetXattrValue(state_, change, ino, name, value, flags);
      },
      std::move(done));
}

void VolumeImpl::GetXattr(Ino ino, absl::string_view name, Callback<std::string> done) {
  RunOperation<std::string>(
      state_, remover_,
      [this, ino, name = Own(name)](Change& change, std::string* result) {
        return GetXattrValue(state_, change, ino, name, result);
      },
      std::move(done));
}

void VolumeImpl::ListXattrs(Ino ino, Callback<std::string> done) {
  RunOperation<std::string>(
      state_, remover_,
      [this, ino](Change& change, std::string* result) { return ListXattrNames(state_, change, ino, result); },
      std::move(done));
}

void VolumeImpl::RemoveXattr(Ino ino, absl::string_view name, StatusCallback done) {
  RunOperation<Nothing>(
      state_, remover_,
      [this, ino, name = Own(name)](Change& change, Nothing*) { return RemoveXattrValue(state_, change, ino, name); },
      std::move(done));
}

void VolumeImpl::GetStatFs(Callback<StatFs> done) {
  RunOperation<StatFs>(
      state_, remover_, [this](Change& change, StatFs* result) { return FillStatFs(state_, change, result); },
      std::move(done));
}

void VolumeImpl::Sync(StatusCallback done) {
  engine().WhenDurable(engine().accepted_lsn(), std::move(done));
}

}  // namespace stagefs::volume

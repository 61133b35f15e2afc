// What a client that is known may ask for.

#include <errno.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "core/types.h"
#include "fs/dsa/session.h"
#include "fs/dsa/session_later.h"
#include "fs/volume/errno.h"

namespace stagefs::dsa {
namespace {

using volume::ErrnoStatus;

constexpr auto kRelaxed = std::memory_order_relaxed;

FileAttributes ToWire(const volume::Attributes& from) {
  return {.ino = from.ino,
          .size_bytes = from.size_bytes,
          .allocated_bytes = from.allocated_bytes,
          .atime_ns = from.atime_ns,
          .mtime_ns = from.mtime_ns,
          .ctime_ns = from.ctime_ns,
          .mode = from.mode,
          .nlink = from.nlink,
          .uid = from.uid,
          .gid = from.gid};
}

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

absl::Status NoSuch(const char* what) { return ErrnoStatus(EBADF, absl::StrCat("no such ", what)); }
absl::Status TooMany(int error, size_t limit, const char* what) {
  return ErrnoStatus(error, absl::StrCat("this client has ", limit, " ", what, " already, which is the most"));
}

absl::Status CheckRange(const RangeRequest& range) {
  if (range.length == 0 || range.offset % core::kBlockBytes != 0 || range.length % core::kBlockBytes != 0) {
    return ErrnoStatus(EINVAL, "not whole pages");
  }
  if (range.offset > volume::kMaxFileBytes || range.length > volume::kMaxFileBytes - range.offset) {
    return ErrnoStatus(EINVAL, "beyond the greatest size of a file");
  }
  return absl::OkStatus();
}

}  // namespace

void Session::Do(const Asked& asked, const HelloRequest&) { Refuse(asked, ErrnoStatus(EINVAL, "a second hello")); }
void Session::Do(const Asked& asked, const Proof&) { Refuse(asked, ErrnoStatus(EINVAL, "nobody asked for a proof")); }

void Session::Do(const Asked& asked, const HandleMessage& message) {
  switch (message.type) {
    case ControlType::kStat:
      return Stat(asked, message.request.handle);
    case ControlType::kClose:
      return CloseFile(asked, message.request.handle);
    case ControlType::kDeregister:
      return Deregister(asked, message.request.handle);
    case ControlType::kDestroyQueue:
      return DestroyQueue(asked, message.request.handle);
    default:
      return Unmap(asked, message.request.handle);
  }
}

void Session::Do(const Asked& asked, const RangeMessage& message) {
  if (absl::Status status = CheckRange(message.request); !status.ok()) return Refuse(asked, status);
  if (message.type == ControlType::kMap) return Map(asked, message.request);
  Populate(asked, message.request);
}

// --- Files ---

void Session::Do(const Asked& asked, const OpenMessage& message) {
  OpenPathRequest request = {.identity = peer_.identity,
                             .path = message.path,
                             .flags = message.request.flags,
                             .mode = message.request.mode,
                             .read_only = services_.read_only};
  auto opened = Later<absl::StatusOr<OpenedFile>>(
      absl::CancelledError(""), [this, asked](absl::StatusOr<OpenedFile> file) { Opened(asked, std::move(file)); });
  OpenPath(services_.volume, services_.sharing, [loop = &services_.loop](EventLoop::Task task) { loop->Post(std::move(task)); },
           std::move(request), std::move(opened));
}

void Session::Opened(const Asked& asked, absl::StatusOr<OpenedFile> opened) {
  if (ended()) return;  // the file closes itself
  if (!opened.ok()) return Refuse(asked, opened.status());
  OpenReply reply = {};
  reply.file = handles_->files.Add(std::move(opened->file), services_.quotas.files);
  if (reply.file == 0) return Refuse(asked, TooMany(EMFILE, services_.quotas.files, "files"));
  ++files_;
  services_.counters.files.fetch_add(1, kRelaxed);
  reply.attributes = ToWire(opened->attributes);
  Reply(asked, BytesOf(reply));
}

void Session::Stat(const Asked& asked, uint32_t handle) {
  const std::shared_ptr<OpenFile> file = handles_->files.Find(handle);
  if (file == nullptr) return Refuse(asked, NoSuch("file"));
  services_.volume.GetAttributes(
      file->ino(), Later<absl::StatusOr<volume::Attributes>>(
                       absl::CancelledError(""), [this, asked, file](absl::StatusOr<volume::Attributes> attributes) {
                         if (!attributes.ok()) return Refuse(asked, attributes.status());
                         Reply(asked, BytesOf(ToWire(*attributes)));
                       }));
}

void Session::CloseFile(const Asked& asked, uint32_t handle) {
  if (handles_->files.Remove(handle) == nullptr) return Refuse(asked, NoSuch("file"));
  --files_;
  services_.counters.files.fetch_sub(1, kRelaxed);
  Reply(asked);
}

// --- Memory ---

void Session::Do(const Asked& asked, const RegisterRequest& request) {
  if (request.size_bytes == 0 || request.address + (request.size_bytes - 1) < request.address) {
    return Refuse(asked, ErrnoStatus(EINVAL, "the memory has no bytes, or more than there are"));
  }
  if (request.access == 0 || (request.access & ~(kMayRead | kMayWrite)) != 0) {
    return Refuse(asked, ErrnoStatus(EINVAL, "access is neither to read nor to write"));
  }
  HandleReply reply = {};
  reply.handle = handles_->memories.Add(
      std::make_shared<Memory>(request.key, request.address, request.size_bytes, request.access),
      services_.quotas.memories);
  if (reply.handle == 0) return Refuse(asked, TooMany(ENOMEM, services_.quotas.memories, "memories"));
  ++memories_;
  memory_bytes_ += request.size_bytes;
  services_.counters.memories.fetch_add(1, kRelaxed);
  services_.counters.memory_bytes.fetch_add(request.size_bytes, kRelaxed);
  Reply(asked, BytesOf(reply));
}

// Answered when no work uses it any more: then it is the client's alone.
void Session::Deregister(const Asked& asked, uint32_t handle) {
  std::shared_ptr<Memory> memory = handles_->memories.Remove(handle);
  if (memory == nullptr) return Refuse(asked, NoSuch("memory"));
  --memories_;
  memory_bytes_ -= memory->size_bytes();
  services_.counters.memories.fetch_sub(1, kRelaxed);
  services_.counters.memory_bytes.fetch_sub(memory->size_bytes(), kRelaxed);
  auto gone = Later<bool>(true, [this, asked](bool) { Reply(asked); });
  memory->SetGone([gone = std::move(gone)]() mutable { std::move(gone)(true); });
}

// --- Queues ---

void Session::Do(const Asked& asked, const CreateQueueMessage& message) {
  const uint32_t depth = message.request.depth;
  if (depth == 0 || depth > kMaxDepth) return Refuse(asked, ErrnoStatus(EINVAL, "a queue's depth is 1 to 1024"));
  data_path_->AddQueue(depth, message.name,
                       Later<absl::StatusOr<QueueGrant>>(
                           absl::CancelledError(""), [this, asked](absl::StatusOr<QueueGrant> grant) {
                             QueueCreated(asked, std::move(grant));
                           }));
}

void Session::QueueCreated(const Asked& asked, absl::StatusOr<QueueGrant> grant) {
  if (!grant.ok()) return Refuse(asked, grant.status());
  std::vector<OwnedFd> descriptors;
  for (const int descriptor : grant->descriptors) {
    if (descriptor >= 0) descriptors.emplace_back(descriptor);
  }
  if (ended()) return;  // the data path has dropped it, or will
  ++queues_;
  services_.counters.queues.fetch_add(1, kRelaxed);
  const CreateQueueReply reply = {grant->queue, 0, grant->token};
  std::vector<std::byte> body;
  Append(&body, reply);
  body.insert(body.end(), grant->name.begin(), grant->name.end());
  Reply(asked, body, std::move(descriptors));
}

void Session::DestroyQueue(const Asked& asked, uint32_t handle) {
  data_path_->RemoveQueue(handle, Later<absl::Status>(absl::CancelledError(""), [this, asked](absl::Status status) {
                            if (ended()) return;
                            if (!status.ok()) return Refuse(asked, status);
                            --queues_;
                            services_.counters.queues.fetch_sub(1, kRelaxed);
                            Reply(asked);
                          }));
}

// --- Mappings ---

void Session::Map(const Asked& asked, const RangeRequest& range) {
  if (!MayMap()) return Refuse(asked, ErrnoStatus(EOPNOTSUPP, "files are mapped on the server's machine only"));
  const std::shared_ptr<OpenFile> file = handles_->files.Find(range.handle);
  if (file == nullptr) return Refuse(asked, NoSuch("file"));
  if (!file->reads()) return Refuse(asked, ErrnoStatus(EACCES, "the file is not open for reading"));
  if (mappings_.size() >= services_.quotas.mappings) {
    return Refuse(asked, TooMany(ENOMEM, services_.quotas.mappings, "mappings"));
  }
  const absl::StatusOr<int> mapped = services_.mappings->Map(file->ino(), user(), range.offset, range.length);
  if (!mapped.ok()) return Refuse(asked, mapped.status());
  std::vector<OwnedFd> descriptors;
  descriptors.emplace_back(*mapped);
  while (next_mapping_ == 0 || mappings_.contains(next_mapping_)) ++next_mapping_;
  const HandleReply reply = {next_mapping_++, 0};
  mappings_.emplace(reply.handle, Mapping{file, range.offset, range.length});
  services_.counters.mappings.fetch_add(1, kRelaxed);
  Reply(asked, BytesOf(reply), std::move(descriptors));
}

void Session::Populate(const Asked& asked, const RangeRequest& range) {
  const auto found = mappings_.find(range.handle);
  if (found == mappings_.end()) return Refuse(asked, NoSuch("mapping"));
  const Mapping& mapping = found->second;
  if (range.offset < mapping.offset || range.offset - mapping.offset > mapping.length ||
      range.length > mapping.length - (range.offset - mapping.offset)) {
    return Refuse(asked, ErrnoStatus(EINVAL, "beyond the mapping"));
  }
  services_.mappings->Populate(
      mapping.file->ino(), user(), range.offset, range.length,
      Later<absl::Status>(absl::CancelledError(""), [this, asked, file = mapping.file](absl::Status status) {
        if (!status.ok()) return Refuse(asked, status);
        Reply(asked);
      }));
}

void Session::Unmap(const Asked& asked, uint32_t handle) {
  const auto found = mappings_.find(handle);
  if (found == mappings_.end()) return Refuse(asked, NoSuch("mapping"));
  const std::shared_ptr<OpenFile> file = std::move(found->second.file);
  mappings_.erase(found);
  services_.counters.mappings.fetch_sub(1, kRelaxed);
  services_.mappings->Unmap(file->ino(), user());
  Reply(asked);
}

}  // namespace stagefs::dsa

// Handlers for attributes: stat, chmod, chown, truncate, times, extended attributes, statfs.

#include <errno.h>
#include <sys/stat.h>

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "fs/fuse/reply.h"
#include "fs/fuse/serving.h"

namespace stagefs::fuse {
namespace {

using volume::Attributes;

volume::Callback<Attributes> ReplyWithAttributes(Reply reply) {
  return [reply = std::move(reply)](absl::StatusOr<Attributes> attributes) mutable {
    attributes.ok() ? reply.Attributes(*attributes) : reply.Status(attributes.status());
  };
}

void Getattr(fuse_req_t request, fuse_ino_t ino, fuse_file_info*) {
  ServingOf(request).volume.GetAttributes(ino, ReplyWithAttributes(Reply(request)));
}

volume::AttributeChange ChangeOf(const struct stat& wanted, int which) {
  volume::AttributeChange change;
  if (which & FUSE_SET_ATTR_MODE) change.mode = wanted.st_mode & 07777;
  if (which & FUSE_SET_ATTR_UID) change.uid = wanted.st_uid;
  if (which & FUSE_SET_ATTR_GID) change.gid = wanted.st_gid;
  if (which & FUSE_SET_ATTR_SIZE) change.size_bytes = static_cast<uint64_t>(wanted.st_size);
  if (which & FUSE_SET_ATTR_ATIME) change.atime_ns = ToNs(wanted.st_atim);
  if (which & FUSE_SET_ATTR_MTIME) change.mtime_ns = ToNs(wanted.st_mtim);
  if (which & FUSE_SET_ATTR_CTIME) change.ctime_ns = ToNs(wanted.st_ctim);
  if (which & FUSE_SET_ATTR_ATIME_NOW) change.atime_ns = NowNs();
  if (which & FUSE_SET_ATTR_MTIME_NOW) change.mtime_ns = NowNs();
  return change;
}

// Its caller has been counted as a writer.
void Truncate(Serving& serving, fuse_ino_t ino, const volume::AttributeChange& change, Reply reply) {
  serving.volume.SetAttributes(
      ino, change,
      [&serving, ino, size_bytes = *change.size_bytes,
       reply = std::move(reply)](absl::StatusOr<Attributes> changed) mutable {
        CountClose(serving, ino, /*writes=*/true);
        if (!changed.ok()) return reply.Status(changed.status());
        AfterChange(serving, ino, size_bytes, 0, [reply = std::move(reply), attributes = *changed]() mutable {
          reply.Attributes(attributes);
        });
      });
}

void SetAttributes(Serving& serving, fuse_ino_t ino, const volume::AttributeChange& change, Reply reply) {
  if (change.size_bytes.has_value()) return Truncate(serving, ino, change, std::move(reply));
  serving.volume.SetAttributes(ino, change, ReplyWithAttributes(std::move(reply)));
}

void Setattr(fuse_req_t request, fuse_ino_t ino, struct stat* wanted, int which, fuse_file_info*) {
  Serving& serving = ServingOf(request);
  volume::AttributeChange change = ChangeOf(*wanted, which);
  if (change.mode.has_value()) serving.privileges.Forget(ino);
  Reply reply(request);
  reply.KeepNoAttributes();
  // A writer for as long as it takes, so that no direct writer who shares with nobody comes in between.
  const bool truncates = change.size_bytes.has_value();
  const absl::Status counted = truncates ? CountOpener(serving, ino, /*writes=*/true) : absl::OkStatus();
  if (!counted.ok()) return reply.Status(counted);
  const bool takes_privileges = change.uid.has_value() || change.gid.has_value() || truncates;
  // A chmod in the same request says what the bits are to be.
  if (change.mode.has_value() || !takes_privileges) {
    return SetAttributes(serving, ino, change, std::move(reply));
  }
  serving.privileges.Drop(TransportOf(request), ino,
                          [&serving, ino, change, truncates, reply = std::move(reply)](absl::Status status) mutable {
                            if (status.ok()) return SetAttributes(serving, ino, change, std::move(reply));
                            if (truncates) CountClose(serving, ino, /*writes=*/true);
                            reply.Status(status);
                          });
}

// ACLs and the like would have to be obeyed, not only stored.
bool IsRefusedName(absl::string_view name) { return absl::StartsWith(name, "system."); }

void Setxattr(fuse_req_t request, fuse_ino_t ino, const char* name, const char* value, size_t size, int flags) {
  Serving& serving = ServingOf(request);
  if (IsRefusedName(name)) return Reply(request).Error(EOPNOTSUPP);
  if (absl::string_view(name) == kCapabilityXattr) serving.privileges.Forget(ino);
  serving.volume.SetXattr(ino, name, absl::string_view(value, size), flags,
                          [reply = Reply(request)](absl::Status status) mutable { reply.Status(status); });
}

void Getxattr(fuse_req_t request, fuse_ino_t ino, const char* name, size_t size) {
  Serving& serving = ServingOf(request);
  if (IsRefusedName(name)) {
    if (ino != volume::kRootIno || absl::string_view(name) != kStatisticsXattr || !serving.options.statistics) {
      return Reply(request).Error(EOPNOTSUPP);
    }
    const std::string text = serving.options.statistics(TransportOf(request).stats());
    return Reply(request).Xattr(text, size);
  }
  serving.volume.GetXattr(ino, name, [reply = Reply(request), size](absl::StatusOr<std::string> value) mutable {
    value.ok() ? reply.Xattr(*value, size) : reply.Status(value.status());
  });
}

void Listxattr(fuse_req_t request, fuse_ino_t ino, size_t size) {
  ServingOf(request).volume.ListXattrs(ino, [reply = Reply(request), size](absl::StatusOr<std::string> names) mutable {
    names.ok() ? reply.Xattr(*names, size) : reply.Status(names.status());
  });
}

void Removexattr(fuse_req_t request, fuse_ino_t ino, const char* name) {
  if (IsRefusedName(name)) return Reply(request).Error(EOPNOTSUPP);
  ServingOf(request).volume.RemoveXattr(
      ino, name, [reply = Reply(request)](absl::Status status) mutable { reply.Status(status); });
}

void Statfs(fuse_req_t request, fuse_ino_t) {
  ServingOf(request).volume.GetStatFs([reply = Reply(request)](absl::StatusOr<volume::StatFs> numbers) mutable {
    numbers.ok() ? reply.StatFs(*numbers) : reply.Status(numbers.status());
  });
}

}  // namespace

void AddAttributeHandlers(fuse_lowlevel_ops* operations) {
  operations->getattr = Getattr;
  operations->setattr = Setattr;
  operations->setxattr = Setxattr;
  operations->getxattr = Getxattr;
  operations->listxattr = Listxattr;
  operations->removexattr = Removexattr;
  operations->statfs = Statfs;
}

}  // namespace stagefs::fuse

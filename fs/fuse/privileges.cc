#include "fs/fuse/privileges.h"

#include <errno.h>
#include <sys/stat.h>

#include <utility>

#include "fs/volume/errno.h"

namespace stagefs::fuse {

uint32_t ModeWithoutPrivileges(uint32_t mode) {
  if (!S_ISREG(mode)) return mode;
  uint32_t drop = S_ISUID;
  if (mode & S_IXGRP) drop |= S_ISGID;
  return mode & ~drop;
}

void Privileges::Drop(Transport& transport, volume::Ino ino, volume::StatusCallback done) {
  if (Slot(ino).load(std::memory_order_acquire) == ino) return std::move(done)(absl::OkStatus());
  // Looking first: removing what is not there would still be a transaction.
  volume_.GetXattr(
      ino, kCapabilityXattr,
      [this, &transport, ino, done = std::move(done)](absl::StatusOr<std::string> value) mutable {
        if (!value.ok()) {
          if (volume::ToErrno(value.status()) != ENODATA) return std::move(done)(value.status());
          return DropModeBits(transport, ino, std::move(done));
        }
        volume_.RemoveXattr(
            ino, kCapabilityXattr,
            [this, &transport, ino, done = std::move(done)](absl::Status status) mutable {
              if (!status.ok()) return std::move(done)(status);
              DropModeBits(transport, ino, std::move(done));
            });
      });
}

void Privileges::DropModeBits(Transport& transport, volume::Ino ino, volume::StatusCallback done) {
  volume_.GetAttributes(ino, [this, &transport, ino,
                              done = std::move(done)](absl::StatusOr<volume::Attributes> attributes) mutable {
    if (!attributes.ok()) return std::move(done)(attributes.status());
    const uint32_t mode = ModeWithoutPrivileges(attributes->mode);
    if (mode == attributes->mode) {
      Slot(ino).store(ino, std::memory_order_release);
      return std::move(done)(absl::OkStatus());
    }
    volume::AttributeChange change;
    change.mode = mode & 07777;
    volume_.SetAttributes(
        ino, change, [&transport, ino, done = std::move(done)](absl::StatusOr<volume::Attributes> changed) mutable {
          if (changed.ok()) transport.InvalidateAttributes(ino);
          std::move(done)(changed.status());
        });
  });
}

}  // namespace stagefs::fuse

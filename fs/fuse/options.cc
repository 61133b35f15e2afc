#include "fs/fuse/options.h"

#include <sys/mount.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "sal/status_macros.h"

namespace stagefs::fuse {
namespace {

absl::Status TakeNumber(absl::string_view name, absl::string_view value, uint32_t low, uint32_t high, uint32_t* out) {
  uint32_t number = 0;
  if (!absl::SimpleAtoi(value, &number) || number < low || number > high) {
    return absl::InvalidArgumentError(
        absl::StrCat("mount option ", name, "=", value, ": a number from ", low, " to ", high, " is expected"));
  }
  *out = number;
  return absl::OkStatus();
}

// The options that take a value, or that do more than set a flag of mount(2).
std::vector<ExtraOption> OwnOptions(MountOptions* options) {
  return {
      {"cache", "MODE", "writethrough (default), writeback (faster, order is the kernel's) or none",
       [options](absl::string_view value) {
         if (value == "writethrough") {
           options->cache = CacheMode::kWriteThrough;
         } else if (value == "writeback") {
           options->cache = CacheMode::kWriteBack;
         } else if (value == "none") {
           options->cache = CacheMode::kNone;
         } else {
           return absl::InvalidArgumentError(
               absl::StrCat("mount option cache=", value, ": writethrough, writeback or none is expected"));
         }
         return absl::OkStatus();
       }},
      {"transport", "WAY", "how requests come: uring (over io_uring), dev (/dev/fuse), or auto (default: uring if possible)",
       [options](absl::string_view value) {
         if (value == "auto") {
           options->transport = TransportChoice::kAuto;
         } else if (value == "uring") {
           options->transport = TransportChoice::kUring;
         } else if (value == "dev") {
           options->transport = TransportChoice::kDevice;
         } else {
           return absl::InvalidArgumentError(
               absl::StrCat("mount option transport=", value, ": auto, uring or dev is expected"));
         }
         return absl::OkStatus();
       }},
      {"threads", "N", "threads that serve requests on /dev/fuse (default: CPUs, 2 to 16)",
       [options](absl::string_view value) { return TakeNumber("threads", value, 1, 64, &options->threads); }},
      {"max_background", "N", "background requests the kernel keeps going (default 64)",
       [options](absl::string_view value) {
         return TakeNumber("max_background", value, 1, 65535, &options->max_background);
       }},
      {"read_ahead_kb", "N", "how far the kernel reads ahead, in KiB (default 4096; root only)",
       [options](absl::string_view value) {
         return TakeNumber("read_ahead_kb", value, 0, 1 << 20, &options->read_ahead_kb);
       }},
      {"allow_other", "", "let other users in (default for root)",
       [options](absl::string_view) {
         options->allow_other = true;
         return absl::OkStatus();
       }},
      {"noallow_other", "", "only for the user who mounts",
       [options](absl::string_view) {
         options->allow_other = false;
         return absl::OkStatus();
       }},
      {"default_permissions", "", "the kernel checks permissions (default)",
       [options](absl::string_view) {
         options->default_permissions = true;
         return absl::OkStatus();
       }},
      {"nodefault_permissions", "", "nobody checks permissions",
       [options](absl::string_view) {
         options->default_permissions = false;
         return absl::OkStatus();
       }},
      {"nofuseblk", "", "plain fuse type even on a block device: sync(2) and umount(8) then wait for nothing",
       [options](absl::string_view) {
         options->fuseblk = false;
         return absl::OkStatus();
       }},
  };
}

struct MountFlag {
  const char* name;
  uint64_t flag;
  bool set;
};

constexpr MountFlag kMountFlags[] = {
    {"ro", MS_RDONLY, true},        {"rw", MS_RDONLY, false},       {"nosuid", MS_NOSUID, true},
    {"suid", MS_NOSUID, false},     {"nodev", MS_NODEV, true},      {"dev", MS_NODEV, false},
    {"noexec", MS_NOEXEC, true},    {"exec", MS_NOEXEC, false},     {"sync", MS_SYNCHRONOUS, true},
    {"async", MS_SYNCHRONOUS, false}, {"dirsync", MS_DIRSYNC, true}, {"noatime", MS_NOATIME, true},
    {"atime", MS_NOATIME, false},   {"nodiratime", MS_NODIRATIME, true}, {"relatime", MS_RELATIME, true},
};

constexpr absl::string_view kIgnored[] = {"defaults", "auto",  "noauto", "nofail", "_netdev",
                                          "user",     "users", "nouser", "owner",  "group"};

bool IsIgnored(absl::string_view name) {
  for (absl::string_view ignored : kIgnored) {
    if (name == ignored) return true;
  }
  return absl::StartsWith(name, "x-") || absl::StartsWith(name, "X-") || name == "comment";
}

// "ro", "cache=MODE", "dsa[=ADDRESS]".
std::string Spelling(const ExtraOption& option) {
  if (option.value_hint.empty()) return option.name;
  if (option.value_is_optional) return absl::StrCat(option.name, "[=", option.value_hint, "]");
  return absl::StrCat(option.name, "=", option.value_hint);
}

std::string ListKnown(const std::vector<ExtraOption>& own, absl::Span<const ExtraOption> extra) {
  std::vector<std::string> names;
  for (const ExtraOption& option : own) names.push_back(Spelling(option));
  for (const ExtraOption& option : extra) names.push_back(Spelling(option));
  for (const MountFlag& flag : kMountFlags) names.push_back(flag.name);
  return absl::StrJoin(names, ", ");
}

absl::Status Take(const ExtraOption& option, bool has_value, absl::string_view value) {
  if (option.value_hint.empty() && has_value) {
    return absl::InvalidArgumentError(absl::StrCat("mount option ", option.name, " takes no value, but got =", value));
  }
  if (option.value_is_optional && has_value && value.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("mount option ", option.name, "=: a value is expected behind ="));
  }
  if (!option.value_hint.empty() && !option.value_is_optional && !has_value) {
    return absl::InvalidArgumentError(
        absl::StrCat("mount option ", option.name, " needs a value: ", option.name, "=", option.value_hint));
  }
  return option.take(value);
}

const ExtraOption* Find(absl::Span<const ExtraOption> options, absl::string_view name) {
  for (const ExtraOption& option : options) {
    if (option.name == name) return &option;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<MountOptions> ParseMountOptions(absl::string_view text, absl::Span<const ExtraOption> extra) {
  MountOptions options;
  const std::vector<ExtraOption> own = OwnOptions(&options);
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const size_t equals = part.find('=');
    const bool has_value = equals != absl::string_view::npos;
    const absl::string_view name = part.substr(0, equals);
    const absl::string_view value = has_value ? part.substr(equals + 1) : absl::string_view();
    const ExtraOption* option = Find(own, name);
    if (option == nullptr) option = Find(extra, name);
    if (option != nullptr) {
      RETURN_IF_ERROR(Take(*option, has_value, value));
      continue;
    }
    bool known = IsIgnored(name);
    for (const MountFlag& flag : kMountFlags) {
      if (name != flag.name || has_value) continue;
      known = true;
      options.mount_flags = flag.set ? options.mount_flags | flag.flag : options.mount_flags & ~flag.flag;
    }
    if (!known) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown mount option \"", part, "\"; known are: ", ListKnown(own, extra)));
    }
  }
  options.read_only = (options.mount_flags & MS_RDONLY) != 0;
  return options;
}

std::string MountOptionsHelp(absl::Span<const ExtraOption> extra) {
  MountOptions unused;
  std::string help;
  const auto add = [&](const ExtraOption& option) {
    absl::StrAppendFormat(&help, "  %-24s%s\n", Spelling(option), option.help);
  };
  for (const ExtraOption& option : OwnOptions(&unused)) add(option);
  for (const ExtraOption& option : extra) add(option);
  absl::StrAppendFormat(&help, "  %-24s%s\n", "ro, nosuid, nodev, ...", "as mount(8)");
  return help;
}

}  // namespace stagefs::fuse

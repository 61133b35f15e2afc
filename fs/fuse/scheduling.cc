#include "fs/fuse/scheduling.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace stagefs::fuse {
namespace {

// Of the first cgroup namespace, in which paths are whole (PROC_CGROUP_INIT_INO in the kernel's linux/proc_ns.h).
constexpr absl::string_view kFirstNamespace = "cgroup:[4026531835]";

// From linux/ioprio.h.
constexpr int kIoPriorityOfProcess = 1, kBestEffort = 2, kUsualLevel = 4, kClassShift = 13;

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

bool IsInFirstNamespace(const std::string& root) {
  char target[64];
  const ssize_t size = readlink(absl::StrCat(root, "/proc/self/ns/cgroup").c_str(), target, sizeof(target));
  return size > 0 && absl::string_view(target, static_cast<size_t>(size)) == kFirstNamespace;
}

// A cgroup that shares CPU time takes the place of the session's group. Only the root one leaves it alone.
bool IsInRootCgroup(const std::string& root) {
  std::ifstream file(absl::StrCat(root, "/proc/self/cgroup"));
  bool is_known = false;
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));  // id:controllers:path
    if (fields.size() != 3) return false;
    const std::vector<std::string> controllers = absl::StrSplit(fields[1], ',', absl::SkipEmpty());
    if (absl::c_linear_search(controllers, "cpu")) {  // version 1
      if (fields[2] != "/" || !IsInFirstNamespace(root)) return false;
      is_known = true;
    } else if (fields[0] == "0") {  // version 2, where this file is there if the controller is on, but not in the root
      const std::string directory = absl::StrCat(root, "/sys/fs/cgroup", fields[2]);
      if (access(absl::StrCat(directory, "/cpu.weight").c_str(), F_OK) == 0) return false;
      is_known = is_known || access(absl::StrCat(directory, "/cgroup.procs").c_str(), F_OK) == 0;
    }
  }
  return is_known;
}

}  // namespace

bool IsGroupedBySession(const std::string& root) {
  return FirstLine(absl::StrCat(root, "/proc/sys/kernel/sched_autogroup_enabled")) == "1" && IsInRootCgroup(root);
}

void LetClientsGoFirst(absl::FunctionRef<void(absl::string_view)> log) {
  if (getsid(0) != getpid() || !IsGroupedBySession()) return;
  // Unless it is set, I/O would become idle with the threads, and wait for everybody else's.
  if (syscall(SYS_ioprio_set, kIoPriorityOfProcess, 0, kBestEffort << kClassShift | kUsualLevel) != 0) return;
  const sched_param unused = {};
  if (sched_setscheduler(0, SCHED_IDLE, &unused) != 0) {
    return log(absl::StrCat("could not set SCHED_IDLE for this process (", strerror(errno), ")"));
  }
  log("set SCHED_IDLE for this process, whose session has a share of the CPU of its own");
}

}  // namespace stagefs::fuse

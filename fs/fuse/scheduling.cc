#include "fs/fuse/scheduling.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace stagefs::fuse {
namespace {

// Of the first cgroup namespace, in which paths are whole (PROC_CGROUP_INIT_INO in the kernel's linux/proc_ns.h).
constexpr absl::string_view kFirstNamespace = "cgroup:[4026531835]";

// From linux/ioprio.h.
constexpr int kIoPriorityOfThread = 1, kBestEffort = 2, kUsualLevel = 4, kClassShift = 13;

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

bool MayLetClientsGoFirst() { return getsid(0) == getpid() && IsGroupedBySession(); }

bool PolicyChooser::Look(const CpuWaits& waits, uint64_t now_ns) {
  const CpuWaits before = std::exchange(last_, waits);
  if (!is_idle_) {
    if (now_ns < pause_end_ns_) return false;
    is_idle_ = true;
    since_ns_ = now_ns;
    return true;
  }
  const uint64_t count = waits.count - before.count;
  if (count == 0 || (waits.total_ns - before.total_ns) / count < kLongWaitNs) {
    if (now_ns - since_ns_ > pause_ns_) pause_ns_ = kShortestPauseNs;  // it has been good for as long
    return true;
  }
  is_idle_ = false;
  pause_end_ns_ = now_ns + pause_ns_;
  pause_ns_ = std::min(2 * pause_ns_, kLongestPauseNs);
  return false;
}

ClientsFirst::ClientsFirst(bool may) {
  if (!may) return;
  // Unless it is set, I/O would become idle with the thread, and wait for everybody else's.
  if (syscall(SYS_ioprio_set, kIoPriorityOfThread, 0, kBestEffort << kClassShift | kUsualLevel) != 0) return;
  statistics_fd_ = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  if (statistics_fd_ >= 0) Set(true);
}

ClientsFirst::~ClientsFirst() {
  if (is_idle_) Set(false);
  if (statistics_fd_ >= 0) close(statistics_fd_);
}

void ClientsFirst::Set(bool is_idle) {
  const sched_param unused = {};
  if (sched_setscheduler(0, is_idle ? SCHED_IDLE : SCHED_OTHER, &unused) == 0) is_idle_ = is_idle;
}

void ClientsFirst::Adapt() {
  if (statistics_fd_ < 0 || ++rounds_ % kRoundsPerLook != 0) return;
  // "ns on a CPU, ns waiting for one, times on one"
  char text[96];
  const ssize_t size = pread(statistics_fd_, text, sizeof(text) - 1, 0);
  if (size <= 0) return;
  text[size] = 0;
  uint64_t run_ns;
  CpuWaits waits;
  if (sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64, &run_ns, &waits.total_ns, &waits.count) != 3) return;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  const bool is_idle = chooser_.Look(waits, static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec);
  if (is_idle != is_idle_) Set(is_idle);
}

}  // namespace stagefs::fuse

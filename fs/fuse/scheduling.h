// Scheduling: clients wake up on the CPU where their request was served.
//
// A queue's thread answers a request on the CPU of the client that made it, and then sleeps. If the kernel's scheduler
// sees another CPU idle when the answer wakes the client, it sends it there: that CPU must be woken from its halt, the
// client has left its caches behind, and its next request goes to another queue. That is most of what a small request
// costs. The scheduler leaves the client where it is if the CPU runs nothing but threads of policy SCHED_IDLE
// (sched_idle_cpu() in kernel/sched/fair.c, Linux 5.4 and later): a client goes before them at once.
//
// Such a thread has next to no weight against others of its scheduling group, so a server may only use the policy where
// it is a group by itself, whose share of the CPU is then as large as any other group's: where the kernel makes a group
// of each session (autogroup, sched(7)), this process leads its own, and no cgroup groups it with others instead.

#ifndef STAGEFS_FS_FUSE_SCHEDULING_H_
#define STAGEFS_FS_FUSE_SCHEDULING_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace stagefs::fuse {

// Whether all who share this process's part of the CPU time belong to its own session. False if that cannot be known.
// `root` goes before the paths of /proc and /sys, for tests.
bool IsGroupedBySession(const std::string& root = "");

// Gives this thread, and those it starts from now on, policy SCHED_IDLE if this process leads a session that is a group
// by itself; I/O keeps its usual priority. Says so to `log`. For servers, before they start any thread.
void LetClientsGoFirst(absl::FunctionRef<void(absl::string_view)> log);

}  // namespace stagefs::fuse

#endif  // STAGEFS_FS_FUSE_SCHEDULING_H_

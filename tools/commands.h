// The commands of stagefs. Each returns the exit code of the process and has printed whatever there is to say.

#ifndef STAGEFS_TOOLS_COMMANDS_H_
#define STAGEFS_TOOLS_COMMANDS_H_

#include "tools/arguments.h"

namespace stagefs::tools {

int RunMkfs(const Invocation& invocation);      // 0, or 1
int RunMount(const Invocation& invocation);     // 0, or 1; as the helper mount.stagefs: the codes of mount(8)
int RunServe(const Invocation& invocation);     // 0, or 1
int RunUmount(const Invocation& invocation);    // 0, or 1
int RunFsck(const Invocation& invocation);      // the codes of fsck(8)
int RunInfo(const Invocation& invocation);      // 0, or 1
int RunStat(const Invocation& invocation);      // 0, or 1
int RunBench(const Invocation& invocation);     // 0, or 1; ends by the signal that stops it
int RunDsaBench(const Invocation& invocation);  // 0, or 1

}  // namespace stagefs::tools

#endif  // STAGEFS_TOOLS_COMMANDS_H_

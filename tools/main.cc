// stagefs: one binary for all commands, and for the names that mkfs(8), fsck(8) and mount(8) look for.

#include <cstdio>
#include <string>
#include <string_view>

#include "tools/commands.h"

namespace stagefs::tools {
namespace {

constexpr char kHelp[] =
    "usage: stagefs COMMAND [OPTION...] [ARGUMENT...]\n"
    "\n"
    "A file system in user space, for any block store, whose changes reach the store in the order of their arrival.\n"
    "\n"
    "  stagefs mkfs STORE         make a volume on an image file or block device\n"
    "  stagefs mount STORE DIR    mount it\n"
    "  stagefs serve STORE        serve it by direct access alone, without a mount\n"
    "  stagefs umount DIR         unmount it; returns when everything is on the store and the server is gone\n"
    "  stagefs fsck STORE         check it\n"
    "  stagefs info STORE         say what volume is on a store\n"
    "  stagefs stat DIR           say how the server of a mounted volume fares\n"
    "  stagefs bench DIR...       measure file systems, stagefs or others\n"
    "  stagefs dsa-bench ADDRESS FILE\n"
    "                             measure direct access to a volume\n"
    "\n"
    "STORE is a path, or a URL such as file:PATH. Each command has --help.\n";

struct Command {
  std::string_view name;
  std::string_view helper_name;  // how mkfs(8), fsck(8) and mount(8) call it
  int (*run)(const Invocation&);
};

constexpr Command kCommands[] = {
    {"mkfs", "mkfs.stagefs", RunMkfs},
    {"mount", "mount.stagefs", RunMount},
    {"serve", "", RunServe},
    {"umount", "", RunUmount},
    {"fsck", "fsck.stagefs", RunFsck},
    {"info", "", RunInfo},
    {"stat", "", RunStat},
    {"bench", "", RunBench},
    {"dsa-bench", "", RunDsaBench},
};

int Main(int argc, char** argv) {
  std::string_view called = argc > 0 ? argv[0] : "stagefs";
  called = called.substr(called.rfind('/') + 1);
  for (const Command& command : kCommands) {
    if (!command.helper_name.empty() && called == command.helper_name) {
      return command.run({std::string(called), true, std::vector<std::string>(argv + 1, argv + argc)});
    }
  }
  const std::string_view name = argc > 1 ? argv[1] : "";
  for (const Command& command : kCommands) {
    if (name == command.name) {
      return command.run({"stagefs " + std::string(name), false, std::vector<std::string>(argv + 2, argv + argc)});
    }
  }
  if (name == "--help" || name == "-h" || name == "help") {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (name.empty()) {
    std::fputs(kHelp, stderr);
  } else {
    std::fprintf(stderr, "stagefs: unknown command %s (try: stagefs --help)\n", argv[1]);
  }
  return 1;
}

}  // namespace
}  // namespace stagefs::tools

int main(int argc, char** argv) { return stagefs::tools::Main(argc, argv); }

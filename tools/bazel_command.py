"""How the scripts call Bazel: STAGEFS_BAZEL, or just bazel."""
import os
import shlex
import subprocess

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def bazel_command(variant=None):
    """The command and its startup options.

    Builds with other compilers or flags are a `variant`, which has an output base of its own beside the usual one: so
    that none of them throws away what another has built.
    """
    command = shlex.split(os.environ.get("STAGEFS_BAZEL", "bazel"))
    if variant is None:
        return command
    for i, word in enumerate(command):
        if word.startswith("--output_base="):
            return command[:i] + [f"{word}-{variant}"] + command[i + 1:]
    usual = subprocess.run(command + ["info", "output_base"], cwd=TOP, check=True, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL).stdout.strip()
    # Its server goes soon: a variant is used now and then.
    return command + [f"--output_base={usual}-{variant}", "--max_idle_secs=60"]

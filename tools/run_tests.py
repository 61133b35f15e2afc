#!/usr/bin/env python3
"""Builds and runs stagefs' tests in tiers; tools/test calls it once everything it needs is installed.

usage: tools/test [--tier N] [--filter TEXT] [--sanitize asan|ubsan|tsan]

  tier 1  unit tests: seconds each, no privileges
  tier 2  sweeps and models: crash points, long random runs (Bazel tag "tier2", or size large and up)
  tier 3  real mounts: Bazel tests tagged "mount", and tests/live. They need root and /dev/fuse
  tier 4  fuzzing: each fuzzer for a few seconds (tests/fuzz/run), built with clang

  --tier N         only this tier (may be given more than once)
  --filter TEXT    only Bazel targets, live tests and fuzzers with this in their name
  --sanitize NAME  with a sanitizer: asan (addresses, leaks and undefined behaviour), ubsan (undefined behaviour alone)
                   or tsan (data races). Tiers 1 to 3, in an output base of their own

Closes with one line, "N passed, N failed": single GoogleTest cases, live tests and fuzzers. The exit code is 0 only if
all was built and nothing failed.
"""
import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree

from bazel_command import bazel_command

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
# Not //...: Bazel follows its own symbolic links into the output of other output bases.
ROOMS = ["//sal/...", "//core/...", "//fs/...", "//tools/...", "//tests/..."]
TIERS = {1: "unit tests", 2: "sweeps and models", 3: "real mounts", 4: "fuzzing"}
FUZZ_SECONDS = 5  # each

# What Bazel is called with, and with which of .bazelrc's configurations: set once, from --sanitize.
BAZEL = bazel_command()
CONFIGURATION = []
# Sanitized programs are slower: tests may take so many times as long.
SLOWER = 1
SLOWER_WITH = {"asan": 4, "ubsan": 3, "tsan": 10}
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    # A race ends the test at its first report.
    "TSAN_OPTIONS": f"halt_on_error=1:second_deadlock_stack=1:suppressions={TOP}/tools/tsan_suppressions.txt",
}


def use_sanitizer(name):
    global BAZEL, CONFIGURATION, SLOWER  # constant from here on
    BAZEL, CONFIGURATION, SLOWER = bazel_command(name), [f"--config={name}"], SLOWER_WITH[name]
    os.environ.update(SANITIZER_OPTIONS)  # for the servers of the live tests


def say(line):
    print(line, flush=True)


def bazel(*arguments, capture=False):
    options = [] if sys.stdout.isatty() else ["--curses=no", "--color=no", "--show_progress_rate_limit=15"]
    verb, rest = arguments[0], arguments[1:]
    configuration = [] if verb == "query" else CONFIGURATION
    command = BAZEL + [verb] + configuration + ([] if verb in ("info", "query") else options) + list(rest)
    if capture:
        return subprocess.run(command, cwd=TOP, check=True, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL).stdout
    return subprocess.run(command, cwd=TOP, stdin=subprocess.DEVNULL).returncode


def tests_of_tiers():
    """{tier: [target]}"""
    def query(expression):
        return set(bazel("query", expression, capture=True).split())

    tests = f"tests({' + '.join(ROOMS)})"
    everything = query(f"{tests} except attr(tags, '\\bmanual\\b', {tests})")
    mounting = everything & query(f"attr(tags, '\\bmount\\b', {tests})")
    slow = everything & query(f"attr(tags, '\\btier2\\b', {tests}) + attr(size, 'large|enormous', {tests})")
    return {1: sorted(everything - slow - mounting), 2: sorted(slow - mounting), 3: sorted(mounting), 4: []}


def cases_of(target, logs):
    """(passed, [failed case]) of a test target, from the XML files that it left (one a shard)."""
    package, name = target[2:].split(":")
    directory = os.path.join(logs, package, name)
    passed, failed = 0, []
    for root, _, files in os.walk(directory):
        if "test.xml" not in files:
            continue
        try:
            tree = xml.etree.ElementTree.parse(os.path.join(root, "test.xml"))
        except xml.etree.ElementTree.ParseError:
            failed.append("test.xml cannot be read: the test was cut short")
            continue
        for case in tree.iter("testcase"):
            if case.get("status") == "notrun":
                continue
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(f"{case.get('classname', '')}.{case.get('name')}")
            else:
                passed += 1
    return passed, failed


def remove_old_results(targets, logs):
    """So that what a test did not write is not taken from an earlier run. Cached results are written again by Bazel."""
    for target in targets:
        package, name = target[2:].split(":")
        for root, _, files in os.walk(os.path.join(logs, package, name)):
            if "test.xml" in files:
                try:
                    os.unlink(os.path.join(root, "test.xml"))
                except OSError:
                    pass


def run_bazel_tests(targets, failures):
    """The number of passed cases. Appends to `failures`."""
    logs = bazel("info", "bazel-testlogs", capture=True).strip()
    options = ["--keep_going", "--test_output=errors", "--test_summary=terse", "--build_tests_only",
               "--cache_test_results=no", "--test_verbose_timeout_warnings=false"]
    if CONFIGURATION:
        options.append("--test_timeout=" + ",".join(str(SLOWER * seconds) for seconds in (60, 300, 900, 3600)))
        options += [f"--test_env={name}={value}" for name, value in SANITIZER_OPTIONS.items()]
    remove_old_results(targets, logs)
    code = bazel("test", *options, *targets)
    total = 0
    for target in targets:
        passed, failed = cases_of(target, logs)
        total += passed
        failures += [f"{target}: {case}" for case in failed]
        if passed == 0 and not failed:
            failures.append(f"{target}: did not run (not built?)")
    if code != 0 and not failures:
        failures.append(f"bazel test ended with {code} although no case failed")
    return total


def can_mount(failures):
    """Whether tier 3 can run here. Where it must, that it cannot is a failure."""
    reason = ("this is not root" if os.geteuid() != 0 else
              "there is no /dev/fuse (modprobe fuse)" if not os.path.exists("/dev/fuse") else None)
    if reason is None:
        return True
    if os.environ.get("CI", "") in ("true", "1"):
        failures.append(f"tier 3 cannot run: {reason}")
    else:
        say(f"tier 3 is left out: {reason}")
    return False


def run_lines(command, pattern, what, failures):
    """The number of tests that passed, of a command that prints a line that matches `pattern` for each test and closes
    with "N passed, N failed". Appends to `failures`.
    """
    passed = 0
    closed = False
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        for line in process.stdout:
            say(line.rstrip("\n"))
            if match := re.match(pattern, line):
                if match["result"] == "ok":
                    passed += 1
                else:
                    failures.append(f"{what}: {match['name']}")
            closed = closed or re.match(r"\d+ passed, \d+ failed$", line)
    if not closed:
        failures.append(f"{what}/run did not come to its end")
    elif process.returncode != 0 and not any(failure.startswith(what) for failure in failures):
        failures.append(f"{what}/run ended with {process.returncode}")
    return passed


def run_live_tests(text, failures):
    binaries = bazel("info", "bazel-bin", capture=True).strip()
    command = [f"{TOP}/tests/live/run", "--stagefs", f"{binaries}/tools/stagefs"] + ([text] if text else [])
    if CONFIGURATION:
        command += ["--seconds", str(180 * SLOWER), "--sanitized"]
    listed = subprocess.run(command + ["--list"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if listed.returncode != 0:
        return 0  # the filter means none of them
    return run_lines(command, r"(?P<result>ok|FAIL) +(?P<name>\S+)", "tests/live", failures)


def run_fuzzers(text, failures):
    command = [f"{TOP}/tests/fuzz/run"]
    names = subprocess.run(command + ["--list"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if names.returncode != 0:
        failures.append("tests/fuzz/run --list failed")
        return 0
    chosen = [name for name in names.stdout.split() if text in name]
    if not chosen:
        return 0
    return run_lines(command + ["--seconds", str(FUZZ_SECONDS)] + chosen, r"(?P<name>\S+_fuzz) .* (?P<result>ok|FAIL)$",
                     "tests/fuzz", failures)


def main():
    parser = argparse.ArgumentParser(prog="tools/test", description=__doc__, usage=argparse.SUPPRESS,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", type=int, action="append", choices=sorted(TIERS), help=argparse.SUPPRESS)
    parser.add_argument("--filter", default="", help=argparse.SUPPRESS)
    parser.add_argument("--sanitize", choices=sorted(SLOWER_WITH), help=argparse.SUPPRESS)
    options = parser.parse_args()
    tiers = sorted(set(options.tier or TIERS))
    if options.sanitize:
        use_sanitizer(options.sanitize)
        tiers = [tier for tier in tiers if tier != 4]  # fuzzers have sanitizers of their own
    start = time.monotonic()
    failures = []
    passed = 0

    if tiers != [4]:
        say("building everything")
        if bazel("build", "--keep_going", *ROOMS) != 0:
            failures.append("not everything could be built")
    try:
        targets = tests_of_tiers()
    except subprocess.CalledProcessError:
        failures.append("bazel query failed: a BUILD file is broken")
        targets = {tier: [] for tier in TIERS}
    for tier in tiers:
        before = time.monotonic()
        chosen = [target for target in targets[tier] if options.filter in target]
        count = passed
        say(f"tier {tier}: {TIERS[tier]}" + (f" ({len(chosen)} Bazel tests)" if tier != 4 else ""))
        if tier == 3 and not can_mount(failures):
            continue
        if chosen:
            passed += run_bazel_tests(chosen, failures)
        if tier == 3:
            passed += run_live_tests(options.filter, failures)
        if tier == 4:
            passed += run_fuzzers(options.filter, failures)
        say(f"tier {tier}: {passed - count} passed, {len(failures)} failed so far, {time.monotonic() - before:.0f} s")
    for failure in failures:
        say(f"FAILED {failure}")
    say(f"took {time.monotonic() - start:.0f} s")
    say(f"{passed} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

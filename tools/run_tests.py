#!/usr/bin/env python3
"""Builds and runs stagefs' tests in tiers; tools/test calls it once everything it needs is installed.

usage: tools/test [--tier N] [--filter TEXT]

  tier 1  unit tests: seconds each, no privileges
  tier 2  sweeps and models: crash points, long random runs (Bazel tag "tier2", or size large and up)
  tier 3  real mounts: Bazel tests tagged "mount", and tests/live. They need root and /dev/fuse

  --tier N       only this tier (may be given more than once)
  --filter TEXT  only Bazel targets and live tests with this in their name

Closes with one line, "N passed, N failed": single GoogleTest cases and live tests. The exit code is 0 only if all was
built and nothing failed.
"""
import argparse
import os
import re
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
# STAGEFS_BAZEL: another command for Bazel, for instance with startup options.
BAZEL = shlex.split(os.environ.get("STAGEFS_BAZEL", "bazel"))
# Not //...: Bazel follows its own symbolic links into the output of other output bases.
ROOMS = ["//sal/...", "//core/...", "//fs/...", "//tools/...", "//tests/..."]
TIERS = {1: "unit tests", 2: "sweeps and models", 3: "real mounts"}


def say(line):
    print(line, flush=True)


def bazel(*arguments, capture=False):
    options = [] if sys.stdout.isatty() else ["--curses=no", "--color=no", "--show_progress_rate_limit=15"]
    verb, rest = arguments[0], arguments[1:]
    command = BAZEL + [verb] + ([] if verb in ("info", "query") else options) + list(rest)
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
    return {1: sorted(everything - slow - mounting), 2: sorted(slow - mounting), 3: sorted(mounting)}


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


def run_live_tests(text, failures):
    binaries = bazel("info", "bazel-bin", capture=True).strip()
    command = [f"{TOP}/tests/live/run", "--stagefs", f"{binaries}/tools/stagefs"] + ([text] if text else [])
    listed = subprocess.run(command + ["--list"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if listed.returncode != 0:
        return 0  # the filter means none of them
    passed = 0
    closed = False
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        for line in process.stdout:
            say(line.rstrip("\n"))
            if match := re.match(r"(ok|FAIL) +(\S+)", line):
                if match.group(1) == "ok":
                    passed += 1
                else:
                    failures.append(f"tests/live: {match.group(2)}")
            closed = closed or re.match(r"\d+ passed, \d+ failed$", line)
    if not closed:
        failures.append("tests/live/run did not come to its end")
    return passed


def main():
    parser = argparse.ArgumentParser(prog="tools/test", description=__doc__, usage=argparse.SUPPRESS,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", type=int, action="append", choices=sorted(TIERS), help=argparse.SUPPRESS)
    parser.add_argument("--filter", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tiers = sorted(set(options.tier or TIERS))
    start = time.monotonic()
    failures = []
    passed = 0

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
        say(f"tier {tier}: {TIERS[tier]} ({len(chosen)} Bazel tests)")
        if tier == 3 and not can_mount(failures):
            continue
        if chosen:
            passed += run_bazel_tests(chosen, failures)
        if tier == 3:
            passed += run_live_tests(options.filter, failures)
        say(f"tier {tier}: {passed - count} passed, {len(failures)} failed so far, {time.monotonic() - before:.0f} s")
    for failure in failures:
        say(f"FAILED {failure}")
    say(f"took {time.monotonic() - start:.0f} s")
    say(f"{passed} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the live tests stand on: volumes on real mounts, and a watchdog that takes a hung one away.

A test is a function `test_...(place)` in one of the modules that `run` names. It runs in a process of its own, makes
volumes with `place.volume(...)`, and fails by an exception. The parent never touches a mount, so that it can always end
a test that hangs: it aborts the FUSE connections below the test's directory and kills their servers by process id.
"""
import functools
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback

CONNECTIONS = "/sys/fs/fuse/connections"


class Failure(Exception):
    """The thing under test did not do what it should."""


def check(condition, message):
    if not condition:
        raise Failure(message)


def run(*command, codes=(0,), cwd=None, env=None, timeout=600):
    """Runs a command and returns its output, stdout and stderr together. Any exit code not in `codes` is a failure."""
    command = [str(part) for part in command]
    result = subprocess.run(command, cwd=cwd, env=env, timeout=timeout, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = result.stdout.decode(errors="replace")
    if codes is not None and result.returncode not in codes:
        raise Failure(f"{' '.join(command)}: exit code {result.returncode}, expected {codes}\n{output[-3000:]}")
    return output


def wait_for(condition, what, seconds=60):
    """Polls until condition() is true; the pause between two looks is not what makes the test pass."""
    deadline = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < deadline, f"after {seconds} s: {what}")
        select.select([], [], [], 0.02)


def mounts_below(directory):
    """(device, directory) of the stagefs mounts at or below `directory`, the latest first. Touches no mount."""
    found = []
    with open("/proc/self/mountinfo") as table:
        for line in table:
            left, _, right = line.partition(" - ")
            fields = left.split()
            path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), fields[4])
            if right.split()[0] in ("fuse.stagefs", "fuseblk.stagefs") and (path + "/").startswith(directory + "/"):
                found.append((fields[2], path))
    return found[::-1]


def server_of(device):
    """The process id of the server of a mount, or None: asked of the kernel through the socket it listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        try:
            link.connect("\0stagefs/" + device)
        except OSError:
            return None
        return struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def kill_process(pid):
    """SIGKILL, and waits until the process is gone."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
    select.select([process], [], [], 60)
    os.close(process)


def is_running(pid):
    """Whether a process exists and is more than an exit code that nobody has fetched yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def abort_mounts(directory):
    """Ends every stagefs mount below `directory`, whatever state it is in."""
    for device, path in mounts_below(directory):
        pid = server_of(device)
        minor = device.split(":")[1]
        abort = f"{CONNECTIONS}/{minor}/abort"
        if pid is not None:
            kill_process(pid)
        if os.path.exists(abort):
            with open(abort, "w") as file:
                file.write("1")
        subprocess.run(["umount", "-l", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Volume:
    """An image (or any store) and the directory it is mounted on."""

    def __init__(self, place, name, store=None):
        self.stagefs = place.stagefs
        self.image = f"{place.directory}/{name}.img"
        self.store = store or self.image
        self.transport = place.transport
        self.directory = f"{place.directory}/{name}"
        os.makedirs(self.directory, exist_ok=True)

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def mkfs(self, size=None, *options):
        return run(self.stagefs, "mkfs", *(["--size", size] if size else []), *options, self.store)

    def mount(self, *options, store=None):
        return run(self.stagefs, "mount", "-o", f"transport={self.transport}", *options, store or self.store,
                   self.directory)

    def umount(self):
        return run(self.stagefs, "umount", self.directory)

    def remount(self, *options):
        self.umount()
        return self.mount(*options)

    def device(self):
        for device, path in mounts_below(self.directory):
            if path == self.directory:
                return device
        raise Failure(f"{self.directory} is not mounted")

    def server(self):
        pid = server_of(self.device())
        check(pid is not None, f"no server answers for {self.directory}")
        return pid

    def kill(self):
        """kill -9 of the server, and the dead mount taken away."""
        kill_process(self.server())
        run("umount", "-l", self.directory)

    def stat(self):
        return json.loads(run(self.stagefs, "stat", "--json", self.directory))

    def fsck(self, *options, codes=(0,)):
        return run(self.stagefs, "fsck", *options, self.store, codes=codes)

    def checked(self):
        """Unmounts, checks everything, and removes the image: how most tests end."""
        self.umount()
        self.fsck("-n", "--verify-data")
        os.unlink(self.image)


class Place:
    """A test's own directory."""

    def __init__(self, stagefs, directory):
        self.stagefs = stagefs
        self.directory = directory
        self.transport = "auto"  # of the volumes it makes: see mount.stagefs(8)

    def volume(self, name="volume", size="1G", mount=()):
        """A fresh volume, mounted."""
        volume = Volume(self, name)
        volume.mkfs(size)
        volume.mount(*mount)
        return volume


def _child(test, place, pipe):
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        test(place)
        message = ""
    except Failure as failure:
        message = str(failure) or "failed"
    except BaseException:  # whatever it is, it is the result of the test
        message = traceback.format_exc()
    with os.fdopen(pipe, "w") as file:
        file.write("ok" if not message else message)
    sys.stdout.flush()
    os.killpg(0, signal.SIGKILL)  # with whatever the test has left running, which may hold the pipe open


def _run_one(test, stagefs, directory, seconds):
    """None, or what went wrong."""
    os.makedirs(directory)
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(test, Place(stagefs, directory), writer)
    os.close(writer)
    deadline = time.monotonic() + seconds
    result = b""
    hung = True
    try:
        while select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
            piece = os.read(reader, 65536)
            if not piece:
                hung = False
                break
            result += piece
    finally:  # also when this process is told to end
        os.close(reader)
        abort_mounts(directory)
        if hung:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os.waitpid(pid, 0)
        shutil.rmtree(directory, ignore_errors=True)
    if hung:
        return f"hung: ended by the watchdog after {seconds} s"
    text = result.decode(errors="replace")
    return None if text == "ok" else text or "the test process died"


def run_tests(tests, stagefs, root, seconds):
    """Runs (name, function) pairs; prints a line each. Returns (passed, failed)."""
    if not os.path.isdir(CONNECTIONS) or not os.listdir("/sys/fs/fuse"):
        subprocess.run(["mount", "-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"], stderr=subprocess.DEVNULL)
    passed = failed = 0
    for name, test in tests:
        start = time.monotonic()
        error = _run_one(test, stagefs, f"{root}/{name}", getattr(test, "seconds", seconds))
        took = time.monotonic() - start
        if error is None:
            passed += 1
            print(f"ok    {name} ({took:.1f} s)", flush=True)
        else:
            failed += 1
            print(f"FAIL  {name} ({took:.1f} s)\n      " + error.replace("\n", "\n      "), flush=True)
    return passed, failed


def by_dev(test):
    """The same test with requests by /dev/fuse, also where the kernel offers io_uring."""
    @functools.wraps(test)
    def test_by_dev(place):
        place.transport = "dev"
        test(place)
    return test_by_dev


def time_limit(seconds):
    """For tests that may take longer than the default."""
    def mark(test):
        test.seconds = seconds
        return test
    return mark

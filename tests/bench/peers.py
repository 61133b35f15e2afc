"""The file systems that are compared, each on an image of its own on the same disk.

A peer keeps no state but names: whether it is mounted, by which loop device and by which server is asked of the kernel.
So any process may mount, unmount or clear away what another one has left. docs/benchmarks.md
"""
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
CONNECTIONS = "/sys/fs/fuse/connections"
MIB = 1 << 20


def run(*command):
    """The output of a command. A failure is a RuntimeError with what it has said."""
    command = [str(part) for part in command]
    # A temporary file instead of a pipe: servers inherit it and would keep a pipe open.
    with open(os.memfd_create("output"), "w+b") as output:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT).returncode
        output.seek(0)
        text = output.read().decode(errors="replace")
    if code != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {code}: {text[-2000:]}")
    return text


class Missing(Exception):
    """A peer cannot be had here. The message says what would help."""


class Peer:
    """A file system: name, programs it needs (name, Debian package), format(), mount()."""

    name = ""
    programs = []
    needs_image = True  # or a file of any size will do

    def __init__(self, root, size_bytes):
        for program, package in self.programs:
            if shutil.which(program) is None:
                raise Missing(f"{self.name} is left out: {program} is missing (Debian package {package})")
        self.root = root
        self.size_bytes = size_bytes
        self.directory = f"{root}/{self.name}"
        self.image = f"{self.directory}.img"

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def make(self, sparse=False):
        """A fresh file system, mounted."""
        os.makedirs(self.directory, exist_ok=True)
        with open(self.image, "wb", buffering=0) as file:
            if self.needs_image:
                os.truncate(self.image, self.size_bytes)
            if self.needs_image and not sparse:
                # Written once: the host's disk must not allocate during the measurement.
                os.posix_fallocate(file.fileno(), 0, self.size_bytes)
                for _ in range(self.size_bytes // (4 * MIB)):
                    file.write(bytes(4 * MIB))
                os.fsync(file.fileno())
        self.format()
        self.mount()

    def umount(self):
        run("umount", self.directory)

    def go_cold(self):
        """Nothing that was read or written before is in memory any more."""
        self.umount()
        self.wait_for_servers()
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        self.mount()

    def wait_for_servers(self, seconds=60):
        """Until nothing has the image open."""
        deadline = time.monotonic() + seconds
        while users_of(self.image):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: after {seconds} s its server still has the image open")
            select.select([], [], [], 0.01)


class OnLoopDevice(Peer):
    """A file system of the kernel. Its loop device does direct I/O: nobody's image is cached by the host."""

    def mount(self):
        device = run("losetup", "--find", "--show", "--direct-io=on", self.image).strip()
        try:
            run("mount", "-t", self.name, device, self.directory)
        finally:
            run("losetup", "--detach", device)  # goes with the mount, or now if there is none


class Ext4(OnLoopDevice):
    name = "ext4"
    programs = [("mkfs.ext4", "e2fsprogs"), ("losetup", "mount")]

    def format(self):
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)


class Xfs(OnLoopDevice):
    name = "xfs"
    programs = [("mkfs.xfs", "xfsprogs"), ("losetup", "mount")]

    def format(self):
        run("mkfs.xfs", "-q", "-f", self.image)


class Fuse2fs(Peer):
    name = "fuse2fs"
    programs = [("fuse2fs", "fuse2fs"), ("mkfs.ext4", "e2fsprogs")]

    def format(self):
        run("mkfs.ext4", "-q", "-F", self.image)

    def mount(self):
        run("fuse2fs", self.image, self.directory, "-o", "allow_other,fakeroot")


class Ntfs3g(Peer):
    name = "ntfs3g"
    programs = [("ntfs-3g", "ntfs-3g"), ("mkfs.ntfs", "ntfs-3g")]

    def format(self):
        run("mkfs.ntfs", "--quick", "--force", "--quiet", self.image)

    def mount(self):
        run("ntfs-3g", self.image, self.directory, "-o", "big_writes")


class Stagefs(Peer):
    name = "stagefs"
    binary = f"{TOP}/bazel-bin/tools/stagefs"

    def __init__(self, root, size_bytes):
        super().__init__(root, size_bytes)
        if not os.access(self.binary, os.X_OK):
            raise Missing(f"stagefs is left out: {self.binary} is not there (bazel build //tools:stagefs)")

    def format(self):
        run(self.binary, "mkfs", "--force", "--quiet", self.image)

    def mount(self):
        run(self.binary, "mount", self.image, self.directory)

    def umount(self):
        run(self.binary, "umount", self.directory)

    def statistics(self):
        return json.loads(run(self.binary, "stat", "--json", self.directory))


class Null(Peer):
    """Files in memory behind stagefs's own front end: what the transport alone allows."""

    name = "null"
    needs_image = False
    binary = f"{TOP}/bazel-bin/tests/bench/null_fuse/null_fuse"

    def __init__(self, root, size_bytes):
        super().__init__(root, size_bytes)
        if not os.access(self.binary, os.X_OK):
            raise Missing(f"null is left out: {self.binary} is not there (bazel build //tests/bench/null_fuse)")

    def format(self):
        pass

    def mount(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                run(self.binary, self.image, self.directory)
                return
            except RuntimeError:  # on a busy machine it may take long until the last mount has ended
                if time.monotonic() > deadline:
                    raise

    def wait_for_servers(self, seconds=60):
        """Its server keeps the files, and stays until the image is removed."""


KINDS = {kind.name: kind for kind in (Ext4, Stagefs, Null, Xfs, Fuse2fs, Ntfs3g)}


def choose(names, root, size_bytes):
    """The peers of these names that can be had here. Says on standard error which cannot, and why."""
    peers = []
    for name in names:
        try:
            peers.append(KINDS[name](root, size_bytes))
        except Missing as missing:
            print(missing, file=sys.stderr)
    return peers


def users_of(image):
    """The processes, other than this one, that have the file open."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            for descriptor in os.listdir(f"/proc/{name}/fd"):
                if os.readlink(f"/proc/{name}/fd/{descriptor}") in (image, f"{image} (deleted)"):
                    found.append(int(name))
                    break
        except OSError:
            pass  # ended meanwhile
    return found


def mounts_below(directory):
    """(minor device number, type, directory) of the mounts below `directory`, the latest first. Touches no mount."""
    found = []
    with open("/proc/self/mountinfo") as table:
        for line in table:
            left, _, right = line.partition(" - ")
            fields = left.split()
            path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), fields[4])
            if (path + "/").startswith(directory + "/"):
                found.append((fields[2].split(":")[1], right.split()[0], path))
    return found[::-1]


def end_servers(directory):
    """Whoever waits for a FUSE server at or below `directory` gets an error instead, at once and from now on.

    Requests that lie with a server over io_uring end only with the server: it is killed, too.
    """
    for minor, kind, path in mounts_below(directory):
        if not kind.startswith("fuse"):
            continue
        abort = f"{CONNECTIONS}/{minor}/abort"
        if os.path.exists(abort):
            with open(abort, "w") as file:
                file.write("1")
        for pid in users_of(f"{path}.img"):
            end_process(pid, seconds=0)


def end_mounts(directory):
    """Takes away every mount at or below `directory`, whatever its state."""
    end_servers(directory)
    for _, _, path in mounts_below(directory):
        subprocess.run(["umount", "-l", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def remove_image(image):
    """With its loop device and its server. Nothing is mounted from it any more."""
    servers = users_of(image)
    loops = subprocess.run(["losetup", "--associated", image, "--noheadings", "--output", "NAME"],
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.split()
    for device in loops:
        subprocess.run(["losetup", "--detach", device], stderr=subprocess.DEVNULL)
    if os.path.exists(image):
        os.unlink(image)
    for pid in servers:
        end_process(pid)


def clear_away(root):
    """Ends everything that lives below `root`, and removes it."""
    end_mounts(root)
    for name in os.listdir(root) if os.path.isdir(root) else []:
        if name.endswith(".img"):
            remove_image(f"{root}/{name}")
    shutil.rmtree(root, ignore_errors=True)


def end_process(pid, seconds=10):
    """A server whose mount is gone ends by itself; one that does not is killed."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([process], [], [], seconds)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], 60)
    except ProcessLookupError:
        pass
    finally:
        os.close(process)

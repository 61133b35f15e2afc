"""Hours of load, for tests/live/run --load SECONDS: no lost byte, flat memory, no leaked space.

Programs that check themselves (fio with verify, dbench, stress-ng's file stressors) run beside the writers of crash.py,
on a volume with a small log and few dirty blocks, so that it checkpoints all along. For the first third of the time the
server is killed every round; then it lives on, and its memory is watched. At the end everything is deleted, and as much
must be free as on the new volume.
"""
import os
import random
import select
import shutil
import signal
import subprocess
import time

import crash
from harness import Failure, check, run, wait_for

MEMORY_BOUND = (256 + 128) << 20  # what docs/io_and_threads.md promises of the default --cache-size
ROUND_SECONDS = 20
KEPT = ("lost+found",)

FIO = """
[global]
directory={directory}
size=48m
verify=crc32c
verify_fatal=1
time_based=0
thread=1
[psync]
rw=randwrite
bsrange=512-128k
bs_unaligned=1
ioengine=psync
fsync=64
[mmap]
stonewall
rw=randwrite
bs=4k
ioengine=mmap
[io_uring]
stonewall
rw=randwrite
bs=4k-64k
direct=1
ioengine=io_uring
iodepth=16
"""

STRESSORS = ("access chmod chown copy-file dentry dir dirdeep dirmany fallocate filename flock fstat getdent hdd inotify "
             "iomix link locka lockf mknod open readahead rename seek symlink sync-file touch utime xattr").split()


class Program:
    """A command that runs again and again in a directory of its own on the mount, and must succeed each time."""

    def __init__(self, name, command, volume):
        self.name, self.command = name, command
        self.directory = volume.path(name)
        self.log = f"{os.path.dirname(volume.directory)}/{name}.log"
        self.runs = 0
        self.start()

    def start(self):
        run("rm", "-rf", self.directory)  # however deep a killed stressor has gone
        os.mkdir(self.directory)
        with open(self.log, "wb") as log:
            # Not to outlive the test, however that ends.
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.command(self.directory)],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, cwd=os.path.dirname(self.log))

    def look(self):
        """Starts it again when it has ended; fails if it ended badly."""
        code = self.process.poll()
        if code is None:
            return
        if code != 0:
            with open(self.log, errors="replace") as log:
                raise Failure(f"{self.name} ended with {code}:\n{log.read()[-3000:]}")
        self.runs += 1
        self.start()

    def end(self):
        """Wherever it is."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def _fio(directory):
    job = f"{directory}/job"
    with open(job, "w") as file:
        file.write(FIO.format(directory=directory))
    return ["fio", "--output-format=terse", "--verify_state_save=0", job]


def _dbench(directory):
    return ["dbench", "-D", directory, "-t", "30", "--sync-dir", "2"]


def _stress(directory):
    chosen = random.sample(STRESSORS, 4)
    options = [option for name in chosen for option in (f"--{name}", "1")]
    return ["stress-ng", "--temp-path", directory, "--verify", "--timeout", "20", "--hdd-bytes", "64M",
            "--fallocate-bytes", "64M", "--iomix-bytes", "64M", "--copy-file-bytes", "128M",
            "--readahead-bytes", "32M", *options]


PROGRAMS = {"fio": _fio, "dbench": _dbench, "stress-ng": _stress}


class Memory:
    """Resident bytes of the server, looked at all along."""

    def __init__(self):
        self.samples = []

    def look(self, volume):
        resident = volume.stat()["resident_bytes"]
        check(resident < MEMORY_BOUND, f"the server holds {resident >> 20} MiB, more than {MEMORY_BOUND >> 20}")
        self.samples.append(resident)

    def check_flat(self):
        """That the last third needed no more than the middle one. The first fills the cache."""
        third = len(self.samples) // 3
        middle, last = max(self.samples[third:2 * third]), max(self.samples[2 * third:])
        check(last < middle * 1.1 + (8 << 20), f"memory grows: {middle >> 20} MiB, then {last >> 20} MiB")
        return f"resident {middle >> 20} MiB, later {last >> 20} MiB"


def _run_writers(volume, seconds, programs, memory):
    """Lets all run for `seconds`; returns the writers, which go on."""
    writers = {name: crash.Writer(write, volume.directory) for name, (write, _) in crash.WORKLOADS.items()}
    by_reader = {writer.reader: writer for writer in writers.values()}
    deadline = time.monotonic() + seconds
    next_look = 0
    while (now := time.monotonic()) < deadline:
        for reader in select.select(list(by_reader), [], [], 0.2)[0]:
            check(by_reader[reader].take(), "a writer ended by itself")
        if now >= next_look:
            next_look = now + 1
            memory.look(volume)
            for program in programs:
                program.look()
    return writers


def _verify(volume, writers):
    for name, (_, verify) in crash.WORKLOADS.items():
        verify(volume.directory, writers[name].acknowledged)


def _remove_what_writers_wrote(volume):
    for name in set(os.listdir(volume.directory)) - set(PROGRAMS) - set(KEPT):
        run("rm", "-rf", volume.path(name))


def _stop(writers):
    for writer in writers.values():
        os.kill(writer.pid, signal.SIGKILL)
        while writer.take():
            pass
        os.close(writer.reader)
        os.waitpid(writer.pid, 0)


def _round_with_a_kill(volume, mount_options, chance):
    programs = [Program(name, command, volume) for name, command in PROGRAMS.items()]
    try:
        writers = _run_writers(volume, chance.uniform(1, ROUND_SECONDS), programs, Memory())
        volume.kill()
        for writer in writers.values():
            writer.finish()
    finally:
        for program in programs:
            program.end()
    volume.fsck("-n")
    volume.mount(*mount_options)
    _verify(volume, writers)
    _remove_what_writers_wrote(volume)


def _rounds_without_a_kill(volume, deadline):
    memory = Memory()
    rounds = 0
    programs = [Program(name, command, volume) for name, command in PROGRAMS.items()]
    try:
        while time.monotonic() < deadline:
            writers = _run_writers(volume, ROUND_SECONDS, programs, memory)
            _stop(writers)
            _verify(volume, writers)
            _remove_what_writers_wrote(volume)
            rounds += 1
        return rounds, {program.name: program.runs for program in programs}, memory
    finally:
        for program in programs:
            program.end()


def load(place, seconds):
    for program, package in (("fio", "fio"), ("dbench", "dbench"), ("stress-ng", "stress-ng")):
        check(shutil.which(program), f"{program} is needed: apt-get install {package}")
    seed = int.from_bytes(os.urandom(4), "little")
    chance = random.Random(seed)
    print(f"      seed {seed}", flush=True)
    mount_options = ("--dirty-blocks", "4000")
    start = time.monotonic()
    volume = place.volume(size="16G", mount=mount_options)
    free = os.statvfs(volume.directory).f_bfree
    kills = 0
    while time.monotonic() < start + seconds / 3:
        _round_with_a_kill(volume, mount_options, chance)
        kills += 1
    rounds, runs, memory = _rounds_without_a_kill(volume, start + seconds)
    stat = volume.stat()
    for name in set(os.listdir(volume.directory)) - set(KEPT):
        run("rm", "-rf", volume.path(name))
    wait_for(lambda: os.statvfs(volume.directory).f_bfree == free, "space has leaked", 120)
    volume.checked()
    print(f"      {time.monotonic() - start:.0f} s, {kills} kills, then {rounds} rounds without one: runs {runs}, "
          f"{memory.check_flat()}, {stat['changes']:,} changes, {stat['checkpoints']:,} checkpoints", flush=True)

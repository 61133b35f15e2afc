"""Real programs on recorded mounts, and what is left of their work if the power had failed at any moment of it.

A Recording is a volume mounted from `record:FILE,IMAGE` (sal/record_store.h). The program marks in the record what it
begins and what it has been told is durable. sweep() then cuts the record at many positions: tests/replay/replay makes
the disk as it may be there (what was flushed is kept; all else is kept, dropped or torn by seed), and each of these
images must be clean to fsck, mount, and hold what the program was promised.
"""
import os
import random
import re
import socket
import subprocess
import threading

from harness import Failure, Volume, check, run

NOBODY = 65534  # whom servers run as that refuse to be root


class Marks:
    """The socket of a record that is being written. One thread may use it."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("")  # an address of the kernel's choice, for the answers
        self._socket.connect(path)
        self._socket.settimeout(60)

    def put(self, text):
        """Returns when the mark is in the record."""
        self._socket.send(text.encode())
        return int(self._socket.recv(32))


def replay_tool(place, name="replay"):
    return os.path.join(os.path.dirname(place.stagefs), "../tests/replay", name)


class Recording:
    """A small volume with a small log, so that the ring wraps and checkpoints happen while a program works on it."""

    def __init__(self, place, size="256M", prepare=None, mount=()):
        """`prepare(directory)` does what shall not be recorded."""
        self.place = place
        self.volume = Volume(place, "recorded")
        self.base = f"{place.directory}/base.img"
        self.record = f"{place.directory}/record"
        self.volume.mkfs(size, "--log-size", "4M")
        if prepare:
            self.volume.mount()
            prepare(self.volume.directory)
            self.volume.umount()
        run("cp", "--sparse=always", self.volume.image, self.base)
        self.volume.mount("--dirty-blocks", "500", "--flush-interval", "100ms", *mount,
                          store=f"record:{self.record},{self.volume.image}")
        self.directory = self.volume.directory
        self.socket = self.record + ".sock"
        self.marks = Marks(self.socket)
        self.begun = self.marks.put("begun")

    def end(self):
        """Unmounts. What the record says must be what the store holds."""
        ended = self.marks.put("ended")
        statistics = self.volume.stat()
        log_mib = statistics["log_bytes_written"] >> 20
        self.saw = f"{statistics['checkpoints']} checkpoints, {log_mib} MiB of log in a ring of 4 MiB"
        # What the engine still owes, destaging for instance, is recorded as well; cuts there are as good as any.
        self.volume.umount()
        self._read_marks()
        check(ended <= self.events, "the record ends before its end was marked")
        replayed = f"{self.place.directory}/replayed.img"
        with Cutter(self) as cutter:
            cutter.cut(self.events, 0, "keep", replayed)
        run("cmp", replayed, self.volume.image)
        os.unlink(replayed)
        os.unlink(self.volume.image)

    def _read_marks(self):
        self.all_marks = []  # (position, text)
        for line in run(replay_tool(self.place), "list", self.record).splitlines():
            word, number, *text = line.split(" ", 2)
            if word == "events":
                self.events = int(number)
            else:
                self.all_marks.append((int(number), text[0]))

    def numbers_marked(self, word, position):
        """The numbers N of the marks "WORD N" that lie before a cut at `position`."""
        return [int(text.split()[1]) for at, text in self.all_marks if at <= position and text.startswith(word + " ")]

    def last(self, word, position):
        return max(self.numbers_marked(word, position), default=0)

    def between(self, end, begin):
        """The positions from a mark `end` up to the next mark `begin`, where nothing is under way."""
        positions = []
        since = None
        for at, text in self.all_marks + [(self.events + 1, begin)]:
            if text.startswith(end):
                since = at
            elif text.startswith(begin) and since is not None:
                positions += range(since, at)
                since = None
        return positions


class Cutter:
    """The replay tool, at work on one recording."""

    def __init__(self, recording, ignore_flushes=False):
        command = [replay_tool(recording.place), "cut", recording.record, recording.base]
        self._process = subprocess.Popen(command + (["--ignore-flushes"] if ignore_flushes else []),
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def cut(self, position, seed, fate, image):
        """Positions only grow."""
        self._process.stdin.write(f"{position} {seed} {fate} {image}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        check(answer.startswith(f"cut {position} "), f"replay: {answer or 'ended'}")
        return [int(number) for number in re.findall(r"(?:kept|dropped|torn) (\d+)", answer)]


class Sweep:
    """What a sweep saw, for the line that it ends with."""

    def __init__(self):
        self.cuts = self.at_risk = self.dropped = self.torn = 0

    def __str__(self):
        return (f"{self.cuts} cuts; of {self.at_risk} writes at risk {self.dropped} were dropped and {self.torn} torn")


def choose(positions, count, seed):
    """`count` of the positions in ascending order; some twice if there are fewer."""
    chooser = random.Random(seed)
    positions = list(positions)
    if len(positions) >= count:
        return sorted(chooser.sample(positions, count))
    return sorted(positions + chooser.choices(positions, k=count - len(positions)))


def sweep(recording, count, look, positions=None, seed=1, fate="random", ignore_flushes=False):
    """Cuts at `count` positions and calls look(directory, position) on each mount; it fails by an exception.

    `fate` is what becomes of the writes at risk, as the replay tool takes it."""
    place = recording.place
    result = Sweep()
    volume = Volume(place, "cut")
    with Cutter(recording, ignore_flushes) as cutter:
        candidates = positions or range(recording.begun, recording.events + 1)
        for number, position in enumerate(choose(candidates, count, seed)):
            kept, dropped, torn = cutter.cut(position, seed * 100_000 + number, fate, volume.image)
            try:
                volume.fsck("-n")
                volume.mount("--cache-size", "64M")
                try:
                    look(volume.directory, position)
                finally:
                    volume.umount()
                volume.fsck("-n", "--verify-data")
            except Failure as failure:
                raise Failure(f"cut at position {position} of {recording.events}, seed {seed * 100_000 + number} "
                              f"({kept} writes at risk kept, {dropped} dropped, {torn} torn): {failure}") from None
            os.unlink(volume.image)
            result.cuts += 1
            result.at_risk += kept + dropped + torn
            result.dropped += dropped
            result.torn += torn
    check(result.dropped + result.torn > 0, "no write was ever lost: the sweep shows nothing")
    return result


def must_bite(recording, count, look):
    """The same sweep on a disk that ignores flushes has to fail: with the loss of what was acknowledged if such a disk
    comes back whole but old, with any complaint if it comes back with some of what was written."""
    for fate, complaint in (("drop", "were acknowledged"), ("random", "")):
        try:
            sweep(recording, count, look, fate=fate, ignore_flushes=True)
        except Failure as failure:
            check(complaint in str(failure), f"it should have found something else: {failure}")
            continue
        raise Failure(f"{count} cuts of a disk that forgets what was flushed ({fate}) found nothing: it does not bite")


class PairWriter(threading.Thread):
    """Writes file A, then file B, over and over, without any fsync: B must never be newer than A."""

    def __init__(self, directory, pause=None):
        super().__init__(daemon=True)
        self._files = [os.open(os.path.join(directory, name), os.O_CREAT | os.O_WRONLY) for name in ("A", "B")]
        self._ending = threading.Event()
        self._pause = pause  # seconds between two pairs: how fast it ages, not what makes it right
        self.count = 0

    def run(self):
        while not self._ending.wait(self._pause):
            self.count += 1
            for file in self._files:
                os.pwrite(file, b"%015d\n" % self.count * 256, 0)

    def end(self):
        self._ending.set()
        self.join()
        for file in self._files:
            os.close(file)


def versions_of(content):
    """The versions of which a PairWriter's page has parts: {0} if it was never written."""
    return {int(content[i:i + 16].strip(b"\0") or b"0") for i in range(0, len(content), 16)} or {0}


def read_pair(directory):
    """(versions of A, versions of B)"""
    def read(name):
        try:
            with open(os.path.join(directory, name), "rb") as file:
                return versions_of(file.read())
        except FileNotFoundError:
            return {0}
    return read("A"), read("B")


def look_at_pair(directory):
    first, second = read_pair(directory)
    check(len(first) == 1 and len(second) == 1, f"parts of more than one version: A {first}, B {second}")
    a, b = first.pop(), second.pop()
    check(a >= b, f"B has version {b}, and A, which is written first, {a}")
    check(a <= b + 1, f"A has version {a}, B {b}: a change between them is missing")

"""kill -9 of the server, again and again under load, and what must be there afterwards.

Writers are processes of their own that report over a pipe what has been acknowledged as durable. What they write
follows from their name and position alone, so that the checker knows every byte that can be there.
"""
import hashlib
import mmap
import os
import random
import select
import struct
import subprocess
import time

from harness import Failure, check, run, time_limit

ROUNDS = 20
POOL = hashlib.shake_128(b"stagefs").digest(1 << 20)


def record(writer, number):
    """Record `number` of a writer: a header, and bytes that follow from it."""
    mixed = (number * 0x9E3779B97F4A7C15 + len(writer)) % (1 << 64) >> 20
    length = 200_000 + mixed % 200_000 if number % 97 == 0 else 1 + mixed % 6000
    start = mixed % (len(POOL) - length)
    return struct.pack("<8sQI", writer.encode(), number, length) + POOL[start:start + length]


def records_in(writer, data):
    """How many whole records `data` holds. Fails if it is not a prefix of what the writer writes."""
    position = number = 0
    while position < len(data):
        expected = record(writer, number)
        piece = data[position:position + len(expected)]
        check(piece == expected[:len(piece)],
              f"{writer}: the bytes at {position} (record {number}) are not what was written")
        if len(piece) < len(expected):
            break
        position += len(expected)
        number += 1
    return number


def _resume(path, writer):
    """(descriptor, number of the next record): what a kill cut in the middle is completed."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
    with open(path, "rb") as file:
        data = file.read()
    number = records_in(writer, data)
    rest = sum(len(record(writer, i)) for i in range(number + 1)) - len(data)
    os.write(descriptor, record(writer, number)[-rest:])
    return descriptor, number + 1


def write_appends(directory, acknowledge):
    """Appends records to one file, each with fsync. Acknowledges how many are durable."""
    descriptor, number = _resume(f"{directory}/appends", "appends")
    while True:
        os.fsync(descriptor)
        acknowledge(number)
        os.write(descriptor, record("appends", number))
        number += 1


def check_appends(directory, acknowledged):
    with open(f"{directory}/appends", "rb") as file:
        count = records_in("appends", file.read())
    check(count >= acknowledged, f"appends: {acknowledged} records were acknowledged, {count} are there")


def write_pairs(directory, acknowledge):
    """Appends record n to one file, then to another, without fsync."""
    first, number = _resume(f"{directory}/first", "pairs")
    second, behind = _resume(f"{directory}/second", "pairs")
    while behind < number:
        os.write(second, record("pairs", behind))
        behind += 1
    while True:
        os.write(first, record("pairs", number))
        os.write(second, record("pairs", number))
        number += 1
        if number % 16 == 0:
            acknowledge(0)  # alive; says nothing of durability


def check_pairs(directory, _):
    counts = []
    for name in ("first", "second"):
        path = f"{directory}/{name}"
        data = b""
        if os.path.exists(path):
            with open(path, "rb") as file:
                data = file.read()
        counts.append(records_in("pairs", data))
    check(counts[0] >= counts[1], f"pairs: the second file has {counts[1]} records, the first, written before, "
                                  f"only {counts[0]}")


def write_renames(directory, acknowledge):
    """Replaces a file by rename, with fsync of the new one before and of the directory after."""
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    number = _number_of_config(directory) + 1
    while True:
        descriptor = os.open(f"{directory}/config.new", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.write(descriptor, record("config", number))
        os.fsync(descriptor)
        os.close(descriptor)
        os.rename(f"{directory}/config.new", f"{directory}/config")
        os.fsync(parent)
        acknowledge(number)
        number += 1


def _number_of_config(directory):
    try:
        with open(f"{directory}/config", "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return -1
    check(len(data) >= 20, f"config: replaced by a file of {len(data)} bytes")
    number = struct.unpack_from("<Q", data, 8)[0]
    check(data == record("config", number), f"config: not the whole of record {number}")
    return number


def check_renames(directory, acknowledged):
    number = _number_of_config(directory)
    check(number >= acknowledged, f"config: number {acknowledged} was acknowledged, {number} is there")


PAGES = 256


def _page(number):
    return struct.pack("<Q", number) + POOL[number * 8 % 900_000:][:4088]


def write_mapped(directory, acknowledge):
    """Stores numbered pages through a shared mapping, each with msync. Acknowledges the highest durable number."""
    descriptor = os.open(f"{directory}/mapped", os.O_CREAT | os.O_RDWR)
    os.ftruncate(descriptor, PAGES * 4096)
    with mmap.mmap(descriptor, PAGES * 4096) as memory:
        number = max(struct.unpack_from("<Q", memory, page * 4096)[0] for page in range(PAGES)) + 1
        while True:
            place = number % PAGES * 4096
            memory[place:place + 4096] = _page(number)
            memory.flush(place, 4096)
            acknowledge(number)
            number += 1


def check_mapped(directory, acknowledged):
    if acknowledged == 0:
        return
    with open(f"{directory}/mapped", "rb") as file:
        data = file.read()
    for page in range(PAGES):
        number = struct.unpack_from("<Q", data, page * 4096)[0]
        latest = acknowledged - (acknowledged - page) % PAGES  # the latest acknowledged number of this page
        check(number >= latest, f"mapped: page {page} has number {number}, {latest} was acknowledged")
        check(number == 0 or data[page * 4096:(page + 1) * 4096] == _page(number), f"mapped: page {page} is mixed")


def write_churn(directory, acknowledge):
    """Makes, fills, truncates, links and removes files, and never waits for anything: the background of a crash."""
    chance = random.Random(os.urandom(8))
    os.makedirs(f"{directory}/churn", exist_ok=True)
    while True:
        path = f"{directory}/churn/{chance.randrange(40)}"
        try:
            action = chance.randrange(5)
            if action < 2:
                with open(path, "ab") as file:
                    file.write(POOL[:chance.randrange(1, 300_000)])
            elif action == 2:
                os.truncate(path, chance.randrange(100_000))
            elif action == 3:
                os.unlink(path)
            else:
                os.rename(path, f"{directory}/churn/{chance.randrange(40)}")
        except FileNotFoundError:
            pass
        acknowledge(0)


def check_churn(directory, _):
    path = f"{directory}/churn"
    if os.path.isdir(path):
        for name in os.listdir(path):
            with open(f"{path}/{name}", "rb") as file:
                file.read()


WORKLOADS = {"appends": (write_appends, check_appends), "pairs": (write_pairs, check_pairs),
             "renames": (write_renames, check_renames), "mapped": (write_mapped, check_mapped),
             "churn": (write_churn, check_churn)}


class Writer:
    """A workload running in a process of its own."""

    def __init__(self, write, directory):
        self.acknowledged = 0
        self.count = 0
        reader, pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            code = 1
            try:
                write(directory, lambda number: os.write(pipe, struct.pack("<Q", number)))
            except OSError:
                code = 0  # the server was killed under it
            except Failure as failure:
                print(failure, flush=True)
            os._exit(code)
        os.close(pipe)
        self.reader = reader

    def take(self):
        """Reads what has been acknowledged so far; False at the end."""
        data = os.read(self.reader, 1 << 16)
        while len(data) % 8 != 0:
            data += os.read(self.reader, 8 - len(data) % 8)
        self.count += len(data) // 8
        if data:
            self.acknowledged = max(self.acknowledged, struct.unpack_from("<Q", data, len(data) - 8)[0])
        return bool(data)

    def finish(self):
        while self.take():
            pass
        os.close(self.reader)
        _, status = os.waitpid(self.pid, 0)
        check(status == 0, "a writer found damage when it went on, or broke")


def _round(volume, chance, seed):
    """Runs all workloads until each has made progress, and a random time longer; kills the server; returns them."""
    writers = {name: Writer(write, volume.directory) for name, (write, _) in WORKLOADS.items()}
    wanted = chance.randrange(3, 60)
    deadline = time.monotonic() + 60
    extra = None
    while extra is None or time.monotonic() < extra:
        by_reader = {writer.reader: writer for writer in writers.values()}
        ready, _, _ = select.select(list(by_reader), [], [], 0.05)
        for reader in ready:
            check(by_reader[reader].take(), f"seed {seed}: a writer ended before the kill")
        check(time.monotonic() < deadline, f"seed {seed}: no progress: "
              f"{ {name: writer.count for name, writer in writers.items()} }")
        if extra is None and all(writer.count >= wanted for writer in writers.values()):
            extra = time.monotonic() + chance.random() * 0.5
    volume.kill()
    for writer in writers.values():
        writer.finish()
    return {name: writer.acknowledged for name, writer in writers.items()}


def _kill_rounds(place, rounds, *mount_options):
    seed = int.from_bytes(os.urandom(4), "little")
    chance = random.Random(seed)
    volume = place.volume(size="2G", mount=mount_options)
    for number in range(rounds):
        acknowledged = _round(volume, chance, seed)
        start = time.monotonic()
        volume.mount(*mount_options)
        took = time.monotonic() - start
        check(took < 5, f"round {number}: mounting after the kill took {took:.1f} s")
        for name, (_, verify) in WORKLOADS.items():
            try:
                verify(volume.directory, acknowledged[name])
            except (Failure, OSError) as error:
                raise Failure(f"seed {seed}, round {number}: {error}") from error
        if number % 5 == 4:  # a fresh start, so that checking does not take longer and longer
            for name in set(os.listdir(volume.directory)) - {"lost+found"}:
                run("rm", "-rf", volume.path(name))
    volume.checked()


@time_limit(400)
def test_twenty_kills_under_load_lose_nothing_acknowledged(place):
    _kill_rounds(place, ROUNDS)


@time_limit(200)
def test_kills_with_a_small_log_and_cache(place):
    # Checkpoints and destaging all the time.
    _kill_rounds(place, 5, "--cache-size", "32M", "--dirty-blocks", "500")


def test_a_kill_while_recovering_changes_nothing(place):
    volume = place.volume(size="512M")
    writer = Writer(write_appends, volume.directory)
    while writer.count < 500:
        writer.take()
    volume.kill()
    writer.finish()
    for delay_ms in (1, 2, 4, 8, 16, 32, 64):  # wherever that hits
        process = subprocess.Popen([volume.stagefs, "mount", "-f", volume.image, volume.directory],
                                   stderr=subprocess.DEVNULL)
        select.select([], [], [], delay_ms / 1000)
        process.kill()
        process.wait()
        subprocess.run(["umount", "-l", volume.directory], stderr=subprocess.DEVNULL)
    volume.mount()
    check_appends(volume.directory, writer.acknowledged)
    volume.checked()


def test_fsync_of_a_directory_makes_names_durable(place):
    volume = place.volume(size="256M")
    parent = os.open(volume.directory, os.O_RDONLY | os.O_DIRECTORY)
    for i in range(200):
        os.close(os.open(volume.path(f"file {i}"), os.O_CREAT | os.O_WRONLY))
    os.rename(volume.path("file 0"), volume.path("renamed"))
    os.unlink(volume.path("file 1"))
    os.symlink("target", volume.path("link"))
    os.setxattr(volume.path("file 2"), "user.name", b"value")
    os.fsync(parent)
    os.close(parent)
    volume.kill()
    volume.mount()
    names = set(os.listdir(volume.directory))
    check(names == {f"file {i}" for i in range(2, 200)} | {"renamed", "link"}, "other names than were made durable")
    check(os.getxattr(volume.path("file 2"), "user.name") == b"value", "an attribute is lost")
    check(os.readlink(volume.path("link")) == "target", "a link is lost")
    volume.checked()


def test_unlinked_open_files_are_removed_after_a_kill(place):
    volume = place.volume(size="256M")
    free = os.statvfs(volume.directory).f_bfree
    descriptor = os.open(volume.path("gone"), os.O_CREAT | os.O_RDWR)
    os.write(descriptor, POOL)
    os.unlink(volume.path("gone"))
    check(os.pread(descriptor, 100, 0) == POOL[:100], "an unlinked open file cannot be read")
    os.fsync(descriptor)
    volume.kill()
    try:
        os.close(descriptor)
    except OSError:
        pass  # its server is gone
    volume.mount()
    volume.remount()
    check(os.statvfs(volume.directory).f_bfree == free, "the space of an unlinked file did not come back")
    volume.checked()

"""The rows of tests/bench/compare: pieces of work, each a function of a peer that returns a rate.

What a row needs (the large file, the many names) it makes itself if an earlier row has not. Caches are cold where the
name says so.
"""
import dataclasses
import mmap
import os
import random
import shutil
import sqlite3
import time
from typing import Callable, Optional

from fio import fio
from peers import MIB, run

SECONDS = 4
PAGE = 4096
FILES = 20000


def _sequential(peer):
    """The file of 1 GiB that several rows read."""
    path = peer.path("sequential")
    if not os.path.exists(path) or os.path.getsize(path) < 1024 * MIB:
        seq_write(peer)
    return path


def seq_write(peer):
    data = os.urandom(MIB)
    start = time.monotonic()
    with open(peer.path("sequential"), "wb", buffering=0) as file:
        for _ in range(1024):
            file.write(data)
        os.fsync(file.fileno())
    return 1024 / (time.monotonic() - start)


def seq_read_cold(peer):
    path = _sequential(peer)
    peer.go_cold()
    buffer = bytearray(MIB)
    total = 0
    start = time.monotonic()
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return total / MIB / (time.monotonic() - start)


def mmap_read_cold(peer):
    path = _sequential(peer)
    peer.go_cold()
    start = time.monotonic()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        for offset in range(0, len(memory), MIB):
            hash(memory[offset:offset + MIB])
        return len(memory) / MIB / (time.monotonic() - start)


def mmap_fault_rand_cold(peer):
    path = _sequential(peer)
    peer.go_cold()
    chance = random.Random(7)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        memory.madvise(mmap.MADV_RANDOM)
        pages = len(memory) // PAGE
        return _rate(lambda: memory[chance.randrange(pages) * PAGE])


def mmap_msync(peer):
    size = 64 * MIB
    chance = random.Random(3)
    with open(peer.path("mapped"), "wb") as file:
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())
    with open(peer.path("mapped"), "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        def store():
            offset = chance.randrange(size // PAGE) * PAGE
            memory[offset:offset + 64] = b"m" * 64
            memory.flush(offset, PAGE)
        return _rate(store)


def fsync_4k(peer):
    return fio(peer, filename="fsync", rw="randwrite", bs="4k", size="256m", ioengine="psync", fsync=1,
               runtime=SECONDS, time_based=1)["write"]["iops"]


def fsync_4k_8jobs(peer):
    return fio(peer, rw="randwrite", bs="4k", size="32m", ioengine="psync", fsync=1, numjobs=8, runtime=SECONDS,
               time_based=1)["write"]["iops"]


def append200_fsync(peer):
    return fio(peer, filename="appended", rw="write", bs="200", size="64m", ioengine="psync", fsync=1, file_append=1,
               runtime=SECONDS, time_based=1)["write"]["iops"]


def randread_q1_cold(peer):
    _sequential(peer)
    peer.go_cold()
    return fio(peer, filename="sequential", rw="randread", bs="4k", size="1g", ioengine="psync", fadvise_hint=0,
               runtime=SECONDS, time_based=1)["read"]["iops"]


def randread_direct_q32(peer):
    _sequential(peer)
    peer.go_cold()
    return fio(peer, filename="sequential", rw="randread", bs="4k", size="1g", ioengine="io_uring", iodepth=32,
               direct=1, runtime=SECONDS, time_based=1)["read"]["iops"]


def randwrite_buf(peer):
    _sequential(peer)
    return fio(peer, filename="sequential", rw="randwrite", bs="4k", size="1g", io_size="128m", ioengine="psync",
               end_fsync=1)["write"]["bw"] / 1024


def create(peer):
    directory = peer.path("created")
    os.makedirs(directory, exist_ok=True)
    return _rate_of(FILES, lambda i: os.close(os.open(f"{directory}/{i}", os.O_CREAT | os.O_WRONLY)))


def _created(peer):
    """The directory of many names."""
    directory = peer.path("created")
    if not os.path.isdir(directory) or len(os.listdir(directory)) < FILES:
        create(peer)
    return directory


def stat_cold(peer):
    directory = _created(peer)
    peer.go_cold()
    count = 0
    start = time.monotonic()
    with os.scandir(directory) as entries:
        for entry in entries:
            os.lstat(entry.path)
            count += 1
    return count / (time.monotonic() - start)


def unlink(peer):
    directory = _created(peer)
    names = os.listdir(directory)
    return _rate_of(len(names), lambda i: os.unlink(f"{directory}/{names[i]}"))


def untar_sync(peer):
    """Unpacks, makes all durable, and lists what is there. A plain fuse mount hears nothing of sync: fsync, too."""
    archive = f"{peer.root}/include.tar"
    if not os.path.exists(archive):
        run("tar", "--create", f"--file={archive}", "--directory=/usr", "include")
    top = peer.path("include")
    shutil.rmtree(top, ignore_errors=True)
    start = time.monotonic()
    run("tar", "--extract", f"--file={archive}", f"--directory={peer.directory}")
    run("sync", "--file-system", peer.directory)
    descriptor = os.open(top, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return sum(len(files) for _, _, files in os.walk(top)) / (time.monotonic() - start)


def create_fsync(peer):
    directory = peer.path("mails")
    shutil.rmtree(directory, ignore_errors=True)
    os.mkdir(directory)
    return _rate_of(1500, lambda i: _write_durably(f"{directory}/{i}"))


def rename_replace(peer):
    directory = peer.path("configuration")
    os.makedirs(directory, exist_ok=True)

    def replace(i):
        _write_durably(f"{directory}/new")
        os.rename(f"{directory}/new", f"{directory}/config{i % 10}")
    return _rate_of(1500, replace)


def _write_durably(path):
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, b"m" * PAGE)
    os.fsync(descriptor)
    os.close(descriptor)


def sqlite(mode):
    def insert(peer):
        path = peer.path(f"{mode}.db")
        for suffix in ("", "-journal", "-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.unlink(path + suffix)
        database = sqlite3.connect(path, isolation_level=None)  # each insert is a transaction
        database.execute(f"pragma journal_mode={mode}")
        database.execute("pragma synchronous=full")
        database.execute("create table t(a integer primary key, b blob)")
        rate = _rate(lambda: database.execute("insert into t(b) values (?)", (b"v" * 500,)))
        database.close()
        return rate
    return insert


def _rate(step):
    """How often a second step() can be done, tried for SECONDS."""
    count = 0
    start = now = time.monotonic()
    while now - start < SECONDS:
        step()
        count += 1
        now = time.monotonic()
    return count / (now - start)


def _rate_of(count, step):
    """The same of step(0), step(1), ... once each."""
    start = time.monotonic()
    for i in range(count):
        step(i)
    return count / (time.monotonic() - start)


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    unit: str
    function: Callable
    bar: Optional[float]  # the least ratio to ext4
    what: str


ROWS = [
    Row("seq_write", "MiB/s", seq_write, 1.0, "1 GiB in writes of 1 MiB, then fsync"),
    Row("seq_read_cold", "MiB/s", seq_read_cold, 1.0, "1 GiB in reads of 1 MiB"),
    Row("mmap_read_cold", "MiB/s", mmap_read_cold, 0.9, "1 GiB through a mapping, in order"),
    Row("mmap_fault_rand_cold", "/s", mmap_fault_rand_cold, 0.8, "random page faults, MADV_RANDOM"),
    Row("mmap_msync_64B", "/s", mmap_msync, 1.3, "64-byte store, msync of its page"),
    Row("fsync_4k", "/s", fsync_4k, 3.5, "random 4 KiB writes, each with fsync"),
    Row("fsync_4k_8jobs", "/s", fsync_4k_8jobs, 2.0, "random 4 KiB writes with fsync, 8 processes"),
    Row("append200_fsync", "/s", append200_fsync, 1.1, "200 bytes appended, each with fsync"),
    Row("randread_q1_cold", "/s", randread_q1_cold, 0.8, "random 4 KiB reads"),
    Row("randread_direct_q32", "/s", randread_direct_q32, 0.6, "random 4 KiB reads, O_DIRECT, 32 at once"),
    Row("randwrite_buf", "MiB/s", randwrite_buf, 1.0, "128 MiB in random 4 KiB overwrites, then fsync"),
    Row("create", "/s", create, 0.4, "20,000 files created and closed"),
    Row("stat_cold", "/s", stat_cold, 0.5, "a directory of 20,000 read, each name stat"),
    Row("unlink", "/s", unlink, 0.4, "20,000 names removed"),
    Row("untar_sync", "files/s", untar_sync, 0.5, "/usr/include unpacked, sync, listed"),
    Row("create_fsync", "/s", create_fsync, 3.0, "a file of 4 KiB created, fsync, close"),
    Row("rename_replace", "/s", rename_replace, 3.0, "a file of 4 KiB written, fsync, renamed over another"),
    Row("sqlite_delete", "/s", sqlite("delete"), 1.7, "SQLite inserts, synchronous=full, rollback journal"),
    Row("sqlite_wal", "/s", sqlite("wal"), 0.95, "SQLite inserts, synchronous=full, write-ahead log"),
    Row("sqlite_memory", "/s", sqlite("memory"), 1.4, "SQLite inserts, synchronous=full, journal in memory"),
]


def choose(text):
    """The rows that a list of names or parts of names means; a whole name means that row alone."""
    names = {row.name for row in ROWS}
    parts = [part for part in text.split(",") if part]
    return [row for row in ROWS if not parts or any(row.name == part or part not in names and part in row.name
                                                    for part in parts)]

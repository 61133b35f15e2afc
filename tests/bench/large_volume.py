"""A volume with many files and a file whose blocks are spread over a large range, made for tests/bench/scale.

File `number` lies in directory number // per_directory. The data file has a contiguous beginning; behind it one block
in each MiB is written. It is as long as the volume is meant to be large, and sparse, and so is the image.
"""
import dataclasses
import math
import os
import random
import resource
import stat
import time

import clients
from peers import MIB

PAGE = 4096
GIB = 1 << 30
CONTIGUOUS_GIB = 1
MAKERS = 2


def data_gib_for(files):
    """So that 10,000 files come with 1 GiB, 10,000,000 with 1 TiB, and others lie between on a logarithmic scale."""
    return max(1, round(2 ** (math.log10(files / 10000) * 10 / 3)))


@dataclasses.dataclass(frozen=True)
class Layout:
    files: int
    per_directory: int
    data_gib: int

    @property
    def image_bytes(self):
        """Room for all, and for the volume's own tables."""
        return (4 * GIB + self.data_gib * GIB * 6 // 5 + self.files * 2048) // MIB * MIB

    @property
    def directories(self):
        return -(-self.files // self.per_directory)

    @property
    def contiguous_blocks(self):
        return min(self.data_gib, CONTIGUOUS_GIB) * GIB // PAGE

    @property
    def blocks(self):
        """How many blocks of the data file are written."""
        return self.contiguous_blocks + max(0, self.data_gib - CONTIGUOUS_GIB) * GIB // MIB

    def offset(self, block):
        """Where the written block of this number lies."""
        if block < self.contiguous_blocks:
            return block * PAGE
        return self.contiguous_blocks * PAGE + (block - self.contiguous_blocks) * MIB


class Names:
    """Names of a volume, reached through descriptors of their directories, which therefore are never looked up."""

    def __init__(self, peer, layout):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, layout.directories + 64)), hard))
        self.layout = layout
        self.descriptors = [os.open(peer.path(f"d{i}"), os.O_PATH | os.O_DIRECTORY)
                            for i in range(layout.directories)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for descriptor in self.descriptors:
            os.close(descriptor)

    def at(self, number):
        return f"f{number}", self.descriptors[number // self.layout.per_directory]


def make_files(peer, layout, first, last):
    """Makes the files of a range of numbers, and the directories they need."""
    for i in range(first // layout.per_directory, (last - 1) // layout.per_directory + 1):
        os.makedirs(peer.path(f"d{i}"), exist_ok=True)
    span = -(-(last - first) // MAKERS)

    def client(number):
        for i in range(first + number * span, min(first + (number + 1) * span, last)):
            os.mknod(peer.path(f"d{i // layout.per_directory}", f"f{i}"), stat.S_IFREG | 0o644)
    clients.at_once(MAKERS, client)


def make_data(peer, layout, first, last):
    """Writes the blocks first to last of the data file, and makes them durable."""
    block = bytes(range(256)) * (PAGE // 256)
    descriptor = os.open(peer.path("data"), os.O_CREAT | os.O_WRONLY)
    os.ftruncate(descriptor, layout.data_gib * GIB)
    number = first
    while number < last:
        count = max(1, min(last, layout.contiguous_blocks, number + MIB // PAGE) - number)
        os.pwrite(descriptor, block * count, layout.offset(number))
        number += count
    os.fsync(descriptor)
    os.close(descriptor)


def forget_names():
    """The kernel remembers no name and no inode that is not in use."""
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("2")


def wait_until_calm(peer, seconds=60):
    """Until no checkpoint is due: one starts when half of the log or of the bound of dirty blocks is used."""
    deadline = time.monotonic() + seconds
    time.sleep(0.02)
    while time.monotonic() < deadline:
        now = peer.statistics()
        if (now["dirty_blocks"] * 2 < now["dirty_blocks_limit"] and
                now["log_used_bytes"] * 2 < now["log_capacity_bytes"]):
            return
        time.sleep(0.05)


def sample_of(chance, layout, count):
    """Numbers of that many different files."""
    return chance.sample(range(layout.files), min(count, layout.files))


def chance_for(what):
    return random.Random(f"stagefs {what}")

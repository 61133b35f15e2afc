"""Write file A, then file B, without fsync: which is newer after a power cut, on stagefs and on ext4?

ext4 lies on a loop device over a recorded disk (tests/replay/recorded_disk_file.cc), so that it is cut as stagefs is.
It keeps what it promises: its journal orders metadata, not the data of two files.
"""
import ctypes
import os
import shutil
import subprocess

from harness import check, run, wait_for
from recorded import Cutter, Marks, PairWriter, Recording, choose, look_at_pair, read_pair, replay_tool, sweep

CLONE_NEWNS = 0x20000
PAIRS = 6  # written at the same time, in directories of their own


def _with_mounts_of_our_own():
    """What is mounted from now on goes with this process, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    check(libc.unshare(CLONE_NEWNS) == 0, f"unshare: {os.strerror(ctypes.get_errno())}")
    run("mount", "--make-rprivate", "/")


def _pair_directories(directory):
    return [f"{directory}/{i}" for i in range(PAIRS)]


def _create_pairs(directory):
    for pair in _pair_directories(directory):
        os.mkdir(pair)
        for name in ("A", "B"):
            with open(f"{pair}/{name}", "wb") as file:
                file.write(b"%015d\n" % 0 * 256)


def _work(directory, rounds):
    """Pairs written without fsync, while another program now and then flushes what it wrote itself."""
    writers = [PairWriter(pair, pause=0.0002) for pair in _pair_directories(directory)]
    for writer in writers:
        writer.start()
    other = os.open(f"{directory}/other", os.O_CREAT | os.O_WRONLY)
    for _ in range(rounds):
        before = writers[0].count
        os.pwrite(other, os.urandom(4096), 0)
        os.fsync(other)
        os.sync()  # as databases, package managers and people do
        wait_for(lambda: writers[0].count > before, "nothing is written any more")
    for writer in writers:
        writer.end()
    os.close(other)


class RecordedExt4:
    """An ext4 on a recorded disk: what sweep() needs to know of a Recording, and no more."""

    def __init__(self, place, work):
        self.place = place
        self.record = f"{place.directory}/ext4.record"
        self.base = f"{place.directory}/ext4.base"
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.base, "128M")
        image, disk, files = (f"{place.directory}/{name}" for name in ("ext4.img", "disk", "ext4"))
        run("cp", "--sparse=always", self.base, image)
        os.mkdir(disk)
        os.mkdir(files)
        with open(f"{place.directory}/disk.log", "wb") as log:
            server = subprocess.Popen([replay_tool(place, "recorded_disk_file"), f"record:{self.record},{image}", disk],
                                      stderr=log)
        wait_for(lambda: os.path.exists(f"{disk}/disk"), "the recorded disk is not there")
        marks = Marks(self.record + ".sock")
        run("mount", "-o", "loop,commit=1", f"{disk}/disk", files)
        _create_pairs(files)
        os.sync()
        self.begun = marks.put("begun")
        work(files)
        self.events = marks.put("ended")
        run("umount", files)  # its loop device goes with it
        run("umount", disk)
        server.wait(60)


def _ext4_pairs(place, image):
    """The versions of each A and B once e2fsck has replayed the journal."""
    output = run("e2fsck", "-fy", image, codes=(0, 1))
    check("UNEXPECTED INCONSISTENCY" not in output, output)
    files = f"{place.directory}/files"
    os.mkdir(files)
    run("debugfs", "-R", f"rdump / {files}", image)
    pairs = [read_pair(pair) for pair in _pair_directories(files)]
    shutil.rmtree(files)
    return pairs


def _look_at_ext4(recording, cuts):
    """In how many of the cuts a B has something newer than all of its A; in how many a page is torn."""
    newer = torn = 0
    image = f"{recording.place.directory}/cut.img"
    with Cutter(recording) as cutter:
        for number, position in enumerate(choose(range(recording.begun, recording.events + 1), cuts, 1)):
            cutter.cut(position, number, "random", image)
            pairs = _ext4_pairs(recording.place, image)
            newer += any(max(b) > max(a) for a, b in pairs)
            torn += any(len(a) > 1 or len(b) > 1 for a, b in pairs)
    os.unlink(image)
    return newer, torn


def _look_at_pairs(directory, _):
    for pair in _pair_directories(directory):
        look_at_pair(pair)


def order(place, rounds, cuts):
    _with_mounts_of_our_own()
    recording = Recording(place, prepare=_create_pairs)
    _work(recording.directory, rounds)
    recording.end()
    result = sweep(recording, cuts, _look_at_pairs)
    newer, torn = _look_at_ext4(RecordedExt4(place, lambda directory: _work(directory, rounds)), cuts)
    print(f"B newer than A: on stagefs in 0 of {result.cuts} cuts, on ext4 in {newer} of {cuts}; "
          f"a page of two versions: on stagefs in 0, on ext4 in {torn}")
    check(newer > 0, "ext4 never showed B newer than A: these cuts would not show it on stagefs either")


def test_recorded_order_beside_ext4(place):
    order(place, rounds=60, cuts=30)

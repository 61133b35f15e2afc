"""fsck on images that were damaged from outside, and what a mount makes of them."""
import os
import re
import struct

from harness import check, run


def _field(volume, name):
    """The number of bytes at which a part of the volume begins, as `stagefs info` says."""
    info = run(volume.stagefs, "info", volume.image)
    return int(re.search(rf"^{name} .*at byte (\d+)$", info, re.MULTILINE).group(1))


def _overwrite(volume, offset, data):
    with open(volume.image, "r+b") as file:
        file.seek(offset)
        file.write(data)


def _with_files(place):
    volume = place.volume(size="256M")
    for i in range(300):
        with open(volume.path(f"file {i}"), "w", encoding="ascii") as file:
            file.write(f"content {i}" * 20)
    volume.umount()
    return volume


def _check_files(volume):
    for i in range(300):
        with open(volume.path(f"file {i}"), encoding="ascii") as file:
            check(file.read() == f"content {i}" * 20, f"file {i} has changed")


def test_a_lost_volume_header_comes_from_its_copy(place):
    volume = _with_files(place)
    header = _field(volume, "home blocks") + 4096
    _overwrite(volume, header, os.urandom(4096))
    check("(block 1)" in volume.fsck("-n", codes=(4,)), "fsck does not name the header")
    check("its copy is used" in volume.mount(), "the mount does not say that it uses the copy")
    _check_files(volume)
    volume.umount()
    volume.fsck("-n", "--verify-data")
    _overwrite(volume, header, os.urandom(4096))
    volume.fsck("-y", codes=(1,))
    volume.fsck("-y")
    volume.mount()
    _check_files(volume)
    volume.checked()


def test_a_lost_root_of_the_tree_is_mended(place):
    volume = _with_files(place)
    home = _field(volume, "home blocks")
    with open(volume.image, "rb") as file:
        file.seek(home + 4096 + 24)
        root = struct.unpack("<Q", file.read(8))[0]
    _overwrite(volume, home + 4096 * root, os.urandom(4096))
    check(f"block {root}: tree node" in volume.fsck("-n", codes=(4,)), "fsck does not name the root")
    volume.fsck("-y", codes=(1,))
    volume.fsck("-n", "--verify-data")
    volume.mount()
    _check_files(volume)
    volume.checked()


def test_a_log_damaged_behind_durable_changes_is_dropped_only_by_y(place):
    volume = place.volume(size="256M")
    for i in range(20):
        with open(volume.path(f"file {i}"), "wb") as file:
            file.write(b"x" * 100)
            os.fsync(file.fileno())
    volume.kill()
    log = _field(volume, "log")
    with open(volume.image, "rb") as file:
        file.seek(log)
        data = file.read(1 << 20)
    frames = [at for at in range(0, len(data), 4096) if data[at + 8:at + 12] == b"SFRM"]
    check(len(frames) >= 10, f"only {len(frames)} frames in the log")
    _overwrite(volume, log + frames[5] + 50, b"damage")
    check(re.search(r"damaged behind LSN \d+|corrupt behind LSN \d+", volume.fsck("-n", codes=(4,))), "-n says nothing")
    volume.fsck("-a", codes=(4,))
    output = volume.fsck("-y", codes=(1,))
    check(re.search(r"behind LSN \d+: what followed is dropped, changes up to LSN \d+ at least", output),
          f"-y does not say how much is lost: {output}")
    volume.fsck("-n", "--verify-data")
    volume.mount()
    volume.checked()


def test_progress_goes_to_the_descriptor_that_fsck_names(place):
    volume = _with_files(place)
    path = os.path.join(place.directory, "progress")
    run("sh", "-c", f"exec 7>'{path}'; exec '{volume.stagefs}' fsck -y -C7 '{volume.image}'")
    with open(path, encoding="ascii") as file:
        lines = file.read().splitlines()
    check(lines and all(re.fullmatch(r"[1-5] \d+ \d+ \S+", line) for line in lines), f"no lines of progress: {lines}")
    check(lines[-1].split()[:3] == ["5", "1000", "1000"], f"progress ends at {lines[-1]}")
    volume.mount()
    volume.checked()

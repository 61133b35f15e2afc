"""Work of large size, for tests/live/run --long: a quarter of an hour and 40 GiB of disk."""
import os
import random
import time

import crash
import work
from harness import check, run, time_limit


@time_limit(1800)
def test_a_tree_of_fifty_thousand_files(place):
    volume = place.volume(size="4G")
    tree = f"{place.directory}/tree"
    chance = random.Random(50000)
    for number in range(50000):
        directory = f"{tree}/{number % 7}/{number // 7 % 40}/{number // 280 % 30}"
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/file{number}.c", "wb") as file:
            file.write(crash.POOL[:min(int(chance.lognormvariate(8.6, 1.2)), 1 << 20)])
    run("tar", "cf", f"{place.directory}/tree.tar", "-C", place.directory, "tree")
    run("tar", "xf", f"{place.directory}/tree.tar", "-C", volume.directory)
    run("diff", "-r", tree, volume.path("tree"))
    volume.remount()
    run("diff", "-r", tree, volume.path("tree"))
    run("rm", "-rf", volume.path("tree"))
    volume.checked()


@time_limit(1800)
def test_a_file_of_ten_gigabytes(place):
    volume = place.volume(size="16G")
    path = volume.path("large")
    piece = crash.POOL
    count = 10 << 10
    with open(path, "wb", buffering=0) as file:
        for i in range(count):
            file.write(i.to_bytes(8, "little") + piece[8:])
        os.fsync(file.fileno())
    check(volume.stat()["resident_bytes"] < (256 + 128) << 20, "the server holds more memory than it may")
    volume.remount()
    with open(path, "rb", buffering=0) as file:
        for i in range(count):
            data = file.read(1 << 20)
            check(data[:8] == i.to_bytes(8, "little") and data[8:] == piece[8:], f"other bytes in MiB {i}")
    check(volume.stat()["resident_bytes"] < (256 + 128) << 20, "the server holds more memory than it may")
    os.unlink(path)
    volume.checked()


@time_limit(1800)
def test_a_directory_of_two_hundred_thousand_names(place):
    work.test_a_directory_of_many_names(place, 200000)


@time_limit(1800)
def test_mounting_is_quick_with_log_and_dirty_blocks_at_their_bounds(place):
    volume = place.volume(size="16G")
    descriptor = os.open(volume.path("scattered"), os.O_CREAT | os.O_WRONLY)
    os.posix_fallocate(descriptor, 0, 8 << 30)
    chance = random.Random(8)
    for i in range(200000):
        os.pwrite(descriptor, crash.POOL[i:i + 4096], chance.randrange(2 << 20) * 4096)
    os.fsync(descriptor)
    os.close(descriptor)
    volume.kill()
    start = time.monotonic()
    volume.mount()
    took = time.monotonic() - start
    check(took < 5, f"mounting after a kill took {took:.1f} s")
    volume.checked()


@time_limit(600)
def test_eight_terabytes_are_made_and_mounted_at_once(place):
    start = time.monotonic()
    volume = place.volume(size="8T")
    took = time.monotonic() - start
    check(took < 2, f"mkfs and mount of a sparse 8 TiB image took {took:.1f} s")
    run("cp", "-r", "/usr/include/linux", volume.directory)
    volume.remount()
    run("diff", "-r", "/usr/include/linux", volume.path("linux"))
    volume.umount()
    volume.fsck("-n")


@time_limit(3600)
def test_a_hundred_kills(place):
    crash._kill_rounds(place, 100)

"""Full volumes."""
import errno
import hashlib
import os
import threading

from harness import check, run, wait_for


def _free(volume):
    status = os.statvfs(volume.directory)
    return status.f_bfree * status.f_frsize


def _fill(volume, writers):
    """Writes from several threads until each meets ENOSPC. Returns {path: digest} of what was written."""
    digests = [{} for _ in range(writers)]
    errors = []

    def write(writer):
        number = 0
        while True:
            path = volume.path(f"{writer}-{number}")
            digest = hashlib.blake2b()
            full = False
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    errors.append(f"create: {error}")
                return
            for i in range(64):
                data = os.urandom(1000 + 4096 * (i % 32))
                try:
                    count = os.write(descriptor, data)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        errors.append(f"write: {error}")
                    full = True
                    break
                digest.update(data[:count])
            os.close(descriptor)
            digests[writer][path] = digest.hexdigest()
            if full:
                return
            number += 1

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(not errors, f"errors other than ENOSPC: {errors}")
    return {path: digest for part in digests for path, digest in part.items()}


def _verify(files):
    total = 0
    for path, expected in files.items():
        with open(path, "rb") as file:
            data = file.read()
        check(hashlib.blake2b(data).hexdigest() == expected, f"{path}: other bytes than were written")
        total += len(data)
    return total


def _fill_and_delete(volume, writers):
    free = _free(volume)
    files = _fill(volume, writers)
    total = _verify(files)
    check(total > free * 0.8, f"full after {total} bytes although {free} were free")
    check(_free(volume) < free * 0.1, "ENOSPC although much is free")
    victim = next(iter(files))  # what has its space may be written again, however full the volume is
    with open(victim, "r+b") as file:
        start = file.read(4096)
        file.seek(0)
        file.write(start)
    _verify(files)
    for path in files:
        os.unlink(path)
    return free, total


def test_full_deleted_and_full_again(place):
    volume = place.volume(size="256M")
    free, first = _fill_and_delete(volume, 4)
    wait_for(lambda: _free(volume) == free, "not all space came back after everything was deleted", 60)
    _, second = _fill_and_delete(volume, 4)
    check(second > first * 0.97, f"{first} bytes fitted at first, only {second} later")
    wait_for(lambda: _free(volume) == free, "not all space came back after everything was deleted again", 60)
    volume.remount()
    check(_free(volume) == free, "other free space after mounting again")
    volume.checked()


def test_a_full_volume_can_be_mounted_and_emptied(place):
    volume = place.volume(size="128M")
    free = _free(volume)
    files = _fill(volume, 2)
    volume.kill()
    volume.mount()
    for path in files:
        if os.path.exists(path):
            os.unlink(path)
    wait_for(lambda: _free(volume) == free, "not all space came back", 60)
    volume.checked()


def test_holes_take_no_space(place):
    volume = place.volume(size="256M")
    free = _free(volume)
    path = volume.path("sparse")
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    os.ftruncate(descriptor, 1 << 40)
    os.pwrite(descriptor, b"far out", (1 << 40) - 4096)
    check(os.fstat(descriptor).st_blocks * 512 <= 64 << 10, "a hole takes space")
    check(free - _free(volume) <= 1 << 20, "a hole takes space")
    check(os.lseek(descriptor, 0, os.SEEK_DATA) == (1 << 40) - 4096, "SEEK_DATA does not find the data")
    check(os.pread(descriptor, 10, 1 << 30) == bytes(10), "a hole does not read as zeros")
    os.pwrite(descriptor, b"d" * (8 << 20), 1 << 30)
    os.fsync(descriptor)
    before = os.fstat(descriptor).st_blocks
    run("fallocate", "--punch-hole", "--offset", 1 << 30, "--length", 8 << 20, path)
    check(before - os.fstat(descriptor).st_blocks >= (8 << 20) // 512, "punching gave nothing back")
    check(os.pread(descriptor, 10, (1 << 30) + 5) == bytes(10), "a punched hole does not read as zeros")
    os.close(descriptor)
    volume.checked()

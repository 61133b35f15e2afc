"""Stores that fail: what the programs on the mount, and the user, get to know."""
import errno
import os

from harness import check, run

BLOCK = os.urandom(4096)


def _errno_of(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0


def _damage(image, pattern):
    """Overwrites every block of the image that begins with `pattern`: at home, and what the log still has of it."""
    with open(image, "r+b") as file:
        data = file.read()
        offset = data.find(pattern)
        check(offset >= 0, "the pattern is not in the image")
        while offset >= 0:
            file.seek(offset)
            file.write(bytes(4096))
            offset = data.find(pattern, offset + 4096)


def _with_two_files(place):
    volume = place.volume(size="256M")
    data = BLOCK + os.urandom(64 * 4096 - 4096)
    for name in ("victim", "other"):
        with open(volume.path(name), "wb") as file:
            file.write(data if name == "victim" else data[::-1])
    volume.umount()
    return volume, data


def test_a_decayed_block_is_eio_and_only_that_block(place):
    volume, data = _with_two_files(place)
    _damage(volume.image, BLOCK)
    volume.mount("-o", "read_ahead_kb=0")
    descriptor = os.open(volume.path("victim"), os.O_RDONLY)
    check(_errno_of(lambda: os.pread(descriptor, 4096, 0)) == errno.EIO, "wrong bytes instead of EIO")
    check(os.pread(descriptor, 4096, 4096) == data[4096:8192], "the next block cannot be read")
    os.close(descriptor)
    with open(volume.path("other"), "rb") as file:
        check(file.read() == data[::-1], "another file suffers")
    check(volume.stat()["checksum_errors"] >= 1, "stat counts no checksum error")
    with open(volume.path("victim"), "r+b") as file:  # overwriting heals
        file.write(BLOCK)
        os.fsync(file.fileno())
    with open(volume.path("victim"), "rb") as file:
        check(file.read() == data, "the block is not healed by overwriting it")
    volume.umount()
    volume.fsck("-n", "--verify-data")
    _damage(volume.image, BLOCK)
    output = volume.fsck("-n", "--verify-data", codes=(4,))
    check("inode" in output, f"fsck does not say where: {output}")


def test_a_store_that_fails_a_read_is_eio_for_that_block(place):
    volume, data = _with_two_files(place)
    with open(volume.image, "rb") as file:
        offset = file.read().find(BLOCK)
    volume.mount("-o", "read_ahead_kb=0", store=f"fault:read-eio@{offset}+4096,{volume.image}")
    descriptor = os.open(volume.path("victim"), os.O_RDONLY)
    check(_errno_of(lambda: os.pread(descriptor, 4096, 0)) == errno.EIO, "no EIO")
    check(os.pread(descriptor, 4096, 4096) == data[4096:8192], "the next block cannot be read")
    os.close(descriptor)
    volume.checked()


def _turns_read_only(place, fault):
    volume = place.volume(size="256M")
    with open(volume.path("before"), "wb") as file:
        file.write(BLOCK)
    volume.umount()
    volume.mount(store=f"fault:{fault},{volume.image}")
    descriptor = os.open(volume.path("file"), os.O_CREAT | os.O_WRONLY)

    def write_until_it_fails():
        for i in range(10000):
            os.pwrite(descriptor, BLOCK * (1 + i % 40), i % 100 * 4096)
            os.fsync(descriptor)

    check(_errno_of(write_until_it_fails) in (errno.EIO, errno.EROFS), "no fsync failed")
    check(_errno_of(lambda: os.fsync(descriptor)) != 0, "a later fsync was acknowledged")
    check(_errno_of(lambda: os.mkdir(volume.path("new"))) in (errno.EROFS, errno.EIO), "a later change was accepted")
    with open(volume.path("before"), "rb") as file:
        check(file.read() == BLOCK, "reads do not go on")
    os.close(descriptor)
    check(volume.stat()["failure"] != "", "stat does not say why")
    text = run(volume.stagefs, "stat", volume.directory)
    check("read-only since a failure" in text, f"stat does not say why: {text}")
    output = run(volume.stagefs, "umount", volume.directory, codes=(1,))
    check("umount" in output, "umount does not say that it went wrong")
    volume.mount()
    with open(volume.path("before"), "rb") as file:
        check(file.read() == BLOCK, "what was durable is lost")
    volume.checked()


def test_a_failed_write_turns_the_volume_read_only(place):
    _turns_read_only(place, "write-eio-after=60")


def test_a_failed_flush_turns_the_volume_read_only(place):
    _turns_read_only(place, "flush-eio-after=40")

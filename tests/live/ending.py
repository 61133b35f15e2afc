"""Every way to end a mount: what was written before is there afterwards."""
import os
import signal
import subprocess

from harness import check, is_running, mounts_below, run, server_of, wait_for

DATA = os.urandom(5 << 20) + b"the end"


def _write(volume):
    with open(volume.path("file"), "wb") as file:
        file.write(DATA)
    os.mkdir(volume.path("directory"))


def _check_written(volume):
    with open(volume.path("file"), "rb") as file:
        check(file.read() == DATA, "the file does not hold what was written before the mount ended")
    check(os.path.isdir(volume.path("directory")), "a directory is missing")


def _ends_by(place, end):
    volume = place.volume(size="256M")
    _write(volume)
    end(volume)
    check(not mounts_below(volume.directory), "still mounted")
    volume.mount()  # waits for the old server to let go of the store
    _check_written(volume)
    volume.checked()


def test_stagefs_umount_returns_when_the_server_is_gone(place):
    def end(volume):
        pid = volume.server()
        volume.umount()
        check(not is_running(pid), "the server is still there")
        check('"clean": true' in run(volume.stagefs, "info", "--json", volume.image), "the volume is not clean")
    _ends_by(place, end)


def test_umount_loses_nothing(place):
    _ends_by(place, lambda volume: run("umount", volume.directory))


def test_fusermount_loses_nothing(place):
    _ends_by(place, lambda volume: run("fusermount3", "-u", volume.directory))


def test_a_lazy_umount_loses_nothing(place):
    def end(volume):
        with open(volume.path("file"), "rb") as file:
            run("umount", "-l", volume.directory)
            check(file.read() == DATA, "an open file cannot be read after a lazy umount")
    _ends_by(place, end)


def test_sigterm_unmounts_and_loses_nothing(place):
    def end(volume):
        device, pid = volume.device(), volume.server()
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not mounts_below(volume.directory), "SIGTERM did not unmount")
        wait_for(lambda: server_of(device) is None, "the server did not end")
    _ends_by(place, end)


def test_the_foreground_server_ends_with_success(place):
    volume = place.volume(size="256M")
    volume.umount()
    server = subprocess.Popen([volume.stagefs, "mount", "-f", volume.image, volume.directory],
                              stderr=subprocess.PIPE, text=True)
    wait_for(lambda: mounts_below(volume.directory), "the foreground server did not mount")
    _write(volume)
    run(volume.stagefs, "umount", volume.directory)
    check(server.wait(30) == 0, f"exit code {server.returncode}: {server.stderr.read()}")
    volume.mount()
    _check_written(volume)
    volume.checked()


def test_a_block_device_hears_sync(place):
    """A loop device is mounted as fuseblk: sync(2) makes everything durable, umount(8) waits for the server."""
    volume = place.volume(size="256M")
    volume.umount()
    device = run("losetup", "--find", "--show", volume.image).strip()
    try:
        volume.mount(store=device)
        _write(volume)
        os.sync()
        volume.kill()
        volume.mount(store=device)
        _check_written(volume)
        run("umount", volume.directory)
        check('"clean": true' in run(volume.stagefs, "info", "--json", device), "umount(8) did not wait for the server")
        run(volume.stagefs, "mkfs", "--force", "--size", "512M", device, codes=(1,))
    finally:
        subprocess.run(["umount", "-l", volume.directory], stderr=subprocess.DEVNULL)
        run("losetup", "--detach", device)
    volume.fsck("-n", "--verify-data")


def test_read_only_changes_nothing(place):
    volume = place.volume(size="256M")
    _write(volume)
    volume.kill()  # so that there is something to recover
    with open(volume.image, "rb") as file:
        before = file.read()
    volume.mount("-o", "ro")
    for attempt in (lambda: os.mkdir(volume.path("new")), lambda: open(volume.path("file"), "ab"),
                    lambda: os.unlink(volume.path("file"))):
        try:
            attempt()
        except OSError:
            continue
        check(False, "a change was possible")
    os.listdir(volume.directory)
    volume.umount()
    volume.fsck("-n")
    with open(volume.image, "rb") as file:
        check(file.read() == before, "the store was changed")

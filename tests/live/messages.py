"""Bad input: a clear message, the right exit code, and nothing lost."""
import fcntl
import os
import re
import shutil
import subprocess

from harness import Volume, check, kill_process, run


def expect(code, pattern, *command):
    """The command must end with `code` and say `pattern` in few lines."""
    result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, stdin=subprocess.DEVNULL, timeout=60)
    shown = " ".join(str(part) for part in command)
    check(result.returncode == code, f"{shown}: exit code {result.returncode}, expected {code}\n{result.stdout}")
    check(re.search(pattern, result.stdout), f"{shown}: expected /{pattern}/, got:\n{result.stdout}")
    check(code == 0 or len(result.stdout.splitlines()) <= 6 or "usage:" in result.stdout,
          f"{shown}: a long story\n{result.stdout}")


def _formatted(place, name="volume", size="64M"):
    volume = Volume(place, name)
    volume.mkfs(size)
    return volume


def test_help_and_wrong_usage(place):
    stagefs = place.stagefs
    expect(0, "usage: stagefs COMMAND", stagefs, "--help")
    expect(1, "usage: stagefs COMMAND", stagefs)
    expect(1, "unknown command frobnicate", stagefs, "frobnicate")
    for command in ("mkfs", "mount", "umount", "fsck", "info", "stat"):
        usage = 16 if command == "fsck" else 1
        expect(0, f"usage: stagefs {command}", stagefs, command, "--help")
        expect(usage, r"unknown option --nonsense \(try", stagefs, command, "--nonsense", "x", "y")
        expect(usage, "is missing", stagefs, command)
        expect(usage, "one argument too many: c", stagefs, command, "a", "b", "c") if command == "mount" else \
            expect(usage, "one argument too many: b", stagefs, command, "a", "b")


def test_bench_refuses(place):
    stagefs, volume = place.stagefs, place.volume(size="64M")
    quick = ("--seconds", "10ms", "--size", "1M")
    expect(0, "usage: stagefs bench", stagefs, "bench", "--help")
    expect(1, r"unknown option --nonsense \(try", stagefs, "bench", "--nonsense", volume.directory)
    expect(1, "DIR is missing", stagefs, "bench")
    expect(1, "does not exist", stagefs, "bench", volume.path("missing"))
    expect(1, "there is no row none, but seq_write,", stagefs, "bench", "--only", "create,none", volume.directory)
    expect(0, "fuse.stagefs on", stagefs, "bench", *quick, volume.directory)
    check(os.listdir(volume.directory) == [], f"bench leaves {os.listdir(volume.directory)}")
    with open(volume.path("file"), "wb") as file:
        free = os.statvfs(volume.directory)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (2 << 20))
    expect(1, "is full: ", stagefs, "bench", *quick, volume.directory)
    volume.umount()
    volume.mount("-o", "ro")
    expect(1, "is read-only", stagefs, "bench", *quick, volume.directory)
    check(os.listdir(volume.directory) == ["file"], f"bench leaves {os.listdir(volume.directory)}")
    volume.umount()


def test_mkfs_refuses(place):
    stagefs, image = place.stagefs, f"{place.directory}/image"
    expect(1, "does not exist", stagefs, "mkfs", image)
    expect(1, "(?i)too small|at least", stagefs, "mkfs", "--size", "1M", image)
    check(not os.path.exists(image), "a failed mkfs leaves an image")
    expect(1, "--size many", stagefs, "mkfs", "--size", "many", image)
    expect(1, "(?i)log", stagefs, "mkfs", "--size", "64M", "--log-size", "1G", image)
    expect(1, "label", stagefs, "mkfs", "--size", "64M", "--label", "x" * 64, image)
    expect(1, "is a directory", stagefs, "mkfs", place.directory)
    expect(1, "(?i)no such|does not exist|cannot", stagefs, "mkfs", "--size", "64M", f"{place.directory}/no/image")
    run(stagefs, "mkfs", "--size", "64M", "--label", "mine", image)
    expect(1, "contains a stagefs volume .*mine.*--force", stagefs, "mkfs", image)
    check('"label": "mine"' in run(stagefs, "info", "--json", image), "a refused mkfs changed something")
    run(stagefs, "mkfs", "--force", image)
    check('"label": ""' in run(stagefs, "info", "--json", image), "--force did not make a new volume")
    run("mkfs.ext4", "-q", "-F", image)
    expect(1, "ext4 file system.*--force", stagefs, "mkfs", image)
    run("fsck.ext4", "-fn", image)


def test_mount_refuses(place):
    stagefs = place.stagefs
    volume = _formatted(place)
    expect(1, "does not exist", stagefs, "mount", f"{place.directory}/none.img", volume.directory)
    expect(1, "does not exist.*mkdir", stagefs, "mount", volume.image, f"{place.directory}/nowhere")
    expect(1, "not a directory", stagefs, "mount", volume.image, volume.image)
    expect(1, "unknown mount option \"nonsense\"", stagefs, "mount", "-o", "nonsense", volume.image, volume.directory)
    expect(1, "cache=sideways", stagefs, "mount", "-o", "cache=sideways", volume.image, volume.directory)
    expect(1, "cache_size", stagefs, "mount", "-o", "cache_size=1K", volume.image, volume.directory)
    expect(1, "--flush-interval", stagefs, "mount", "--flush-interval", "soon", volume.image, volume.directory)
    volume.mount()
    expect(1, "mount point .* is busy", stagefs, "mount", volume.image, volume.directory)
    other = Volume(place, "other")
    expect(1, "in use", stagefs, "mount", volume.image, other.directory)
    expect(8, "in use", stagefs, "fsck", volume.image)
    expect(1, "in use", stagefs, "mkfs", "--force", volume.image)
    expect(0, "in use", stagefs, "info", volume.image)
    with open(volume.path("file"), "w"):
        expect(1, "is busy, in use by", stagefs, "umount", volume.directory)
    volume.umount()
    expect(1, "is not mounted", stagefs, "umount", volume.directory)
    expect(1, "not a mount point", stagefs, "stat", volume.directory)
    expect(1, "type is proc, not stagefs", stagefs, "umount", "/proc")
    expect(1, "type is proc, not stagefs", stagefs, "stat", "/proc")


def test_a_dead_mount_is_explained_and_taken_away(place):
    volume = place.volume(size="64M")
    kill_process(volume.server())
    expect(1, "is gone", place.stagefs, "stat", volume.directory)
    volume.mount()
    os.listdir(volume.directory)
    kill_process(volume.server())
    output = run(place.stagefs, "umount", volume.directory)
    check("no server answers" in output, f"umount of a dead mount says nothing: {output}")
    volume.fsck()


def test_damaged_volumes(place):
    stagefs = place.stagefs
    volume = _formatted(place, size="64M")
    image, directory = volume.image, volume.directory
    with open(image, "rb") as file:
        good = file.read()

    def damaged(data):
        with open(image, "wb") as file:
            file.write(data)

    damaged(bytes(64 << 20))
    expect(1, "(?i)not a stagefs volume|no stagefs volume", stagefs, "mount", image, directory)
    expect(1, "(?i)not a stagefs volume|no stagefs volume", stagefs, "info", image)
    expect(8, "(?i)not a stagefs volume|no stagefs volume", stagefs, "fsck", image)
    damaged(good[:32 << 20])
    expect(1, "(?i)truncated|smaller|only", stagefs, "mount", image, directory)
    expect(8, "(?i)truncated|smaller|only", stagefs, "fsck", image)
    expect(1, "--force", stagefs, "mkfs", image)
    places = [at for at in range(0, 128 << 10, 4096) if good[at + 8:at + 16] == b"stagefs\0"]
    check(len(places) == 2, f"superblocks at {places}")
    data = bytearray(good)
    for at in places:
        data[at + 100:at + 104] = b"\xff\xff\xff\xff"
    damaged(data)
    expect(1, "(?i)both superblocks", stagefs, "mount", image, directory)
    expect(8, "(?i)both superblocks", stagefs, "fsck", "-y", image)
    expect(1, "--force", stagefs, "mkfs", image)
    for at in places:
        data = bytearray(good)
        data[at + 100:at + 104] = b"\xff\xff\xff\xff"
        damaged(data)
        expect(4, "superblock [12] of 2", stagefs, "fsck", "-n", image)
        output = run(stagefs, "mount", image, directory)
        check(re.search("(?i)superblock", output), f"mounting with one bad superblock says nothing: {output}")
        run(stagefs, "umount", directory)
        run(stagefs, "fsck", image)
        damaged(data)
        run(stagefs, "fsck", "-a", image, codes=(1,))
        run(stagefs, "fsck", "-a", image, codes=(0,))
    damaged(good + bytes(16 << 20))
    output = run(stagefs, "mount", image, directory)
    check(re.search("the volume uses", output), f"a larger store is not mentioned: {output}")
    run(stagefs, "umount", directory)


def test_the_names_mount_fsck_and_mkfs_look_for(place):
    links = f"{place.directory}/links"
    os.mkdir(links)
    for name in ("mkfs.stagefs", "mount.stagefs", "fsck.stagefs"):
        os.symlink(place.stagefs, f"{links}/{name}")
    volume = Volume(place, "volume")
    run("truncate", "--size", "64M", volume.image)
    run(f"{links}/mkfs.stagefs", "-L", "name", volume.image)
    expect(32, "is not a directory", f"{links}/mount.stagefs", volume.image, volume.image)
    expect(1, "unknown mount option", f"{links}/mount.stagefs", volume.image, volume.directory, "-o", "nonsense")
    run(f"{links}/mount.stagefs", volume.image, volume.directory, "-f", "-o", "rw")
    check(not os.listdir(volume.directory), "-f of mount(8) mounts")
    run(f"{links}/mount.stagefs", volume.image, volume.directory, "-s", "-n", "-v", "-o",
        "rw,nonsense,noauto,nofail,_netdev,x-systemd.automount,user,nosuid,nodev")
    table = run("findmnt", "-no", "OPTIONS", volume.directory)
    check("nosuid" in table and "nodev" in table, f"mounted with {table}")
    run("umount", volume.directory)
    run(place.stagefs, "mount", volume.image, volume.directory)  # waits for the server of before
    run(place.stagefs, "umount", volume.directory)
    run(f"{links}/fsck.stagefs", "-a", volume.image)
    run(f"{links}/fsck.stagefs", "-p", "-f", "-C0", volume.image)
    run(f"{links}/fsck.stagefs", "-n", "-C", "3", volume.image)
    run(f"{links}/fsck.stagefs", "-V", "-y", volume.image)
    expect(16, "unknown option", f"{links}/fsck.stagefs", "-X", volume.image)
    expect(16, "cannot be combined", f"{links}/fsck.stagefs", "-n", "-y", volume.image)
    expect(8, "does not exist", f"{links}/fsck.stagefs", f"{place.directory}/none")


def test_no_permission_is_said(place):
    volume = _formatted(place)
    os.chmod(volume.image, 0o600)
    os.chmod(place.directory, 0o755)
    shutil.copy(place.stagefs, f"{place.directory}/stagefs")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    expect(1, "(?i)permission denied", *nobody, f"{place.directory}/stagefs", "info", volume.image)
    expect(1, "(?i)permission denied", *nobody, f"{place.directory}/stagefs", "mount", volume.image, volume.directory)


def test_a_lock_of_another_tool_is_waited_for(place):
    volume = _formatted(place)
    with open(volume.image, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mount = subprocess.Popen([place.stagefs, "mount", volume.image, volume.directory], stderr=subprocess.DEVNULL)
        check(mount.poll() is None, "mount did not wait for the lock")
    check(mount.wait(30) == 0, "mount failed although the lock was released")
    volume.checked()

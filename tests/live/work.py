"""Ordinary programs doing ordinary work."""
import mmap
import os
import random

from harness import check, run


def test_copying_a_tree_gives_the_same_tree(place):
    volume = place.volume()
    run("cp", "-a", "/usr/include", volume.path("include"))
    run("diff", "-r", "--no-dereference", "/usr/include", volume.path("include"))
    volume.remount()
    run("diff", "-r", "--no-dereference", "/usr/include", volume.path("include"))
    volume.checked()


def test_a_tar_archive_unpacks_to_what_went_in(place):
    volume = place.volume()
    run("tar", "cf", volume.path("linux.tar"), "-C", "/usr/include", "linux", "asm-generic")
    run("tar", "xf", volume.path("linux.tar"), "-C", volume.directory)
    run("diff", "-r", "/usr/include/linux", volume.path("linux"))
    run("tar", "df", volume.path("linux.tar"), "-C", volume.directory)
    volume.checked()


def test_git_commits_and_finds_nothing_wrong(place):
    volume = place.volume()
    repository = volume.path("repository")
    environment = {"PATH": os.environ["PATH"], "HOME": place.directory, "GIT_CONFIG_NOSYSTEM": "1",
                   "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@localhost",
                   "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@localhost"}
    git = lambda *arguments: run("git", *arguments, cwd=repository, env=environment)
    os.mkdir(repository)
    git("init", "-q")
    run("cp", "-r", "/usr/include/linux", repository)
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    os.unlink(f"{repository}/linux/stat.h")
    os.rename(f"{repository}/linux/fs.h", f"{repository}/linux/moved.h")
    git("add", "-A")
    git("commit", "-q", "-m", "second")
    git("gc", "-q")
    git("fsck", "--full", "--strict")
    volume.remount()
    git("fsck", "--full", "--strict")
    git("checkout", "-q", "HEAD~1")
    check(git("status", "--porcelain") == "", "git sees changes where there are none")
    run("diff", "-r", "/usr/include/linux", f"{repository}/linux")
    volume.checked()


def test_a_program_is_built_and_runs(place):
    volume = place.volume()
    units = 8
    for i in range(units):
        with open(volume.path(f"unit{i}.cc"), "w") as file:
            file.write(f"#include <string>\n#include <map>\n"
                       f"int unit{i}() {{ std::map<std::string, int> m; m[\"x\"] = {i}; return m[\"x\"]; }}\n")
    with open(volume.path("main.cc"), "w") as file:
        for i in range(units):
            file.write(f"int unit{i}();\n")
        file.write("int main() { return " + " + ".join(f"unit{i}()" for i in range(units)) + "; }\n")
    for name in [f"unit{i}" for i in range(units)] + ["main"]:
        run("g++", "-std=c++20", "-g", "-c", f"{name}.cc", "-o", f"{name}.o", cwd=volume.directory)
    run("ar", "rcs", "libunits.a", *[f"unit{i}.o" for i in range(units)], cwd=volume.directory)
    run("g++", "main.o", "libunits.a", "-o", "program", cwd=volume.directory)
    run(volume.path("program"), codes=(sum(range(units)),))
    volume.checked()


def _fio(volume, engine, *options):
    return run("fio", "--name=job", f"--directory={volume.directory}", f"--filename={engine}", "--size=48M",
               f"--ioengine={engine}", "--rw=randwrite", "--bsrange=512-128k", "--blockalign=512", "--verify=crc32c",
               "--verify_fatal=1", "--verify_state_save=0", "--randseed=7", *options, cwd=volume.directory)


def _fio_by(place, engine, *options):
    volume = place.volume()
    _fio(volume, engine, *options)
    volume.remount()
    _fio(volume, engine, "--verify_only", *options)
    volume.checked()


def test_fio_verifies_by_psync(place):
    _fio_by(place, "psync", "--fsync=64")


def test_fio_verifies_by_mmap(place):
    _fio_by(place, "mmap", "--fsync=64", "--bsrange=4k-128k", "--blockalign=4k")


def test_fio_verifies_by_io_uring_and_direct(place):
    _fio_by(place, "io_uring", "--iodepth=16", "--direct=1", "--bsrange=4k-256k", "--blockalign=4k")


def test_writes_by_every_way_are_seen_by_every_way(place):
    volume = place.volume()
    seed = 20260131
    chance = random.Random(seed)
    size = 1 << 20
    model = bytearray(size)
    path = volume.path("file")
    with open(path, "wb") as file:
        file.truncate(size)
    plain = os.open(path, os.O_RDWR)
    with mmap.mmap(plain, size) as shared:
        for step in range(600):
            offset = chance.randrange(size - 9000)
            data = chance.randbytes(chance.randrange(1, 9000))
            way = chance.randrange(3)
            if way == 0:
                os.pwrite(plain, data, offset)
            elif way == 1:
                shared[offset:offset + len(data)] = data
            else:
                shared.flush()
                data = bytes(len(data))
                os.posix_fallocate(plain, offset, len(data))
                os.pwrite(plain, data, offset)
            model[offset:offset + len(data)] = data
            place_read = chance.randrange(size - 5000)
            seen = os.pread(plain, 5000, place_read)
            check(seen == model[place_read:place_read + 5000], f"seed {seed}, step {step}: read() sees other bytes")
            seen = shared[place_read:place_read + 5000]
            check(seen == model[place_read:place_read + 5000], f"seed {seed}, step {step}: mmap sees other bytes")
        shared.flush()
    os.close(plain)
    volume.remount()
    with open(path, "rb") as file:
        check(file.read() == model, f"seed {seed}: other bytes after mounting again")
    volume.checked()


def test_a_directory_of_many_names(place, count=20000):
    volume = place.volume()
    directory = volume.path("many")
    os.mkdir(directory)
    names = {f"name {i:06d} {'x' * (i % 60)}" for i in range(count)}
    for name in names:
        os.close(os.open(f"{directory}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    check(set(os.listdir(directory)) == names, "other names than were made")
    volume.remount()
    seen = []
    gone = set()
    with os.scandir(directory) as entries:  # while names go away behind and before the cookie
        for i, entry in enumerate(entries):
            seen.append(entry.name)
            if i % 2 == 0:
                os.unlink(entry.path)
                gone.add(entry.name)
    check(len(seen) == len(set(seen)), "a name was listed twice")
    check(set(seen) == names, "a name that was there all along was not listed")
    check(set(os.listdir(directory)) == names - gone, "other names than are left")
    for name in names - gone:
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)
    volume.checked()

"""Direct access on real mounts: what programs see through one door of what others did through another, and what is left
when clients or the server die."""
import ctypes
import errno
import mmap
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import time

from dsa_client import (ABORT, BEGIN, COMMIT, COMPARE_SWAP, DURABLE, FETCH_ADD, FLUSH, READ, SHARED, SIGNALED, WRITE,
                        Connection, DirectError)
from harness import Failure, check, run, wait_for
from recorded import Recording, must_bite, sweep

PAGE = 4096


def _connect(volume, **options):
    return Connection(volume.stagefs, volume.image, **options)


def _expect(code, action, what):
    try:
        action()
    except OSError as error:
        check(error.errno == code, f"{what}: {error}, not {errno.errorcode[code]}")
    else:
        raise Failure(f"{what} went well, not {errno.errorcode[code]}")


def _clients(volume):
    return volume.stat()["dsa_clients"]


# --- Coherence ---


class _Doors:
    """One file through every door, beside a model of what it must hold. What one door has completed every door sees."""

    SIZE = 64 * PAGE

    def __init__(self, volume, chance, name):
        self.chance = chance
        path = volume.path(name)
        with open(path, "wb") as file:
            file.write(bytes(self.SIZE))
        self.model = bytearray(self.SIZE)
        self.file = os.open(path, os.O_RDWR)
        self.mapped = mmap.mmap(self.file, self.SIZE)
        self.clients = [_connect(volume), _connect(volume)]
        self.files = [client.open("/" + name, os.O_RDWR | SHARED) for client in self.clients]
        self.queues = [client.queue() for client in self.clients]
        self.mappings = [file.map(0, self.SIZE) for file in self.files]
        # What was stored to a mapping and not persisted: only that mapping sees it.
        self.stored = [{}, {}]

    def _range(self, longest=3 * PAGE):
        length = self.chance.choice((1, 8, 100, 1024, 1025, PAGE, self.chance.randrange(1, longest)))
        return self.chance.randrange(0, self.SIZE - length), length

    def _bytes(self, length):
        return self.chance.randbytes(length)

    def _put(self, offset, data):
        self.model[offset:offset + len(data)] = data

    def write_at_mount(self):
        offset, length = self._range()
        data = self._bytes(length)
        check(os.pwrite(self.file, data, offset) == length, "short write at the mount")
        self._put(offset, data)

    def store_at_mount(self):
        # Whole pages: a dirty page of a shared mapping wins over what others write to its other bytes meanwhile.
        offset = self.chance.randrange(self.SIZE // PAGE) * PAGE
        data = self._bytes(PAGE)
        self.mapped[offset:offset + PAGE] = data
        self.mapped.flush(offset, PAGE)
        self._put(offset, data)

    def write_directly(self):
        door = self.chance.randrange(2)
        offset, length = self._range(20 * PAGE)
        data = self._bytes(length)
        self.queues[door].write(self.files[door], offset, data, flags=self.chance.choice((0, DURABLE)))
        self._put(offset, data)

    def add_directly(self):
        door = self.chance.randrange(2)
        offset = self.chance.randrange(self.SIZE // 8) * 8
        number = self.chance.randrange(1 << 64)
        before = struct.unpack_from("<Q", self.model, offset)[0]
        completion = self.queues[door].do(FETCH_ADD, self.files[door], offset, operand=number)
        check(completion.value == before, f"fetch-and-add at {offset} found {completion.value}, not {before}")
        struct.pack_into("<Q", self.model, offset, (before + number) % (1 << 64))

    def write_group(self):
        door = self.chance.randrange(2)
        queue = self.queues[door]
        queue.do(BEGIN)
        parts = [self._range() for _ in range(self.chance.randrange(1, 6))]
        data = [self._bytes(length) for _, length in parts]
        for (offset, _), part in zip(parts, data):
            queue.write(self.files[door], offset, part)
        if self.chance.random() < 0.2:
            queue.do(ABORT)
            return
        queue.do(COMMIT)
        for (offset, _), part in zip(parts, data):
            self._put(offset, part)

    def store_in_mapping(self):
        door = self.chance.randrange(2)
        offset, length = self._range(PAGE)
        data = self._bytes(length)
        ctypes.memmove(ctypes.addressof(self.mappings[door].bytes) + offset, data, length)
        for i, byte in enumerate(data):
            self.stored[door][offset + i] = byte

    def persist_mapping(self):
        door = self.chance.randrange(2)
        self.mappings[door].persist(durable=self.chance.random() < 0.3)
        # Bytes that were stored as they were are no change: then others' later changes to them stay.
        for offset, byte in self.stored[door].items():
            self.model[offset] = byte
        self.stored[door] = {}

    def read_at_mount(self):
        offset, length = self._range()
        self._look(os.pread(self.file, length, offset), offset, length, "read(2)")

    def look_at_mount(self):
        offset, length = self._range()
        self._look(self.mapped[offset:offset + length], offset, length, "mmap")

    def read_directly(self):
        door = self.chance.randrange(2)
        offset, length = self._range(20 * PAGE)
        self._look(self.queues[door].read(self.files[door], offset, length), offset, length, "direct read")

    def look_in_mapping(self):
        door = self.chance.randrange(2)
        offset, length = self._range()
        pages = {stored // PAGE for stored in self.stored[door]}
        if any(page in pages for page in range(offset // PAGE, (offset + length - 1) // PAGE + 1)):
            return  # private copies, as they were when they were made
        self._look(self.mappings[door].bytes.raw[offset:offset + length], offset, length, "dsa_map")

    def _look(self, found, offset, length, how):
        expected = bytes(self.model[offset:offset + length])
        if found != expected:
            at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
            raise Failure(f"{how} of {length} at {offset}: {len(found)} bytes, the first wrong one is {offset + at}")

    def close(self):
        self.mapped.close()
        os.close(self.file)
        for mapping in self.mappings:
            mapping.unmap()
        for client in self.clients:
            client.close()


def test_direct_doors_agree(place):
    """Random work through the mount, its mmap, two clients and their mappings: each sees what any has completed."""
    volume = place.volume(mount=("-o", "dsa"))
    seed = int.from_bytes(os.urandom(4), "little")
    chance = random.Random(seed)
    doors = _Doors(volume, chance, "file")
    actions = [value for name, value in vars(_Doors).items() if callable(value) and not name.startswith("_")
               and name != "close"]
    done = []
    for _ in range(3000):
        action = chance.choice(actions)
        # A store in a mapping takes the page as it is then: persist before others change it, so that the model is simple.
        done.append(action.__name__)
        try:
            action(doors)
            if action is _Doors.store_in_mapping:
                for door in (0, 1):
                    if doors.stored[door]:
                        doors.mappings[door].persist()
                        for offset, byte in doors.stored[door].items():
                            doors.model[offset] = byte
                        doors.stored[door] = {}
        except Exception as error:
            raise Failure(f"seed {seed}, step {len(done)}, after {done[-8:]}: {error}") from error
    doors.close()
    volume.checked()


def test_direct_growth_is_seen_by_stat_and_read(place):
    volume = place.volume(mount=("-o", "dsa"))
    client = _connect(volume)
    file, queue = client.open("/new"), client.queue()
    check(os.stat(volume.path("new")).st_size == 0, "a new file")
    for size in (10, 5000, 2_000_000):
        queue.write(file, size - 4, b"last")
        check(os.stat(volume.path("new")).st_size == size, f"stat does not see {size} bytes")
        with open(volume.path("new"), "rb") as reader:
            reader.seek(size - 4)
            check(reader.read() == b"last", "read(2) at the new end")
    _expect(errno.EBUSY, lambda: open(volume.path("new"), "r+b"), "opening for writing beside a direct writer")
    _expect(errno.EBUSY, lambda: os.truncate(volume.path("new"), 0), "truncate(2) beside a direct writer")
    file.close()
    with open(volume.path("new"), "r+b") as writer:
        _expect(errno.EBUSY, lambda: client.open("/new", os.O_RDWR), "direct writing beside a writer")
        client.open("/new", os.O_RDWR | SHARED).close()
        client.open("/new", os.O_RDONLY).close()
        writer.write(b"x")
    client.close()
    volume.checked()


# --- Who may do what ---


def _as_user(uid, action):
    """Runs `action` in a child that is this user; returns what it prints."""
    reader, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            text = action() or ""
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(pipe, text.encode())
        os._exit(0)
    os.close(pipe)
    with os.fdopen(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


def test_direct_users_are_who_the_kernel_says(place):
    volume = place.volume(mount=("-o", "dsa"))
    os.chmod(place.directory, 0o755)
    for name, mode in (("secret", 0o600), ("public", 0o644), ("open", 0o666)):
        with open(volume.path(name), "w") as file:
            file.write(name)
        os.chmod(volume.path(name), mode)
    # Where this user can find it.
    libraries = f"{place.directory}/fs/dsa/client"
    os.makedirs(libraries)
    os.makedirs(f"{place.directory}/tools")
    shutil.copy(os.path.join(os.path.dirname(place.stagefs), "../fs/dsa/client/libstagefs.so.1"), libraries)

    def act():
        client = Connection(f"{place.directory}/tools/stagefs", volume.image)
        check(client.provider == "tcp", f"provider {client.provider}: shm would let this user at the server's memory")
        _expect(errno.EACCES, lambda: client.open("/secret", os.O_RDONLY), "reading what is root's")
        _expect(errno.EACCES, lambda: client.open("/public", os.O_RDWR), "writing what is root's")
        _expect(errno.EACCES, lambda: client.open("/mine"), "making a file in root's directory")
        queue = client.queue()
        check(queue.read(client.open("/public", os.O_RDONLY), 0, 100) == b"public", "what it read")
        file = client.open("/open", os.O_RDWR)
        queue.write(file, 0, b"nobody's", flags=DURABLE)
        _expect(errno.EBADF, lambda: queue.write(client.open("/public", os.O_RDONLY), 0, b"x"), "writing to a reader")
        _expect(errno.EACCES, lambda: Connection(f"{place.directory}/tools/stagefs", volume.image, provider="shm"),
                "shm for another user")
        client.close()
        return "well"
    said = _as_user(65534, act)
    check(said == "well", said)
    with open(volume.path("open")) as file:
        check(file.read() == "nobody's", "what it wrote")
    volume.remount("-o", "dsa,ro")
    client = _connect(volume)
    check(client.queue().read(client.open("/open", os.O_RDONLY), 0, 100) == b"nobody's", "reading a read-only mount")
    _expect(errno.EROFS, lambda: client.open("/open", os.O_RDWR), "writing to a read-only mount")
    client.close()
    volume.checked()


def test_direct_remote_needs_the_key(place):
    volume = place.volume()
    volume.umount()
    key_file = f"{place.directory}/keys"
    with open(key_file, "w") as file:
        file.write("# one that may write, one that may not\n"
                   f"friend {'ab' * 32} 0\nreader {'cd' * 32} 0 ro\n")
    os.chmod(key_file, 0o644)
    refused = run(place.stagefs, "mount", "-o", f"dsa=127.0.0.1:0,dsa_key={key_file}", volume.image, volume.directory,
                  codes=(1, 32))
    check("keys" in refused, f"a key file that all may read: {refused}")
    os.chmod(key_file, 0o600)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    volume.mount("-o", f"dsa=127.0.0.1:{port},dsa_key={key_file}")
    address = f"127.0.0.1:{port}"

    def key(name, line):
        path = f"{place.directory}/{name}"
        with open(path, "w") as file:
            file.write(line + "\n")
        os.chmod(path, 0o600)
        return path

    friend = Connection(place.stagefs, address, key_file=key("friend", f"friend {'ab' * 32}"))
    check(friend.provider == "tcp", friend.provider)
    queue, file = friend.queue(), friend.open("/far")
    data = os.urandom(3_000_000)
    queue.write(file, 5, data, flags=DURABLE)
    check(queue.read(file, 5, len(data)) == data, "what came back")
    _expect(errno.EOPNOTSUPP, lambda: file.map(0, PAGE), "a mapping from afar")
    wrong = key("wrong", f"friend {'ac' * 32}")
    unknown = key("unknown", f"stranger {'ab' * 32}")
    for path in (wrong, unknown):
        _expect(errno.EACCES, lambda: Connection(place.stagefs, address, key_file=path), "a wrong key")
    reader = Connection(place.stagefs, address, key_file=key("reader", f"reader {'cd' * 32}"))
    _expect(errno.EROFS, lambda: reader.open("/far", os.O_RDWR), "writing with a key for reading")
    # Whoever sends garbage is dropped, and nobody else notices.
    for garbage in (b"GET / HTTP/1.1\r\n\r\n" * 10, bytes(200), os.urandom(5000), b"\xff" * 64):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.settimeout(20)
            try:
                stranger.sendall(garbage)
                while stranger.recv(1000):
                    pass
            except ConnectionError:
                pass
    check(queue.read(file, 5, 100) == data[:100], "the friend is still served")
    friend.close()
    reader.close()
    volume.checked()


# --- Death ---


def _child(action):
    """A process that runs `action(say)`; returns (pid, reader of what it says)."""
    reader, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            action(lambda text: os.write(pipe, text.encode() + b"\n"))
        except BaseException as error:
            os.write(pipe, f"{type(error).__name__}: {error}\n".encode())
        os._exit(0)
    os.close(pipe)
    return pid, os.fdopen(reader)


def test_direct_clients_may_die_at_any_moment(place):
    """Killed with groups open, transfers under way, mappings dirty and faults pending: what had completed stays, what had
    not been committed is not there, and nothing of the client is left in the server."""
    volume = place.volume(mount=("-o", "dsa"))
    chance = random.Random(7)
    for number in range(24):
        name = f"/file{number}"

        def act(say):
            client = _connect(volume, provider=("shm", "tcp")[number % 2])
            file, queue = client.open(name), client.queue(64)
            big = client.register(16 << 20)
            mapping = file.map(64 << 20, 4 << 20)
            queue.do(BEGIN)
            queue.write(file, 1 << 20, b"never committed" * 50)
            other = client.queue(64)
            done = 0
            say("ready")
            while True:
                other.write(file, 0, struct.pack("<Q", done))
                say(str(done))
                done += 1
                for i in range(8):
                    other.post(WRITE, file, (2 + i) << 20, memory=big, at=i << 20, length=1 << 20)
                ctypes.memset(ctypes.addressof(mapping.bytes) + chance.randrange(4 << 20), 1, 1)
                waited = 0
                while waited < 8:
                    waited += len(other.wait())

        pid, reader = _child(act)
        first = reader.readline()
        check(first == "ready\n", first)
        time_to_live = chance.random() * 0.1
        select.select([], [], [], time_to_live)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        lines = [line for line in reader.read().split("\n") if line]
        last = max((int(line) for line in lines if line.isdigit()), default=-1)
        check(all(line.isdigit() for line in lines), f"client: {lines[-1:]}")
        with open(volume.path(name[1:]), "rb") as file:
            data = file.read(8)
            found = struct.unpack("<Q", data)[0] if len(data) == 8 else -1
            check(found in (last, last + 1), f"write {last} had completed, {found} is there")
            file.seek(1 << 20)
            check(file.read(15) in (bytes(15), b""), "what was never committed is there")
    wait_for(lambda: _clients(volume) == 0, "the dead clients are gone", 40)
    with open(volume.path("file0"), "r+b"):
        pass  # nobody holds it any more
    volume.checked()


def test_direct_server_dies_and_clients_hear(place):
    """kill -9 of the server: clients get errors at once, come back, and find all that was durable."""
    volume = place.volume(mount=("-o", "dsa"))
    for number, provider in enumerate(("shm", "tcp", "shm")):

        def act(say):
            client = _connect(volume, provider=provider)
            file, queue = client.open(f"/{provider}{number}"), client.queue()
            done = 0
            while True:
                try:
                    queue.write(file, done * 100, struct.pack("<Q", done), flags=DURABLE)
                except DirectError as error:
                    say(f"error {error.errno} after {done}")
                    client.close()
                    return
                done += 1
                say(f"durable {done}")

        pid, reader = _child(act)
        while not reader.readline().startswith("durable 20"):
            pass
        volume.kill()
        killed = time.monotonic()
        text = reader.read()
        check(time.monotonic() - killed < 10, "the client took long to hear of it")
        os.waitpid(pid, 0)
        end = text.strip().split("\n")[-1]
        match = re.match(r"error (\d+) after (\d+)$", end)
        check(match is not None, f"the client ended with: {end}")
        check(int(match[1]) == errno.ECONNRESET, f"the error was {errno.errorcode[int(match[1])]}")
        volume.mount("-o", "dsa")
        client = _connect(volume)
        queue, file = client.queue(), client.open(f"/{provider}{number}")
        for done in range(int(match[2])):
            check(queue.read(file, done * 100, 8) == struct.pack("<Q", done), f"durable write {done} is lost")
        client.close()
    volume.checked()


def test_direct_writes_survive_power_cuts_in_order(place):
    """Direct writes of two queues and of groups, recorded and cut: a prefix, with all that was told to be durable."""
    door = f"{place.directory}/door"
    recording = Recording(place, mount=("-o", f"dsa={door}"))
    client = Connection(place.stagefs, door)
    chance = random.Random(5)
    queue = client.queue()
    first, second, pair = (client.open(name) for name in ("/first", "/second", "/pair"))
    for number in range(1, 301):
        page = struct.pack("<Q", number) * (chance.choice((8, 512, 40_000)))
        queue.write(first, 0, struct.pack("<Q", number))
        queue.write(second, 0, struct.pack("<Q", number))
        queue.do(BEGIN)
        queue.write(pair, 0, page)
        queue.write(pair, 1 << 20, page)
        durable = number % 3 == 0
        queue.do(COMMIT, flags=DURABLE if durable else 0)
        if durable:
            recording.marks.put(f"durable {number}")
    client.close()
    recording.end()

    def number_in(directory, name, offset=0):
        try:
            with open(f"{directory}/{name}", "rb") as file:
                file.seek(offset)
                data = file.read(8)
        except FileNotFoundError:
            return 0
        return struct.unpack("<Q", data)[0] if len(data) == 8 else 0

    def look(directory, position):
        a, b = number_in(directory, "first"), number_in(directory, "second")
        c, d = number_in(directory, "pair"), number_in(directory, "pair", 1 << 20)
        told = recording.last("durable", position)
        check(min(a, b, c) >= told, f"{told} changes were acknowledged as durable, there are {a}, {b}, {c}")
        check(a >= b >= c and c >= a - 1, f"not a prefix: {a}, {b}, {c}")
        check(c == d, f"half a group: {c} and {d}")

    print(f"  {sweep(recording, 40, look)}", flush=True)
    must_bite(recording, 40, look)


# --- Without a mount ---


def test_direct_serve_without_a_mount(place):
    volume = place.volume()
    with open(volume.path("hello"), "w") as file:
        file.write("from the mount")
    volume.umount()
    server = subprocess.Popen([place.stagefs, "serve", "--foreground", volume.image], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(lambda: os.path.exists(volume.image + ".dsa"), "the server's socket")
        client = _connect(volume)
        queue = client.queue()
        check(queue.read(client.open("/hello", os.O_RDONLY), 0, 100) == b"from the mount", "what it reads")
        queue.write(client.open("/hello", os.O_RDWR), 0, b"FROM", flags=DURABLE)
        with open(f"/proc/{server.pid}/status") as status:
            caught = int(re.search(r"SigCgt:\s*(\w+)", status.read())[1], 16)
        check(caught >> (signal.SIGSEGV - 1) & 1 == 0, "libfabric catches the signal of a crash")
        client.close()
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=60)
        check(server.returncode == 0, f"it ended with {server.returncode}: {output}")
        check(not os.path.exists(volume.image + ".dsa"), "it left its socket behind")
    finally:
        server.kill()
        server.wait()
    volume.mount()
    with open(volume.path("hello")) as file:
        check(file.read() == "FROM the mount", "what it wrote")
    volume.checked()

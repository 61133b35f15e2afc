"""Direct access for the live tests: the C library through ctypes, as a program in another language would use it."""
import ctypes
import os
import time

from harness import check

READ, WRITE, FLUSH, COMPARE_SWAP, FETCH_ADD, BEGIN, COMMIT, ABORT = range(1, 9)
SIGNALED, DURABLE, UNORDERED, FENCE = 1, 2, 4, 8
SHARED = 0x40000000
LOCAL_READ, LOCAL_WRITE = 1, 2
MAX_INLINE = 1024


class _Options(ctypes.Structure):
    _fields_ = [("provider", ctypes.c_char_p), ("key_file", ctypes.c_char_p), ("timeout_ms", ctypes.c_uint32),
                ("spin_us", ctypes.c_uint32)]


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class Stat(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("size", ctypes.c_uint64), ("allocated", ctypes.c_uint64),
                ("mode", ctypes.c_uint32), ("nlink", ctypes.c_uint32), ("uid", ctypes.c_uint32),
                ("gid", ctypes.c_uint32), ("atime", _Timespec), ("mtime", _Timespec), ("ctime", _Timespec)]


class Work(ctypes.Structure):
    _fields_ = [("user_data", ctypes.c_uint64), ("opcode", ctypes.c_uint32), ("flags", ctypes.c_uint32),
                ("file", ctypes.c_void_p), ("offset", ctypes.c_uint64), ("buffer", ctypes.c_void_p),
                ("length", ctypes.c_uint64), ("memory", ctypes.c_void_p), ("operand", ctypes.c_uint64),
                ("expected", ctypes.c_uint64)]


class Completion(ctypes.Structure):
    _fields_ = [("user_data", ctypes.c_uint64), ("status", ctypes.c_int32), ("opcode", ctypes.c_uint32),
                ("length", ctypes.c_uint64), ("lsn", ctypes.c_uint64), ("value", ctypes.c_uint64)]


class DirectError(OSError):
    """What a call or a piece of work failed with."""


def _library(stagefs):
    library = ctypes.CDLL(os.path.join(os.path.dirname(stagefs), "../fs/dsa/client/libstagefs.so.1"))
    library.dsa_error.restype = ctypes.c_char_p
    return library


class Connection:
    """Not to be carried over a fork."""

    def __init__(self, stagefs, address, provider=None, key_file=None, timeout_ms=10_000):
        self.c = _library(stagefs)
        options = _Options(provider and provider.encode(), key_file and key_file.encode(), timeout_ms, 0)
        self.handle = ctypes.c_void_p()
        self.call("dsa_connect", address.encode(), ctypes.byref(options), ctypes.byref(self.handle))
        self.c.dsa_provider.restype = ctypes.c_char_p
        self.provider = self.c.dsa_provider(self.handle).decode()

    def call(self, name, *arguments):
        result = getattr(self.c, name)(*arguments)
        if result < 0:
            raise DirectError(-result, f"{name}: {self.c.dsa_error().decode(errors='replace')}")
        return result

    def open(self, path, flags=os.O_RDWR | os.O_CREAT, mode=0o644):
        file = ctypes.c_void_p()
        self.call("dsa_open", self.handle, path.encode(), flags, mode, ctypes.byref(file))
        return File(self, file)

    def register(self, size):
        return Memory(self, size)

    def queue(self, depth=64):
        return Queue(self, depth)

    def close(self):
        self.c.dsa_disconnect(self.handle)
        self.handle = None


class File:
    def __init__(self, connection, handle):
        self.connection = connection
        self.handle = handle

    def stat(self):
        stat = Stat()
        self.connection.call("dsa_stat", self.handle, ctypes.byref(stat))
        return stat

    def map(self, offset, length):
        return Mapping(self, offset, length)

    def close(self):
        self.connection.call("dsa_close", self.handle)


class Memory:
    def __init__(self, connection, size):
        self.connection = connection
        self.bytes = (ctypes.c_char * size)()
        self.handle = ctypes.c_void_p()
        connection.call("dsa_register", connection.handle, self.bytes, ctypes.c_size_t(size),
                        LOCAL_READ | LOCAL_WRITE, ctypes.byref(self.handle))

    def address(self, offset=0):
        return ctypes.addressof(self.bytes) + offset

    def deregister(self):
        self.connection.call("dsa_deregister", self.handle)


class Queue:
    """Posts work one piece at a time and waits for it, or posts and polls as told."""

    def __init__(self, connection, depth):
        self.connection = connection
        self.handle = ctypes.c_void_p()
        connection.call("dsa_create_queue", connection.handle, depth, ctypes.byref(self.handle))
        self._next = 1

    def post(self, opcode, file=None, offset=0, data=None, memory=None, at=0, length=0, flags=SIGNALED, operand=0,
             expected=0):
        """Returns what its completion will be known by."""
        work = Work(user_data=self._next, opcode=opcode, flags=flags, file=file and file.handle, offset=offset,
                    operand=operand, expected=expected)
        if memory is not None:
            work.buffer, work.length, work.memory = memory.address(at), length, memory.handle
        elif data is not None:
            work.buffer, work.length = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data)
        self.connection.call("dsa_post", self.handle, ctypes.byref(work), 1)
        self._next += 1
        return work.user_data

    def poll(self, count=64):
        completions = (Completion * count)()
        return list(completions[:self.connection.call("dsa_poll", self.handle, completions, count)])

    def wait(self, timeout_ms=20_000):
        """The next completions, at least one."""
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            self.connection.call("dsa_wait", self.handle, timeout_ms)
            if completions := self.poll():
                return completions
            check(time.monotonic() < deadline, f"no completion for {timeout_ms} ms")

    def do(self, opcode, *arguments, flags=0, **more):
        """Posts, waits, and returns the completion. There must be nothing else on the queue."""
        self.post(opcode, *arguments, flags=flags | SIGNALED, **more)
        (completion,) = self.wait()
        if completion.status < 0:
            raise DirectError(-completion.status, f"operation {opcode}: {os.strerror(-completion.status)}")
        return completion

    def write(self, file, offset, data, flags=0):
        """Through memory of its own if it does not fit the message."""
        if len(data) <= MAX_INLINE:
            return self.do(WRITE, file, offset, data=data, flags=flags)
        memory = self.connection.register(len(data))
        ctypes.memmove(memory.bytes, data, len(data))
        try:
            return self.do(WRITE, file, offset, memory=memory, length=len(data), flags=flags)
        finally:
            memory.deregister()

    def read(self, file, offset, length):
        memory = self.connection.register(length)
        try:
            completion = self.do(READ, file, offset, memory=memory, length=length)
            return memory.bytes.raw[:completion.length]
        finally:
            memory.deregister()

    def destroy(self):
        self.connection.c.dsa_destroy_queue(self.handle)


class Mapping:
    def __init__(self, file, offset, length):
        self.connection = file.connection
        self.handle = ctypes.c_void_p()
        address = ctypes.c_void_p()
        self.connection.call("dsa_map", file.handle, ctypes.c_uint64(offset), ctypes.c_size_t(length),
                             ctypes.byref(self.handle), ctypes.byref(address))
        self.bytes = (ctypes.c_char * length).from_address(address.value)
        self.length = length

    def persist(self, offset=0, length=None, durable=False):
        lsn = ctypes.c_uint64()
        self.connection.call("dsa_persist", self.handle, ctypes.c_uint64(offset),
                             ctypes.c_size_t(self.length if length is None else length), int(durable),
                             ctypes.byref(lsn))
        return lsn.value

    def unmap(self):
        self.connection.call("dsa_unmap", self.handle)

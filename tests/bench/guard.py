"""Work on mounts that may hang: done by a child, watched by a parent that touches no mount and so cannot hang itself.

A child that takes too long gets errors from its FUSE mounts (their connections are aborted, their servers killed) and
is then killed, with all it has started. Whatever happens, also on Ctrl-C and SIGTERM, mounts, loop devices, servers and
images go in the end.
"""
import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback

import peers


class Failed(Exception):
    """What was to be done was not: the message is for the reader of the log."""


ENDING = {signal.SIGINT, signal.SIGTERM}


def _child(function, pipe):
    """Does not return: what the parent does in the end is not the child's to do."""
    try:
        os.setsid()
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        try:
            answer = (True, function())
        except RuntimeError as error:
            answer = (False, str(error))
        except BaseException:  # whatever it is, it is the result
            answer = (False, traceback.format_exc())
        with os.fdopen(pipe, "wb") as file:
            file.write(pickle.dumps(answer))
        sys.stderr.flush()
    finally:
        os._exit(0)


def call(function, directory, seconds):
    """function()'s result, computed by a child that may use the mounts below `directory`. Failed if it raises, dies, or
    takes longer than `seconds`."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # until the child has a session, and handlers, of its own
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(function, writer)
    os.close(writer)
    received = b""
    ended = False
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        deadline = time.monotonic() + seconds
        while select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
            piece = os.read(reader, 1 << 20)
            if not piece:
                ended = True
                break
            received += piece
    finally:  # also when this process is told to end
        os.close(reader)
        if not ended:
            peers.end_servers(directory)
            # It has not been waited for, so the number is still its own.
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not ended:
        raise Failed(f"hung: ended by the watchdog after {seconds} s")
    if not received:
        raise Failed("the process that measured has died")
    succeeded, value = pickle.loads(received)
    if not succeeded:
        raise Failed(value)
    return value


@contextlib.contextmanager
def place(directory, program):
    """A directory for images and mounts that goes, with all that lives in it, at the end."""
    if os.geteuid() != 0:
        raise SystemExit(f"tests/bench/{program}: this mounts: run it as root")
    if not os.path.isdir(peers.CONNECTIONS) or not os.path.ismount(peers.CONNECTIONS):
        subprocess.run(["mount", "-t", "fusectl", "fusectl", peers.CONNECTIONS], stderr=subprocess.DEVNULL)
    root = f"{os.path.realpath(directory)}/stagefs-bench-{os.getpid()}"
    os.makedirs(root)
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is below `finally` runs
    try:
        yield root
    except Failed as failure:
        raise SystemExit(f"tests/bench/{program}: {failure}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # a second Ctrl-C would leave mounts behind
        peers.clear_away(root)
        signal.signal(signal.SIGTERM, previous)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

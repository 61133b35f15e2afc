"""Client processes that work at the same time, and what each of them saw."""
import array
import os
import pickle
import time
import traceback


def at_once(count, client):
    """[client(0), client(1), ...], each in a process of its own; none begins before all are there."""
    gate_reader, gate_writer = os.pipe()
    pipes = []
    children = []
    for number in range(count):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(gate_writer)
            _run(lambda: client(number), gate_reader, writer)  # pylint: disable=cell-var-from-loop
        os.close(writer)
        pipes.append(reader)
        children.append(child)
    os.close(gate_reader)
    os.close(gate_writer)  # the gate opens
    answers = []
    for reader in pipes:
        with os.fdopen(reader, "rb") as file:
            answers.append(file.read())
    for child in children:
        os.waitpid(child, 0)
    results = []
    for answer in answers:
        succeeded, value = pickle.loads(answer) if answer else (False, "a client has died")
        if not succeeded:
            raise RuntimeError(value)
        results.append(value)
    return results


def _run(client, gate, pipe):
    try:
        os.read(gate, 1)  # until the last writer has closed it
        try:
            answer = (True, client())
        except BaseException:  # whatever it is, it is the result
            answer = (False, traceback.format_exc())
        with os.fdopen(pipe, "wb") as file:
            file.write(pickle.dumps(answer))
    finally:
        os._exit(0)


def timed(step, seconds):
    """Nanoseconds that each step() took, one after the other for so many seconds."""
    samples = array.array("Q")
    clock = time.perf_counter_ns
    before = clock()
    end = before + int(seconds * 1e9)
    while before < end:
        step()
        now = clock()
        samples.append(now - before)
        before = now
    return samples


def timed_each(step, count):
    """Nanoseconds that each of so many step() took."""
    clock = time.perf_counter_ns
    samples = array.array("Q")
    for _ in range(count):
        before = clock()
        step()
        samples.append(clock() - before)
    return samples

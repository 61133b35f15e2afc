"""What every result file says of itself, so that a figure can be traced to the run it comes from."""
import json
import os
import platform
import sys
import time


def processor_model():
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.machine()


def memory_gib():
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)


def header(program):
    """The first members of every result: which program made it, where, when and by which command."""
    return {
        "program": program,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": {"kernel": platform.release(), "cpus": os.cpu_count(), "model": processor_model(),
                    "memory_gib": memory_gib()},
        "command": " ".join([f"tests/bench/{program}"] + sys.argv[1:]),
    }


def machine_line(result):
    """One line for tables and plots."""
    machine = result["machine"]
    return (f"{result['date'][:10]}, {machine['model']}, {machine['cpus']} CPUs, {machine['memory_gib']:.0f} GiB, "
            f"Linux {machine['kernel'].split('-')[0]}")


def write(result, path):
    """As a whole or not at all: to `path`, or to standard output without one."""
    text = json.dumps(result, indent=1) + "\n"
    if not path:
        sys.stdout.write(text)
        return
    with open(f"{path}.new", "w") as file:
        file.write(text)
    os.rename(f"{path}.new", path)


def read(path):
    with open(path) as file:
        return json.load(file)

"""What tests/bench/dsa measures, the bars of direct access, and the tables that show both."""
import dataclasses
from typing import Optional

import record
from bars import median, ratio, rounds_text, shown


@dataclasses.dataclass(frozen=True)
class Figure:
    name: str
    unit: str  # "us" of a median latency, "/s" or "MiB/s"
    what: str


FIGURES = [
    Figure("shm_write64", "us", "shm, 64 bytes written, staged, one at a time: p50"),
    Figure("shm_write64_d64", "/s", "shm, 64 bytes written, staged, 64 at once"),
    Figure("shm_write64_durable", "us", "shm, 64 bytes written, durable, one at a time: p50"),
    Figure("shm_write64_durable_d64", "/s", "shm, 64 bytes written, durable, 64 at once"),
    Figure("shm_read4k", "us", "shm, 4 KiB of staged data read, one at a time: p50"),
    Figure("shm_write1m", "MiB/s", "shm, 1 MiB written, staged, 8 at once"),
    Figure("shm_read1m", "MiB/s", "shm, 1 MiB of 1 GiB read, 8 at once"),
    Figure("shm_group64", "us", "shm, a group of 8 writes of 64 bytes, staged, one at a time: p50"),
    Figure("shm_cas", "us", "shm, compare-and-swap, one at a time: p50"),
    Figure("tcp_write64", "us", "tcp, 64 bytes written, staged, one at a time: p50"),
    Figure("tcp_write64_d64", "/s", "tcp, 64 bytes written, staged, 64 at once"),
    Figure("tcp_read4k", "us", "tcp, 4 KiB of staged data read, one at a time: p50"),
    Figure("disk_write1m", "MiB/s", "the disk: fio, io_uring, O_DIRECT, 1 MiB written, 8 at once"),
    Figure("disk_read1m", "MiB/s", "the disk: fio, io_uring, O_DIRECT, 1 MiB of 1 GiB read, 8 at once"),
    Figure("disk_dsync4k", "/s", "the disk: fio, 4 KiB written, O_DIRECT and O_DSYNC, one at a time"),
    Figure("ext4_pwrite64", "us", "ext4: 64 bytes by pwrite and fdatasync: p50"),
    Figure("ext4_pmem64", "us", "ext4: 64 bytes stored, pmem_msync: p50"),
]


@dataclasses.dataclass(frozen=True)
class Bar:
    """`figure` is at most (or at least) `bar`; with a `base`: the ratio to it is at least that."""

    figure: str
    bar: float
    at_most: bool = False
    base: Optional[str] = None


BARS = [
    Bar("shm_write64", 6, at_most=True),
    Bar("shm_write64_d64", 300_000),
    Bar("shm_write64_durable_d64", 8, base="disk_dsync4k"),
    Bar("shm_read4k", 8, at_most=True),
    Bar("shm_write1m", 0.8, base="disk_write1m"),
    Bar("shm_read1m", 0.8, base="disk_read1m"),
    Bar("tcp_write64", 40, at_most=True),
]


def judge(bar, medians):
    """What a result file keeps of a bar. A figure that is missing misses it."""
    value = medians.get(bar.figure)
    if bar.base:
        value = ratio(value, medians.get(bar.base))
    met = value is not None and (value <= bar.bar if bar.at_most else value >= bar.bar)
    return {"figure": bar.figure, "base": bar.base, "at_most": bar.at_most, "bar": bar.bar, "value": value, "met": met}


def results(rounds_of):
    """The members of a result. `rounds_of`: {figure: [value or None of each round]}."""
    medians = {name: median(values) for name, values in rounds_of.items()}
    figures = [{"name": figure.name, "unit": figure.unit, "what": figure.what, "median": medians[figure.name],
                "rounds": rounds_of[figure.name]} for figure in FIGURES if figure.name in rounds_of]
    bars = [bar for bar in BARS if bar.figure in rounds_of and (bar.base is None or bar.base in rounds_of)]
    return {"figures": figures, "bars": [judge(bar, medians) for bar in bars]}


def _markdown(heads, rows, texts):
    """A table; the first `texts` columns are text, the others numbers."""
    rule = ["---" if column < texts else "---:" for column in range(len(heads))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, rule, *rows])


def _number(value):
    return shown(value, 0 if value is not None and value >= 1000 else 2)


def _bar_cells(row):
    name = row["figure"] + (f" / {row['base']}" if row["base"] else "")
    limit = f"{'<=' if row['at_most'] else '>='} {row['bar']:g}"
    return [name, limit, _number(row["value"]), "yes" if row["met"] else "no"]


def table(result):
    """Markdown: the machine, the figures, the bars."""
    figures = _markdown(["figure", "what", "unit", "median"],
                        [[row["name"], row["what"], row["unit"], _number(row["median"])] for row in result["figures"]],
                        texts=3)
    parts = [f"{record.machine_line(result)}; {rounds_text(result)}, `{result['command']}`.", figures]
    if result["bars"]:
        parts.append(_markdown(["figure", "bar", "result", "met"], [_bar_cells(row) for row in result["bars"]], texts=2))
    return "\n\n".join(parts)

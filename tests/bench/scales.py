"""Axes: which place on paper belongs to a value, and at which values an axis has ticks."""
import math

# Mantissas of ticks, the densest first: a decade of a logarithmic axis, a step of a linear one.
MANTISSAS = [(1, 2, 5), (1, 3), (1,)]


class Scale:
    """Maps low..high to start..end on paper, through `form`: how a value is seen (identity, log10, tail)."""

    def __init__(self, low, high, start, end, form):
        self.low, self.high, self.start, self.end, self.form = low, high, start, end, form

    def __call__(self, value):
        first, last = self.form(self.low), self.form(self.high)
        share = (self.form(value) - first) / (last - first)
        return self.start + share * (self.end - self.start)


def linear(value):
    return value


def tail(percent):
    """Percentiles by how few samples lie above: 90, 99 and 99.9 are equally far apart."""
    return -math.log10(1 - percent / 100)


log = math.log10


def linear_ticks(high, most=6):
    """From 0 in steps of 1, 2 or 5 times a power of ten; the last is not below `high`."""
    if high <= 0:
        return [0, 1]
    step = 10.0 ** math.floor(math.log10(high / most))
    while True:
        for mantissa in (1, 2, 5, 10):
            if math.ceil(round(high / (step * mantissa), 9)) < most:
                step *= mantissa
                count = math.ceil(round(high / step, 9))
                return [round(i * step, 12) for i in range(count + 1)]
        step *= 10


def log_range(low, high):
    """Widened to mantissas 1, 2 or 5, so that an axis begins and ends with a tick."""
    def snapped(value, direction):
        exponent = math.floor(math.log10(value))
        candidates = [mantissa * 10.0 ** power for power in (exponent - 1, exponent, exponent + 1)
                      for mantissa in MANTISSAS[0]]
        if direction < 0:
            return max(each for each in candidates if each <= value * (1 + 1e-9))
        return min(each for each in candidates if each >= value * (1 - 1e-9))
    first, last = snapped(low, -1), snapped(high, 1)
    return (first, last) if last > first else (first, first * 10)


def log_ticks(low, high, most=9):
    """As many of 1, 2, 5 or 1, 3 or 1 times powers of ten as `most` allows."""
    ticks = []
    for mantissas in MANTISSAS:
        ticks = [mantissa * 10.0 ** power for power in range(math.floor(log(low)), math.ceil(log(high)) + 1)
                 for mantissa in mantissas]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) <= most:
            break
    return [round(tick, 12) for tick in ticks]


def count_text(value):
    """10,000 or 2 M: for numbers of things."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def duration_text(us):
    """Of microseconds: 20 µs, 5 ms."""
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if us >= size:
            return f"{us / size:g} {unit}"
    return f"{us:g} µs"


def size_text(gib):
    return f"{gib / 1024:g} TiB" if gib >= 1024 else f"{gib:g} GiB"

"""Percentiles of many samples, by nearest rank: each is a sample that was taken, none is made up between two."""
import math

# Dense enough for a curve over log(1 - p).
PERCENTILES = [1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 92, 94, 95, 96, 97, 98, 98.5, 99, 99.3, 99.5, 99.7,
               99.8, 99.9]


LEAST_ABOVE = 10


def _rank(count, percent):
    # Decimals like 99.9 are not exact in binary: a rank must not be missed by a rounding error.
    return max(math.ceil(round(count * percent / 100, 9)), 1)


def percentile(ordered, percent):
    """The least sample that at least `percent` % of the samples do not exceed. `ordered` is sorted and not empty."""
    return ordered[_rank(len(ordered), percent) - 1]


def summary(samples, percents=tuple(PERCENTILES)):
    """{percent: sample}. Of the upper half only what has LEAST_ABOVE samples above it: the rest would be chance."""
    ordered = sorted(samples)
    return {percent: percentile(ordered, percent) for percent in percents
            if percent <= 50 or len(ordered) - _rank(len(ordered), percent) >= LEAST_ABOVE}

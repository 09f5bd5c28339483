"""Whether something grew over a run: medians of its begin and end, and the slope between them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

HOUR = 3600.0
WARM_UP = 0.2
"""The share of a run that is left out: caches fill, pools get their threads, the allocator finds its size."""
PART = 0.2
"""The share of the rest that is its begin, and its end."""
FEWEST = 10


@dataclass(frozen=True)
class Trend:
    """How one thing that was measured went on, after the warm-up."""

    name: str
    first: float
    """The median of its begin."""
    last: float
    """The median of its end."""
    per_hour: float
    """The slope of the line that fits best."""
    allowed: float
    """By which the last may be above the first."""

    @property
    def grew(self) -> bool:
        return self.last > self.first + self.allowed


def trend_of(name: str, samples: Sequence[tuple[float, float]], allowed: float) -> Trend:
    """The trend of samples, each a time in seconds and a value.

    Raises:
        ValueError: If there are too few of them to say anything.
    """
    begin, end = samples[0][0], samples[-1][0]
    warm = [sample for sample in samples if sample[0] >= begin + WARM_UP * (end - begin)]
    if len(warm) < FEWEST:
        raise ValueError(f"{name}: {len(warm)} samples after the warm-up are too few")
    part = max(1, int(len(warm) * PART))
    times, values = zip(*warm, strict=True)
    slope = linear_regression(times, values).slope
    return Trend(name, median(values[:part]), median(values[-part:]), slope * HOUR, allowed)

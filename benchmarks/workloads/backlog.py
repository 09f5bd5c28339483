"""Measure whether the rate and the worker's memory stay flat, however much is queued."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

from harness import figures, plots
from harness.catalogue import OURS
from harness.figures import Ratio, Rounds, count, megabytes
from harness.meter import SLICE
from harness.rounds import Plan, one_drain

TITLE = "Backlog"
SIZES = (10_000, 100_000, 1_000_000)
Found = dict[str, Rounds]
"""Rounds by the number of jobs queued."""


def measure(plan: Plan) -> Found:
    """Measure small backlogs before and after each larger one, so that all meet the same machine; the largest one once."""
    small, middle, large = (str(plan.jobs(size)) for size in SIZES)
    found: Found = {small: [], middle: [], large: []}
    for size in (small, small, middle, small, large, small, middle, small)[: 8 if plan.rounds > 1 else 5]:
        figures_found = one_drain(plan, OURS, int(size))
        figures_found["slices"] = [end - begin for begin, end in pairwise([0.0, *figures_found["slices"]])]
        found[size] = [*found[size], figures_found]
        print(f"backlog: {count(int(size))} queued, {count(figures_found['rate'])} jobs/s", flush=True)
    return found


def _sizes(found: Found) -> list[str]:
    return sorted(found, key=int)


def ratios(found: Found) -> list[Ratio]:
    """Return the comparisons that are asked for, with their bounds."""
    small, _, large = _sizes(found)
    return [
        figures.ratio(f"backlog: {count(int(large))} queued / {count(int(small))}", found[large], found[small], 0.9),
        figures.ratio(
            f"backlog: the worker's peak memory, {count(int(large))} / {count(int(small))}",
            found[large],
            found[small],
            1.25,
            name="peak",
            at_most=True,
        ),
    ]


def report(found: Found) -> list[str]:
    """Return a table with a row for each size."""
    large = found[_sizes(found)[-1]][0]
    lines = figures.table(
        (
            "queued",
            "drained",
            "jobs/s",
            "rounds",
            "worker, peak MB",
            "server after it, MB",
            "server's memory per kept job",
        ),
        [_row(size, found[size]) for size in _sizes(found)],
    )
    if len(large["slices"]) > 1:
        rates = [SLICE / seconds for seconds in large["slices"]]
        low, high = min(rates), max(rates)
        lines += [
            "",
            (
                f"In the largest backlog, each {count(SLICE)} jobs ran at a median of {count(statistics.median(rates))} jobs/s, "
                f"{count(low)} to {count(high)}; the first tenth {count(statistics.median(rates[: len(rates) // 10 or 1]))}, "
                f"the last {count(statistics.median(rates[-(len(rates) // 10 or 1) :]))}."
            ),
        ]
    return lines


def _row(size: str, rounds: Rounds) -> tuple[str, ...]:
    return (
        count(int(size)),
        "once" if len(rounds) == 1 else f"{len(rounds)} times",
        count(figures.median(rounds, "rate")),
        figures.scatter(rounds, "rate", count),
        megabytes(figures.median(rounds, "peak")),
        megabytes(figures.median(rounds, "server")),
        f"{figures.median(rounds, 'kept'):,.0f} B",
    )


def plot(found: Found, folder: Any) -> None:
    """Draw the rate of the largest backlog, slice by slice."""
    large = found[_sizes(found)[-1]][0]
    points = {(number + 1) * SLICE / 1e6: [SLICE / seconds] for number, seconds in enumerate(large["slices"])}
    if points:
        plots.lines(
            folder / "backlog.png",
            f"Draining {count(int(_sizes(found)[-1]))} jobs",
            ("million jobs done", "jobs/s"),
            {"jsjobs": points},
        )

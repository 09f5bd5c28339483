"""Measure several worker processes on one queue."""

from __future__ import annotations

from typing import Any

from harness import plots, sweeps
from harness.rounds import Plan, one_drain

TITLE = "Worker processes"
JOBS = 20_000


def measure(plan: Plan) -> sweeps.Found:
    """Measure from one to four worker processes, at ten shards."""
    return sweeps.sweep(
        "workers",
        [1, 2, 3, 4],
        plan.some_rounds(3),
        lambda name, workers: one_drain(plan, name, plan.jobs(JOBS), workers=workers),
    )


def report(found: sweeps.Found) -> list[str]:
    """Return a table with a row for each number of processes."""
    return [
        (
            "The workers and the server share this machine's processors; there are ten shards, so ten jobs run at once, however "
            "many processes there are."
        ),
        "",
        *sweeps.rows(found, "processes"),
    ]


def plot(found: sweeps.Found, folder: Any) -> None:
    """Draw a line for each side."""
    plots.lines(
        folder / "workers.png", "Drain by worker processes", ("processes", "jobs/s, all together"), sweeps.series(found)
    )

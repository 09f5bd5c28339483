"""Several worker processes on one queue."""

from __future__ import annotations

from typing import Any

from harness import plots, sweeps
from harness.rounds import Plan, one_drain

TITLE = "Worker processes"
JOBS = 20_000


def measure(plan: Plan) -> sweeps.Found:
    """From one to four, at ten shards."""
    return sweeps.sweep(
        "workers",
        [1, 2, 3, 4],
        plan.some_rounds(3),
        lambda name, workers: one_drain(plan, name, plan.jobs(JOBS), workers=workers),
    )


def report(found: sweeps.Found) -> list[str]:
    """A row for each number."""
    return [
        (
            "All of them and the server share this machine's processors; there are ten shards, so ten jobs run at once, however "
            "many processes there are."
        ),
        "",
        *sweeps.rows(found, "processes"),
    ]


def plot(found: sweeps.Found, folder: Any) -> None:
    """Lines."""
    plots.lines(
        folder / "workers.png", "Drain by worker processes", ("processes", "jobs/s, all together"), sweeps.series(found)
    )

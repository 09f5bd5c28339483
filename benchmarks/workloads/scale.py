"""Measure drains with more shards, so with more jobs at once."""

from __future__ import annotations

from typing import Any

from harness import plots, sweeps
from harness.rounds import Plan, one_drain

TITLE = "Shard scale"
JOBS = 15_000


def measure(plan: Plan) -> sweeps.Found:
    """Measure from ten shards to a hundred and sixty (the setting `scale`)."""
    return sweeps.sweep(
        "scale",
        [1, 2, 4, 8, 16],
        plan.some_rounds(3),
        lambda name, scale: one_drain(plan, name, plan.jobs(JOBS), scale=scale),
    )


def report(found: sweeps.Found) -> list[str]:
    """Return a table with a row for each scale."""
    return ["One worker process.", "", *sweeps.rows(found, "scale", lambda scale: f"{scale} ({scale * 10} shards)")]


def plot(found: sweeps.Found, folder: Any) -> None:
    """Draw a line for each side."""
    plots.lines(folder / "scale.png", "Drain by shard scale", ("scale", "jobs/s"), sweeps.series(found))

"""Measure drains of larger payloads."""

from __future__ import annotations

from typing import Any

from harness import plots, sweeps
from harness.rounds import Plan, one_drain

TITLE = "Payloads"
JOBS = {100: 10_000, 1_000: 10_000, 10_000: 8_000, 100_000: 2_000}
"""Jobs of a drain, by the bytes of their payloads."""


def measure(plan: Plan) -> sweeps.Found:
    """Measure payloads from 100 bytes to 100 kB."""
    return sweeps.sweep(
        "payloads",
        list(JOBS),
        plan.some_rounds(3),
        lambda name, size: one_drain(plan, name, plan.jobs(JOBS[size]), padding=size),
    )


def report(found: sweeps.Found) -> list[str]:
    """Return a table with a row for each size."""
    return [
        "jsjobs reads each payload as JSON and checks it against the handler's annotation; the bare loop does not read it.",
        "",
        *sweeps.rows(found, "bytes", lambda size: f"{size:,}"),
    ]


def plot(found: sweeps.Found, folder: Any) -> None:
    """Draw a line for each side."""
    plots.lines(folder / "payloads.png", "Drain by payload", ("bytes", "jobs/s"), sweeps.series(found), log=True)

"""Measure drains in which every tenth job fails."""

from __future__ import annotations

from typing import Any

from harness import figures
from harness.catalogue import OURS
from harness.figures import Rounds, count
from harness.rounds import Plan, one_drain, take_turns

TITLE = "Every tenth job fails"
JOBS = 5_000
KINDS = {
    "none": ("no job fails", "", 1),
    "dead": ("every tenth dies at once (`Validation`), with a dead letter", "dead", 1),
    "once": ("every tenth fails once, and is retried 100 ms later", "once", 1),
    "once 8": ("the same, with eight times the shards", "once", 8),
}
Found = dict[str, Rounds]


def measure(plan: Plan) -> Found:
    """Measure jsjobs alone: others treat failures too differently for one table."""

    def one(kind: str) -> dict[str, Any]:
        _, failing, scale = KINDS[kind]
        return one_drain(plan, OURS, plan.jobs(JOBS), failing=failing, scale=scale)

    return dict(take_turns(list(KINDS), plan.some_rounds(3), one, what="failures"))


def report(found: Found) -> list[str]:
    """Return a table with a row for each kind of failure."""
    whole = figures.median(found["none"], "rate")
    rows = [
        (
            KINDS[kind][0],
            count(figures.median(rounds, "rate")),
            figures.scatter(rounds, "rate", count),
            f"{figures.median(rounds, 'rate') / whole:.2f}",
        )
        for kind, rounds in found.items()
    ]
    return [
        (
            "A job that waits for its next attempt holds its shard, since later jobs of its entity must not pass it. So retries "
            "cost the wait, divided by the shards."
        ),
        "",
        *figures.table(("", "jobs/s", "rounds", "share of the rate without failures"), rows),
    ]

"""Measure drains in which every tenth job fails."""

from __future__ import annotations

from typing import Any

from harness import figures
from harness.catalogue import ORDERED, OURS
from harness.figures import Rounds, count
from harness.rounds import Plan, one_drain, take_turns

TITLE = "Every tenth job fails"
JOBS = 5_000
KINDS = {
    "none": ("no job fails", OURS, "", 1),
    "dead": ("every tenth dies at once (`Validation`), with a dead letter", OURS, "dead", 1),
    "once": ("every tenth fails once, and is retried 100 ms later", OURS, "once", 1),
    "ordered": ("ordered jobs: no job fails", ORDERED, "", 1),
    "ordered dead": ("ordered jobs: every tenth dies at once", ORDERED, "dead", 1),
    "ordered once": ("ordered jobs: every tenth fails once", ORDERED, "once", 1),
    "ordered once 8": ("the same, with eight times the shards", ORDERED, "once", 8),
}
Found = dict[str, Rounds]


def measure(plan: Plan) -> Found:
    """Measure jsjobs alone: others treat failures too differently for one table."""

    def one(kind: str) -> dict[str, Any]:
        _, side, failing, scale = KINDS[kind]
        return one_drain(plan, side, plan.jobs(JOBS), failing=failing, scale=scale)

    return dict(take_turns(list(KINDS), plan.some_rounds(3), one, what="failures"))


def report(found: Found) -> list[str]:
    """Return a table with a row for each kind of failure."""
    whole = {side: figures.median(found[kind], "rate") for kind, side in (("none", OURS), ("ordered", ORDERED))}
    rows = [
        (
            KINDS[kind][0],
            count(figures.median(rounds, "rate")),
            figures.scatter(rounds, "rate", count),
            f"{figures.median(rounds, 'rate') / whole[KINDS[kind][1]]:.2f}",
        )
        for kind, rounds in found.items()
    ]
    return [
        (
            "A job without an entity holds up nobody while it waits for its next attempt. An ordered one holds its shard, since "
            "later jobs of its entity must not pass it: retries cost the wait, divided by the shards."
        ),
        "",
        *figures.table(("", "jobs/s", "rounds", "share of the rate without failures"), rows),
    ]

"""Check for a regression in under a minute: rates beside bare nats-py loops, and the counted cost of a job.

    python benchmarks/check_speed.py

The bounds of the rates are generous, since a shared machine's rates scatter; those of the counts are close, since counts do
not. Whoever makes a job cheaper lowers them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from harness import figures, processes
from harness.catalogue import BARE, ORDERED, OURS
from harness.figures import Ratio
from harness.rounds import Plan, one_drain, place_at, take_turns
from harness.servers import Servers, stoppable
from workloads import enqueue

DRAIN_JOBS = 4_000
ENQUEUE_FACTOR = 0.25
ROUNDS = 3
COUNTED_JOBS = 300
RATES = {"ordered drain": 0.6, "parallel drain": 0.6, "enqueue, pipelined": 0.5, "enqueue, batches": 0.4}
"""Of the bare loop's rate, each side's best round: what is left of the ratios asked for (`workloads/`) on a busy machine."""
CPU = {"ordered drain": 1.5, "parallel drain": 1.4, "enqueue, pipelined": 1.6, "enqueue, batches": 2.0}
"""Times the bare loop's CPU per job, medians: others on the machine disturb it less."""
COUNTS = {
    "ordered submit calls": 135.0,
    "ordered run calls": 312.0,
    "ordered submit files": 21.0,
    "ordered run files": 32.0,
    "ordered blocks kept": 2.0,
    "parallel submit calls": 111.0,
    "parallel run calls": 240.0,
    "parallel submit files": 20.0,
    "parallel run files": 36.0,
    "parallel blocks kept": 4.0,
}
"""Function calls of a submit and of a worker's run of one job, files of jsjobs that each of them passes, and blocks of memory
that stay of it: none, but for what lists and tables hold in reserve. Of the parallel lane a hundred jobs are in hand at once."""


def measure(plan: Plan) -> list[Ratio]:
    """Compare jsjobs with the bare loop."""
    sides = (OURS, ORDERED, BARE)
    drains = take_turns(sides, plan.rounds, lambda name: one_drain(plan, name, DRAIN_JOBS), what="drain")
    found = {"ordered drain": (drains[ORDERED], drains[BARE]), "parallel drain": (drains[OURS], drains[BARE])}
    for way in ("pipelined", "batches"):
        enqueued = enqueue.measure_way(plan, way, (OURS, BARE))
        found[f"enqueue, {way}"] = enqueued[OURS], enqueued[BARE]
    ratios = []
    for what, both in found.items():
        ours, bare = (max(figures.of(side, "rate")) for side in both)
        ratios.append(Ratio(f"{what}: rate", ours / bare, RATES[what]))
        ours, bare = (figures.median(side, "cpu") for side in both)
        ratios.append(Ratio(f"{what}: CPU", ours / bare, CPU[what], at_most=True))
    return ratios


def count(plan: Plan) -> dict[str, float]:
    """Return the counts per job, and their bounds."""
    with plan.servers.fresh("nats") as running:
        place = place_at(running, COUNTED_JOBS)
        processes.run(OURS, "prepare", place)
        return processes.run(OURS, "calls", place)


def counted(counts: Mapping[str, float]) -> list[Ratio]:
    """Compare the counts with their bounds."""
    return [Ratio(what, counts[what], most, at_most=True) for what, most in COUNTS.items()]


def judge(found: Sequence[Ratio]) -> tuple[list[str], bool]:
    """Return a line for each comparison, and whether all are within their bounds; a value that is not a number is not."""
    lines = [
        f"{'ok ' if one.held else 'BAD'} {one.what:28} {one.value:8.2f}, at {'most' if one.at_most else 'least'} {one.bound:g}"
        for one in found
    ]
    return lines, all(one.held for one in found)


def main() -> None:
    """Measure, print, and end with 1 if something is out of its bounds."""
    with stoppable(), Servers() as servers:
        plan = Plan(servers, rounds=ROUNDS, factor=ENQUEUE_FACTOR)
        found = [*counted(count(plan)), *measure(plan)]
    lines, good = judge(found)
    print("\n".join(lines))
    if not good:
        sys.exit("slower than it was, or the machine is too busy to tell: see the lines above")


if __name__ == "__main__":
    main()

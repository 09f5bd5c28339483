"""Measure how fast one process queues jobs: one by one, many at once, and in batches."""

from __future__ import annotations

from typing import Any

from harness import catalogue, figures, plots, processes, taking_part
from harness.catalogue import BARE, OURS
from harness.figures import Ratio, Rounds, count
from harness.rounds import Plan, place_at, take_turns

TITLE = "Enqueue"
JOBS = {"one by one": 4_000, "pipelined": 20_000, "batches": 20_000}
RAW = {"one by one": "`js.publish`", "pipelined": "`publish_async`", "batches": "atomic batches by hand"}
Found = dict[str, dict[str, Rounds]]


def measure(plan: Plan) -> Found:
    """Measure every side in turn, in each of its ways."""
    return {way: measure_way(plan, way, (OURS, BARE, *plan.peers)) for way in JOBS}


def measure_way(plan: Plan, way: str, names: tuple[str, ...]) -> dict[str, Rounds]:
    """Return the sides that have this way of submitting."""

    def one(name: str) -> dict[str, Any]:
        side = catalogue.side(name)
        # A peer's rounds are about as long as ours.
        jobs = plan.jobs(int(JOBS[way] * max(0.1, side.share if catalogue.is_peer(name) else 1)), 300)
        with plan.servers.fresh(side.broker) as running:
            return processes.run(name, "enqueue", place_at(running, jobs), way=way)

    taking = [name for name in taking_part.installed(names) if way in catalogue.side(name).ways]
    return dict(take_turns(taking, plan.rounds, one, what=f"enqueue {way}"))


def ratios(found: Found) -> list[Ratio]:
    """Return the comparisons that are asked for, with their bounds."""
    bounds = {"one by one": 0.8, "pipelined": 0.8, "batches": 0.7}
    return [
        figures.ratio(f"enqueue, {way}: jsjobs / nats-py, {RAW[way]}", sides[OURS], sides[BARE], bounds[way])
        for way, sides in found.items()
    ]


def report(found: Found) -> list[str]:
    """Return a table with a row for each side."""
    names = sorted({name for sides in found.values() for name in sides}, key=lambda name: -_best(found, name))
    rows = []
    for name in names:
        title = "nats-py" if name == BARE else catalogue.side(name).title
        rows.append((f"**{title}**" if name == OURS else title, *(_cell(found[way].get(name)) for way in JOBS)))
    return [
        (
            f"One process, jobs/s, medians of {len(found['pipelined'][OURS])} rounds (smallest to largest). Pipelined: a thousand "
            "submits at once. Batches: a thousand jobs each, atomic with nats-py and jsjobs."
        ),
        "",
        *figures.table(("", *JOBS), rows),
    ]


def _best(found: Found, name: str) -> float:
    return max(figures.median(sides[name], "rate") for sides in found.values() if name in sides)


def _cell(rounds: Rounds | None) -> str:
    if rounds is None:
        return ""
    return f"{count(figures.median(rounds, 'rate'))} ({figures.scatter(rounds, 'rate', count)})"


def plot(found: Found, folder: Any) -> None:
    """Draw bars of the pipelined and the single submits, nats-py's and ours."""
    bars = {}
    for way, sides in reversed(found.items()):
        bars[f"{way}, nats-py"] = figures.of(sides[BARE], "rate")
        bars[f"{way}, jsjobs"] = figures.of(sides[OURS], "rate")
    plots.bars(folder / "enqueue.png", "Enqueueing, one process", "jobs/s", bars, ours="jsjobs")

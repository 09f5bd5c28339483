"""Measure how fast one worker process drains a queue of no-op jobs, beside the floors and the peers."""

from __future__ import annotations

from typing import Any

from harness import catalogue, figures, plots, taking_part
from harness.catalogue import ACK_ONLY, BARE, ORDERED, OURS
from harness.figures import Ratio, Rounds, count, megabytes
from harness.rounds import Plan, one_drain, take_turns

TITLE = "Drain"
JOBS = 20_000
LAST = ("taskiq-nats", "faststream", "pgqueuer")
"""Peers that keep no results."""
Found = dict[str, Rounds]


def measure(plan: Plan) -> Found:
    """Measure every side in turn."""
    names = taking_part.installed((OURS, ORDERED, BARE, ACK_ONLY, *plan.peers))
    return take_turns(
        names,
        plan.rounds,
        lambda name: one_drain(plan, name, plan.jobs(int(JOBS * catalogue.side(name).share))),
        what="drain",
    )


def ratios(found: Found) -> list[Ratio]:
    """Return the comparisons that are asked for, with their bounds."""
    ours, ordered = found[OURS], found[ORDERED]
    asked = [
        figures.ratio("drain: jsjobs, ordered / nats-py with the same two state writes", ordered, found[BARE], 0.75),
        figures.ratio("drain: jsjobs, ordered / nats-py that only acknowledges", ordered, found[ACK_ONLY], 0.18),
        figures.ratio("drain: jsjobs / jsjobs, ordered", ours, ordered, 1),
    ]
    keeping = [name for name in found if catalogue.is_peer(name) and catalogue.side(name).results]
    if keeping:
        best = max(keeping, key=lambda name: figures.median(found[name], "rate"))
        title = catalogue.side(best).title
        what = f"drain: jsjobs / the fastest peer that keeps results ({title})"
        asked.append(figures.ratio(what, ours, found[best], 2.5))
    for name in LAST:
        if name in found:
            what = f"drain: jsjobs / {catalogue.side(name).title}, which keeps no results"
            asked.append(figures.ratio(what, ours, found[name], 1))
    return asked


def report(found: Found) -> list[str]:
    """Return a table of the rates, and what each side does for them."""
    ordered = sorted(found, key=lambda name: -figures.median(found[name], "rate"))
    lines = figures.table(
        ("", "jobs/s", "rounds", "the worker's CPU per job", "configuration", "what it leaves out"),
        [_row(name, found[name]) for name in ordered],
    )
    jobs = {name: int(rounds[0]["jobs"]) for name, rounds in found.items()}
    return [
        (
            f"One worker process, {count(jobs[OURS])} no-op jobs of jsjobs queued (for others, as many as take about as long), "
            f"medians of {len(found[OURS])} rounds."
        ),
        "",
        *lines,
        "",
        "Memory after this drain, and what the server keeps of each job that has ended:",
        "",
        *figures.table(
            (
                "",
                "jobs",
                "worker, peak MB",
                "server, MB",
                "server's memory per job",
                "on disk per job, before compaction",
            ),
            [_memory(name, found[name], jobs[name]) for name in ordered if name != ACK_ONLY],
        ),
    ]


def _row(name: str, rounds: Rounds) -> tuple[str, ...]:
    side = catalogue.side(name)
    return (
        f"**{side.title}**" if catalogue.is_ours(name) else side.title,
        count(figures.median(rounds, "rate")),
        figures.scatter(rounds, "rate", count),
        f"{figures.median(rounds, 'cpu') * 1e6:.0f} µs",
        side.setting,
        side.lacks,
    )


def _memory(name: str, rounds: Rounds, jobs: int) -> tuple[str, ...]:
    several = catalogue.side(name).broker == "postgres"
    return (
        catalogue.side(name).title,
        count(jobs),
        megabytes(figures.median(rounds, "peak")),
        "" if several else megabytes(figures.median(rounds, "server")),
        "" if several else f"{max(0, figures.median(rounds, 'kept')):,.0f} B",
        f"{max(0, figures.median(rounds, 'stored')):,.0f} B",
    )


def plot(found: Found, folder: Any) -> None:
    """Draw bars of the rates."""
    ordered = sorted(found, key=lambda name: figures.median(found[name], "rate"))
    plots.bars(
        folder / "drain.png",
        "Draining no-op jobs, one process",
        "jobs/s",
        {_label(name): figures.of(found[name], "rate") for name in ordered},
        ours="jsjobs",
    )


def _label(name: str) -> str:
    side = catalogue.side(name)
    if catalogue.is_ours(name):
        return f"{side.title} (history, results)"
    return f"{side.title}{' (results)' if side.results and 'results' not in side.title else ''}"

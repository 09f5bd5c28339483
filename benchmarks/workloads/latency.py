"""Measure how long an idle worker takes to start a job, and its submitter to get the result, across processes."""

from __future__ import annotations

from typing import Any

from harness import catalogue, figures, plots, processes, taking_part
from harness.catalogue import ACK_ONLY, ORDERED, OURS
from harness.figures import Ratio, Rounds, milliseconds, quantile
from harness.rounds import Plan, place_at, take_turns

TITLE = "Latency of an idle worker"
JOBS = 1_000
PEER_JOBS = 300
Found = dict[str, Rounds]


def measure(plan: Plan) -> Found:
    """Measure every side in turn, one job at a time."""
    some = ("arq-default",) if "arq" in plan.peers else ()
    names = taking_part.installed((OURS, ORDERED, ACK_ONLY, *plan.peers, *some))
    return take_turns(names, plan.rounds, lambda name: one(plan, name), what="latency")


def one(plan: Plan, name: str) -> dict[str, Any]:
    """Return the quantiles of one round, in seconds."""
    side = catalogue.side(name)
    jobs = plan.jobs(JOBS if not catalogue.is_peer(name) else PEER_JOBS)
    if name == "arq-default":
        jobs = 20
    with plan.servers.fresh(side.broker) as running:
        place = place_at(running, jobs)
        processes.run(name, "prepare", place)
        found = processes.latency(name, place)
    figures_found: dict[str, Any] = {"jobs": jobs}
    for kind, seconds in found.items():
        if seconds:
            figures_found |= {f"{kind} p50": quantile(seconds, 0.5), f"{kind} p99": quantile(seconds, 0.99)}
    return figures_found


def ratios(found: Found) -> list[Ratio]:
    """Return the comparisons that are asked for, with their bounds."""
    ours = found[OURS]
    p50 = [
        figures.ratio(
            f"latency: submit to start, p50, {catalogue.side(name).title} / nats-py's push consumer",
            found[name],
            found[ACK_ONLY],
            most,
            name="starts p50",
            at_most=True,
        )
        for name, most in ((ORDERED, 1.6), (OURS, 2))
    ]
    return [
        *p50,
        _bound("latency: submit to start, p99", ours, "starts p99", 3),
        _bound("latency: submit to result, p99", ours, "results p99", 5),
    ]


def _bound(what: str, rounds: Rounds, name: str, most: float) -> Ratio:
    values = tuple(value * 1e3 for value in figures.of(rounds, name))
    return Ratio(what, figures.median(rounds, name) * 1e3, most, at_most=True, rounds=values, unit=" ms")


def report(found: Found) -> list[str]:
    """Return a table in milliseconds."""
    ordered = sorted(found, key=lambda name: figures.median(found[name], "starts p50"))
    return [
        (
            f"Milliseconds, one job at a time, medians of {len(found[OURS])} rounds of {found[OURS][0]['jobs']} jobs (of peers "
            f"{PEER_JOBS} at most). Start: the handler is called, and of jsjobs `processing` is stored by then; its submitter waits "
            "for nothing else. Result, of as many jobs more: the submitter has it."
        ),
        "",
        *figures.table(
            ("", "start, p50", "start, p99", "p99 of the rounds", "result, p50", "result, p99"),
            [_row(name, found[name]) for name in ordered],
        ),
    ]


def _row(name: str, rounds: Rounds) -> tuple[str, ...]:
    title = catalogue.side(name).title
    has = "results p50" in rounds[0]
    return (
        f"**{title}**" if catalogue.is_ours(name) else title,
        milliseconds(figures.median(rounds, "starts p50")),
        milliseconds(figures.median(rounds, "starts p99")),
        figures.scatter(rounds, "starts p99", milliseconds),
        milliseconds(figures.median(rounds, "results p50")) if has else "",
        milliseconds(figures.median(rounds, "results p99")) if has else "",
    )


def plot(found: Found, folder: Any) -> None:
    """Draw bars of the medians."""
    ordered = sorted(found, key=lambda name: -figures.median(found[name], "starts p50"))
    shown = {
        catalogue.side(name).title: [value * 1e3 for value in figures.of(found[name], "starts p50")]
        for name in ordered
        if name != "arq-default"
    }
    plots.bars(folder / "latency.png", "Submit to start, idle worker, median", "ms", shown, ours="jsjobs")

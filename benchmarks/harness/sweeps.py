"""Drains over one quantity that grows: shared by the workloads that have only that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import catalogue, figures
from harness.catalogue import BARE, ORDERED
from harness.figures import Rounds, count
from harness.rounds import take_turns

Found = dict[str, Rounds]
"""By side and quantity, as `jsjobs 4`."""


def sweep(what: str, quantities: Sequence[int], rounds: int, drain: Callable[[str, int], dict[str, Any]]) -> Found:
    """jsjobs' ordered shards and the floor with the same state writes at each quantity, all of them in turn."""
    names = [f"{name} {quantity}" for quantity in quantities for name in (ORDERED, BARE)]

    def one(name: str) -> dict[str, Any]:
        which, _, quantity = name.rpartition(" ")
        return drain(which, int(quantity))

    return dict(take_turns(names, rounds, one, what=what))


def rows(found: Found, head: str, shown: Callable[[int], str] = str) -> list[str]:
    """A table: a row for each quantity."""
    quantities = sorted({int(name.rpartition(" ")[2]) for name in found})
    return figures.table(
        (head, "jsjobs, ordered, jobs/s", "rounds", catalogue.side(BARE).title, "ratio", "jsjobs' worker, peak MB"),
        [_row(found[f"{ORDERED} {quantity}"], found[f"{BARE} {quantity}"], shown(quantity)) for quantity in quantities],
    )


def _row(ours: Rounds, bare: Rounds, shown: str) -> tuple[str, ...]:
    rates = figures.median(ours, "rate"), figures.median(bare, "rate")
    return (
        shown,
        count(rates[0]),
        figures.scatter(ours, "rate", count),
        count(rates[1]),
        f"{rates[0] / rates[1]:.2f}",
        figures.megabytes(figures.median(ours, "peak")),
    )


def series(found: Found) -> Mapping[str, Mapping[float, Sequence[float]]]:
    """For a plot."""
    titles = {ORDERED: catalogue.side(ORDERED).title, BARE: catalogue.side(BARE).title}
    lines: dict[str, dict[float, Sequence[float]]] = {title: {} for title in titles.values()}
    for name, rounds in found.items():
        which, _, quantity = name.rpartition(" ")
        lines[titles[which]][float(quantity)] = figures.of(rounds, "rate")
    return lines
